//! Prefers nodes whose resources a pod makes evenly used: CPU that is free is of no use where no memory is.

use super::allocation::{Counting, Weighted, asked, evenness, used};
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin, PreScore},
    pod::PodInfo,
    snapshot::Snapshot,
};

/// Compares the shares of resources that are used with the pod and without it.
pub struct NodeResourcesBalancedAllocation {
    resources: Vec<Weighted>,
}

impl NodeResourcesBalancedAllocation {
    /// With the resources to compare; their weights do not count.
    pub fn new(resources: Vec<Weighted>) -> Self {
        Self { resources }
    }
}

impl Default for NodeResourcesBalancedAllocation {
    fn default() -> Self {
        Self::new(Weighted::defaults())
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], _: &Snapshot) -> PreScore {
        // a pod that asks for nothing changes no balance, and would always go to the same node
        let nothing = self.resources.iter().all(|r| asked(pod, &r.name, Counting::Requests) == 0);
        if nothing { PreScore::Skip } else { PreScore::Score }
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let all = || self.resources.iter().filter_map(|r| used(pod, node, &r.name, Counting::Requests));
        let with = evenness(all().map(|used| (used.after, used.all)));
        let without = evenness(all().map(|used| (used.before, used.all)));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }

    fn listens(&self, _: &Event<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, info, node, pod, scored};
    use serde_json::{Value, json};

    fn asks(name: &str, cpu: &str, memory: &str) -> Value {
        let requests = json!({"cpu": cpu, "memory": memory});
        pod(name, json!({}), json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn a_pod_goes_where_it_makes_use_even() {
        let plugin = NodeResourcesBalancedAllocation::default();
        // a uses much CPU, b much memory, of 4 cores and 8 GiB each
        let cache = cluster(
            &[node("a", json!({})), node("b", json!({}))],
            &[("a", asks("x", "2", "0")), ("b", asks("y", "0", "4Gi"))],
        );
        for (what, pod, expected) in [
            ("memory", asks("p", "0", "4Gi"), Some(vec![87, 62])),
            ("CPU", asks("p", "2", "0"), Some(vec![62, 87])),
            ("both alike", asks("p", "1", "2Gi"), Some(vec![75, 75])),
            ("nothing", asks("p", "0", "0"), None),
        ] {
            assert_eq!(scored(&plugin, &info(pod), &cache.snapshot()), expected, "{what}");
        }
    }
}
