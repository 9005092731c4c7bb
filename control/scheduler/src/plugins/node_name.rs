//! A pod with `spec.nodeName` fits only on that node.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin},
    pod::{PodInfo, node_name},
    status::Status,
};

/// Compares `spec.nodeName`.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        match node_name(&pod.pod) {
            name if !name.is_empty() && name != node.name() => {
                Status::UnschedulableAndUnresolvable("node(s) didn't match the requested node name".into())
            }
            _ => Status::Success,
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_))
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        matches!(event, Event::NodeAdded(_))
    }
}
