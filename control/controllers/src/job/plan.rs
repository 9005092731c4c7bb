//! What a Job needs done, given its pods. Pure. How its pods are counted is in `tracking`.

use super::{
    backoff::Failures,
    indexes::{self, Indexes},
    perindex::{self, IndexFailures},
    policy::{self, Verdict, verdict},
    tracking::{count, is_tracked},
    view::{Plan, Slot, View},
};
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
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Most pods created or deleted in one reconcile.
const BURST: usize = 500;

/// Whether the Job is complete or failed.
pub(crate) fn is_finished(job: &Job) -> bool {
    is_true(&job.status.clone().unwrap_or_default(), &["Complete", "Failed"])
}

fn is_true(status: &JobStatus, types: &[&str]) -> bool {
    status.conditions.iter().flatten().any(|c| c.status == "True" && types.contains(&c.type_.as_str()))
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
        lost: None,
        delayed: BTreeMap::new(),
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
    view.find_indexes();
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

    /// The condition SuccessCriteriaMet or FailureTarget, existing or new, which decides how the Job ends.
    fn interim(&mut self) -> Option<JobCondition> {
        let existing = |type_: &str| {
            let mut all = self.status.conditions.iter().flatten();
            all.find(|c| c.type_ == type_ && c.status == "True").cloned()
        };
        if let Some(condition) = existing("SuccessCriteriaMet").or_else(|| existing("FailureTarget")) {
            return Some(condition);
        }
        if let Some(message) = self.fatal_failure() {
            return Some(self.condition("FailureTarget", "PodFailurePolicy", &message));
        }
        let (_, failed) = self.totals();
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if failed > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(self.condition("FailureTarget", "BackoffLimitExceeded", message));
        }
        if self.time_left().is_some_and(|left| left.is_zero()) {
            let message = "Job was active longer than specified deadline";
            return Some(self.condition("FailureTarget", "DeadlineExceeded", message));
        }
        if let Some(left) = self.time_left() {
            self.look_again(left);
        }
        self.interim_of_indexes()
    }

    /// The message of a failed pod that fails the Job.
    fn fatal_failure(&self) -> Option<String> {
        let policy = self.spec.pod_failure_policy.as_ref()?;
        self.pods.iter().filter(|p| self.is_failed(p)).find_map(|pod| match verdict(Some(policy), pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        })
    }

    /// How long the Job may still be active; `None` without a deadline, and while it is suspended.
    fn time_left(&self) -> Option<Duration> {
        let deadline = self.spec.active_deadline_seconds.filter(|_| !is_suspended(self.spec))?;
        let due = self.status.start_time.as_ref()?.0.saturating_add(SignedDuration::from_secs(deadline)).ok()?;
        Some(meta::non_negative(due.duration_since(self.now)))
    }

    /// How the indexes of an Indexed Job decide how it ends.
    fn interim_of_indexes(&self) -> Option<JobCondition> {
        let done = self.done.as_ref()?;
        if let Some(lost) = self.lost.as_ref().map(Indexes::total) {
            if self.spec.max_failed_indexes.is_some_and(|most| lost > most) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(self.condition("FailureTarget", "MaxFailedIndexesExceeded", message));
            }
            if lost > 0 && lost.saturating_add(done.total()) >= self.completions() {
                return Some(self.condition("FailureTarget", "FailedIndexes", "Job has failed indexes"));
            }
        }
        let message = policy::success(self.spec.success_policy.as_ref(), self.completions(), done)?;
        Some(self.condition("SuccessCriteriaMet", "SuccessPolicy", &message))
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
        let restarts = all.map(|c| c.restart_count).fold(0, i32::saturating_add);
        if limit == 0 { restarts > 0 } else { restarts >= limit }
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
        if self.deleting {
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
            let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
            for pod in std::mem::take(&mut rest) {
                match self.valid_index(&pod).filter(|index| !done.contains(*index)) {
                    Some(index) => by_index.entry(index).or_default().push(pod),
                    None => remove.push(pod),
                }
            }
            for pods in by_index.into_values() {
                // of several the one that is furthest on stays
                let twice = replicaset::to_delete(&pods, &[], pods.len() - 1, self.now);
                rest.extend(pods::filter(&pods, |p| !twice.iter().any(|t| t.metadata.uid == p.metadata.uid)));
                remove.extend(twice);
            }
        }
        let excess = active.len().saturating_sub(usize::try_from(wanted).unwrap_or(0)).saturating_sub(remove.len());
        if excess > 0 {
            remove.extend(replicaset::to_delete(&rest, &[], excess, self.now));
        }
        remove.truncate(BURST);
        remove
    }

    fn grow(&mut self, active: &[Arc<Pod>], wanted: i32) {
        let patient = self.replaces_failed_only();
        let terminating = if patient { pods::filter(self.pods, pods::is_terminating) } else { Vec::new() };
        let missing = usize::try_from(wanted).unwrap_or(0).saturating_sub(active.len() + terminating.len()).min(BURST);
        if missing == 0 {
            return;
        }
        if self.lost.is_none() {
            let pause = self.plan.failures.pause(self.now);
            if !pause.is_zero() {
                self.look_again(pause);
                return;
            }
        }
        let Some(done) = &self.done else {
            self.plan.create = vec![None; missing];
            return;
        };
        let taken = active.iter().chain(&terminating).filter_map(|p| indexes::index(p)).collect();
        let taken = self.lost.iter().fold(done.and(&taken), |taken, lost| taken.and(lost));
        for index in taken.missing(missing, self.completions()) {
            let failed = self.delayed.get(&index);
            let pause = perindex::pause(failed, self.now);
            if pause.is_zero() {
                let policy = self.spec.pod_failure_policy.as_ref();
                let failures = self.lost.is_some().then(|| IndexFailures::after(failed, policy));
                self.plan.create.push(Some(Slot { index, failures }));
            } else {
                self.look_again(pause);
            }
        }
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
            self.status.succeeded = Some(done.total());
            let text = done.to_string();
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
            self.status.failed_indexes = self.lost.as_ref().map(Indexes::to_string);
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
