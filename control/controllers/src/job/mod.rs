//! Jobs: pods that run to completion.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/job/>: NonIndexed and Indexed, parallelism, back-off, deadline,
//! suspension, policies of failure, success and replacement, limits for each index, and counting by finalizer (KEP-2307). Deleting old Jobs is
//! `ttlafterfinished`.

mod backoff;
mod indexes;
mod perindex;
mod plan;
mod policy;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
mod tracking;
mod view;

use self::{backoff::Failures, plan::plan, tracking::FINALIZER, view::Slot};
use crate::{
    Context,
    claim::{Claims, candidates},
    labels, meta,
    podcontrol::{PodControl, slow_start},
    pods, status,
};
use client::{Client, Controller, Error, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};

/// The index of pods that are not counted yet, by namespace and name of the Job that they name.
const UNCOUNTED: &str = "job/uncounted";

/// Runs Jobs. Upstream's `job-controller`.
pub(crate) struct JobController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    /// Failures of Jobs that are not over, with the Job's uid: pods that were deleted tell of none any more.
    failures: Mutex<HashMap<Key, (Option<String>, Failures)>>,
}

impl JobController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let pods = cx.informers.of::<Pod>();
        labels::index_orphans(&pods);
        pods.index(UNCOUNTED, |pod| {
            let owner = meta::controller_of(&pod.metadata).filter(|o| o.kind == "Job" && o.api_version == "batch/v1");
            let owner = owner.filter(|_| meta::has_finalizer(&pod.metadata, FINALIZER));
            owner.map(|o| Key::new(meta::namespace(&pod.metadata), &o.name).to_string()).into_iter().collect()
        });
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("job-controller"),
            jobs: cx.informers.of(),
            pods,
            failures: Mutex::default(),
        }
    }

    /// The pods of `job`, after taking over those that match and releasing those that do not.
    async fn claim(&self, job: &Job) -> anyhow::Result<Vec<Arc<Pod>>> {
        let Some(selector) = job.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return Ok(Vec::new()) };
        let candidates = candidates(&self.pods, &job.metadata, labels::wanted(selector));
        let selector = meta::selector(selector).map_err(|e| anyhow::anyhow!("the selector cannot be read: {e}"))?;
        let claims = Claims { client: &self.client, owner: job, finalizer: Some(FINALIZER) };
        claims.settle(&selector, candidates).await
    }

    /// Creates what is planned; answers how many were, and the first failure.
    async fn create(&self, job: &Job, control: &PodControl<'_>, slots: &[Option<Slot>]) -> (usize, Option<Error>) {
        let Some(spec) = &job.spec else { return (0, None) };
        let owner = meta::controller_ref(job);
        let name = meta::name(&job.metadata);
        let mut pod = pods::from_template(meta::namespace(&job.metadata), name, &spec.template, owner);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        slow_start(slots.len(), |i| {
            let mut pod = pod.clone();
            if let Some(slot) = slots[i] {
                indexes::mark(&mut pod, name, slot.index);
                slot.failures.into_iter().for_each(|failures| failures.mark(&mut pod));
            }
            async move {
                match control.create(&pod).await {
                    Err(error) if !error.is_namespace_terminating() => Err(error),
                    _ => Ok(()),
                }
            }
        })
        .await
    }

    async fn strip(&self, control: &PodControl<'_>, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let patch =
            |p: &Pod| json!({"metadata": {"uid": p.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        for batch in pods.chunks(128) {
            let calls = batch.iter().map(|p| control.patch(p, patch(p)));
            for result in futures::future::join_all(calls).await {
                result?;
            }
        }
        Ok(())
    }

    fn known_failures(&self, key: &Key, job: &Job) -> Failures {
        let known = self.failures.lock().get(key).cloned();
        known.filter(|(uid, _)| *uid == job.metadata.uid).map(|(_, failures)| failures).unwrap_or_default()
    }

    fn remember(&self, key: &Key, job: &Job, failures: &Failures) {
        let mut all = self.failures.lock();
        if *failures == Failures::default() {
            all.remove(key);
        } else {
            all.insert(key.clone(), (job.metadata.uid.clone(), failures.clone()));
        }
    }

    /// Pods whose Job is gone, also when another has its name by now, have nobody to be counted by.
    async fn set_free(&self, key: &Key, uid: Option<&str>) -> anyhow::Result<()> {
        let lost = |p: &Arc<Pod>| {
            let owner = meta::controller_of(&p.metadata);
            owner.is_some_and(|o| Some(o.uid.as_str()) != uid)
        };
        let pods = self.pods.by_index(UNCOUNTED, &key.to_string());
        let pods: Vec<Arc<Pod>> = pods.into_iter().filter(lost).collect();
        if pods.is_empty() {
            return Ok(());
        }
        let owner = Default::default();
        let control = PodControl { client: &self.client, recorder: &self.recorder, owner: &owner };
        Ok(self.strip(&control, &pods).await?)
    }
}

#[async_trait::async_trait]
impl Controller for JobController {
    const NAME: &'static str = "job-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.jobs);
        wakeups.on(&self.pods, pods::enqueue_owner::<Job>);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(job) = self.jobs.find(key) else {
            self.failures.lock().remove(key);
            self.set_free(key, None).await?;
            return Ok(Next::Done);
        };
        self.set_free(key, job.metadata.uid.as_deref()).await?;
        let managed = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed.is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(Next::Done);
        }
        let owner = reference(&*job);
        let control = PodControl { client: &self.client, recorder: &self.recorder, owner: &owner };
        let pods = self.claim(&job).await?;
        let plan = plan(&job, &pods, &self.known_failures(key, &job), self.clock.now());
        self.remember(key, &job, &plan.failures);
        control.delete_all(&plan.delete).await?;
        // without the finalizer first, so that what the Job itself takes away is not counted
        self.strip(&control, &plan.remove).await?;
        control.delete_all(&plan.remove).await?;
        let (created, failure) = self.create(&job, &control, &plan.create).await;
        let mut status = plan.status;
        if created > 0 {
            status.active = Some(status.active.unwrap_or(0) + i32::try_from(created).unwrap_or(i32::MAX));
        }
        if status::differs(job.status.as_ref(), &status) {
            status::write(&self.client, &Job { status: Some(status), ..(*job).clone() }).await?;
        }
        for (kind, reason, message) in &plan.events {
            self.recorder.event(&owner, *kind, reason, message.clone());
        }
        self.strip(&control, &plan.strip).await?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(plan.after.map_or(Next::Done, Next::After)),
        }
    }
}
