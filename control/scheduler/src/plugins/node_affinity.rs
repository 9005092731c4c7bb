//! Node selectors and node affinity.

use crate::{
    node::NodeInfo,
    plugin::{Event, Plugin, Verdict, scale},
    pod::PodInfo,
};

/// Filters by what is required, scores by what is preferred.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        if pod.required.is_empty() || node.node.as_deref().is_none_or(|n| pod.required.matches(n)) {
            return Verdict::Fit;
        }
        Verdict::Unresolvable(vec!["node(s) didn't match Pod's node affinity/selector".into()])
    }

    fn scores(&self, pod: &PodInfo) -> bool {
        !pod.preferred.is_empty()
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.node.as_deref().map_or(0, |n| pod.preferred.score(n))
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
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
