//! `pods/eviction`: deletes a pod as `kubectl drain` does, by its `deleteOptions`, and marks it as disrupted first. Follows
//! "API-initiated Eviction". There are no PodDisruptionBudgets here, so that no eviction is refused for one.

use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use server::{
    Action, Api, Call, DeleteOptions, Names, Operation, Scope,
    action::{Change, Uid, Update},
    match_namespace,
    negotiate::Offers,
};
use std::sync::Arc;

/// POST of an Eviction.
pub(crate) struct Evict;

#[async_trait::async_trait]
impl Action for Evict {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let (mut eviction, options, warnings) = call.decode(&GroupVersionKind::new("policy", "v1", "Eviction"))?;
        match_namespace(&mut eviction, &call.info.namespace, names.namespaced)?;
        if eviction.name() != call.info.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = eviction.at(&["deleteOptions"]).cloned().unwrap_or_else(|| json!({}));
        let mut deletion = DeleteOptions::of(&given, &call.query)?;
        let mut cx = api.context(&call, Operation::Update, &names, options.dry_run);
        cx.subresource = "status".to_owned();
        let mut update = Update { cx, manager: options.manager, scope: Scope::Status, warnings };
        if !deletion.dry_run {
            let marked = mark(api, &mut update, &deletion).await?;
            let marked = marked.ok_or_else(|| Status::not_found(&names.gvr, &call.info.name))?;
            if let Some(revision) = &mut deletion.revision {
                *revision = marked;
            }
        }
        let mut cx = api.context(&call, Operation::Delete, &names, deletion.dry_run);
        cx.subresource.clear();
        api.delete(cx, &deletion).await?;
        Ok(call.created(output, &super::success(), &update.warnings))
    }
}

/// Sets the condition DisruptionTarget in the pod's status.
async fn mark(api: &dyn Api, update: &mut Update, deletion: &DeleteOptions) -> Result<Option<String>, Status> {
    let now = api::time::rfc3339(update.cx.now);
    // In this error upstream names the kind.
    let named = GroupVersionResource { resource: update.cx.resource.kind.clone(), ..update.cx.resource.gvr.clone() };
    let mut make = |pod: &Object, _: &mut Vec<String>| {
        preconditions(deletion, pod).map_err(|why| Status::conflict(&named, pod.name(), &why))?;
        let mut object = pod.clone();
        let mut conditions: Vec<Value> = pod.list_at(&["status", "conditions"]).to_vec();
        conditions.retain(|c| c["type"] != "DisruptionTarget");
        conditions.push(json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": now, "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "observedGeneration": pod.generation()}));
        object.set(&["status", "conditions"], conditions);
        Ok(Change { object, owned: false, pinned: deletion.revision.is_some(), uid: Uid::Given })
    };
    api.update(update, &mut make).await
}

/// Checks the preconditions of the deletion.
fn preconditions(deletion: &DeleteOptions, pod: &Object) -> Result<(), String> {
    let differs = |wanted: &Option<String>, is: &str| wanted.clone().filter(|w| !w.is_empty() && w != is);
    if let Some(uid) = differs(&deletion.uid, pod.uid()) {
        return Err(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            pod.uid()
        ));
    }
    if let Some(revision) = differs(&deletion.revision, pod.resource_version()) {
        return Err(format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). The object might have been modified",
            pod.resource_version()
        ));
    }
    Ok(())
}
