//! Explains whether preemption could help. It does not preempt yet: a pod that needs it waits, and its condition says so.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.

use crate::{
    cycle_state::CycleState,
    plugin::{Plugin, PostFilter},
    pod::PodInfo,
    status::{NodeToStatus, join},
};

/// Looks for nodes with pods of lower priority.
pub struct DefaultPreemption;

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn post_filter(&self, _: &mut CycleState, pod: &PodInfo, statuses: &NodeToStatus<'_>) -> PostFilter {
        PostFilter::Unschedulable(format!("preemption: {}", explain_unresolvable(pod, statuses)).into())
    }
}

fn explain_unresolvable(pod: &PodInfo, statuses: &NodeToStatus<'_>) -> String {
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return "not eligible due to preemptionPolicy=Never.".to_owned();
    }
    let (total, candidates) = (statuses.snapshot().count(), statuses.resolvable());
    if candidates.iter().any(|node| node.pods.values().any(|p| p.priority < pod.priority)) {
        // upstream would now evict pods of lower priority; this one does not yet, and its message says so
        return "not available.".to_owned();
    }
    let parts = [
        (candidates.len(), "No preemption victims found for incoming pod"),
        (total - candidates.len(), "Preemption is not helpful for scheduling"),
    ];
    format!("0/{total} nodes are available: {}.", join(parts.into_iter().filter(|(count, _)| *count > 0)))
}
