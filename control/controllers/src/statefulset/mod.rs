//! StatefulSets: pods with stable names, which come and go in order.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>.

mod claims;
mod identity;
mod plan;
#[cfg(test)]
mod tests;

use self::plan::{Plan, Step, Version, Versions, plan};
use crate::{
    Context,
    claim::{Claims, candidates, enqueue_for_orphan},
    history::{self, Draft, History, revision_of},
    labels, meta,
    podcontrol::{delete, slow_start},
    pods, status,
};
use client::{Client, Controller, DeleteOptions, Error, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec},
    core::v1::{PersistentVolumeClaim, Pod},
};
use std::{collections::BTreeSet, sync::Arc};

/// Keeps the pods of StatefulSets. Upstream's `statefulset-controller`.
pub(crate) struct StatefulSetController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    history: History,
}

impl StatefulSetController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (sets, pods) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&sets);
        labels::index_orphans(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("statefulset-controller"),
            sets,
            pods,
            claims: cx.informers.of(),
            history: History::new(cx.client.clone(), cx.informers.of()),
        }
    }

    /// The revision of most pods and that of the template, which is made if it is new.
    async fn versions(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        revisions: &[Arc<ControllerRevision>],
    ) -> anyhow::Result<Versions> {
        let known = set.status.as_ref();
        let mut collisions = known.and_then(|status| status.collision_count).unwrap_or(0);
        let draft = Draft::new(&set.metadata, &spec.template, history::HASH);
        let newest = self.history.newest(set, &draft, revisions, &mut collisions).await?;
        let name = |revision: &ControllerRevision| meta::name(&revision.metadata).to_owned();
        let update = Version { name: name(&newest), template: spec.template.clone() };
        let current = known.and_then(|status| status.current_revision.as_deref());
        let current = revisions.iter().find(|revision| Some(meta::name(&revision.metadata)) == current);
        let of = |revision: &Arc<ControllerRevision>| {
            Some(Version { name: name(revision), template: history::template(revision)? })
        };
        Ok(Versions { current: current.and_then(of).unwrap_or_else(|| update.clone()), update, collisions })
    }

    async fn act(&self, set: &StatefulSet, plan: &Plan) -> anyhow::Result<()> {
        let creates: Vec<&Pod> = plan
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Create(pod) => Some(pod),
                _ => None,
            })
            .collect();
        let (_, failure) = slow_start(creates.len(), |at| self.create(set, creates[at])).await;
        if let Some(error) = failure {
            return Err(error);
        }
        for step in &plan.steps {
            match step {
                Step::Create(_) => {}
                Step::Update(pod) => {
                    let result = self.client.update(pod).await.map(drop);
                    self.told(set, "Update", pod, result)?;
                }
                Step::Delete(pod) => {
                    let result = delete(&self.client, pod, &DeleteOptions::uid(meta::uid(&pod.metadata))).await;
                    self.told(set, "Delete", pod, result)?;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> anyhow::Result<()> {
        self.make_claims(set, pod).await?;
        match self.client.create(pod).await {
            // The cache does not show it yet, or another's pod has the name.
            Err(error) if error.is_already_exists() => Err(error.into()),
            Err(error) if error.is_namespace_terminating() => Ok(()),
            result => Ok(self.told(set, "Create", pod, result.map(drop))?),
        }
    }

    /// Makes the claims of a pod that are not there.
    async fn make_claims(&self, set: &StatefulSet, pod: &Pod) -> anyhow::Result<()> {
        let Some(ordinal) = identity::ordinal(set, pod) else { return Ok(()) };
        for claim in claims::wanted(set, ordinal) {
            let name = meta::name(&claim.metadata);
            if let Some(there) = self.claims.get(meta::namespace(&set.metadata), name) {
                let stale = claims::is_stale(set, &there, &pod.metadata);
                anyhow::ensure!(!stale && !meta::is_deleting(&there.metadata), "pvc {name} is being deleted");
                continue;
            }
            let result = match self.client.create(&claim).await {
                Err(error) if error.is_already_exists() || error.is_namespace_terminating() => return Err(error.into()),
                result => result.map(drop),
            };
            let (pod, owner) = (meta::name(&pod.metadata), meta::name(&set.metadata));
            let (kind, reason, text) = match &result {
                Ok(()) => (
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Create Claim {name} Pod {pod} in StatefulSet {owner} success"),
                ),
                Err(error) => (
                    EventType::Warning,
                    "FailedCreate",
                    format!("Create Claim {name} for Pod {pod} in StatefulSet {owner} failed error: {error}"),
                ),
            };
            self.recorder.event(&reference(set), kind, reason, text);
            result?;
        }
        Ok(())
    }

    /// Makes missing claims of pods that wait, and gives claims the owners of the retention policy.
    async fn keep_claims(
        &self,
        set: &StatefulSet,
        own: &[Arc<Pod>],
        numbers: &std::ops::Range<i32>,
    ) -> anyhow::Result<()> {
        if set.spec.as_ref().is_none_or(|spec| spec.volume_claim_templates.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(());
        }
        for pod in own {
            let Some(ordinal) = identity::ordinal(set, pod) else { continue };
            if client::pod::phase(pod) == "Pending" && !client::pod::is_deleting(pod) {
                self.make_claims(set, pod).await?;
            }
            for name in claims::names(set, ordinal) {
                let Some(claim) = self.claims.get(meta::namespace(&set.metadata), &name) else { continue };
                if let Some(owners) = claims::owners(set, pod, !numbers.contains(&ordinal), &claim) {
                    let mut claim = (*claim).clone();
                    claim.metadata.owner_references = Some(owners);
                    self.client.update(&claim).await?;
                }
            }
        }
        Ok(())
    }

    /// Records what became of a write.
    fn told(&self, set: &StatefulSet, verb: &str, pod: &Pod, result: Result<(), Error>) -> Result<(), Error> {
        let (name, owner) = (meta::name(&pod.metadata), meta::name(&set.metadata));
        let (kind, reason, end) = match &result {
            Ok(()) => (EventType::Normal, format!("Successful{verb}"), "successful".to_owned()),
            Err(error) => (EventType::Warning, format!("Failed{verb}"), format!("failed error: {error}")),
        };
        self.recorder.event(&reference(set), kind, &reason, format!("{verb} Pod {name} in StatefulSet {owner} {end}"));
        result
    }
}

#[async_trait::async_trait]
impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.sets);
        wakeups.on(&self.pods, pods::enqueue_owner::<StatefulSet>);
        wakeups.reads(&self.claims);
        let sets = self.sets.clone();
        wakeups.on(&self.pods, move |delta| {
            enqueue_for_orphan(delta, &sets, |set| set.spec.as_ref().map(|s| &s.selector))
        });
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
        let revisions = self.history.of(&*set, &spec.selector).await?;
        let claims = Claims { client: &self.client, owner: &*set, finalizer: None };
        let members = |pod: &Arc<Pod>| identity::ordinal(&set, pod).is_some();
        let candidates = candidates(&self.pods, &set.metadata, labels::wanted(&spec.selector));
        let own = claims.settle(&selector, candidates.into_iter().filter(members).collect()).await?;
        let versions = self.versions(&set, spec, &revisions).await?;
        let plan = plan(&set, &versions, &own, self.clock.now());
        // Before pods go: their claims may go with them.
        let kept = self.keep_claims(&set, &own, &plan::ordinals(spec)).await;
        let outcome = if kept.is_ok() { self.act(&set, &plan).await } else { kept };
        if status::differs(set.status.as_ref(), &plan.status) {
            status::write(&self.client, &StatefulSet { status: Some(plan.status.clone()), ..(*set).clone() }).await?;
        }
        let mut live: BTreeSet<&str> = own.iter().map(|pod| revision_of(pod)).collect();
        live.extend([versions.current.name.as_str(), versions.update.name.as_str()]);
        self.history.truncate(&revisions, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        outcome?;
        Ok(plan.again.map_or(Next::Done, Next::After))
    }
}
