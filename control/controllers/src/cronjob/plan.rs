//! What to do next for a CronJob. Pure.
//!
//! Follows upstream's `cronjob_controllerv2.go`.

use super::times;
use crate::meta;
use api::cron::Schedule;
use client::EventType::{self, Normal, Warning};
use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job, JobStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{sync::Arc, time::Duration};

/// The time for which a Job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What to do, in this order, and the status before the new Job.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub events: Vec<(EventType, &'static str, String)>,
    /// Finished Jobs that are too many.
    pub remove: Vec<Arc<Job>>,
    /// Jobs that make way for the new one.
    pub replace: Vec<Arc<Job>>,
    /// The new Job and its time.
    pub create: Option<(Job, Timestamp)>,
    pub status: CronJobStatus,
    pub again: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, kind: EventType, reason: &'static str, message: impl Into<String>) {
        self.events.push((kind, reason, message.into()));
    }
}

/// The plan for a CronJob that controls these Jobs. `exists`: whether there is a Job of a name.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], exists: &dyn Fn(&str) -> bool, now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.remove = superfluous(spec, jobs);
    follow(&mut plan, jobs, exists);
    if !meta::is_deleting(&cron.metadata)
        && let Some(schedule) = schedule(&mut plan, cron, spec)
    {
        plan.again = times::next_look(cron, now, &schedule);
        start(&mut plan, cron, spec, jobs, &schedule, now);
    }
    plan
}

/// `Complete` or `Failed`.
fn finished(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    over.map(|condition| condition.type_.as_str())
}

fn superfluous(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let oldest = |how: &str, limit: Option<i32>| {
        let mut all: Vec<_> = jobs.iter().filter(|job| finished(job) == Some(how)).cloned().collect();
        let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        all.sort_by(|a, b| {
            let key = |job: &Job| (start(job).is_none(), start(job));
            key(a).cmp(&key(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        let kept = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let count = all.len().saturating_sub(kept);
        all.into_iter().take(count)
    };
    let successful = oldest("Complete", spec.successful_jobs_history_limit);
    successful.chain(oldest("Failed", spec.failed_jobs_history_limit)).collect()
}

/// Brings the list of active Jobs up to date.
fn follow(plan: &mut Plan, jobs: &[Arc<Job>], exists: &dyn Fn(&str) -> bool) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let (name, uid) = (meta::name(&job.metadata), &job.metadata.uid);
        let listed = active.iter().any(|one| one.uid == *uid);
        match finished(job) {
            None if !listed => {
                plan.tell(
                    Warning,
                    "UnexpectedJob",
                    format!("Saw a job that the controller did not create or forgot: {name}"),
                );
            }
            None => {}
            Some(how) => {
                if listed {
                    active.retain(|one| one.uid != *uid);
                    plan.tell(Normal, "SawCompletedJob", format!("Saw completed job: {name}, condition: {how}"));
                }
                let end = job.status.as_ref().and_then(|status: &JobStatus| status.completion_time.clone());
                let known = plan.status.last_successful_time.as_ref();
                if how == "Complete" && end.as_ref().is_some_and(|end| known.is_none_or(|known| end.0 > known.0)) {
                    plan.status.last_successful_time = end;
                }
            }
        }
    }
    let lost = active.extract_if(.., |one| {
        let ours = jobs.iter().any(|job| job.metadata.uid == one.uid);
        !ours && !exists(one.name.as_deref().unwrap_or_default())
    });
    let lost: Vec<_> = lost.collect();
    for one in lost {
        plan.tell(Normal, "MissingJob", format!("Active job went missing: {}", one.name.unwrap_or_default()));
    }
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// The schedule; `None` if there is none to follow, which is told.
fn schedule(plan: &mut Plan, cron: &CronJob, spec: &CronJobSpec) -> Option<Schedule> {
    let zone = match times::zone(cron) {
        Ok(zone) => zone,
        Err(why) => {
            let name = spec.time_zone.as_deref().unwrap_or_default();
            plan.tell(Warning, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {why}"));
            return None;
        }
    };
    if spec.suspend == Some(true) {
        return None;
    }
    let text = &spec.schedule;
    let has_zone = text.contains("TZ");
    if has_zone {
        plan.tell(Warning, "UnsupportedSchedule", format!("CRON_TZ or TZ used in schedule {text:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"));
    }
    match Schedule::parse(text) {
        Ok(schedule) if has_zone => Some(schedule),
        Ok(schedule) => Some(schedule.within(zone)),
        Err(why) => {
            plan.tell(Warning, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
            None
        }
    }
}

/// Plans the Job of the last time that has come, if it is to start now.
fn start(plan: &mut Plan, cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], schedule: &Schedule, now: Timestamp) {
    let past = match times::past(cron, now, schedule, true) {
        Ok(past) => past,
        Err(why) => {
            plan.tell(Warning, "InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule));
            plan.again = None;
            return;
        }
    };
    let Some(time) = past.last else { return };
    if past.is_too_many() {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.tell(Warning, "TooManyMissedTimes", text);
    }
    let late = now.duration_since(time).as_secs_f64();
    if spec.starting_deadline_seconds.is_some_and(|deadline| late > deadline as f64) {
        let shown = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
        plan.tell(Warning, "MissSchedule", format!("Missed scheduled time to start a job: {shown}"));
        return;
    }
    let name = job_name(cron, time);
    let active = plan.status.active.clone().unwrap_or_default();
    let done = plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == time);
    if done || active.iter().any(|one| one.name.as_deref() == Some(&name)) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.tell(Normal, "JobAlreadyActive", text);
            return;
        }
        Some("Replace") => {
            let is_active = |job: &&Arc<Job>| active.iter().any(|one| one.uid == job.metadata.uid);
            plan.replace = jobs.iter().filter(is_active).cloned().collect();
        }
        _ => {}
    }
    plan.create = Some((job(cron, spec, name, time), time));
}

/// The name of the Job of a time, by its minute.
fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", meta::name(&cron.metadata), time.as_second() / 60)
}

fn job(cron: &CronJob, spec: &CronJobSpec, name: String, time: Timestamp) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let zone = times::zone(cron).unwrap_or(jiff::tz::TimeZone::UTC);
    let local = time.to_zoned(zone);
    let offset = if local.offset().seconds() == 0 { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    let mut annotations = template.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// The status after a Job was made.
pub(super) fn started(status: &mut CronJobStatus, job: &Job, time: Timestamp) {
    status.active.get_or_insert_default().push(client::reference(job));
    status.last_schedule_time = Some(Time(time));
}
