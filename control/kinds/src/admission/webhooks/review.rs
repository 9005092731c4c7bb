//! The body of a call: an `AdmissionReview`.

use super::version::ReviewVersion;
use crate::admission::matching::{Request, Served, shown};
use api::Object;
use serde_json::{Value, json};
use server::User;

fn whole(object: Option<&Object>) -> Value {
    object.map_or(Value::Null, |object| Value::Object(object.0.clone()))
}

/// The review of a request. `invoked` is the version that the webhook is called with, in which `request` has its objects; `options` are those of
/// the write, as an object of `meta.k8s.io/v1`.
pub fn review(
    version: ReviewVersion,
    uid: &str,
    request: &Request<'_>,
    invoked: &Served,
    user: &User,
    options: &Value,
    dry_run: bool,
) -> Value {
    let mut body = shown(request, invoked, user, options, dry_run);
    body["uid"] = json!(uid);
    body["object"] = whole(request.object);
    body["oldObject"] = whole(request.old);
    json!({"kind": "AdmissionReview", "apiVersion": version.api_version(), "request": body})
}
