//! CronJobs: Jobs by a schedule.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>. Schedules without a time zone are in UTC.

mod plan;
#[cfg(test)]
mod tests;
mod times;

use self::plan::{Plan, plan, started};
use crate::{Context, claim::ignore_not_found, meta, status};
use client::{
    Client, Controller, DeleteOptions, Error, EventType, Informer, Key, Next, Propagation, Recorder, Wakeups, reference,
};
use k8s_openapi::api::{
    batch::v1::{CronJob, CronJobStatus, Job},
    core::v1::ObjectReference,
};
use std::sync::Arc;

/// Starts the Jobs of CronJobs. Upstream's `cronjob-controller`.
pub(crate) struct CronJobController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
}

impl CronJobController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("cronjob-controller"),
            crons: cx.informers.of(),
            jobs: cx.informers.of(),
        }
    }

    /// Deletes a Job and takes it off the list of active ones.
    async fn delete(&self, owner: &ObjectReference, job: &Job, status: &mut CronJobStatus) -> Result<(), Error> {
        let (namespace, name) = (meta::namespace(&job.metadata), meta::name(&job.metadata));
        let options = DeleteOptions::uid(meta::uid(&job.metadata)).propagation(Propagation::Background);
        let result = match self.client.delete::<Job>(namespace, name, &options).await {
            Err(error) => ignore_not_found(&self.client, job, error).await,
            Ok(()) => Ok(()),
        };
        match &result {
            Ok(()) => {
                let active = status.active.take().unwrap_or_default();
                let rest: Vec<_> = active.into_iter().filter(|one| one.uid != job.metadata.uid).collect();
                status.active = Some(rest).filter(|rest| !rest.is_empty());
                self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
            }
            Err(error) => {
                self.recorder.event(owner, EventType::Warning, "FailedDelete", format!("Deleted job: {error}"));
            }
        }
        result
    }

    /// Makes the planned Job, or takes over the one that is there.
    async fn create(&self, cron: &CronJob, plan: &Plan, status: &mut CronJobStatus) -> Result<(), Error> {
        let Some((job, time)) = &plan.create else { return Ok(()) };
        let owner = reference(cron);
        for old in &plan.replace {
            self.delete(&owner, old, status).await?;
        }
        let made = match self.client.create(job).await {
            Ok(made) => {
                let message = format!("Created job {}", meta::name(&made.metadata));
                self.recorder.event(&owner, EventType::Normal, "SuccessfulCreate", message);
                made
            }
            Err(error) if error.is_namespace_terminating() => return Err(error),
            Err(error) if error.is_already_exists() => {
                let there: Job = self.client.get(meta::namespace(&job.metadata), meta::name(&job.metadata)).await?;
                if !meta::is_controlled_by(&there.metadata, meta::uid(&cron.metadata)) {
                    return Ok(());
                }
                there
            }
            Err(error) => {
                self.recorder.event(&owner, EventType::Warning, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error);
            }
        };
        started(status, &made, *time);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Controller for CronJobController {
    const NAME: &'static str = "cronjob-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.crons);
        wakeups.on_owner::<Job, CronJob>(&self.jobs);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(cron) = self.crons.find(key) else { return Ok(Next::Done) };
        let jobs: Vec<Arc<Job>> = self.jobs.by_owner(meta::uid(&cron.metadata));
        let exists = |name: &str| self.jobs.get(&key.namespace, name).is_some();
        let plan = plan(&cron, &jobs, &exists, self.clock.now());
        let owner = reference(&*cron);
        for (kind, reason, message) in &plan.events {
            self.recorder.event(&owner, *kind, reason, message.clone());
        }
        let mut new = plan.status.clone();
        for job in &plan.remove {
            // Its failure is told, and tried again with the next look.
            let _ = self.delete(&owner, job, &mut new).await;
        }
        let outcome = self.create(&cron, &plan, &mut new).await;
        if status::differs(cron.status.as_ref(), &new) {
            status::write(&self.client, &CronJob { status: Some(new), ..(*cron).clone() }).await?;
        }
        outcome?;
        Ok(plan.again.map_or(Next::Done, Next::After))
    }
}
