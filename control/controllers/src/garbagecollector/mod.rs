//! Garbage collection: what nobody owns any more goes, and who waits for dependents goes after them.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>: background, foreground (with `blockOwnerDeletion`) and
//! orphaning deletion. The graph of owners comes from a watch per served kind, CustomResources included; before anything is deleted the API
//! itself is asked, and the deletion names uid and revision, so that a stale graph costs a request and never an object.
//!
//! Unlike upstream, a circle of owners that wait for each other is opened only once it is one, and also where all of them were deleted at
//! once; and a cluster-scoped object that names a namespaced owner does not hold it.

mod graph;
mod monitor;

pub use graph::{Change, Coordinates, FOREGROUND, Graph, Meta, Node, ORPHAN, Owner, Standing, Task, Verdict, judge};

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Backoff, Client, Error, EventType, Recorder, WorkQueue};
use http::Method;
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Context,
    discovery::{self, Resource},
};

/// How often the served kinds are looked up. Upstream's figure.
const REDISCOVER: Duration = Duration::from_secs(30);
/// Tasks worked on at a time.
const WORKERS: usize = 16;
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Collects garbage. Upstream's `garbage-collector-controller`.
pub struct GarbageCollector {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    client: Client,
    graph: Mutex<Graph>,
    /// Bounded by the objects there are: each waits at most once per kind of task.
    queue: WorkQueue<Task>,
    /// Owners are named by version and kind, paths by resource.
    kinds: Mutex<HashMap<(String, String), Arc<Resource>>>,
    recorder: Recorder,
}

#[derive(Deserialize)]
struct Live {
    metadata: Meta,
}

impl GarbageCollector {
    /// Over its own watches: it needs every kind, and only metadata.
    pub fn new(cx: &Context) -> Self {
        let shared = Shared {
            client: cx.client.clone(),
            graph: Mutex::default(),
            queue: WorkQueue::measured(Backoff::default(), &cx.options.queues, "garbage_collector"),
            kinds: Mutex::default(),
            recorder: cx.recorder("garbage-collector-controller"),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs until cancelled.
    pub async fn run(self, token: CancellationToken) {
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

    /// Keeps a monitor per served kind.
    async fn monitor(&self, synced: &watch::Sender<bool>) {
        let mut running: HashMap<Arc<Resource>, AbortOnDropHandle<()>> = HashMap::new();
        let (listed, mut listings) = tokio::sync::mpsc::unbounded_channel::<Arc<Resource>>();
        let mut waiting: Option<std::collections::HashSet<Arc<Resource>>> = None;
        let mut tick = tokio::time::interval(REDISCOVER);
        let mut delay = Duration::from_millis(100);
        loop {
            tokio::select! {
                Some(resource) = listings.recv() => {
                    if let Some(missing) = &mut waiting {
                        missing.remove(&resource);
                        if missing.is_empty() {
                            synced.send_replace(true);
                        }
                    }
                    continue;
                }
                _ = tick.tick() => {}
            }
            let resources = match discovery::resources(&self.shared.client).await {
                Ok((resources, failures)) if failures.is_empty() => resources,
                Ok((_, failures)) => {
                    tracing::debug!(?failures, "some groups could not be discovered");
                    tick.reset_after(delay);
                    delay = (delay * 2).min(REDISCOVER);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "the served kinds could not be discovered");
                    tick.reset_after(delay);
                    delay = (delay * 2).min(REDISCOVER);
                    continue;
                }
            };
            let wanted: Vec<Arc<Resource>> = resources.into_iter().filter(is_collected).map(Arc::new).collect();
            self.shared.learn(&wanted);
            let dropped: Vec<_> = running.keys().filter(|r| !wanted.contains(r)).cloned().collect();
            for resource in dropped {
                running.remove(&resource);
                self.shared.graph.lock().forget(&resource);
            }
            for resource in &wanted {
                if !running.contains_key(resource) {
                    let (listed, name) = (listed.clone(), resource.clone());
                    // the receiver is in this very function
                    let told = move || drop(listed.send(name.clone()));
                    let task = tokio::spawn(monitor::follow(self.shared.clone(), resource.clone(), told));
                    running.insert(resource.clone(), AbortOnDropHandle::new(task));
                }
            }
            waiting.get_or_insert_with(|| wanted.into_iter().collect());
        }
    }
}

/// A list for a merge patch: an empty one leaves nothing behind.
fn or_null<T: serde::Serialize>(list: &[T]) -> serde_json::Value {
    if list.is_empty() { serde_json::Value::Null } else { json!(list) }
}

/// Whether objects of the kind take part. Events are many and own nothing.
fn is_collected(resource: &Resource) -> bool {
    resource.can(&["delete", "list", "watch"]) && resource.resource != "events"
}

impl Shared {
    fn changed(&self, resource: &Arc<Resource>, meta: Meta) {
        let change = self.graph.lock().set(resource, meta);
        change.tasks.into_iter().for_each(|t| self.queue.add(t));
        change.misplaced.iter().for_each(|(node, owner)| self.report(node, owner));
    }

    /// Tells that an owner cannot be one, since it lives in another namespace.
    fn report(&self, node: &Node, owner: &Owner) {
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

    fn learn(&self, resources: &[Arc<Resource>]) {
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
                Task::Delete(uid) => self.attempt(uid).await,
                Task::Orphan(uid) => self.orphan(uid).await,
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

    /// Deletes the object if nobody owns it, or lets it go if nothing blocks it.
    async fn attempt(&self, uid: &str) -> anyhow::Result<()> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        if node.meta.deletion_timestamp.is_some() && !node.meta.waits_for_dependents() {
            return Ok(());
        }
        let Some(live) = self.live(&node.resource, &node.meta.namespace, &node.meta.name, uid).await? else {
            self.removed(uid);
            return Ok(());
        };
        let mut owners = Vec::with_capacity(live.owner_references.len());
        for owner in &live.owner_references {
            // an owner that cannot be one: nothing is concluded about the object, as upstream
            let Some(standing) = self.standing(&node, owner).await? else { return Ok(()) };
            owners.push((owner.uid.clone(), standing));
        }
        let verdict = judge(&self.graph.lock(), &live, &owners);
        self.act(&node.resource, &live, verdict).await
    }

    async fn act(&self, resource: &Resource, live: &Meta, verdict: Verdict) -> anyhow::Result<()> {
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Await(uids) => {
                uids.into_iter().for_each(|uid| self.queue.add(Task::Delete(uid)));
                Ok(())
            }
            Verdict::Release => {
                let kept: Vec<&String> = live.finalizers.iter().filter(|f| *f != FOREGROUND).collect();
                self.patch(resource, live, json!({"finalizers": or_null(&kept)})).await
            }
            Verdict::Disown(gone) => {
                let kept: Vec<&Owner> = live.owner_references.iter().filter(|o| !gone.contains(&o.uid)).collect();
                self.patch(resource, live, json!({"ownerReferences": or_null(&kept)})).await
            }
            Verdict::Unblock => {
                let mut freed = live.owner_references.clone();
                freed.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
                self.patch(resource, live, json!({"ownerReferences": freed})).await
            }
            Verdict::Delete { foreground } => self.delete(resource, live, foreground).await,
        }
    }

    async fn delete(&self, resource: &Resource, live: &Meta, foreground: bool) -> anyhow::Result<()> {
        let policy = match live.finalizers.iter().map(String::as_str).find(|f| [ORPHAN, FOREGROUND].contains(f)) {
            Some(ORPHAN) => "Orphan",
            Some(_) => "Foreground",
            None if foreground => "Foreground",
            None => "Background",
        };
        match self.try_delete(resource, live, policy, Some(&live.resource_version)).await {
            // whoever else writes the object all the time must not keep it: only its owners matter
            Err(error) if error.is_conflict() => {
                let Some(now) = self.live(resource, &live.namespace, &live.name, &live.uid).await? else {
                    return Ok(());
                };
                anyhow::ensure!(now.owner_references == live.owner_references, "its owners changed");
                self.try_delete(resource, live, policy, None).await.map_err(Into::into)
            }
            other => other.map_err(Into::into),
        }
    }

    /// Deletes exactly this object; one that is gone is fine.
    async fn try_delete(
        &self,
        resource: &Resource,
        live: &Meta,
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

    /// Sets the dependents free, then lets the owner go.
    async fn orphan(&self, uid: &str) -> anyhow::Result<()> {
        let (owner, dependents) = {
            let graph = self.graph.lock();
            let Some(owner) = graph.get(uid).cloned() else { return Ok(()) };
            (owner, graph.dependents(uid).cloned().collect::<Vec<Node>>())
        };
        for node in dependents {
            let live = self.live(&node.resource, &node.meta.namespace, &node.meta.name, &node.meta.uid).await?;
            let Some(live) = live.filter(|l| l.owner_references.iter().any(|o| o.uid == uid)) else { continue };
            let kept: Vec<&Owner> = live.owner_references.iter().filter(|o| o.uid != uid).collect();
            self.patch(&node.resource, &live, json!({"ownerReferences": or_null(&kept)})).await?;
        }
        let live = self.live(&owner.resource, &owner.meta.namespace, &owner.meta.name, uid).await?;
        let Some(live) = live.filter(Meta::orphans_dependents) else { return Ok(()) };
        let kept: Vec<&String> = live.finalizers.iter().filter(|f| *f != ORPHAN).collect();
        self.patch(&owner.resource, &live, json!({"finalizers": or_null(&kept)})).await
    }

    /// What an owner is, from the graph, or else from the API; `None` where a cluster-scoped object names a namespaced one.
    async fn standing(&self, dependent: &Node, owner: &Owner) -> anyhow::Result<Option<Standing>> {
        let namespace = &dependent.meta.namespace;
        {
            let graph = self.graph.lock();
            if let Some(node) = graph.get(&owner.uid).filter(|n| n.is(owner, namespace)) {
                let waits = node.meta.waits_for_dependents();
                return Ok(Some(if waits { Standing::Waiting } else { Standing::Solid }));
            }
            if graph.is_absent(owner, namespace) {
                return Ok(Some(Standing::Dangling));
            }
        }
        let known = self.kinds.lock().get(&(owner.api_version.clone(), owner.kind.clone())).cloned();
        let Some(resource) = known else {
            anyhow::bail!("no kind {} in {} is served", owner.kind, owner.api_version);
        };
        if resource.namespaced && !dependent.resource.namespaced {
            return Ok(None);
        }
        Ok(Some(match self.live(&resource, namespace, &owner.name, &owner.uid).await? {
            Some(live) if live.waits_for_dependents() => Standing::Waiting,
            Some(_) => Standing::Solid,
            None => {
                let at = Coordinates {
                    api_version: owner.api_version.clone(),
                    kind: owner.kind.clone(),
                    namespace: if resource.namespaced { namespace.clone() } else { String::new() },
                    name: owner.name.clone(),
                };
                self.graph.lock().set_absent(&owner.uid, at);
                Standing::Dangling
            }
        }))
    }

    /// The object as it is now; `None` when it is gone, or another has its name.
    async fn live(&self, resource: &Resource, namespace: &str, name: &str, uid: &str) -> Result<Option<Meta>, Error> {
        let path = resource.path(namespace, name);
        match self.client.raw(Method::GET, &path, None).await {
            Ok(body) => {
                let live: Live = serde_json::from_slice(&body).map_err(|e| Error::Decode(format!("{path}: {e}")))?;
                Ok(Some(live.metadata).filter(|m| m.uid == uid))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes metadata of exactly this revision; an object that is gone is fine.
    async fn patch(&self, resource: &Resource, live: &Meta, mut metadata: serde_json::Value) -> anyhow::Result<()> {
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
