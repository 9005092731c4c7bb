//! Garbage collection: deletes objects whose owners are gone, and completes foreground and orphaning deletion.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>: background, foreground (with `blockOwnerDeletion`) and
//! orphaning deletion. The ownership graph is fed by one metadata informer per served kind, custom resources included; discovery starts and
//! stops them. A live read precedes each deletion, which has preconditions on uid and resourceVersion, so that a stale graph costs a request
//! but never an object.
//!
//! Unlike upstream, a cycle of owners that wait for each other is broken only once it is complete, and also where all of them were deleted at
//! once; and a cluster-scoped object with a namespaced owner does not block that owner.

mod graph;

pub(crate) use graph::{
    Coordinates, Decision, FOREGROUND, Graph, Node, ORPHAN, OwnerState, Task, decide, orphans_dependents,
    waits_for_dependents,
};

use crate::Context;
use client::{
    Backoff, Client, Delta, Error, EventType, Informer, Informers, PartialObjectMetadata, Recorder, Target, WorkQueue,
    discovery::{self, Discovered, Resource},
};
use http::Method;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How often the served kinds are discovered. Upstream's figure.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// Tasks worked on at a time.
const WORKERS: usize = 16;
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Collects garbage. Upstream's `garbage-collector-controller`.
pub(crate) struct GarbageCollector {
    shared: Arc<Shared>,
    informers: Informers,
}

/// The informers that feed the graph, by kind.
type Monitors = HashMap<Arc<Resource>, Informer<PartialObjectMetadata>>;

struct Shared {
    client: Client,
    graph: Mutex<Graph>,
    /// The kinds that are followed. Locked after the graph.
    followed: Mutex<HashSet<Arc<Resource>>>,
    /// Bounded by the number of objects: each is queued at most once per kind of task.
    queue: WorkQueue<Task>,
    /// Resources by the apiVersion and kind of owner references.
    kinds: Mutex<HashMap<(String, String), Arc<Resource>>>,
    recorder: Recorder,
}

impl GarbageCollector {
    /// Over metadata informers of every kind.
    pub(crate) fn new(cx: &Context) -> Self {
        let shared = Shared {
            client: cx.client.clone(),
            graph: Mutex::default(),
            followed: Mutex::default(),
            queue: WorkQueue::measured(Backoff::default(), &cx.options.queues, "garbage_collector"),
            kinds: Mutex::default(),
            recorder: cx.recorder("garbage-collector-controller"),
        };
        Self { shared: Arc::new(shared), informers: cx.informers.clone() }
    }

    /// Runs until cancelled.
    pub(crate) async fn run(self, token: CancellationToken) {
        let work = async {
            let (synced, mut ready) = watch::channel(false);
            let monitors = self.monitor(&synced);
            let workers = async {
                // the sender lives as long as the monitors
                let _ = ready.wait_for(|r| *r).await;
                let mut tasks = JoinSet::new();
                for _ in 0..WORKERS {
                    tasks.spawn(self.shared.clone().work());
                }
                tasks.join_all().await;
            };
            tokio::join!(monitors, workers);
        };
        tokio::select! { () = token.cancelled() => self.shared.queue.close(), () = work => {} }
    }

    /// Keeps one informer per served kind; `synced` becomes true when the first ones are complete.
    async fn monitor(&self, synced: &watch::Sender<bool>) {
        let mut monitors = Monitors::new();
        let mut delay = Duration::from_millis(100);
        loop {
            let pause = match discovery::resources(&self.shared.client).await {
                Ok(found) => {
                    let resources = with_stale(found, monitors.keys());
                    self.follow(&mut monitors, resources);
                    DISCOVERY_PERIOD
                }
                Err(error) => {
                    tracing::debug!(%error, "the served kinds could not be discovered");
                    let pause = delay;
                    delay = (delay * 2).min(DISCOVERY_PERIOD);
                    pause
                }
            };
            let listed = async {
                if monitors.is_empty() {
                    return std::future::pending().await;
                }
                for informer in monitors.values() {
                    informer.synced().await;
                }
                let _before = synced.send_replace(true);
                std::future::pending().await
            };
            let _: Result<(), _> = tokio::time::timeout(pause, listed).await;
            // As upstream: a kind whose server never lists it must not hold up the others. Whether an owner is there is asked, not read here.
            if !monitors.is_empty() && !synced.send_replace(true) {
                tracing::warn!("not every kind could be listed; garbage is collected nevertheless");
            }
        }
    }

    /// Follows new kinds, and drops the informers of kinds that are no longer served.
    fn follow(&self, monitors: &mut Monitors, resources: Vec<Resource>) {
        let wanted: Vec<Arc<Resource>> = resources.into_iter().filter(is_collected).map(Arc::new).collect();
        self.shared.set_kinds(&wanted);
        monitors.retain(|resource, _| {
            let stays = wanted.contains(resource);
            if !stays {
                self.shared.forget(resource);
            }
            stays
        });
        for resource in wanted {
            if monitors.contains_key(&resource) {
                continue;
            }
            self.shared.followed.lock().insert(resource.clone());
            let informer = self.informers.over(Target::resource(&resource));
            let (shared, of) = (self.shared.clone(), resource.clone());
            informer.subscribe(move |delta| match delta {
                Delta::Added(meta) | Delta::Modified { new: meta, .. } => shared.changed(&of, meta),
                Delta::Deleted(meta) => shared.removed(&meta.uid),
            });
            monitors.insert(resource, informer);
        }
    }
}

/// A list in a merge patch; an empty one removes the field.
fn or_null<T: serde::Serialize>(list: &[T]) -> serde_json::Value {
    if list.is_empty() { serde_json::Value::Null } else { json!(list) }
}

/// What is to be followed: what was discovered, and what is followed of group versions whose server did not answer, as upstream. Who took those for
/// gone would take their objects for gone, too.
fn with_stale<'a>(found: Discovered, followed: impl Iterator<Item = &'a Arc<Resource>>) -> Vec<Resource> {
    if !found.stale.is_empty() {
        tracing::debug!(stale = ?found.stale, "the served kinds could not all be discovered");
    }
    let mut resources = found.resources;
    for known in followed.filter(|known| known.api_versions().any(|version| found.stale.contains(&version))) {
        if !resources.iter().any(|one| one.group == known.group && one.resource == known.resource) {
            resources.push((**known).clone());
        }
    }
    resources
}

/// Whether objects of the kind are collected. Events are not: they are many and own nothing.
fn is_collected(resource: &Resource) -> bool {
    resource.can(&["delete", "list", "watch"]) && resource.resource != "events"
}

impl Shared {
    fn changed(&self, resource: &Arc<Resource>, meta: &Arc<PartialObjectMetadata>) {
        let change = {
            let mut graph = self.graph.lock();
            if !self.followed.lock().contains(resource) {
                return;
            }
            graph.set(resource, meta.clone())
        };
        change.tasks.into_iter().for_each(|t| self.queue.add(t));
        change.misplaced.iter().for_each(|(node, owner)| self.report(node, owner));
    }

    /// Records an event about an owner reference into another namespace.
    fn report(&self, node: &Node, owner: &OwnerReference) {
        let meta = &node.meta;
        let about = ObjectReference {
            api_version: Some(node.resource.api_version()),
            kind: Some(node.resource.kind.clone()),
            namespace: Some(meta.namespace.clone()).filter(|n| !n.is_empty()),
            name: Some(meta.name.clone()),
            uid: Some(meta.uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version, owner.kind, meta.namespace, owner.name, owner.uid, meta.namespace
        );
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    fn removed(&self, uid: &str) {
        let tasks = self.graph.lock().remove(uid);
        tasks.into_iter().for_each(|t| self.queue.add(t));
    }

    /// Forgets a kind that is no longer served. A change that its informer still delivers is ignored.
    fn forget(&self, resource: &Resource) {
        let mut graph = self.graph.lock();
        self.followed.lock().remove(resource);
        graph.forget(resource);
    }

    fn set_kinds(&self, resources: &[Arc<Resource>]) {
        let mut kinds = self.kinds.lock();
        kinds.clear();
        for resource in resources {
            for version in resource.api_versions() {
                kinds.insert((version, resource.kind.clone()), resource.clone());
            }
        }
    }

    async fn work(self: Arc<Self>) {
        while let Some(task) = self.queue.next().await {
            let result = match &task {
                Task::Delete(uid) => self.attempt_to_delete(uid).await,
                Task::Orphan(uid) => self.orphan_dependents(uid).await,
            };
            match result {
                Ok(()) => self.queue.forget(&task),
                Err(error) => {
                    tracing::debug!(?task, error = format!("{error:#}"), "trying again");
                    self.queue.add_rate_limited(task.clone());
                }
            }
            self.queue.done(&task);
        }
    }

    /// Deletes the object if it has no owner any more, or completes its foreground deletion if nothing blocks it.
    async fn attempt_to_delete(&self, uid: &str) -> anyhow::Result<()> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        if node.meta.deletion_timestamp.is_some() && !waits_for_dependents(&node.meta) {
            return Ok(());
        }
        let Some(live) = self.get_live(&node.resource, &node.meta.namespace, &node.meta.name, uid).await? else {
            self.removed(uid);
            return Ok(());
        };
        let mut owners = Vec::with_capacity(live.owner_references.len());
        for owner in &live.owner_references {
            // an invalid owner reference: the object is left alone, as upstream
            let Some(owner_state) = self.owner_state(&node, owner).await? else { return Ok(()) };
            owners.push((owner.uid.clone(), owner_state));
        }
        let decision = decide(&self.graph.lock(), &live, &owners);
        self.apply(&node.resource, &live, decision).await
    }

    async fn apply(&self, resource: &Resource, live: &PartialObjectMetadata, decision: Decision) -> anyhow::Result<()> {
        match decision {
            Decision::Keep => Ok(()),
            Decision::Await(uids) => {
                uids.into_iter().for_each(|uid| self.queue.add(Task::Delete(uid)));
                Ok(())
            }
            Decision::RemoveFinalizer => {
                let kept: Vec<&String> = live.finalizers.iter().filter(|f| *f != FOREGROUND).collect();
                self.patch(resource, live, json!({"finalizers": or_null(&kept)})).await
            }
            Decision::RemoveOwners(gone) => {
                let kept: Vec<&OwnerReference> =
                    live.owner_references.iter().filter(|o| !gone.contains(&o.uid)).collect();
                self.patch(resource, live, json!({"ownerReferences": or_null(&kept)})).await
            }
            Decision::Unblock => {
                let mut freed = live.owner_references.clone();
                freed.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
                self.patch(resource, live, json!({"ownerReferences": freed})).await
            }
            Decision::Delete { foreground } => self.delete(resource, live, foreground).await,
        }
    }

    async fn delete(&self, resource: &Resource, live: &PartialObjectMetadata, foreground: bool) -> anyhow::Result<()> {
        let policy = match live.finalizers.iter().map(String::as_str).find(|f| [ORPHAN, FOREGROUND].contains(f)) {
            Some(ORPHAN) => "Orphan",
            Some(_) => "Foreground",
            None if foreground => "Foreground",
            None => "Background",
        };
        match self.try_delete(resource, live, policy, Some(&live.resource_version)).await {
            // a frequent writer of the object must not prevent the deletion: only changed owners do
            Err(error) if error.is_conflict() => {
                let Some(now) = self.get_live(resource, &live.namespace, &live.name, &live.uid).await? else {
                    return Ok(());
                };
                anyhow::ensure!(now.owner_references == live.owner_references, "its owners changed");
                self.try_delete(resource, live, policy, None).await.map_err(Into::into)
            }
            other => other.map_err(Into::into),
        }
    }

    /// Deletes exactly this object. An object that is gone is no error.
    async fn try_delete(
        &self,
        resource: &Resource,
        live: &PartialObjectMetadata,
        policy: &str,
        revision: Option<&str>,
    ) -> Result<(), Error> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
            "preconditions": {"uid": live.uid, "resourceVersion": revision}});
        let path = resource.path(&live.namespace, &live.name);
        let body = Some(("application/json", options.to_string().into_bytes()));
        match self.client.raw(Method::DELETE, &path, body).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                tracing::debug!(path, policy, "collected");
                Ok(())
            }
        }
    }

    /// Removes the owner references of the dependents, then the finalizer of the owner.
    async fn orphan_dependents(&self, uid: &str) -> anyhow::Result<()> {
        let (owner, dependents) = {
            let graph = self.graph.lock();
            let Some(owner) = graph.get(uid).cloned() else { return Ok(()) };
            (owner, graph.dependents(uid).cloned().collect::<Vec<Node>>())
        };
        for node in dependents {
            let live = self.get_live(&node.resource, &node.meta.namespace, &node.meta.name, &node.meta.uid).await?;
            let Some(live) = live.filter(|l| l.owner_references.iter().any(|o| o.uid == uid)) else { continue };
            let kept: Vec<&OwnerReference> = live.owner_references.iter().filter(|o| o.uid != uid).collect();
            self.patch(&node.resource, &live, json!({"ownerReferences": or_null(&kept)})).await?;
        }
        let live = self.get_live(&owner.resource, &owner.meta.namespace, &owner.meta.name, uid).await?;
        let Some(live) = live.filter(orphans_dependents) else { return Ok(()) };
        let kept: Vec<&String> = live.finalizers.iter().filter(|f| *f != ORPHAN).collect();
        self.patch(&owner.resource, &live, json!({"finalizers": or_null(&kept)})).await
    }

    /// The state of an owner, from the graph or else by a live read; `None` for a namespaced owner of a cluster-scoped object.
    async fn owner_state(&self, dependent: &Node, owner: &OwnerReference) -> anyhow::Result<Option<OwnerState>> {
        let namespace = &dependent.meta.namespace;
        {
            let graph = self.graph.lock();
            if let Some(node) = graph.get(&owner.uid).filter(|n| n.is(owner, namespace)) {
                let waits = waits_for_dependents(&node.meta);
                return Ok(Some(if waits { OwnerState::Waiting } else { OwnerState::Present }));
            }
            if graph.is_absent(owner, namespace) {
                return Ok(Some(OwnerState::Dangling));
            }
        }
        let known = self.kinds.lock().get(&(owner.api_version.clone(), owner.kind.clone())).cloned();
        let Some(resource) = known else {
            anyhow::bail!("no kind {} in {} is served", owner.kind, owner.api_version);
        };
        if resource.namespaced && !dependent.resource.namespaced {
            return Ok(None);
        }
        Ok(Some(match self.get_live(&resource, namespace, &owner.name, &owner.uid).await? {
            Some(live) if waits_for_dependents(&live) => OwnerState::Waiting,
            Some(_) => OwnerState::Present,
            None => {
                let at = Coordinates {
                    api_version: owner.api_version.clone(),
                    kind: owner.kind.clone(),
                    namespace: if resource.namespaced { namespace.clone() } else { String::new() },
                    name: owner.name.clone(),
                };
                self.graph.lock().set_absent(&owner.uid, at);
                OwnerState::Dangling
            }
        }))
    }

    /// A live read of the object; `None` when it is gone, or another one has its name.
    async fn get_live(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<PartialObjectMetadata>, Error> {
        let path = resource.path(namespace, name);
        let live: Option<PartialObjectMetadata> = self.client.find_at(&path).await?;
        Ok(live.filter(|live| live.uid == uid))
    }

    /// Patches the metadata of exactly this revision. An object that is gone is no error.
    async fn patch(
        &self,
        resource: &Resource,
        live: &PartialObjectMetadata,
        mut metadata: serde_json::Value,
    ) -> anyhow::Result<()> {
        metadata["uid"] = json!(live.uid);
        metadata["resourceVersion"] = json!(live.resource_version);
        let body = json!({"metadata": metadata}).to_string().into_bytes();
        let path = resource.path(&live.namespace, &live.name);
        match self.client.raw(Method::PATCH, &path, Some((MERGE_PATCH, body))).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
