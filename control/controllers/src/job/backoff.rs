//! The back-off of a Job after failures. Pure.
//!
//! Computed from the pods, so that a restarted controller knows most of it, and from recorded failures of pods that are gone, since a deleted
//! pod is a failure too.

use crate::{meta, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The back-off after the first failure; it doubles with each further one until a success.
const BACKOFF: Duration = Duration::from_secs(10);
/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// Failures that are recorded; more do not lengthen the back-off.
const REMEMBERED: usize = 8;

/// The failures of a Job since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// The time of each failure, by pod uid.
    at: BTreeMap<String, Timestamp>,
    success: Option<Timestamp>,
}

impl Failures {
    /// Records the failures and successes of the pods.
    pub(crate) fn note<'a>(
        &mut self,
        succeeded: impl Iterator<Item = &'a Arc<Pod>>,
        failed: impl Iterator<Item = &'a Arc<Pod>>,
    ) {
        self.success = succeeded.map(|p| finished_at(p)).chain(self.success).max();
        for pod in failed {
            // the first estimate stays: the back-off runs from when the failure was seen
            self.at.entry(meta::uid(&pod.metadata).to_owned()).or_insert_with(|| finished_at(pod));
        }
        let success = self.success;
        self.at.retain(|_, at| success.is_none_or(|s| *at > s));
        while self.at.len() > REMEMBERED
            && let Some(oldest) = self.at.iter().min_by_key(|(_, at)| **at).map(|(uid, _)| uid.clone())
        {
            self.at.remove(&oldest);
        }
    }

    /// How long to wait before the next pod.
    pub(crate) fn pause(&self, now: Timestamp) -> Duration {
        let Some(last) = self.at.values().max() else { return Duration::ZERO };
        pause_after(self.at.len(), *last, now)
    }
}

/// How long to wait before the next pod after a number of failures, of which the last was at `last`.
pub(super) fn pause_after(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let pause = BACKOFF.saturating_mul(1 << doublings.min(10)).min(MAX_BACKOFF);
    pause.saturating_sub(meta::non_negative(now.duration_since(last)))
}

/// When the last container of the pod ended, or the best known estimate.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let unready = || pods::condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref();
    let deleted = || {
        let due = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        due.checked_sub(grace).ok()
    };
    all_ended(pod).or_else(|| unready().map(|t| t.0)).or_else(deleted).unwrap_or_else(|| meta::created(&pod.metadata))
}

/// When the last container ended, sidecars too; `None` while one runs.
fn all_ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars: Vec<&str> = init.filter(|c| client::pod::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let init = status.init_container_statuses.iter().flatten().filter(|s| sidecars.contains(&s.name.as_str()));
    let mut last = None;
    for container in status.container_statuses.iter().flatten().chain(init) {
        let ended = container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0;
        last = last.max(Some(ended));
    }
    last
}
