//! Counts finished pods exactly once, although pods and status are different objects. Pure.
//!
//! A finished pod keeps the finalizer [`FINALIZER`] until its uid stands in `status.uncountedTerminatedPods`; then it loses the finalizer; and
//! only when it has lost it, the uid moves into the counters. Each step is visible in the objects, so that a restarted controller continues
//! where the last one stopped. Successes of Indexed Jobs are counted by their index.

use super::{
    indexes::{self, Indexes},
    perindex,
    policy::verdict,
    view::View,
};
use crate::{meta, pods};
use k8s_openapi::api::{
    batch::v1::{JobStatus, UncountedTerminatedPods},
    core::v1::Pod,
};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// The finalizer of pods that are not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Most uids in the status.
const MAX_UNCOUNTED: usize = 500;

/// Whether the pod is not counted yet.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    meta::has_finalizer(&pod.metadata, FINALIZER)
}

/// A number of pods as a status has it.
pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn add(to: &mut Option<i32>, n: i32) {
    if n > 0 {
        *to = Some(to.unwrap_or(0).saturating_add(n));
    }
}

fn listed(list: &Option<Vec<String>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

/// The uids of a status that are not counted yet.
struct Known {
    succeeded: HashSet<String>,
    failed: HashSet<String>,
}

impl Known {
    fn of(status: &JobStatus) -> Self {
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let set = |list: Option<&Vec<String>>| list.into_iter().flatten().cloned().collect();
        Self {
            succeeded: set(uncounted.and_then(|u| u.succeeded.as_ref())),
            failed: set(uncounted.and_then(|u| u.failed.as_ref())),
        }
    }
}

impl View<'_> {
    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    /// Moves uids of pods without the finalizer into the counters.
    pub(super) fn settle(&mut self) {
        let tracked: BTreeSet<&str> =
            self.pods.iter().filter(|p| is_tracked(p)).map(|p| meta::uid(&p.metadata)).collect();
        let mut uncounted = std::mem::take(self.uncounted());
        let settle = |list: &mut Option<Vec<String>>| {
            let all = list.take().unwrap_or_default();
            let before = all.len();
            let left: Vec<String> = all.into_iter().filter(|uid| tracked.contains(uid.as_str())).collect();
            let settled = before - left.len();
            *list = (!left.is_empty()).then_some(left);
            count(settled)
        };
        let (succeeded, failed) = (settle(&mut uncounted.succeeded), settle(&mut uncounted.failed));
        add(&mut self.status.succeeded, succeeded);
        add(&mut self.status.failed, failed);
        *self.uncounted() = uncounted;
    }

    /// Reads the indexes that have succeeded or failed, adds those of pods that are not counted yet, and finds the failed pods whose
    /// finalizer must stay because they hold the count of failures of their index.
    pub(super) fn find_indexes(&mut self) {
        if !self.is_indexed() {
            return;
        }
        let tracked: Vec<(i32, &Arc<Pod>)> = self
            .pods
            .iter()
            .filter(|p| is_tracked(p))
            .filter_map(|p| self.valid_index(p).map(|index| (index, p)))
            .collect();
        let known = |text: Option<&String>| Indexes::parse(text.map_or("", String::as_str), self.completions());
        let lost = known(self.status.failed_indexes.as_ref().filter(|_| self.spec.backoff_limit_per_index.is_some()));
        let succeeded = tracked.iter().filter(|(i, p)| pods::phase(p) == "Succeeded" && !lost.contains(*i));
        let done = known(self.status.completed_indexes.as_ref()).and(&succeeded.map(|(i, _)| *i).collect());
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let policy = self.spec.pod_failure_policy.as_ref();
            let failed: Vec<_> = tracked.iter().filter(|(i, p)| self.is_failed(p) && !done.contains(*i)).collect();
            let exhausted = failed.iter().filter(|(_, p)| perindex::exhausts(p, limit, policy));
            let lost = lost.and(&exhausted.map(|(i, _)| *i).collect());
            let active: BTreeSet<i32> = self.active().iter().filter_map(|p| indexes::index(p)).collect();
            let waiting = failed.iter().filter(|(i, _)| !lost.contains(*i) && !active.contains(i));
            self.delayed = perindex::last_of_each(waiting.map(|(_, p)| *p));
            self.lost = Some(lost);
        }
        self.done = Some(done);
    }

    /// Records failures for the back-off. A terminating pod without the finalizer was deleted by the Job itself, or is already recorded.
    pub(super) fn note_failures(&mut self) {
        let mut failures = std::mem::take(&mut self.plan.failures);
        let counts = |p: &Pod| is_tracked(p) || p.metadata.deletion_timestamp.is_none();
        let failed = self.pods.iter().filter(|p| counts(p) && self.is_failed(p));
        failures.note(self.pods.iter().filter(|p| pods::phase(p) == "Succeeded"), failed);
        self.plan.failures = failures;
    }

    /// Successes and failures, including finished pods that are not counted yet.
    pub(super) fn totals(&self) -> (i32, i32) {
        let known = Known::of(&self.status);
        let fresh = |p: &&Arc<Pod>| {
            let uid = meta::uid(&p.metadata);
            is_tracked(p) && self.is_valid(p) && !known.succeeded.contains(uid) && !known.failed.contains(uid)
        };
        let policy = self.spec.pod_failure_policy.as_ref();
        let failed =
            self.pods.iter().filter(fresh).filter(|p| self.is_failed(p) && verdict(policy, p).counts()).count();
        let succeeded = match &self.done {
            Some(done) => done.total(),
            None => {
                let fresh = self.pods.iter().filter(fresh).filter(|p| pods::phase(p) == "Succeeded").count();
                self.status.succeeded.unwrap_or(0).saturating_add(count(known.succeeded.len() + fresh))
            }
        };
        (succeeded, self.status.failed.unwrap_or(0).saturating_add(count(known.failed.len() + failed)))
    }

    /// Adds finished pods to `uncountedTerminatedPods`, and to `strip` those that may lose the finalizer. When the Job is `ending` that is each
    /// pod, and when it is `failing` those that have not ended count as failed.
    pub(super) fn count(&mut self, ending: bool, failing: bool) {
        let known = Known::of(&self.status);
        let all = ending || self.deleting;
        let mut pods = self.pods.to_vec();
        if self.is_indexed() {
            // so that the indexes come in order
            pods.sort_by_key(|p| indexes::index(p));
        }
        for pod in pods.iter().filter(|p| is_tracked(p)) {
            let uncounted = self.uncounted();
            if listed(&uncounted.succeeded) + listed(&uncounted.failed) >= MAX_UNCOUNTED {
                return;
            }
            let succeeded = pods::phase(pod) == "Succeeded";
            let failed = !succeeded && self.is_failed(pod);
            let held = || {
                let holder = indexes::index(pod).and_then(|index| self.delayed.get(&index));
                holder.is_some_and(|p| p.metadata.uid == pod.metadata.uid)
            };
            if !(all || succeeded || failed && !held()) {
                continue;
            }
            self.plan.strip.push(pod.clone());
            let uid = meta::uid(&pod.metadata);
            if known.succeeded.contains(uid) || known.failed.contains(uid) {
                continue;
            }
            let policy = self.spec.pod_failure_policy.as_ref();
            if succeeded && !self.is_indexed() {
                self.uncounted().succeeded.get_or_insert_default().push(uid.to_owned());
            } else if !succeeded && (failed || failing) && self.is_valid(pod) && verdict(policy, pod).counts() {
                self.uncounted().failed.get_or_insert_default().push(uid.to_owned());
            }
        }
    }
}
