//! A scheduler plugin: no two pods with the same label `apart` on one node.

use scheduler::{CycleState, Event, Plugin, Status, node::NodeInfo, pod::PodInfo};

/// The plugin.
pub struct KeepApart;

fn apart(pod: &PodInfo) -> Option<&String> {
    pod.pod.metadata.labels.as_ref()?.get("apart")
}

impl Plugin for KeepApart {
    fn name(&self) -> &'static str {
        "KeepApart"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let wanted = apart(pod);
        if wanted.is_some() && node.pods.values().any(|other| apart(other) == wanted) {
            return Status::Unschedulable("node(s) had a pod to keep apart from".into());
        }
        Status::Success
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::PodRemoved(other) => apart(other) == apart(pod),
            Event::NodeAdded(_) | Event::PodUpdated => true,
            _ => false,
        }
    }
}
