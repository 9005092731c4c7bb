//! Deletes finished Jobs after their `ttlSecondsAfterFinished`.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/>.

use crate::{Context, meta};
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Propagation, Wakeups};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use std::time::Duration;

/// Deletes old Jobs. Upstream's `ttl-after-finished-controller`.
pub(crate) struct TtlAfterFinishedController {
    client: Client,
    clock: api::Clock,
    jobs: Informer<Job>,
}

impl TtlAfterFinishedController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), jobs: cx.informers.of() }
    }
}

/// The time until the Job is deleted: `None` if it never is, zero if it is due.
pub(crate) fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished =
        conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let since = finished.last_transition_time.as_ref()?.0;
    let due = since.saturating_add(SignedDuration::from_secs(i64::from(ttl))).ok()?;
    Some(meta::non_negative(due.duration_since(now)))
}

#[async_trait::async_trait]
impl Controller for TtlAfterFinishedController {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.jobs);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let job = self.jobs.find(key).filter(|j| j.metadata.deletion_timestamp.is_none());
        let Some(left) = job.and_then(|j| time_left(&j, self.clock.now())) else { return Ok(Next::Done) };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        // the TTL may just have been changed: a live read before a deletion that cannot be undone
        let Some(fresh) = self.client.find::<Job>(&key.namespace, &key.name).await? else { return Ok(Next::Done) };
        match time_left(&fresh, self.clock.now()) {
            None => Ok(Next::Done),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => {
                let options = DeleteOptions::uid(meta::uid(&fresh.metadata)).propagation(Propagation::Foreground);
                self.client.delete::<Job>(&key.namespace, &key.name, &options).await?;
                Ok(Next::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_limit_have_an_end() {
        let job = |ttl: Option<i32>, condition: &str| -> Job {
            serde_json::from_value(json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .expect("a Job")
        };
        let now = "2026-01-01T00:00:10Z".parse().expect("a time");
        for (ttl, condition, expected) in [
            (None, "Complete", None),
            (Some(30), "Suspended", None),
            (Some(30), "Complete", Some(20)),
            (Some(30), "Failed", Some(20)),
            (Some(5), "Complete", Some(0)),
            (Some(0), "Failed", Some(0)),
        ] {
            assert_eq!(time_left(&job(ttl, condition), now).map(|d| d.as_secs()), expected, "{ttl:?} {condition}");
        }
    }
}
