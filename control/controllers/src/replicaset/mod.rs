//! ReplicaSets: they keep the desired number of pods.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

mod plan;
mod rank;
mod refused;

pub(crate) use rank::to_delete;

use self::plan::{Plan, plan};
use crate::{
    Context,
    claim::{Claims, enqueue_for_orphan},
    labels, meta,
    podcontrol::{PodControl, slow_start},
    pods, status,
};
use client::{Client, Controller, Error, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use std::sync::Arc;

/// Keeps the desired number of pods. Upstream's `replicaset-controller`.
pub(crate) struct ReplicaSetController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

impl ReplicaSetController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (sets, pods) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&sets);
        labels::index_orphans(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("replicaset-controller"),
            sets,
            pods,
        }
    }

    /// The pods of every ReplicaSet with the same owner: pods of all revisions count for how crowded a node is.
    fn related(&self, rs: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = meta::controller_of(&rs.metadata) else { return own.to_vec() };
        let sets = self.sets.by_owner(&owner.uid);
        sets.iter().flat_map(|rs| self.pods.by_owner(meta::uid(&rs.metadata))).collect()
    }

    async fn act(&self, rs: &ReplicaSet, plan: &Plan) -> Result<(), Error> {
        let owner = reference(rs);
        let control = PodControl { client: &self.client, recorder: &self.recorder, owner: &owner };
        self.claims(rs).release(&plan.release).await?;
        if plan.create > 0 {
            let Some(template) = rs.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Ok(()) };
            let owner = meta::controller_ref(rs);
            let pod = pods::from_template(meta::namespace(&rs.metadata), meta::name(&rs.metadata), template, owner);
            let (_, failure) = slow_start(plan.create, |_| async {
                match control.create(&pod).await {
                    Err(error) if !error.is_namespace_terminating() => Err(error),
                    _ => Ok(()),
                }
            })
            .await;
            return failure.map_or(Ok(()), Err);
        }
        control.delete_all(&plan.delete).await
    }

    fn claims<'a>(&'a self, rs: &'a ReplicaSet) -> Claims<'a, ReplicaSet> {
        Claims { client: &self.client, owner: rs, finalizer: None }
    }
}

#[async_trait::async_trait]
impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.sets);
        wakeups.on(&self.pods, pods::enqueue_owner::<ReplicaSet>);
        let sets = self.sets.clone();
        wakeups
            .on(&self.pods, move |delta| enqueue_for_orphan(delta, &sets, |rs| rs.spec.as_ref().map(|s| &s.selector)));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(rs) = self.sets.find(key) else { return Ok(Next::Done) };
        let Some(spec) = rs.spec.as_ref() else { return Ok(Next::Done) };
        let selector = match meta::selector(&spec.selector) {
            Ok(selector) => selector,
            Err(error) => {
                tracing::warn!(error, "the selector cannot be read");
                return Ok(Next::Done);
            }
        };
        let own = self.pods.by_owner(meta::uid(&rs.metadata));
        let mut candidates = own.clone();
        candidates.extend(labels::orphans(&self.pods, &key.namespace, labels::wanted(&spec.selector)));
        let now = self.clock.now();
        let plan = plan(&rs, &selector, &candidates, || self.related(&rs, &own), now);
        self.claims(&rs).adopt(&plan.adopt).await?;
        let failure = self.act(&rs, &plan).await.err();
        let text = failure.as_ref().map(ToString::to_string);
        let new = plan::status(&rs, &plan, text.as_deref(), now);
        if status::differs(rs.status.as_ref(), &new) {
            status::write(&self.client, &ReplicaSet { status: Some(new), ..(*rs).clone() }).await?;
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(plan::next_look(&rs, &plan, now).map_or(Next::Done, Next::After)),
        }
    }
}
