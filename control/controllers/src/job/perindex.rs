//! `backoffLimitPerIndex`: each index of a Job has a limit and a back-off of its own. Pure.
//!
//! How often an index has failed stands in an annotation of its pod. A failed pod therefore keeps its finalizer, and so stays, until a pod
//! that replaces it has taken the count over, or the index needs no further pod.

use super::{
    backoff::{finished_at, pause_after},
    indexes,
    policy::{Verdict, verdict},
};
use crate::meta;
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::PodFailurePolicy, core::v1::Pod};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index failed before a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexFailures {
    /// Those that count against the limit.
    counted: i32,
    /// Those that `podFailurePolicy` ignores; they lengthen the back-off only.
    ignored: i32,
}

impl IndexFailures {
    /// What the annotations of a pod say.
    fn before(pod: &Pod) -> Self {
        let count = |name| meta::annotation(&pod.metadata, name).and_then(|n| n.parse().ok()).filter(|n| *n >= 0);
        Self { counted: count(FAILURES).unwrap_or(0), ignored: count(IGNORED).unwrap_or(0) }
    }

    /// What the annotations of the pod say that replaces `failed`.
    pub(super) fn after(failed: Option<&Arc<Pod>>, policy: Option<&PodFailurePolicy>) -> Self {
        let Some(failed) = failed else { return Self::default() };
        let before = Self::before(failed);
        if verdict(policy, failed).counts() {
            Self { counted: before.counted.saturating_add(1), ..before }
        } else {
            Self { ignored: before.ignored.saturating_add(1), ..before }
        }
    }

    fn all(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }

    /// Sets the annotations.
    pub(super) fn mark(self, pod: &mut Pod) {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES.to_owned(), self.counted.to_string());
        if self.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), self.ignored.to_string());
        }
    }
}

/// Whether a failed pod was the last of its index.
pub(super) fn exhausts(failed: &Pod, limit: i32, policy: Option<&PodFailurePolicy>) -> bool {
    match verdict(policy, failed) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => IndexFailures::before(failed).counted >= limit,
    }
}

/// The last failed pod of each index, of `failed` ones that hold the count of their index.
pub(super) fn last_of_each<'a>(failed: impl Iterator<Item = &'a Arc<Pod>>) -> BTreeMap<i32, Arc<Pod>> {
    let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in failed {
        let Some(index) = indexes::index(pod) else { continue };
        let later = |other: &Arc<Pod>| {
            IndexFailures::before(other).all() <= IndexFailures::before(pod).all()
                && finished_at(pod) >= finished_at(other)
        };
        if last.get(&index).is_none_or(later) {
            last.insert(index, pod.clone());
        }
    }
    last
}

/// How long to wait before the pod that replaces `failed`.
pub(super) fn pause(failed: Option<&Arc<Pod>>, now: Timestamp) -> Duration {
    let Some(pod) = failed else { return Duration::ZERO };
    let failures = usize::try_from(IndexFailures::before(pod).all()).unwrap_or(0) + 1;
    pause_after(failures, finished_at(pod), now)
}
