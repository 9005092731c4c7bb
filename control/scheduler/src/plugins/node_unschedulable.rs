//! Cordoned nodes take no new pods, except those that tolerate the taint of that name.

use k8s_openapi::api::core::v1::{Node, Taint};

use super::tolerates;
use crate::{
    node::NodeInfo,
    plugin::{Event, Plugin, Verdict},
    pod::PodInfo,
};

/// Looks at `spec.unschedulable`.
pub struct NodeUnschedulable;

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        if !node.node.as_deref().is_some_and(cordoned) {
            return Verdict::Fit;
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if pod.tolerations().iter().any(|t| tolerates(t, &taint)) {
            return Verdict::Fit;
        }
        Verdict::Unresolvable(vec!["node(s) were unschedulable".into()])
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(node) => !cordoned(node),
            Event::NodeUpdated { old, new } => cordoned(old) && !cordoned(new),
            Event::PodUpdated => true,
            _ => false,
        }
    }
}
