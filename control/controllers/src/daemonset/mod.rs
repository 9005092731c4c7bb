//! DaemonSets: a pod on each node that they select.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>.

mod failed;
mod place;
mod plan;
#[cfg(test)]
mod tests;

use self::{
    failed::Failed,
    plan::{Plan, plan},
};
use crate::{
    Context,
    claim::{Claims, candidates, enqueue_for_orphan},
    history::{Draft, History, POD_REVISION, hash_of, revision_of},
    labels, meta,
    podcontrol::{PodControl, slow_start},
    pods, status,
};
use client::{Client, Controller, Delta, Error, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{Node, Pod},
};
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc};

/// Keeps the pods of DaemonSets. Upstream's `daemonset-controller`.
pub(crate) struct DaemonSetController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    history: History,
    failed: Mutex<Failed>,
}

impl DaemonSetController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (sets, pods) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&sets);
        labels::index_orphans(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("daemonset-controller"),
            sets,
            pods,
            nodes: cx.informers.of(),
            history: History::new(cx.client.clone(), cx.informers.of()),
            failed: Mutex::default(),
        }
    }

    async fn act(&self, set: &DaemonSet, spec: &DaemonSetSpec, revision: &str, plan: &Plan) -> Result<(), Error> {
        let owner = reference(set);
        for told in &plan.events {
            let kind = if told.warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&owner, kind, told.reason, told.message.clone());
        }
        let control = PodControl { client: &self.client, recorder: &self.recorder, owner: &owner };
        let control = &control;
        let (_, failure) = slow_start(plan.create.len(), |at| async move {
            let pod = place::pod(set, &spec.template, revision, &plan.create[at]);
            match control.create(&pod).await {
                Err(error) if !error.is_namespace_terminating() => Err(error),
                _ => Ok(()),
            }
        })
        .await;
        control.delete_all(&plan.delete).await?;
        failure.map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl Controller for DaemonSetController {
    const NAME: &'static str = "daemonset-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.sets);
        wakeups.on(&self.pods, pods::enqueue_owner::<DaemonSet>);
        let sets = self.sets.clone();
        wakeups.on(&self.pods, move |delta| {
            enqueue_for_orphan(delta, &sets, |set| set.spec.as_ref().map(|s| &s.selector))
        });
        let sets = self.sets.clone();
        wakeups.on(&self.nodes, move |delta| enqueue_for_node(delta, &sets));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(set) = self.sets.find(key) else { return Ok(Next::Done) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Next::Done) };
        let selector = match meta::selector(&spec.selector) {
            Ok(selector) => selector,
            Err(error) => {
                tracing::warn!(error, "the selector cannot be read");
                return Ok(Next::Done);
            }
        };
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&*set), EventType::Warning, "SelectingAll", message);
            return Ok(Next::Done);
        }
        if meta::is_deleting(&set.metadata) {
            return Ok(Next::Done);
        }
        let revisions = self.history.of(&*set, &spec.selector).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let draft = Draft::new(&set.metadata, &spec.template, POD_REVISION);
        let newest = self.history.newest(&*set, &draft, &revisions, &mut collisions).await?;
        let revision = hash_of(&newest);
        let claims = Claims { client: &self.client, owner: &*set, finalizer: None };
        let own =
            claims.settle(&selector, candidates(&self.pods, &set.metadata, labels::wanted(&spec.selector))).await?;
        let nodes = self.nodes.list();
        let plan = plan(&set, revision, collisions, &nodes, &own, &mut self.failed.lock(), self.clock.now());
        let outcome = self.act(&set, spec, revision, &plan).await;
        if status::differs(set.status.as_ref(), &plan.status) {
            status::write(&self.client, &DaemonSet { status: Some(plan.status.clone()), ..(*set).clone() }).await?;
        }
        outcome?;
        let hashes: BTreeSet<&str> = own.iter().map(|pod| revision_of(pod)).chain([revision]).collect();
        let live = revisions.iter().filter(|one| hashes.contains(hash_of(one)));
        let live = live.map(|one| meta::name(&one.metadata)).collect();
        self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(plan.again.map_or(Next::Done, Next::After))
    }
}

/// All sets whose pods a change of a node may concern.
fn enqueue_for_node(delta: &Delta<Node>, sets: &Informer<DaemonSet>) -> Vec<Key> {
    let node = delta.object();
    let concerns = |set: &Arc<DaemonSet>| match delta {
        Delta::Modified { old, .. } => place::place(set, old) != place::place(set, node),
        Delta::Added(_) => place::place(set, node) == place::Place::Runs,
        Delta::Deleted(_) => true,
    };
    let same = |old: &Arc<Node>| {
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        old.metadata.labels == node.metadata.labels && taints(old) == taints(node)
    };
    if delta.old().is_some_and(same) {
        return Vec::new();
    }
    sets.list().iter().filter(|set| concerns(set)).map(|set| Key::of(&**set)).collect()
}
