//! What a webhook answered.

use super::{failure::Failure, hook::Hook, version::ReviewVersion};
use api::{Object, Reason, Status, StatusDetails, patch};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The most warnings of one answer, and the most audit annotations: more have no place in a response and in a line of the log.
const MAX_TEXTS: usize = 64;

/// The answer of a webhook that admits a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its audit annotations, with the webhook's name before each key.
    pub annotations: BTreeMap<String, String>,
    /// `Warning` headers.
    pub warnings: Vec<String>,
    /// The operations of its JSON patch, a list; null for no change.
    pub patch: Value,
}

/// An answer that was read. Warnings and annotations of a refusal count, too.
pub(super) type Read = (Answer, Result<(), Failure>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    allowed: Option<bool>,
    #[serde(default)]
    status: Option<Value>,
    #[serde(default)]
    patch: Option<String>,
    #[serde(default)]
    patch_type: Option<String>,
    #[serde(default)]
    audit_annotations: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    warnings: Option<Vec<Option<String>>>,
}

/// Reads the body of an answer with status 200 to the review with this uid. What it says besides counts also where it is a refusal.
pub fn read(hook: &Hook, version: ReviewVersion, uid: &str, body: &[u8]) -> Read {
    let review: Review = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return (Answer::default(), Err(hook.call_failed(&error.to_string()))),
    };
    let invalid = |reason: &str| {
        let failure = hook.uncallable(&format!("received invalid webhook response: {reason}"));
        (Answer::default(), Err(failure))
    };
    let Some(response) = &review.response else { return invalid("webhook response was absent") };
    if version == ReviewVersion::V1
        && let Err(reason) = verify(hook, uid, &review, response)
    {
        return invalid(&reason);
    }
    let mut answer =
        Answer { annotations: annotations(hook, response), warnings: warnings(response), ..Answer::default() };
    if !response.allowed.unwrap_or_default() {
        return (answer, Err(Failure::Refused(denied(&hook.name, response.status.as_ref()))));
    }
    match operations(hook, response) {
        Ok(patch) => {
            answer.patch = patch;
            (answer, Ok(()))
        }
        Err(failure) => (answer, Err(failure)),
    }
}

/// What a review of version v1 must have; the one before is not looked at.
fn verify(hook: &Hook, uid: &str, review: &Review, response: &Response) -> Result<(), String> {
    let got = response.uid.as_deref().unwrap_or_default();
    if got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let (version, kind) =
        (review.api_version.as_deref().unwrap_or_default(), review.kind.as_deref().unwrap_or_default());
    if (version, kind) != (ReviewVersion::V1.api_version(), "AdmissionReview") {
        let named = |version: &str, kind: &str| format!("{}, Kind={kind}", go_version(version));
        return Err(format!(
            "expected webhook response of {}, got {}",
            named(ReviewVersion::V1.api_version(), "AdmissionReview"),
            named(version, kind)
        ));
    }
    let (patch, kind) = (!response.patch.as_deref().unwrap_or_default().is_empty(), response.patch_type.as_deref());
    let text = match (hook.mutating, patch, kind) {
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, true, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, true, _) => "validating webhook may not return response.patch",
        (false, false, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(text.to_owned())
}

/// A group and version as Go prints them.
fn go_version(api_version: &str) -> String {
    if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") }
}

fn annotations(hook: &Hook, response: &Response) -> BTreeMap<String, String> {
    let all = response.audit_annotations.iter().flatten().take(MAX_TEXTS);
    all.map(|(key, value)| (format!("{}/{key}", hook.name), value.clone().unwrap_or_default())).collect()
}

fn warnings(response: &Response) -> Vec<String> {
    let all = response.warnings.iter().flatten().flatten().filter(|warning| !warning.is_empty());
    all.take(MAX_TEXTS).cloned().collect()
}

/// The operations of the patch.
fn operations(hook: &Hook, response: &Response) -> Result<Value, Failure> {
    let text = response.patch.as_deref().unwrap_or_default();
    if !hook.mutating || text.is_empty() {
        return Ok(Value::Null);
    }
    let undecodable =
        |error: String| hook.uncallable(&format!("received undecodable patch in webhook response: {error}"));
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| hook.call_failed(&error.to_string()))?;
    let operations: Option<Vec<Value>> = serde_json::from_slice(&bytes).map_err(|e| undecodable(e.to_string()))?;
    let Some(operations) = operations.filter(|operations| !operations.is_empty()) else { return Ok(Value::Null) };
    // What is not said in v1beta1 is taken for the only type that there is.
    match response.patch_type.as_deref() {
        Some("JSONPatch") | None => Ok(Value::Array(operations)),
        Some(other) => Err(hook.uncallable(&format!("unsupported patch type {other:?}"))),
    }
}

/// The refusal by a webhook, in its own words.
fn denied(name: &str, result: Option<&Value>) -> Status {
    let by = format!("admission webhook {name:?} denied the request");
    let text = |key: &str| result.and_then(|result| result.get(key)).and_then(Value::as_str).unwrap_or_default();
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let reason = result.and_then(|result| result.get("reason")).cloned();
    let reason = reason.and_then(|reason| serde_json::from_value(reason).ok()).unwrap_or(Reason::Unknown);
    let code = result.and_then(|result| result.get("code")).and_then(Value::as_u64);
    let code = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..=599).contains(code));
    let details = result.and_then(|result| result.get("details")).cloned();
    let details: Option<StatusDetails> = details.and_then(|details| serde_json::from_value(details).ok());
    let mut status = Status::new(reason, message);
    status.code = code.unwrap_or(400);
    status.details = details.map(Box::new);
    status
}

impl Answer {
    /// The object after the patch of the answer, and whether it is another. `object` is none for a deletion.
    ///
    /// # Errors
    /// The patch does not apply, or there is nothing to which it could be applied.
    pub fn patched(&self, hook: &Hook, object: Option<&Object>) -> Result<Option<Object>, Failure> {
        if self.patch.is_null() {
            return Ok(None);
        }
        let Some(object) = object else {
            let text = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(Failure::Refused(Status::internal(text)));
        };
        let before = Value::Object(object.0.clone());
        let after = patch::json(&before, &self.patch);
        let after = after.map_err(|error| Failure::Refused(Status::internal(error)))?;
        let same = api::semantic::deep_equal(&before, &after);
        let object = Object::from_value(after);
        let object =
            object.ok_or_else(|| Failure::Refused(Status::internal("the patched document is not an object")))?;
        Ok((!same).then_some(object))
    }
}
