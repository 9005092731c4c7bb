//! Evicts pods from nodes with NoExecute taints that they do not tolerate, or no longer.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>.

use crate::{
    Context, claim, meta,
    nodelifecycle::{BY_NODE, index_nodes},
    podcontrol, pods,
};
use client::{
    Client, Controller, DeleteOptions, Delta, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, fit, reference,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Deletes pods that do not tolerate their node. Upstream's `taint-eviction-controller`.
pub(crate) struct TaintEvictionController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Pods whose eviction is scheduled, so that an event can report its cancellation.
    waiting: Arc<Mutex<HashSet<Key>>>,
}

impl TaintEvictionController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let pods = cx.informers.of::<Pod>();
        index_nodes(&pods);
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("taint-eviction-controller"),
            nodes: cx.informers.of(),
            pods,
            waiting: Arc::default(),
        }
    }

    async fn evict(&self, pod: &Pod) -> anyhow::Result<()> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        let message = format!("Marking for deletion Pod {namespace}/{name}");
        self.recorder.event(&reference(pod), EventType::Normal, "TaintManagerEviction", message);
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(self.clock.now())}]}});
        if let Err(error) = self.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await {
            return Ok(claim::ignore_not_found(&self.client, pod, error).await?);
        }
        Ok(podcontrol::delete(&self.client, pod, &DeleteOptions::uid(meta::uid(&pod.metadata))).await?)
    }
}

/// How long the pod may stay on the node: `None` for ever, zero when it is evicted now.
pub(crate) fn toleration_time(pod: &Pod, node: &Node, now: Timestamp) -> Option<Duration> {
    let tolerations = pods::tolerations(pod);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let (mut start, mut seconds) = (None, None);
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| fit::tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Some(Duration::ZERO);
        }
        // the shortest limit counts, over the tolerations of this taint and over all taints
        if let Some(limit) = matching.iter().filter_map(|t| t.toleration_seconds).min() {
            seconds = Some(seconds.map_or(limit, |s: i64| s.min(limit)));
        }
        start = start.max(taint.time_added.as_ref().map(|t| t.0));
    }
    // for a pod that was bound after the taint, the time runs from its binding
    let bound = pods::condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let start = start.max(bound).unwrap_or(now);
    let due = start.saturating_add(SignedDuration::from_secs(seconds?.max(0))).ok()?;
    Some(meta::non_negative(due.duration_since(now)))
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|t| t.effect == "NoExecute").collect()
}

#[async_trait::async_trait]
impl Controller for TaintEvictionController {
    const NAME: &'static str = "taint-eviction-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        let (nodes, waiting) = (self.nodes.clone(), self.waiting.clone());
        wakeups.on(&self.pods, move |delta: &Delta<Pod>| {
            let tolerations = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.clone());
            let new = delta.object();
            let changed = delta
                .old()
                .is_none_or(|old| pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new));
            // a later taint enqueues the pods of its node itself
            let tainted = || nodes.get("", pods::node_name(new)).is_some_and(|n| !no_execute(&n).is_empty());
            let key = Key::of(&**new);
            if changed && (tainted() || waiting.lock().contains(&key)) { vec![key] } else { Vec::new() }
        });
        let pods = self.pods.clone();
        wakeups.on(&self.nodes, move |delta: &Delta<Node>| {
            let new = delta.object();
            let before = delta.old().map(|o| no_execute(o)).unwrap_or_default();
            if before == no_execute(new) {
                return Vec::new();
            }
            pods.by_index(BY_NODE, meta::name(&new.metadata)).iter().map(|p| Key::of(&**p)).collect()
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let pod = self.pods.find(key).filter(|p| p.metadata.deletion_timestamp.is_none() && !pods::is_finished(p));
        let node = pod.as_ref().and_then(|p| self.nodes.get("", pods::node_name(p)));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.waiting.lock().remove(key);
            return Ok(Next::Done);
        };
        match toleration_time(&pod, &node, self.clock.now()) {
            None => {
                if self.waiting.lock().remove(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.recorder.event(&reference(&*pod), EventType::Normal, "TaintManagerEviction", message);
                }
                Ok(Next::Done)
            }
            Some(left) if !left.is_zero() => {
                self.waiting.lock().insert(key.clone());
                Ok(Next::After(left))
            }
            Some(_) => {
                self.evict(&pod).await?;
                self.waiting.lock().remove(key);
                Ok(Next::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn pods_stay_as_long_as_they_tolerate_every_taint() {
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let exists = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        type Case = (&'static str, Vec<Value>, Vec<Value>, Option<u64>);
        let cases: Vec<Case> = vec![
            ("no taint", vec![], vec![], None),
            ("not tolerated", vec![taint("a")], vec![], Some(0)),
            ("tolerated for ever", vec![taint("a")], vec![exists("a", None)], None),
            ("tolerated for a while", vec![taint("a")], vec![exists("a", Some(300))], Some(240)),
            ("time is over", vec![taint("a")], vec![exists("a", Some(30))], Some(0)),
            (
                "the shortest counts",
                vec![taint("a"), taint("b")],
                vec![exists("a", Some(300)), exists("b", Some(90))],
                Some(30),
            ),
            ("one is not tolerated", vec![taint("a"), taint("b")], vec![exists("a", None)], Some(0)),
            ("another effect", vec![json!({"key": "a", "effect": "NoSchedule"})], vec![], None),
            ("everything", vec![taint("a")], vec![json!({"operator": "Exists"})], None),
            ("equal values", vec![taint("a")], vec![json!({"key": "a", "value": "x"})], Some(0)),
        ];
        for (what, taints, tolerations, expected) in cases {
            let pod =
                serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}})).expect("a pod");
            let node = serde_json::from_value(json!({"spec": {"taints": taints}})).expect("a node");
            assert_eq!(toleration_time(&pod, &node, now).map(|d| d.as_secs()), expected, "{what}");
        }
    }

    #[test]
    fn a_pod_that_came_later_has_its_time_from_then() {
        let pod = serde_json::from_value(json!({"spec": {"containers": [],
                "tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 60}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:10:00Z"}]}}))
        .expect("a pod");
        let node = serde_json::from_value(json!({"spec": {"taints": [
            {"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]}}))
        .expect("a node");
        let now = "2026-01-01T00:10:10Z".parse().expect("a time");
        assert_eq!(toleration_time(&pod, &node, now), Some(Duration::from_secs(50)));
    }
}
