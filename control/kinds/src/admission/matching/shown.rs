//! A request as it is shown to webhooks and expressions.

use super::rule::{Request, Served};
use api::{GroupVersionKind, GroupVersionResource};
use serde_json::{Map, Value, json};
use server::User;

fn kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(resource: &GroupVersionResource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.resource})
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

/// A request without its objects, as expressions see it, too.
pub(crate) fn shown(request: &Request<'_>, invoked: &Served, user: &User, options: &Value, dry_run: bool) -> Value {
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
