//! A host port of a node is used by at most one pod.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin, PreFilter},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
};

/// Compares `hostPort`s.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFilter {
        if pod.ports.is_empty() { PreFilter::Skip } else { PreFilter::AllNodes }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.has_conflict(&pod.ports) {
            return Status::Unschedulable("node(s) didn't have free ports for the requested pod ports".into());
        }
        Status::Success
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::PodRemoved(_))
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodRemoved(gone) => gone.ports.iter().any(|g| pod.ports.iter().any(|p| p.conflicts(g))),
            _ => false,
        }
    }
}
