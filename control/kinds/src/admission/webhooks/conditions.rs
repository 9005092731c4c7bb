//! Match conditions: expressions that must all hold for a webhook to be called.

use super::{about::About, hook::Hook};
use api::Status;
use server::admission::forbidden;

/// Whether the match conditions of a webhook hold for a request.
///
/// # Errors
/// They cannot be evaluated, and the webhook's policy does not ignore failures. Where it does they do not hold.
pub(super) fn hold(hook: &Hook, about: &About<'_>) -> Result<bool, Status> {
    let Some(condition) = hook.conditions.first() else { return Ok(true) };
    if hook.ignores_failures {
        return Ok(false);
    }
    // Nothing evaluates expressions yet; to call the webhook, or not to, would be a guess.
    let why = format!("match condition {:?} of webhook {:?} cannot be evaluated", condition.name, hook.name);
    Err(forbidden(about.attributes, &api::Object::default(), &why))
}
