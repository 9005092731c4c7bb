//! A node's port is held by one pod at a time.

use crate::{
    node::NodeInfo,
    plugin::{Event, Plugin, Verdict},
    pod::PodInfo,
};

/// Compares `hostPort`s.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        if node.has_conflict(&pod.ports) {
            return Verdict::Unschedulable(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
        }
        Verdict::Fit
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodRemoved(gone) => gone.ports.iter().any(|g| pod.ports.iter().any(|p| p.conflicts(g))),
            _ => false,
        }
    }
}
