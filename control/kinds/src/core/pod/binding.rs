//! `pods/binding`: gives a pod its node.

use super::write::{Change, Uid, Write, update_object};
use crate::{
    Resource, Verb,
    chain::Call,
    codec::{self, WriteOptions},
    negotiate::Offers,
    reply,
};
use api::{Cause, FieldPath, GroupVersionKind, GroupVersionResource, Object, Status, invalid};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// POST.
pub(super) async fn create(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("CreateOptions", &call.query, &call.headers, false)?;
    let (mut call, bytes) = call.with_body().await?;
    let kind = GroupVersionKind::new("", "v1", "Binding");
    let decoded = codec::decode(&call.headers, &bytes, &kind)?;
    if call.info.name.is_empty() {
        call.info.name = decoded.object.name().to_owned();
    }
    let mut write = Write::new(&call, &resource, Verb::Update, &options);
    codec::judge(&decoded, &kind, options.field_validation, &mut write.warnings)?;
    let binding = decoded.object;
    validate(&binding, &kind)?;
    // `/bindings` of the namespace names the pod in the body only.
    if write.cx.name.is_empty() {
        write.cx.name = binding.name().to_owned();
        write.cx.subresource = "binding".to_owned();
    }
    let name = write.cx.name.clone();
    let now = api::time::rfc3339(write.cx.now);
    let make = |pod: &Object, _: &mut Vec<String>| {
        let mut bound = bind(pod, &binding, &now, &name)?;
        let pinned = !matches!(binding.resource_version(), "" | "0");
        if pinned {
            bound.set(&["metadata", "resourceVersion"], binding.resource_version().to_owned());
        }
        if !binding.uid().is_empty() {
            bound.set(&["metadata", "uid"], binding.uid().to_owned());
        }
        Ok(Change { object: bound, owned: false, pinned, uid: Uid::Expected })
    };
    if update_object(&mut write, make).await?.is_none() {
        return Err(Status::not_found(&resource.gvr, &name));
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(reply::value(StatusCode::CREATED, output, &status))
}

fn validate(binding: &Object, kind: &GroupVersionKind) -> Result<(), Status> {
    let target = FieldPath::new("target");
    let mut causes = Vec::new();
    match binding.str_at(&["target", "kind"]).unwrap_or_default() {
        "" | "Node" => {}
        other => causes.push(Cause::not_supported(&target.child("kind"), &json!(other), &["Node", "<empty>"])),
    }
    if binding.str_at(&["target", "name"]).unwrap_or_default().is_empty() {
        causes.push(Cause::required(&target.child("name"), ""));
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid(kind, binding.name(), &causes)) }
}

fn bind(pod: &Object, binding: &Object, now: &str, name: &str) -> Result<Object, Status> {
    let refuse = |why: String| Err(Status::conflict(&GroupVersionResource::new("", "v1", "pods/binding"), name, &why));
    if pod.is_deleting() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod.str_at(&["spec", "nodeName"]).filter(|n| !n.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {node:?}"));
    }
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = pod.clone();
    bound.set(&["spec", "nodeName"], binding.str_at(&["target", "name"]).unwrap_or_default().to_owned());
    for (key, value) in binding.annotations() {
        bound.set(&["metadata", "annotations", key], value.to_owned());
    }
    let mut conditions: Vec<Value> = pod.list_at(&["status", "conditions"]).to_vec();
    conditions.retain(|c| c.get("type").and_then(Value::as_str) != Some("PodScheduled"));
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
        "observedGeneration": pod.generation()}));
    bound.set(&["status", "conditions"], conditions);
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn a_pod_is_bound_once() {
        let binding = object(json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}));
        let bound = bind(&object(json!({"metadata": {"name": "p"}})), &binding, "now", "p").expect("bound");
        assert_eq!(bound.str_at(&["spec", "nodeName"]), Some("n"));
        let again = bind(&bound, &binding, "now", "p").expect_err("bound already");
        assert_eq!(
            again.message,
            r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#
        );
    }
}
