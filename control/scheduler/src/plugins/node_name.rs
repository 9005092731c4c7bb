//! A pod that names its node runs there or nowhere.

use crate::{
    node::NodeInfo,
    plugin::{Event, Plugin, Verdict},
    pod::{PodInfo, node_name},
};

/// Compares `spec.nodeName`.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        match node_name(&pod.pod) {
            Some(name) if name != node.name() => {
                Verdict::Unresolvable(vec!["node(s) didn't match the requested node name".into()])
            }
            _ => Verdict::Fit,
        }
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        matches!(event, Event::NodeAdded(_))
    }
}
