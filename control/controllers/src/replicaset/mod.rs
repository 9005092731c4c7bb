//! ReplicaSets and ReplicationControllers: they keep the desired number of pods.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

mod plan;
mod rank;
mod refused;
mod replicated;

pub(crate) use rank::to_delete;

use self::{
    plan::{Plan, plan},
    replicated::Replicated,
};
use crate::{
    Context,
    claim::{Claims, enqueue_adopters},
    labels, meta,
    podcontrol::{PodControl, slow_start},
    pods, status,
};
use client::{Client, Controller, Error, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use std::sync::Arc;

/// Keeps the desired number of pods. Upstream's `replicaset-controller` and `replicationcontroller-controller`.
pub(crate) struct ReplicaSetController<K: Replicated> {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    sets: Informer<K>,
    pods: Informer<Pod>,
}

impl<K: Replicated> ReplicaSetController<K> {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (sets, pods) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&sets);
        labels::index_orphans(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder(K::SOURCE),
            sets,
            pods,
        }
    }

    /// The pods of every ReplicaSet with the same owner: pods of all revisions count for how crowded a node is.
    fn related(&self, rs: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = meta::controller_of(&rs.metadata) else { return own.to_vec() };
        let sets = self.sets.by_owner(&owner.uid);
        sets.iter().flat_map(|set| self.pods.by_owner(meta::uid(set.metadata()))).collect()
    }

    async fn act(&self, object: &K, rs: &ReplicaSet, plan: &Plan) -> Result<(), Error> {
        let owner = reference(object);
        let control = PodControl { client: &self.client, recorder: &self.recorder, owner: &owner };
        self.claims(object).release(&plan.release).await?;
        if plan.create > 0 {
            let Some(template) = rs.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Ok(()) };
            let owner = meta::controller_ref(object);
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

    fn claims<'a>(&'a self, object: &'a K) -> Claims<'a, K> {
        Claims { client: &self.client, owner: object, finalizer: None }
    }
}

#[async_trait::async_trait]
impl<K: Replicated> Controller for ReplicaSetController<K> {
    const NAME: &'static str = K::CONTROLLER;

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.sets);
        wakeups.on(&self.pods, pods::enqueue_owner::<K>);
        let sets = self.sets.clone();
        wakeups.on(&self.pods, move |delta| enqueue_adopters(delta, &sets, replicated::adopts));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(object) = self.sets.find(key) else { return Ok(Next::Done) };
        let rs = K::as_set(&object);
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
        self.claims(&object).adopt(&plan.adopt).await?;
        let failure = self.act(&object, &rs, &plan).await.err();
        let text = failure.as_ref().map(ToString::to_string);
        let new = plan::status(&rs, &plan, text.as_deref(), now);
        // What the kind does not tell is no difference.
        let object = Arc::new(object.with_status(new));
        let told = K::as_set(&object).status.clone().unwrap_or_default();
        if status::differs(rs.status.as_ref(), &told) {
            status::write(&self.client, &*object).await?;
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(plan::next_look(&rs, &plan, now).map_or(Next::Done, Next::After)),
        }
    }
}
