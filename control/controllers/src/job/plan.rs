//! What a Job needs done, given its pods. Pure.
//!
//! How finished pods are counted exactly once although pods and status are different objects: a finished pod keeps the finalizer
//! [`FINALIZER`] until its uid stands in `status.uncountedTerminatedPods`; then it loses the finalizer; and only when it has lost it, the
//! uid moves into the counters. Each step is visible in the objects, so that a restarted controller continues where the last one stopped.

use super::{backoff::Failures, indexes};
use crate::{meta, pods, replicaset};
use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The finalizer of pods that are not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Most pods created or deleted in one reconcile.
const BURST: usize = 500;
/// Most uids in the status.
const MAX_UNCOUNTED: usize = 500;

/// The work of one reconcile: deletions first, then creations, then the status, then `strip`.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Pods to delete that count as failures: the Job has failed.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to delete that are not counted: surplus ones, or those of a suspended Job.
    pub remove: Vec<Arc<Pod>>,
    /// Pods to create, with their completion index if the Job is Indexed.
    pub create: Vec<Option<i32>>,
    /// The status after the deletions; each created pod adds to `active`.
    pub status: JobStatus,
    /// Pods that lose the finalizer once the status is written.
    pub strip: Vec<Arc<Pod>>,
    /// Events to record once the status is written.
    pub events: Vec<(EventType, String, String)>,
    /// When to reconcile again without a change.
    pub after: Option<Duration>,
    /// The failures to pass to the next [`plan`].
    pub failures: Failures,
}

/// Whether the Job is complete or failed.
pub(crate) fn is_finished(job: &Job) -> bool {
    is_true(&job.status.clone().unwrap_or_default(), &["Complete", "Failed"])
}

fn is_true(status: &JobStatus, types: &[&str]) -> bool {
    status.conditions.iter().flatten().any(|c| c.status == "True" && types.contains(&c.type_.as_str()))
}

struct View<'a> {
    spec: &'a JobSpec,
    deleting: bool,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
    /// Completed indexes of an Indexed Job.
    done: Option<BTreeSet<i32>>,
    now: Timestamp,
    plan: Plan,
}

/// Compares `job` with the pods it controls; `failures` are those of the previous plan.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], failures: &Failures, now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut view = View {
        spec: &spec,
        deleting: job.metadata.deletion_timestamp.is_some(),
        pods,
        status: job.status.clone().unwrap_or_default(),
        done: None,
        now,
        plan: Plan { failures: failures.clone(), ..Plan::default() },
    };
    if is_finished(job) {
        view.plan.failures = Failures::default();
        view.plan.strip = pods::filter(pods, is_tracked);
        view.plan.status = view.status;
        return view.plan;
    }
    view.start();
    view.settle();
    view.find_done_indexes();
    view.note_failures();
    let interim = view.interim();
    let failing = interim.as_ref().is_some_and(|c| c.type_ == "FailureTarget");
    view.count(interim.is_some(), failing);
    match interim {
        Some(condition) => view.wind_down(condition),
        None => view.manage(),
    }
    view.finish()
}

fn is_tracked(pod: &Pod) -> bool {
    meta::has_finalizer(&pod.metadata, FINALIZER)
}

fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend.unwrap_or(false)
}

impl View<'_> {
    fn start(&mut self) {
        if self.status.start_time.is_none() && !is_suspended(self.spec) {
            self.status.start_time = Some(Time(self.now));
        }
        self.status.uncounted_terminated_pods.get_or_insert_default();
    }

    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    /// Moves uids of pods without the finalizer into the counters.
    fn settle(&mut self) {
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

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    fn valid_index(&self, pod: &Pod) -> Option<i32> {
        indexes::index(pod).filter(|i| *i < self.completions())
    }

    fn find_done_indexes(&mut self) {
        if self.is_indexed() {
            let text = self.status.completed_indexes.clone().unwrap_or_default();
            let mut done = indexes::parse(&text, self.completions());
            let succeeded = self.pods.iter().filter(|p| pods::phase(p) == "Succeeded");
            done.extend(succeeded.filter_map(|p| self.valid_index(p)));
            self.done = Some(done);
        }
    }

    /// Whether the pod counts as a failure. By default a terminating pod does already, and is replaced at once.
    fn is_failed(&self, pod: &Pod) -> bool {
        let patient = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let leaving = pod.metadata.deletion_timestamp.is_some() && pods::phase(pod) != "Succeeded";
        pods::phase(pod) == "Failed" || (leaving && !patient)
    }

    /// Records failures for the back-off. A terminating pod without the finalizer was deleted by the Job itself, or is already recorded.
    fn note_failures(&mut self) {
        let mut failures = std::mem::take(&mut self.plan.failures);
        let counts = |p: &Pod| is_tracked(p) || p.metadata.deletion_timestamp.is_none();
        let failed = self.pods.iter().filter(|p| counts(p) && self.is_failed(p));
        failures.note(self.pods.iter().filter(|p| pods::phase(p) == "Succeeded"), failed);
        self.plan.failures = failures;
    }

    /// Successes and failures, including finished pods that are not counted yet.
    fn totals(&self) -> (i32, i32) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let known =
            |list: &Option<Vec<String>>, pod: &Pod| list.iter().flatten().any(|u| u == meta::uid(&pod.metadata));
        let fresh = |p: &&Arc<Pod>| is_tracked(p) && !known(&uncounted.succeeded, p) && !known(&uncounted.failed, p);
        let succeeded = self.pods.iter().filter(fresh).filter(|p| pods::phase(p) == "Succeeded").count();
        let failed = self.pods.iter().filter(fresh).filter(|p| self.is_failed(p)).count();
        let listed = |l: &Option<Vec<String>>| l.as_ref().map_or(0, Vec::len);
        let succeeded = match &self.done {
            Some(done) => count(done.len()),
            None => self.status.succeeded.unwrap_or(0) + count(listed(&uncounted.succeeded) + succeeded),
        };
        (succeeded, self.status.failed.unwrap_or(0) + count(listed(&uncounted.failed) + failed))
    }

    /// The condition SuccessCriteriaMet or FailureTarget, existing or new, which decides how the Job ends.
    fn interim(&mut self) -> Option<JobCondition> {
        let existing = |type_: &str| {
            let mut all = self.status.conditions.iter().flatten();
            all.find(|c| c.type_ == type_ && c.status == "True").cloned()
        };
        if let Some(condition) = existing("SuccessCriteriaMet").or_else(|| existing("FailureTarget")) {
            return Some(condition);
        }
        let (_, failed) = self.totals();
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if failed > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(self.condition("FailureTarget", "BackoffLimitExceeded", message));
        }
        let deadline = self.spec.active_deadline_seconds.filter(|_| !is_suspended(self.spec))?;
        let start = self.status.start_time.as_ref()?.0;
        let due = start.saturating_add(SignedDuration::from_secs(deadline)).ok()?;
        let left = meta::non_negative(due.duration_since(self.now));
        if left.is_zero() {
            let message = "Job was active longer than specified deadline";
            return Some(self.condition("FailureTarget", "DeadlineExceeded", message));
        }
        self.look_again(left);
        None
    }

    /// Whether restarts exceed the limit: with restartPolicy OnFailure restarts of containers count instead of failed pods.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let live = self.pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
        let status = live.filter_map(|p| p.status.as_ref());
        let all = status
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        let restarts: i32 = all.map(|c| c.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn condition(&self, type_: &str, reason: &str, message: &str) -> JobCondition {
        JobCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        }
    }

    /// Adds finished pods to `uncountedTerminatedPods`, and to `strip` those that may lose the finalizer.
    fn count(&mut self, ending: bool, failing: bool) {
        for pod in self.pods.iter().filter(|p| is_tracked(p)) {
            let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
            let listed = |l: &Option<Vec<String>>| l.as_ref().map_or(0, Vec::len);
            if listed(&uncounted.succeeded) + listed(&uncounted.failed) >= MAX_UNCOUNTED {
                return;
            }
            let succeeded = pods::phase(pod) == "Succeeded";
            let failed = !succeeded && (self.is_failed(pod) || failing);
            if !(succeeded || failed || ending || self.deleting) {
                continue;
            }
            self.plan.strip.push(pod.clone());
            let uid = meta::uid(&pod.metadata);
            let known = |l: &Option<Vec<String>>| l.iter().flatten().any(|u| u == uid);
            if known(&uncounted.succeeded) || known(&uncounted.failed) {
                continue;
            }
            let valid = self.done.is_none() || self.valid_index(pod).is_some();
            // successes of an Indexed Job are counted by index
            if succeeded && self.done.is_none() {
                self.uncounted().succeeded.get_or_insert_default().push(uid.to_owned());
            } else if failed && valid {
                self.uncounted().failed.get_or_insert_default().push(uid.to_owned());
            }
        }
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        pods::filter(self.pods, pods::is_active)
    }

    /// The Job ends: its remaining pods are deleted.
    fn wind_down(&mut self, condition: JobCondition) {
        self.plan.delete = self.active();
        let conditions = self.status.conditions.get_or_insert_default();
        if !conditions.iter().any(|c| c.type_ == condition.type_ && c.status == "True") {
            conditions.push(condition);
        }
    }

    /// Creates or deletes pods so that the wanted number is active.
    fn manage(&mut self) {
        if self.deleting {
            return;
        }
        let active = self.active();
        let (succeeded, _) = self.totals();
        let complete = match self.spec.completions {
            None => succeeded > 0,
            Some(completions) => succeeded >= completions,
        };
        if complete && active.is_empty() {
            let reason = "Reached expected number of succeeded pods";
            let condition = self.condition("SuccessCriteriaMet", "CompletionsReached", reason);
            self.status.conditions.get_or_insert_default().push(condition);
            return;
        }
        let suspended = is_suspended(self.spec);
        self.note_suspension(suspended);
        if suspended {
            self.plan.remove = active;
            return;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if succeeded > 0 => count(active.len()),
            None => parallelism,
            Some(completions) => (completions - succeeded).min(parallelism).max(0),
        };
        self.plan.remove = self.surplus(&active, wanted);
        if self.plan.remove.is_empty() {
            self.grow(&active, wanted);
        }
    }

    /// Pods whose index is completed, duplicate or invalid, and those above the wanted number.
    fn surplus(&self, active: &[Arc<Pod>], wanted: i32) -> Vec<Arc<Pod>> {
        let (mut remove, mut rest) = (Vec::new(), active.to_vec());
        if let Some(done) = &self.done {
            let mut seen = BTreeSet::new();
            rest.sort_by_key(|p| (meta::created(&p.metadata), meta::name(&p.metadata).to_owned()));
            (rest, remove) = rest
                .into_iter()
                .partition(|p| self.valid_index(p).is_some_and(|i| !done.contains(&i) && seen.insert(i)));
        }
        let excess = active.len().saturating_sub(usize::try_from(wanted).unwrap_or(0)).saturating_sub(remove.len());
        if excess > 0 {
            remove.extend(replicaset::to_delete(&rest, &rest, excess, self.now));
        }
        remove.truncate(BURST);
        remove
    }

    fn grow(&mut self, active: &[Arc<Pod>], wanted: i32) {
        let patient = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let terminating = if patient { self.pods.iter().filter(|p| pods::is_terminating(p)).count() } else { 0 };
        let missing = usize::try_from(wanted).unwrap_or(0).saturating_sub(active.len() + terminating).min(BURST);
        if missing == 0 {
            return;
        }
        let pause = self.plan.failures.pause(self.now);
        if !pause.is_zero() {
            self.look_again(pause);
            return;
        }
        self.plan.create = match &self.done {
            None => vec![None; missing],
            Some(done) => {
                let taken: BTreeSet<i32> = active.iter().filter_map(|p| indexes::index(p)).collect();
                let free = (0..self.completions()).filter(|i| !done.contains(i) && !taken.contains(i));
                free.take(missing).map(Some).collect()
            }
        };
    }

    fn note_suspension(&mut self, suspended: bool) {
        let conditions = self.status.conditions.get_or_insert_default();
        let known = conditions.iter().position(|c| c.type_ == "Suspended");
        let was = known.map(|i| conditions[i].status == "True");
        let (status, reason, message, event) = if suspended {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        // a Job that has never been suspended gets no condition
        if was == Some(suspended) || (was.is_none() && !suspended) {
            if conditions.is_empty() {
                self.status.conditions = None;
            }
            return;
        }
        let condition = JobCondition { status: status.to_owned(), ..self.condition("Suspended", reason, message) };
        let conditions = self.status.conditions.get_or_insert_default();
        match known {
            Some(i) => conditions[i] = condition,
            None => conditions.push(condition),
        }
        // activeDeadlineSeconds starts again when the Job is resumed
        self.status.start_time = (!suspended).then_some(Time(self.now));
        self.plan.events.push((EventType::Normal, event.to_owned(), message.to_owned()));
    }

    fn look_again(&mut self, after: Duration) {
        self.plan.after = Some(self.plan.after.map_or(after, |a| a.min(after)));
    }

    /// Counts the pods that remain after the deletions and, if none is left to wait for, ends the Job.
    fn finish(mut self) -> Plan {
        let going = self.plan.delete.iter().chain(&self.plan.remove);
        let deleted: BTreeSet<&str> = going.map(|p| meta::uid(&p.metadata)).collect();
        let left: Vec<Arc<Pod>> = pods::filter(&self.active(), |p| !deleted.contains(meta::uid(&p.metadata)));
        let terminating = self.pods.iter().filter(|p| pods::is_terminating(p)).count() + deleted.len();
        self.status.active = Some(count(left.len()));
        self.status.ready = Some(count(left.iter().filter(|p| pods::is_ready(p)).count()));
        self.status.terminating = Some(count(terminating));
        if let Some(done) = &self.done {
            self.status.succeeded = Some(count(done.len()));
            let text = indexes::format(done);
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
        }
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        if terminating == 0 && uncounted == UncountedTerminatedPods::default() && self.plan.strip.is_empty() {
            self.end();
        }
        self.plan.status = self.status;
        self.plan
    }

    fn end(&mut self) {
        let interim = self
            .status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.status == "True" && matches!(c.type_.as_str(), "SuccessCriteriaMet" | "FailureTarget"));
        let Some(interim) = interim.cloned() else { return };
        let (reason, message) = (interim.reason.unwrap_or_default(), interim.message.unwrap_or_default());
        if interim.type_ == "FailureTarget" {
            let condition = self.condition("Failed", &reason, &message);
            self.status.conditions.get_or_insert_default().push(condition);
            self.plan.events.push((EventType::Warning, reason, message));
            return;
        }
        let condition = self.condition("Complete", &reason, &message);
        self.status.completion_time = condition.last_transition_time.clone();
        self.status.conditions.get_or_insert_default().push(condition);
        if self.spec.completions.is_some_and(|c| self.status.succeeded.unwrap_or(0) > c) {
            let text = "Too many succeeded pods running after completion count reached";
            self.plan.events.push((EventType::Warning, "TooManySucceededPods".to_owned(), text.to_owned()));
        }
        self.plan.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn add(to: &mut Option<i32>, n: i32) {
    if n > 0 {
        *to = Some(to.unwrap_or(0) + n);
    }
}
