//! Node selectors and node affinity.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin, PreFilter, PreScore, scale},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
};

/// Filters by required and scores by preferred terms.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn honours(&self) -> &'static [&'static str] {
        &["pod.spec.affinity.nodeAffinity", "pod.spec.nodeSelector"]
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFilter {
        if pod.required.is_empty() { PreFilter::Skip } else { PreFilter::AllNodes }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.node.as_deref().is_none_or(|n| pod.required.matches(n)) {
            return Status::Success;
        }
        Status::UnschedulableAndUnresolvable("node(s) didn't match Pod's node affinity/selector".into())
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], _: &Snapshot) -> PreScore {
        if pod.preferred.is_empty() { PreScore::Skip } else { PreScore::Score }
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.node.as_deref().map_or(0, |n| pod.preferred.score(n))
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, _: &[&NodeInfo], scores: &mut [i64]) {
        scale(scores, false);
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. })
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(node) => pod.required.matches(node),
            Event::NodeUpdated { old, new } => !pod.required.matches(old) && pod.required.matches(new),
            Event::PodUpdated => true,
            _ => false,
        }
    }
}
