//! How long a Job waits between failures. Pure.
//!
//! Worked out from the pods, so that a controller that starts anew knows most of it, and from what was seen of pods that are gone, since a
//! pod that somebody deleted is a failure too.

use crate::{meta, pods};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The pause after the first failure; doubles with each until a success.
const BACKOFF: Duration = Duration::from_secs(10);
/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// More failures do not make the pause any longer.
const REMEMBERED: usize = 8;

/// The failures of a Job since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// When each failed, by uid.
    at: BTreeMap<String, Timestamp>,
    success: Option<Timestamp>,
}

impl Failures {
    /// Takes in what the pods tell now.
    pub(crate) fn note<'a>(
        &mut self,
        succeeded: impl Iterator<Item = &'a Arc<Pod>>,
        failed: impl Iterator<Item = &'a Arc<Pod>>,
    ) {
        self.success = succeeded.map(|p| finished_at(p)).chain(self.success).max();
        for pod in failed {
            // the first estimate stays: the pause runs from when the failure was seen
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

    /// How long to wait before the next pod: 10 s after a failure, doubled for each further one.
    pub(crate) fn pause(&self, now: Timestamp) -> Duration {
        let Some(last) = self.at.values().max() else { return Duration::ZERO };
        let pause = BACKOFF.saturating_mul(1 << (self.at.len() - 1).min(10)).min(MAX_BACKOFF);
        pause.saturating_sub(meta::non_negative(now.duration_since(*last)))
    }
}

/// When the last container of the pod ended, or the best that is known about it.
fn finished_at(pod: &Pod) -> Timestamp {
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
