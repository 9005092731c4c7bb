//! What one comparison of a Job with its pods reads and writes. Pure.

use super::{
    backoff::Failures,
    indexes::{self, Indexes},
    perindex::IndexFailures,
};
use crate::pods;
use client::EventType;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{JobCondition, JobSpec, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The place of a new pod in an Indexed Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its completion index.
    pub index: i32,
    /// With `backoffLimitPerIndex`: how often the index has failed.
    pub failures: Option<IndexFailures>,
}

/// The work of one reconcile: deletions first, then creations, then the status, then `strip`.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Pods to delete that count as failures: the Job has failed.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to delete that are not counted: surplus ones, or those of a suspended Job.
    pub remove: Vec<Arc<Pod>>,
    /// Pods to create, with their place if the Job is Indexed.
    pub create: Vec<Option<Slot>>,
    /// The status after the deletions; each created pod adds to `active`.
    pub status: JobStatus,
    /// Pods that lose the finalizer once the status is written.
    pub strip: Vec<Arc<Pod>>,
    /// Events to record once the status is written.
    pub events: Vec<(EventType, String, String)>,
    /// When to reconcile again without a change.
    pub after: Option<Duration>,
    /// The failures to pass to the next plan.
    pub failures: Failures,
}

/// A Job with its pods, while it is compared.
pub(super) struct View<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) deleting: bool,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) status: JobStatus,
    /// Completed indexes of an Indexed Job.
    pub(super) done: Option<Indexes>,
    /// Failed indexes, with `backoffLimitPerIndex`.
    pub(super) lost: Option<Indexes>,
    /// Failed pods that keep the finalizer, by index: each is about to be replaced.
    pub(super) delayed: BTreeMap<i32, Arc<Pod>>,
    pub(super) now: Timestamp,
    pub(super) plan: Plan,
}

impl View<'_> {
    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(super) fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    /// Whether a pod is replaced only when it has ended, not already while it is terminating.
    pub(super) fn replaces_failed_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    pub(super) fn active(&self) -> Vec<Arc<Pod>> {
        pods::filter(self.pods, pods::is_active)
    }

    /// The pod's index, if the Job has it.
    pub(super) fn valid_index(&self, pod: &Pod) -> Option<i32> {
        indexes::index(pod).filter(|i| *i < self.completions())
    }

    /// Whether the pod is one of those that the Job counts: those of an Indexed Job need an index.
    pub(super) fn is_valid(&self, pod: &Pod) -> bool {
        !self.is_indexed() || self.valid_index(pod).is_some()
    }

    /// Whether the pod counts as a failure. Where only failed pods are replaced, a terminating one has not failed yet.
    pub(super) fn is_failed(&self, pod: &Pod) -> bool {
        let leaving = pod.metadata.deletion_timestamp.is_some() && pods::phase(pod) != "Succeeded";
        pods::phase(pod) == "Failed" || (leaving && !self.replaces_failed_only())
    }

    pub(super) fn condition(&self, type_: &str, reason: &str, message: &str) -> JobCondition {
        JobCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        }
    }

    pub(super) fn look_again(&mut self, after: Duration) {
        self.plan.after = Some(self.plan.after.map_or(after, |a| a.min(after)));
    }
}
