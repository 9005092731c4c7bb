//! The body of a call: an `AdmissionReview`.

use super::{
    rule::{Request, Served},
    version::ReviewVersion,
};
use api::{GroupVersionKind, GroupVersionResource, Object};
use serde_json::{Map, Value, json};
use server::User;

fn kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(resource: &GroupVersionResource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.resource})
}

fn whole(object: Option<&Object>) -> Value {
    object.map_or(Value::Null, |object| Value::Object(object.0.clone()))
}

/// The user as Go writes it: without what is empty.
fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    let mut add = |key: &str, value: Value, empty: bool| {
        if !empty {
            info.insert(key.to_owned(), value);
        }
    };
    add("username", json!(user.name), user.name.is_empty());
    add("uid", json!(user.uid), user.uid.is_empty());
    add("groups", json!(user.groups), user.groups.is_empty());
    add("extra", json!(user.extra), user.extra.is_empty());
    Value::Object(info)
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
    let mut body = about(request, invoked, user, options, dry_run);
    body["uid"] = json!(uid);
    body["object"] = whole(request.object);
    body["oldObject"] = whole(request.old);
    json!({"kind": "AdmissionReview", "apiVersion": version.api_version(), "request": body})
}

/// A request without its objects, as expressions see it, too.
pub(super) fn about(request: &Request<'_>, invoked: &Served, user: &User, options: &Value, dry_run: bool) -> Value {
    let mut body = json!({
        "kind": kind(&invoked.kind),
        "resource": resource(&invoked.resource),
        "requestKind": kind(&request.served.kind),
        "requestResource": resource(&request.served.resource),
        "operation": request.operation,
        "userInfo": user_info(user),
        "dryRun": dry_run,
        "options": options,
    });
    for (key, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !text.is_empty() {
            body[key] = json!(text);
        }
    }
    body
}
