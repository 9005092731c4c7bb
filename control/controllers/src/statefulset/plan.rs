//! What to do next for a StatefulSet, and its status. Pure.
//!
//! Follows upstream's `stateful_set_control.go`: pods come in the order of their numbers, one at a time and each when those before it are
//! available, and go in the opposite order; `Parallel` waits for nobody. `maxUnavailable`, a beta of upstream that is off there, is honoured
//! where it is set.

use super::identity;
use crate::{meta, pods};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::{Pod, PodTemplateSpec},
};
use std::{sync::Arc, time::Duration};

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

/// A place in the set, with the pod that has it or is to have it.
struct Replica {
    ordinal: i32,
    pod: Arc<Pod>,
    /// Whether the API server knows the pod.
    exists: bool,
}

struct Planner<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    versions: &'a Versions,
    now: Timestamp,
    /// The pods of the places that the set has, by number.
    replicas: Vec<Replica>,
    /// Pods of other places, highest number first.
    condemned: Vec<Arc<Pod>>,
    steps: Vec<Step>,
}

/// The plan for a set with these pods, all of which it controls.
pub(super) fn plan(set: &StatefulSet, versions: &Versions, own: &[Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = set.spec.as_ref() else {
        return Plan { steps: Vec::new(), status: StatefulSetStatus::default(), again: None };
    };
    let (replicas, condemned) = places(set, spec, versions, own);
    let mut planner = Planner { set, spec, versions, now, replicas, condemned, steps: Vec::new() };
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

/// The replicas by number, with new pods where there are none, and the pods that are too many.
fn places(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    versions: &Versions,
    own: &[Arc<Pod>],
) -> (Vec<Replica>, Vec<Arc<Pod>>) {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let count = spec.replicas.unwrap_or(1).max(0);
    let mut there: Vec<Option<Arc<Pod>>> = vec![None; usize::try_from(count).unwrap_or(0)];
    let mut condemned = Vec::new();
    for pod in own {
        let Some(ordinal) = identity::ordinal(set, pod) else { continue };
        let place = ordinal.checked_sub(start).and_then(|at| usize::try_from(at).ok());
        match place.and_then(|at| there.get_mut(at)) {
            Some(place) => *place = Some(pod.clone()),
            None => condemned.push((ordinal, pod.clone())),
        }
    }
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let replica = |(ordinal, pod): (i32, Option<Arc<Pod>>)| Replica {
        ordinal,
        exists: pod.is_some(),
        pod: pod.unwrap_or_else(|| {
            let version = version(set, spec, versions, ordinal, start);
            Arc::new(identity::pod(set, &version.template, &version.name, ordinal))
        }),
    };
    let replicas = (start..).zip(there).map(replica).collect();
    (replicas, condemned.into_iter().map(|(_, pod)| pod).collect())
}

/// The version of a new pod.
fn version<'a>(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    versions: &'a Versions,
    ordinal: i32,
    start: i32,
) -> &'a Version {
    let strategy = spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let kept = match rolling {
        Some(rolling) => rolling.partition.unwrap_or(0),
        None if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("RollingUpdate")) => {
            set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)
        }
        None => 0,
    };
    if ordinal < start.saturating_add(kept) { &versions.current } else { &versions.update }
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
        let of = |name: &str| count(&|pod| !meta::is_deleting(&pod.metadata) && identity::revision(pod) == name);
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

    /// Makes and removes pods until each place has one and no other place has any. Returns whether an update may go on.
    fn establish(&mut self) -> bool {
        let parallel = self.is_parallel();
        for at in 0..self.replicas.len() {
            if !self.keep(at) && !parallel {
                return false;
            }
        }
        let lowest_first = self.condemned.iter().rev();
        let all = self.replicas.iter().map(|replica| &replica.pod).chain(lowest_first);
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

    /// Brings one replica into order. Returns whether the next one may follow.
    fn keep(&mut self, at: usize) -> bool {
        let Replica { ordinal, pod, exists } = &self.replicas[at];
        if !exists {
            self.steps.push(Step::Create((**pod).clone()));
            return false;
        }
        if pods::is_finished(pod) {
            if !meta::is_deleting(&pod.metadata) {
                self.steps.push(Step::Delete(pod.clone()));
            }
            return false;
        }
        if !self.is_parallel() && self.is_unavailable(pod) {
            return false;
        }
        if !identity::matches(self.set, pod, *ordinal) {
            let mut changed = (**pod).clone();
            identity::assume(self.set, &mut changed, *ordinal);
            self.steps.push(Step::Update(changed));
        }
        true
    }

    /// Deletes pods of an older revision. Returns whether one of the current revision goes.
    fn roll(&mut self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
            return false;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let first = usize::try_from(rolling.and_then(|rolling| rolling.partition).unwrap_or(0)).unwrap_or(0);
        let wanted = self.spec.replicas.unwrap_or(1);
        let given = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = given.and_then(|most| meta::scaled(most, wanted, false)).unwrap_or(1).max(1);
        let from = first.min(self.replicas.len());
        let is_old = |replica: &&Replica| {
            replica.exists
                && !meta::is_deleting(&replica.pod.metadata)
                && identity::revision(&replica.pod) != self.versions.update.name
        };
        let mut old: Vec<Arc<Pod>> = Vec::new();
        if given.is_some() {
            let missing = self.replicas.iter().filter(|replica| self.is_unavailable(&replica.pod)).count();
            let room = usize::try_from(most).unwrap_or(1).saturating_sub(missing);
            old.extend(self.replicas[from..].iter().rev().filter(is_old).take(room).map(|replica| replica.pod.clone()));
        } else {
            for replica in self.replicas[from..].iter().rev() {
                if is_old(&replica) {
                    old.push(replica.pod.clone());
                    break;
                }
                if self.is_unavailable(&replica.pod) {
                    break;
                }
            }
        }
        let any = !old.is_empty();
        self.steps.extend(old.into_iter().map(Step::Delete));
        any
    }
}
