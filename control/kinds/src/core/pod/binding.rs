//! Binding: assigns a pod to a node. It is not stored; `pods/binding` and the older `bindings` apply it to the pod.

use api::{Cause, FieldPath, GroupVersionKind, GroupVersionResource, Object, Status, invalid};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{
    Action, Api, Call, Names, Operation, Resource, Scope,
    action::{Change, Uid, Update},
    negotiate::Offers,
};
use std::sync::Arc;

/// `bindings`: the older form, with the pod's name in the body.
pub(crate) fn resource() -> Resource {
    Resource::answered("", "v1", "bindings", "Binding", Arc::new(Bind))
}

/// POST of a Binding, at `pods/NAME/binding` or, with the pod's name in the body, at `bindings`.
pub(crate) struct Bind;

#[async_trait::async_trait]
impl Action for Bind {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let kind = GroupVersionKind::new("", "v1", "Binding");
        let (mut binding, options, warnings) = call.decode(&kind)?;
        api.admit(&call, &names, &options, &mut binding).await?;
        let pods = if names.kind == "Pod" { Some(names) } else { api.names("", "pods") };
        let mut cx =
            api.context(&call, Operation::Update, &pods.ok_or_else(Status::resource_not_found)?, options.dry_run);
        cx.subresource = "binding".to_owned();
        if cx.name.is_empty() {
            cx.name = binding.name().to_owned();
        }
        validate(&binding, &kind)?;
        let (name, now, pods) = (cx.name.clone(), api::time::rfc3339(cx.now), cx.resource.clone());
        let mut make = |pod: &Object, _: &mut Vec<String>| {
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
        let mut update = Update { cx, manager: options.manager, scope: Scope::Action, warnings };
        if api.update(&mut update, &mut make).await?.is_none() {
            return Err(Status::not_found(&pods.gvr, &name));
        }
        Ok(call.created(output, &super::success(), &[]))
    }
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
    bound.remove(&["status", "nominatedNodeName"]);
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
        let pod = json!({"metadata": {"name": "p"}, "status": {"nominatedNodeName": "other"}});
        let bound = bind(&object(pod), &binding, "now", "p").expect("bound");
        assert_eq!(bound.str_at(&["spec", "nodeName"]), Some("n"));
        assert_eq!(bound.at(&["status", "nominatedNodeName"]), None);
        let again = bind(&bound, &binding, "now", "p").expect_err("bound already");
        assert_eq!(
            again.message,
            r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#
        );
    }
}
