//! The call of one webhook.

use super::{
    answer::{Answer, Read, read},
    failure::Failure,
    hook::Hook,
    review::review,
};
use crate::admission::matching::{About, Served};
use api::Object;
use server::{admission::Notes, webhook::Webhooks};

/// Asks a webhook about a request, whose objects are in the version that it wants.
pub(super) async fn ask(
    webhooks: &Webhooks,
    hook: &Hook,
    about: &About<'_>,
    wanted: &Served,
    (object, old): (Option<&Object>, Option<&Object>),
) -> Read {
    exchange(webhooks, hook, about, wanted, (object, old)).await.unwrap_or_else(|why| (Answer::default(), Err(why)))
}

async fn exchange(
    webhooks: &Webhooks,
    hook: &Hook,
    about: &About<'_>,
    wanted: &Served,
    (object, old): (Option<&Object>, Option<&Object>),
) -> Result<Read, Failure> {
    let cx = &about.attributes.context;
    if let Some(refusal) = hook.refuses_dry_run().filter(|_| cx.dry_run) {
        return Err(refusal);
    }
    let version = hook.review_version()?;
    let uid = webhooks.uid();
    let request = about.request(object, old);
    let body = review(version, &uid, &request, wanted, &cx.user, &about.attributes.options(), cx.dry_run);
    let query = format!("timeout={}s", hook.timeout.as_secs());
    let place = cx.notes.call().await;
    let answer = webhooks.post(&hook.endpoint, &query, &body, hook.timeout).await;
    drop(place);
    let answer = answer.map_err(|error| hook.call_failed(&error))?;
    Ok(read(hook, version, &uid, &answer))
}

/// Notes what an answer says besides the decision.
pub(super) fn note(notes: &Notes, answer: &mut Answer) {
    for (key, value) in std::mem::take(&mut answer.annotations) {
        notes.annotate(key, value);
    }
    for warning in answer.warnings.drain(..) {
        notes.warn(warning);
    }
}

/// Whether the policy of the webhook lets the request go on without it.
pub(super) fn goes_on(hook: &Hook, failure: Failure) -> Result<(), api::Status> {
    if let Failure::Calling(why) = &failure {
        tracing::warn!(webhook = hook.name, configuration = hook.configuration, why, "a webhook cannot be called");
    }
    hook.outcome(failure)
}
