//! CEL expressions of webhooks and policies: where one must stand, and what it is for.

use crate::{
    admission::policies::compiler::{Compiler, Purpose},
    at::At,
};
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

/// The faults of an expression at its place, before it is compiled. Returns whether there is something to compile.
pub(super) fn expressions(at: At<'_>, used: Use, out: &mut Vec<Cause>) -> bool {
    let text = at.str().trim();
    let fault = if text.is_empty() {
        Some(match used {
            Use::Message => at.invalid("must be non-empty if specified"),
            _ => at.required(used.missing()),
        })
    } else if used == Use::AuditAnnotation && text.len() > MAX_AUDIT {
        Some(at.required(&format!("must not exceed {MAX_AUDIT} bytes in length")))
    } else {
        None
    };
    let is_fine = fault.is_none();
    out.extend(fault);
    is_fine
}

/// The faults of an expression of a policy. A variable is declared by its name, for the expressions after it.
pub(super) fn compiled(at: At<'_>, used: Use, name: &str, compiler: &Compiler, out: &mut Vec<Cause>) {
    if !expressions(at, used, out) {
        return;
    }
    let (text, trimmed) = (at.str(), at.str().trim());
    // What is shown is what upstream compiles, but for annotations.
    let (expression, shown) = match used {
        Use::Variable => (compiler.variable(name, text), text),
        Use::Validation => (compiler.expression(Purpose::Validation, text), text),
        Use::Message => (compiler.expression(Purpose::Message, text), text),
        Use::AuditAnnotation => (compiler.expression(Purpose::AuditAnnotation, trimmed), text),
        Use::MatchCondition => (compiler.expression(Purpose::Condition, trimmed), trimmed),
        Use::ApplyConfiguration => (compiler.expression(Purpose::ApplyConfiguration, trimmed), trimmed),
        Use::JsonPatch => (compiler.expression(Purpose::JsonPatch, trimmed), trimmed),
    };
    if let Some(fault) = expression.fault() {
        out.push(Cause::invalid(&at.field(), &shown.into(), fault));
    }
}
