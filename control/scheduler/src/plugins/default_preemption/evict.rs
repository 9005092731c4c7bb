//! Deletes the victims, after the pod was nominated.

use crate::{
    handle::{Cycle, Handle},
    pod::PodInfo,
    status::Failure,
};
use client::{DeleteOptions, EventType, Patch, reference};
use futures::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};
use std::sync::Arc;

const TARGET: &str = "DisruptionTarget";
const REASON: &str = "PreemptionByScheduler";
/// Victims that are deleted at the same time.
const CONCURRENT: usize = 16;

/// What has to be done on the nominated node.
pub(super) struct Victims {
    /// The pods to delete.
    pub(super) pods: Vec<Arc<PodInfo>>,
    /// The pods of lower priority that are nominated to the node: they no longer fit there.
    pub(super) lower: Vec<Arc<PodInfo>>,
}

/// Whether a pod terminates because it was preempted.
pub(super) fn is_being_preempted(pod: &PodInfo) -> bool {
    let mut conditions = pod.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let target = conditions.find(|c| c.type_ == TARGET);
    pod.is_deleting() && target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(REASON))
}

impl Victims {
    /// Clears the nominations of pods of lower priority, then deletes the victims: all but the last at the same time, and the last one at the
    /// end, so that whoever sees all of them go sees the end.
    pub(super) async fn evict(&self, handle: &Handle, cycle: &Cycle) -> Result<(), Failure> {
        for pod in &self.lower {
            if let Err(error) = clear_nomination(handle, pod).await {
                let (namespace, name) = key(pod);
                tracing::warn!(pod = format!("{namespace}/{name}"), %error, "a nomination could not be cleared");
            }
        }
        let pods: Vec<&PodInfo> = self.pods.iter().map(|pod| &**pod).filter(|pod| !pod.is_deleting()).collect();
        handle.metrics.preempted(self.pods.len());
        let Some((last, others)) = pods.split_last() else { return Ok(()) };
        let others: Vec<_> = others.iter().map(|pod| preempt(handle, cycle, pod)).collect();
        let mut others = stream::iter(others).buffer_unordered(CONCURRENT);
        while let Some(result) = others.next().await {
            result?;
        }
        preempt(handle, cycle, last).await
    }
}

fn key(pod: &PodInfo) -> (&str, &str) {
    (pod.namespace(), client::pod::name(&pod.pod))
}

async fn clear_nomination(handle: &Handle, pod: &PodInfo) -> Result<(), client::Error> {
    let (namespace, name) = key(pod);
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": null}});
    match handle.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Preempts one pod. One that waits for permit is only sent back; others get the condition and are deleted, with their grace period.
async fn preempt(handle: &Handle, cycle: &Cycle, victim: &PodInfo) -> Result<(), Failure> {
    let mut message = format!("Preempted by pod {} on node {}", cycle.pod.uid(), cycle.node);
    if handle.waiting_pods.preempt(victim.uid()) {
        message.push_str(" (in kube-scheduler memory).");
    } else {
        let (namespace, name) = key(victim);
        if let Some(patch) = condition(cycle, victim, handle.clock.now()) {
            match handle.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
                Err(error) if is_gone(&error) => return Ok(()),
                other => other.map(drop)?,
            }
        }
        match handle.client.delete::<Pod>(namespace, name, &DeleteOptions::uid(victim.uid())).await {
            Err(error) if is_gone(&error) => return Ok(()),
            other => other?,
        }
    }
    handle.recorder.event(&reference(&*victim.pod), EventType::Normal, "Preempted", message);
    Ok(())
}

/// Also if another pod has its name.
fn is_gone(error: &client::Error) -> bool {
    error.is_not_found() || error.is_conflict()
}

/// The patch that says why the victim goes, unless it says so already.
fn condition(cycle: &Cycle, victim: &PodInfo, now: jiff::Timestamp) -> Option<Value> {
    let scheduler = cycle.pod.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
    let scheduler = scheduler.unwrap_or("default-scheduler");
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let mut conditions = victim.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let known = conditions.find(|c| c.type_ == TARGET);
    let same = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.status == "True" && c.reason.as_deref() == Some(REASON) && c.message.as_deref() == Some(message.as_str())
    };
    if known.is_some_and(same) {
        return None;
    }
    let since = known.filter(|c| c.status == "True").and_then(|c| c.last_transition_time.clone());
    let condition = json!({"type": TARGET, "status": "True", "reason": REASON, "message": message, "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or(Time(now)), "observedGeneration": victim.pod.metadata.generation});
    Some(json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}}))
}
