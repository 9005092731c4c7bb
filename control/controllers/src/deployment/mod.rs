//! Deployments: revisions of a pod template, rolled out and back through ReplicaSets.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>. Not here: the pods themselves (`replicaset`), and the
//! rollback field that only the extensions/v1beta1 API had.

mod plan;
pub(crate) mod revision;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use plan::{Plan, Step, plan};

use crate::{
    Context,
    claim::{Claims, candidates, enqueue_for_orphan},
    labels, meta, pods,
};
use client::{
    Client, Controller, DeleteOptions, Delta, Error, EventType, Informer, Key, Next, Recorder, Wakeups, reference,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use std::sync::Arc;

/// Rolls pod templates out. Upstream's `deployment-controller`.
pub(crate) struct DeploymentController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

impl DeploymentController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (deployments, sets) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&deployments);
        labels::index_orphans(&sets);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("deployment-controller"),
            deployments,
            sets,
            pods: cx.informers.of(),
        }
    }

    /// Whether unfinished pods of any ReplicaSet but `current` exist.
    fn old_pods_running(&self, sets: &[Arc<ReplicaSet>], current: Option<&str>) -> bool {
        let others = sets.iter().filter(|rs| rs.metadata.name.as_deref() != current);
        others.flat_map(|rs| self.pods.by_owner(meta::uid(&rs.metadata))).any(|p| !pods::is_finished(&p))
    }

    async fn take(&self, d: &Deployment, plan: &Plan, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Create(rs) => self.create(d, plan, rs).await,
            Step::Update { rs, scaled } => {
                let written = self.client.update(&**rs).await?;
                if let Some((from, to)) = scaled {
                    self.tell_scaled(d, meta::name(&written.metadata), *from, *to);
                }
                Ok(())
            }
            Step::Delete(rs) => {
                let options = DeleteOptions::uid(meta::uid(&rs.metadata));
                let (namespace, name) = (meta::namespace(&rs.metadata), meta::name(&rs.metadata));
                Ok(self.client.delete::<ReplicaSet>(namespace, name, &options).await?)
            }
        }
    }

    fn tell_scaled(&self, d: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if from < to { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.recorder.event(&reference(d), EventType::Normal, "ScalingReplicaSet", message);
    }

    async fn create(&self, d: &Deployment, plan: &Plan, rs: &ReplicaSet) -> anyhow::Result<()> {
        let name = meta::name(&rs.metadata);
        let error = match self.client.create(rs).await {
            Ok(created) => {
                let size = created.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                if size > 0 {
                    self.tell_scaled(d, name, 0, size);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let mut seen = plan.seen.clone();
        if error.is_already_exists() {
            return self.collided(seen, rs, error).await;
        }
        if !error.is_namespace_terminating() {
            let message = format!("Failed to create new replica set {name:?}: {error}");
            status::note_create_failure(&mut seen, &message, self.clock.now());
            // what is wrong is the creation; that it could not be reported is only logged with it
            if let Err(second) = self.client.update_status(&seen).await {
                tracing::debug!(%second, "the failure could not be reported");
            }
            self.recorder.event(&reference(d), EventType::Warning, "ReplicaSetCreateError", message);
        }
        Err(error.into())
    }

    /// The name is taken: by our own ReplicaSet that the cache does not show yet, or by another template with the same hash.
    async fn collided(&self, mut d: Deployment, rs: &ReplicaSet, error: Error) -> anyhow::Result<()> {
        let there: ReplicaSet = self.client.get(meta::namespace(&rs.metadata), meta::name(&rs.metadata)).await?;
        let template = |rs: &ReplicaSet| rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        let ours = meta::is_controlled_by(&there.metadata, meta::uid(&d.metadata));
        if ours && revision::same_template(&template(&there), &template(rs)) {
            anyhow::bail!("the ReplicaSet {} is not in the cache yet", meta::name(&rs.metadata));
        }
        let status = d.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.client.update_status(&d).await?;
        Err(error.into())
    }
}

#[async_trait::async_trait]
impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.deployments);
        wakeups.on_owner::<ReplicaSet, Deployment>(&self.sets);
        let deployments = self.deployments.clone();
        wakeups.on(&self.sets, move |delta| {
            enqueue_for_orphan(delta, &deployments, |d| d.spec.as_ref().map(|s| &s.selector))
        });
        let (deployments, sets) = (self.deployments.clone(), self.sets.clone());
        wakeups.on(&self.pods, move |delta| waken_by_last_pod(delta, &sets, &deployments));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(d) = self.deployments.find(key) else { return Ok(Next::Done) };
        let Some(spec) = d.spec.as_ref() else { return Ok(Next::Done) };
        let selector = match meta::selector(&spec.selector) {
            Ok(selector) => selector,
            Err(error) => {
                tracing::warn!(error, "the selector cannot be read");
                return Ok(Next::Done);
            }
        };
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&*d), EventType::Warning, "SelectingAll", message);
            return Ok(Next::Done);
        }
        let claims = Claims { client: &self.client, owner: &*d, finalizer: None };
        let sets =
            claims.settle(&selector, candidates(&self.sets, &d.metadata, labels::wanted(&spec.selector))).await?;
        let plan = plan(&d, &sets, |current| self.old_pods_running(&sets, current), self.clock.now());
        for step in &plan.steps {
            self.take(&d, &plan, step).await?;
        }
        if let Some(changed) = &plan.write {
            crate::status::write(&self.client, changed).await?;
        }
        Ok(plan.after.map_or(Next::Done, Next::After))
    }
}

/// A Recreate Deployment waits for the last old pod to end: tell it.
fn waken_by_last_pod(delta: &Delta<Pod>, sets: &Informer<ReplicaSet>, deployments: &Informer<Deployment>) -> Vec<Key> {
    let pod = delta.object();
    let ended = matches!(delta, Delta::Deleted(_))
        || delta.old().is_some_and(|o| !pods::is_finished(o)) && pods::is_finished(pod);
    let owner = meta::controller_of(&pod.metadata).filter(|o| ended && o.kind == "ReplicaSet");
    let Some(owner) = owner else { return Vec::new() };
    let namespace = meta::namespace(&pod.metadata);
    let Some(rs) = sets.get(namespace, &owner.name) else { return Vec::new() };
    let Some(owner) = meta::controller_of(&rs.metadata) else { return Vec::new() };
    let recreates = |d: &Arc<Deployment>| !rolling::is_rolling(d);
    deployments.get(namespace, &owner.name).filter(recreates).map(|d| Key::of(&*d)).into_iter().collect()
}
