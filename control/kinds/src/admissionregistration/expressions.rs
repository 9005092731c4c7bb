//! CEL expressions of webhooks and policies: where one must stand, and what it is for.

use crate::at::At;
use api::Cause;

/// What an expression is for, which decides what it may use and what it must return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Whether a request is looked at.
    MatchCondition,
    /// A variable of the other expressions of a policy.
    Variable,
    /// Whether a request is admitted.
    Validation,
    /// Why it is not.
    Message,
    /// The value of an audit annotation.
    AuditAnnotation,
    /// What is applied to the object.
    ApplyConfiguration,
    /// How the object is patched.
    JsonPatch,
}

impl Use {
    /// Upstream's text for one that is missing.
    fn missing(self) -> &'static str {
        match self {
            Self::Variable | Self::Validation => "expression is not specified",
            Self::AuditAnnotation => "valueExpression is not specified",
            Self::MatchCondition | Self::Message | Self::ApplyConfiguration | Self::JsonPatch => "",
        }
    }
}

/// The longest expression of an audit annotation, in bytes.
const MAX_AUDIT: usize = 5 * 1024;

/// The faults of an expression at its place. Every expression of a webhook or policy comes here; whether one compiles for its use is to be asked
/// here too.
pub(super) fn expressions(at: At<'_>, used: Use, out: &mut Vec<Cause>) {
    let text = at.str().trim();
    if text.is_empty() {
        out.push(match used {
            Use::Message => at.invalid("must be non-empty if specified"),
            _ => at.required(used.missing()),
        });
    } else if used == Use::AuditAnnotation && text.len() > MAX_AUDIT {
        out.push(at.required(&format!("must not exceed {MAX_AUDIT} bytes in length")));
    }
}
