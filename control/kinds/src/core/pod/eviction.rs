//! `pods/eviction`: deletes a pod as `kubectl drain` does, by its `deleteOptions`, and marks it as disrupted first. Follows
//! "API-initiated Eviction". There are no PodDisruptionBudgets here, so that no eviction is refused for one.

use super::{
    delete::{self, Options},
    write::{Change, Uid, Write, Written, update_object},
};
use crate::{
    Resource, Verb,
    chain::Call,
    codec::{self, WriteOptions},
    metadata,
    negotiate::Offers,
    reply,
};
use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// POST.
pub(super) async fn create(call: Call, resource: Arc<Resource>) -> Result<Response<Body>, Status> {
    let output = call.output(Offers::Objects)?;
    let options = WriteOptions::parse("CreateOptions", &call.query, &call.headers, false)?;
    let (call, bytes) = call.with_body().await?;
    let kind = GroupVersionKind::new("policy", "v1", "Eviction");
    let decoded = codec::decode(&call.headers, &bytes, &kind)?;
    let mut write = Write::new(&call, &resource, Verb::Update, &options);
    codec::judge(&decoded, &kind, options.field_validation, &mut write.warnings)?;
    let mut eviction = decoded.object;
    metadata::match_namespace(&mut eviction, &call.info.namespace, resource.namespaced)?;
    if eviction.name() != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let given = eviction.at(&["deleteOptions"]).cloned().unwrap_or_else(|| json!({}));
    let mut deletion = Options::of(&given, &call)?;
    if !deletion.dry_run {
        let marked =
            mark(&mut write, &deletion).await?.ok_or_else(|| Status::not_found(&resource.gvr, &call.info.name))?;
        if let (Some(revision), Written::Entry(entry)) = (&mut deletion.revision, marked) {
            *revision = entry.revision.to_string();
        }
    }
    delete::by_options(&call, &resource, &deletion).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let mut response = reply::value(StatusCode::CREATED, output, &status);
    codec::add_warnings(response.headers_mut(), &write.warnings);
    Ok(response)
}

/// Says in the pod's status why it goes.
async fn mark(write: &mut Write, deletion: &Options) -> Result<Option<Written>, Status> {
    write.cx.subresource = "status".to_owned();
    let now = api::time::rfc3339(write.cx.now);
    // Upstream's errors name the kind here.
    let named = GroupVersionResource { resource: write.cx.resource.kind.clone(), ..write.cx.resource.gvr.clone() };
    let make = |pod: &Object, _: &mut Vec<String>| {
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
    update_object(write, make).await
}

/// The pod must be the one that is meant.
fn preconditions(deletion: &Options, pod: &Object) -> Result<(), String> {
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
