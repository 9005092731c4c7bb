//! Tainted nodes accept only pods that tolerate their taints.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use super::node_becomes_available;
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin, scale},
    pod::PodInfo,
    status::Status,
};
use client::fit::tolerates;
use k8s_openapi::api::core::v1::{Node, Taint};

/// Filters by NoSchedule and NoExecute, scores by PreferNoSchedule.
pub struct TaintToleration;

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    pod.tolerations().iter().any(|t| tolerates(t, taint))
}

/// Whether the pod tolerates the NoSchedule and NoExecute taints of the node.
pub(super) fn admits(pod: &PodInfo, node: &Node) -> bool {
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    taints(node).iter().filter(hard).all(|t| tolerated(pod, t))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn honours(&self) -> &'static [&'static str] {
        &["pod.spec.tolerations"]
    }

    fn weight(&self) -> i64 {
        3
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.node.as_deref().is_none_or(|n| admits(pod, n)) {
            return Status::Success;
        }
        Status::UnschedulableAndUnresolvable("node(s) had untolerated taint(s)".into())
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let soft = |t: &&Taint| t.effect == "PreferNoSchedule";
        let taints = node.node.as_deref().map(taints).unwrap_or_default();
        let count = taints.iter().filter(soft).filter(|t| !tolerated(pod, t)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, _: &[&NodeInfo], scores: &mut [i64]) {
        scale(scores, true);
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. })
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        node_becomes_available(event, pod)
    }
}
