//! Cordoned nodes accept no new pods, except those that tolerate the taint `node.kubernetes.io/unschedulable`.

use super::node_becomes_available;
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin},
    pod::PodInfo,
    status::Status,
};
use client::fit::tolerates;
use k8s_openapi::api::core::v1::{Node, Taint};
use std::sync::LazyLock;

/// Looks at `spec.unschedulable`.
pub struct NodeUnschedulable;

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

/// Whether the node is not cordoned, or the pod tolerates that.
pub(super) fn admits(pod: &PodInfo, node: &Node) -> bool {
    static TAINT: LazyLock<Taint> = LazyLock::new(|| Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    });
    !cordoned(node) || pod.tolerations().iter().any(|t| tolerates(t, &TAINT))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.node.as_deref().is_none_or(|n| admits(pod, n)) {
            return Status::Success;
        }
        Status::UnschedulableAndUnresolvable("node(s) were unschedulable".into())
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. })
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        node_becomes_available(event, pod)
    }
}
