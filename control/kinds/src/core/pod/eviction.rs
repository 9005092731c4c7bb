//! `pods/eviction`: deletes a pod as `kubectl drain` does, by its `deleteOptions`, and marks it as disrupted first, where its
//! PodDisruptionBudget allows it. Follows "API-initiated Eviction".

use super::budget::{self, Guard};
use api::{Cause, FieldPath, GroupVersionKind, GroupVersionResource, Object, Reason, Status, invalid};
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

/// How often the deletion of a pod that no budget guards is tried when others change the pod meanwhile.
const ATTEMPTS: usize = 20;

#[async_trait::async_trait]
impl Action for Evict {
    async fn serve(&self, api: &dyn Api, call: Call, names: Arc<Names>) -> Result<Response<Body>, Status> {
        let output = call.output(Offers::Objects)?;
        let kind = GroupVersionKind::new("policy", "v1", "Eviction");
        let (mut eviction, options, warnings) = call.decode(&kind)?;
        match_namespace(&mut eviction, &call.info.namespace, names.namespaced)?;
        api.admit(&call, &names, &options, &mut eviction).await?;
        if eviction.name() != call.info.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = eviction.at(&["deleteOptions"]).cloned().unwrap_or_else(|| json!({}));
        breaks_nothing(&kind, &call.info.name, &given)?;
        let deletion = DeleteOptions::of(&given, &call.query)?;
        let mut eviction = Eviction { api, call: &call, names, manager: options.manager, warnings };
        eviction.run(deletion).await?;
        let warnings = eviction.warnings;
        Ok(call.created(output, &super::success(), &warnings))
    }
}

/// An option of deletions that an eviction does not take.
fn breaks_nothing(kind: &GroupVersionKind, name: &str, options: &Value) -> Result<(), Status> {
    const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if options[OPTION] != true {
        return Ok(());
    }
    let field = FieldPath::new("deleteOptions").child(OPTION);
    let text = "can not be set for pod eviction, try after removing the option";
    Err(invalid(kind, name, &[Cause::invalid(&field, &json!(true), text)]))
}

/// One eviction.
struct Eviction<'a> {
    api: &'a dyn Api,
    call: &'a Call,
    names: Arc<Names>,
    manager: String,
    warnings: Vec<String>,
}

impl Eviction<'_> {
    async fn run(&mut self, deletion: DeleteOptions) -> Result<(), Status> {
        let Some(pod) = self.delete_unguarded(&deletion).await? else { return Ok(()) };
        let budgets = self.api.list("policy", "poddisruptionbudgets", &self.call.info.namespace);
        match budget::guard(budgets, &pod)? {
            Guard::None => self.delete(deletion).await,
            Guard::Budget(budget) => {
                self.take(&budget, pod.name(), deletion.dry_run).await?;
                self.delete(deletion).await
            }
            Guard::Unhealthy(budget) => {
                let pinned = deletion.revision.is_some();
                let seen = DeleteOptions { revision: Some(pod.resource_version().to_owned()), ..deletion };
                match self.delete(seen).await {
                    // It may have become healthy: whoever asks again is answered by the new state.
                    Err(status) if status.reason == Reason::Conflict && !pinned => Err(budget::busy(budget.name())),
                    other => other,
                }
            }
        }
    }

    /// Deletes the pod if no budget has to be asked; else it is returned.
    async fn delete_unguarded(&mut self, deletion: &DeleteOptions) -> Result<Option<Arc<Object>>, Status> {
        let (namespace, name) = (&self.call.info.namespace, &self.call.info.name);
        for attempt in 1.. {
            let pod = self.api.get("", "pods", namespace, name);
            let pod = pod.ok_or_else(|| Status::not_found(&self.names.gvr, name))?;
            if !budget::passes(&pod) {
                return Ok(Some(pod));
            }
            let mut options = deletion.clone();
            if options.revision.is_none() && !budget::is_over(&pod) {
                options.revision = Some(pod.resource_version().to_owned());
            }
            match self.delete(options).await {
                Ok(()) => break,
                Err(status)
                    if status.reason == Reason::Conflict && deletion.revision.is_none() && attempt < ATTEMPTS => {}
                Err(status) => return Err(status),
            }
        }
        Ok(None)
    }

    /// Counts the pod in its budget, in the form in which the budget is stored now.
    async fn take(&mut self, budget: &Object, pod: &str, dry_run: bool) -> Result<(), Status> {
        let names = self.api.names("policy", "poddisruptionbudgets").ok_or_else(Status::resource_not_found)?;
        let mut cx = self.api.context(self.call, Operation::Update, &names, false);
        let now = cx.now;
        if dry_run {
            return budget::take(budget, pod, now).map(drop);
        }
        cx.name = budget.name().to_owned();
        cx.subresource = "status".to_owned();
        let manager = "kube-apiserver".to_owned();
        let mut update = Update { cx, manager, scope: Scope::Status, warnings: Vec::new() };
        let mut make = |stored: &Object, _: &mut Vec<String>| {
            Ok(Change { object: budget::take(stored, pod, now)?, owned: false, pinned: false, uid: Uid::Given })
        };
        // One that was deleted meanwhile guards nothing any more.
        self.api.update(&mut update, &mut make).await.map(drop)
    }

    /// Marks and deletes the pod.
    async fn delete(&mut self, mut deletion: DeleteOptions) -> Result<(), Status> {
        if !deletion.dry_run {
            let mut cx = self.api.context(self.call, Operation::Update, &self.names, false);
            cx.subresource = "status".to_owned();
            let warnings = std::mem::take(&mut self.warnings);
            let mut update = Update { cx, manager: self.manager.clone(), scope: Scope::Status, warnings };
            let marked = mark(self.api, &mut update, &deletion).await;
            self.warnings = update.warnings;
            let marked = marked?.ok_or_else(|| Status::not_found(&self.names.gvr, &self.call.info.name))?;
            if let Some(revision) = &mut deletion.revision {
                *revision = marked;
            }
        }
        let mut cx = self.api.context(self.call, Operation::Delete, &self.names, deletion.dry_run);
        cx.subresource.clear();
        self.api.delete(cx, &deletion).await
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
