//! What to do next for a StatefulSet, and its status. Pure.
//!
//! Follows upstream's `stateful_set_control.go`: pods come in the order of their numbers, one at a time and each when those before it are
//! available, and go in the opposite order; `Parallel` waits for nobody. `maxUnavailable`, a beta of upstream that is off there, is honoured
//! where it is set.

use super::identity;
use crate::{history::revision_of, meta, pods};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::{Pod, PodTemplateSpec},
};
use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

/// Most pods that are created at a time.
const BURST: usize = 250;

/// A template with the name of its revision.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Pod),
    /// A pod that lost its labels or volumes.
    Update(Pod),
    Delete(Arc<Pod>),
}

/// What to do, and the status after it.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub status: StatefulSetStatus,
    /// When a pod becomes available without any other change.
    pub again: Option<Duration>,
}

/// Two revisions: that of most pods, and that of the template.
pub(super) struct Versions {
    pub current: Version,
    pub update: Version,
    pub collisions: i32,
}

struct Planner<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    versions: &'a Versions,
    now: Timestamp,
    /// The numbers of the pods that the set has.
    ordinals: Range<i32>,
    /// The pods that are there, by number.
    replicas: BTreeMap<i32, Arc<Pod>>,
    /// Pods of other places, highest number first.
    condemned: Vec<Arc<Pod>>,
    steps: Vec<Step>,
}

/// The plan for a set with these pods, all of which it controls.
pub(super) fn plan(set: &StatefulSet, versions: &Versions, own: &[Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = set.spec.as_ref() else {
        return Plan { steps: Vec::new(), status: StatefulSetStatus::default(), again: None };
    };
    let ordinals = ordinals(spec);
    let (replicas, condemned) = places(set, &ordinals, own);
    let mut planner = Planner { set, spec, versions, now, ordinals, replicas, condemned, steps: Vec::new() };
    let mut status = planner.status(own);
    if !meta::is_deleting(&set.metadata) && planner.establish() && planner.roll() {
        status.current_replicas = status.current_replicas.map(|count| (count - 1).max(0));
    }
    complete(spec, &mut status);
    let waits = own.iter().filter_map(|pod| pods::available_in(pod, planner.min_ready(), now));
    let again = waits.filter(|wait| !wait.is_zero()).min();
    status.current_replicas = status.current_replicas.filter(|count| *count != 0);
    Plan { steps: planner.steps, status, again }
}

/// The numbers of a set's pods.
pub(super) fn ordinals(spec: &StatefulSetSpec) -> Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    start..start.saturating_add(spec.replicas.unwrap_or(1).max(0))
}

/// The pods of the set's numbers, and those that are too many, highest number first.
fn places(set: &StatefulSet, ordinals: &Range<i32>, own: &[Arc<Pod>]) -> (BTreeMap<i32, Arc<Pod>>, Vec<Arc<Pod>>) {
    let numbered = own.iter().filter_map(|pod| Some((identity::ordinal(set, pod)?, pod.clone())));
    let (replicas, mut condemned): (BTreeMap<_, _>, Vec<_>) =
        numbered.fold((BTreeMap::new(), Vec::new()), |(mut replicas, mut condemned), (ordinal, pod)| {
            if ordinals.contains(&ordinal) {
                replicas.insert(ordinal, pod);
            } else {
                condemned.push((ordinal, pod));
            }
            (replicas, condemned)
        });
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    (replicas, condemned.into_iter().map(|(_, pod)| pod).collect())
}

/// When all pods are updated and ready, the update is the current revision.
fn complete(spec: &StatefulSetSpec, status: &mut StatefulSetStatus) {
    let rolling = spec.update_strategy.as_ref().is_some_and(|s| s.type_.as_deref() == Some("RollingUpdate"));
    let wanted = spec.replicas.unwrap_or(1);
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    if rolling && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == wanted {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

impl Planner<'_> {
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready(), self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || meta::is_deleting(&pod.metadata)
    }

    fn is_parallel(&self) -> bool {
        self.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn status(&self, own: &[Arc<Pod>]) -> StatefulSetStatus {
        let count =
            |keep: &dyn Fn(&Pod) -> bool| i32::try_from(own.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX);
        let of = |name: &str| count(&|pod| !meta::is_deleting(&pod.metadata) && revision_of(pod) == name);
        let running = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
        let counted = meta::counted;
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: counted(count(&running)),
            available_replicas: Some(count(&|pod| running(pod) && self.is_available(pod))),
            current_replicas: Some(of(&self.versions.current.name)),
            updated_replicas: counted(of(&self.versions.update.name)),
            current_revision: Some(self.versions.current.name.clone()),
            update_revision: Some(self.versions.update.name.clone()),
            collision_count: Some(self.versions.collisions),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }

    /// Makes and removes pods until each number has one and no other number has any. Returns whether an update may go on.
    fn establish(&mut self) -> bool {
        let parallel = self.is_parallel();
        let mut created = 0;
        for ordinal in self.ordinals.clone() {
            let there = self.replicas.get(&ordinal).cloned();
            created += usize::from(there.is_none());
            if created > BURST {
                break;
            }
            if !self.keep(ordinal, there) && !parallel {
                return false;
            }
        }
        let lowest_first = self.condemned.iter().rev();
        let all = self.replicas.values().chain(lowest_first);
        let unhealthy = all.filter(|pod| self.is_unavailable(pod)).map(|pod| pod.metadata.uid.clone()).next();
        for pod in std::mem::take(&mut self.condemned) {
            if meta::is_deleting(&pod.metadata) {
                if parallel {
                    continue;
                }
                return false;
            }
            let first = unhealthy.as_ref() == Some(&pod.metadata.uid);
            if !parallel && !first && !self.is_available(&pod) {
                return false;
            }
            self.steps.push(Step::Delete(pod));
            if !parallel {
                return false;
            }
        }
        true
    }

    /// Brings the pod of a number into order. Returns whether the next one may follow.
    fn keep(&mut self, ordinal: i32, there: Option<Arc<Pod>>) -> bool {
        let Some(pod) = &there else {
            let version = self.version(ordinal);
            let pod = identity::pod(self.set, &version.template, &version.name, ordinal);
            self.steps.push(Step::Create(pod));
            return false;
        };
        if pods::is_finished(pod) {
            if !meta::is_deleting(&pod.metadata) {
                self.steps.push(Step::Delete(pod.clone()));
            }
            return false;
        }
        if !self.is_parallel() && self.is_unavailable(pod) {
            return false;
        }
        if !identity::matches(self.set, pod, ordinal) {
            let mut changed = (**pod).clone();
            identity::assume(self.set, &mut changed, ordinal);
            self.steps.push(Step::Update(changed));
        }
        true
    }

    /// The version of a new pod.
    fn version(&self, ordinal: i32) -> &Version {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let kept = match rolling {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("RollingUpdate")) => {
                self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)
            }
            None => 0,
        };
        let is_current = ordinal < self.ordinals.start.saturating_add(kept);
        if is_current { &self.versions.current } else { &self.versions.update }
    }

    /// Deletes pods of an older revision. Returns whether one of the current revision goes.
    fn roll(&mut self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
            return false;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0);
        let reached = self.ordinals.start.saturating_add(partition).min(self.ordinals.end)..self.ordinals.end;
        let is_old =
            |pod: &Arc<Pod>| !meta::is_deleting(&pod.metadata) && revision_of(pod) != self.versions.update.name;
        let mut old: Vec<Arc<Pod>> = Vec::new();
        if let Some(given) = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
            let wanted = self.ordinals.len();
            let most = meta::scaled(given, self.spec.replicas.unwrap_or(1), false).unwrap_or(1).max(1);
            let available = self.replicas.values().filter(|pod| !self.is_unavailable(pod)).count();
            let room = usize::try_from(most).unwrap_or(1).saturating_sub(wanted - available);
            let newest_first = self.replicas.range(reached).rev().map(|(_, pod)| pod);
            old.extend(newest_first.filter(|pod| is_old(pod)).take(room).cloned());
        } else {
            for ordinal in reached.rev() {
                let Some(pod) = self.replicas.get(&ordinal) else { break };
                if is_old(pod) {
                    old.push(pod.clone());
                    break;
                }
                if self.is_unavailable(pod) {
                    break;
                }
            }
        }
        let any = !old.is_empty();
        self.steps.extend(old.into_iter().map(Step::Delete));
        any
    }
}
