//! Collects pods that no other component deletes: those of nodes that no longer exist, those deleted before they were bound, and finished ones
//! beyond a limit.
//!
//! Follows "Garbage collection of Pods" of <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

use crate::{Context, claim, meta, podcontrol, pods};
use client::{Client, Controller, DeleteOptions, Informer, Key, Next, Patch, Wakeups};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often pods are collected. This and the next are upstream's.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods are collected.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Collects pods. Upstream's `pod-garbage-collector-controller`. It has one key, which is reconciled periodically.
pub(crate) struct PodGarbageCollector {
    client: Client,
    clock: api::Clock,
    threshold: usize,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Nodes that pods name and that do not exist, with when this was first seen.
    missing: Mutex<HashMap<String, Instant>>,
}

impl PodGarbageCollector {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            threshold: cx.options.terminated_pods,
            pods: cx.informers.of(),
            nodes: cx.informers.of(),
            missing: Mutex::default(),
        }
    }

    /// The nodes of pods that have been missing for at least [`QUARANTINE`].
    fn missing_nodes(&self, pods: &[Arc<Pod>]) -> Vec<String> {
        let now = Instant::now();
        let mut missing = self.missing.lock();
        let absent = |name: &str| !name.is_empty() && self.nodes.get("", name).is_none();
        missing.retain(|name, _| absent(name));
        for pod in pods.iter().filter(|p| absent(pods::node_name(p))) {
            missing.entry(pods::node_name(pod).to_owned()).or_insert(now);
        }
        missing.iter().filter(|(_, since)| now.duration_since(**since) >= QUARANTINE).map(|(n, _)| n.clone()).collect()
    }

    /// Deletes the pod at once; one that has not finished first becomes Failed with a condition.
    async fn end(&self, pod: &Pod, orphaned: bool) -> anyhow::Result<()> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        if !pods::is_finished(pod) {
            let mut status = json!({"phase": "Failed"});
            if orphaned {
                status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": Time(self.clock.now())}]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            if let Err(error) = self.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
                return Ok(claim::ignore_not_found(&self.client, pod, error).await?);
            }
        }
        let options = DeleteOptions::uid(meta::uid(&pod.metadata)).grace(0);
        Ok(podcontrol::delete(&self.client, pod, &options).await?)
    }
}

/// Finished pods beyond `keep`: evicted ones first, then the oldest.
pub(crate) fn surplus(pods: &[Arc<Pod>], keep: usize) -> Vec<Arc<Pod>> {
    let mut finished = pods::filter(pods, pods::is_finished);
    let excess = finished.len().saturating_sub(keep);
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    finished.sort_by_key(|p| (!evicted(p), meta::created(&p.metadata), meta::name(&p.metadata).to_owned()));
    finished.truncate(excess);
    finished
}

#[async_trait::async_trait]
impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.reads(&self.pods);
        wakeups.reads(&self.nodes);
        wakeups.queue().add(Key::default());
    }

    async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
        let all = self.pods.list();
        let lost = self.missing_nodes(&all);
        for pod in surplus(&all, self.threshold) {
            self.end(&pod, false).await?;
        }
        for node in lost {
            // the cache may be stale: a live read before a deletion that cannot be undone
            if self.client.find::<Node>("", &node).await?.is_some() {
                continue;
            }
            for pod in all.iter().filter(|p| pods::node_name(p) == node) {
                self.end(pod, true).await?;
            }
        }
        let stillborn = |p: &&Arc<Pod>| p.metadata.deletion_timestamp.is_some() && pods::node_name(p).is_empty();
        for pod in all.iter().filter(stillborn) {
            self.end(pod, false).await?;
        }
        Ok(Next::After(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, created: &str, reason: Option<&str>) -> Arc<Pod> {
        let value = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": phase, "reason": reason}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn evicted_and_oldest_finished_pods_go_first() {
        let pods = [
            pod("new", "Succeeded", "2026-01-03T00:00:00Z", None),
            pod("old", "Failed", "2026-01-01T00:00:00Z", None),
            pod("running", "Running", "2025-01-01T00:00:00Z", None),
            pod("evicted", "Failed", "2026-01-04T00:00:00Z", Some("Evicted")),
        ];
        for (keep, expected) in
            [(3, vec![]), (2, vec!["evicted"]), (1, vec!["evicted", "old"]), (0, vec!["evicted", "old", "new"])]
        {
            let names: Vec<_> = surplus(&pods, keep).iter().map(|p| meta::name(&p.metadata).to_owned()).collect();
            assert_eq!(names, expected);
        }
    }
}
