//! A pod fits where its requests are still free; the score prefers the least or the most allocated nodes.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/>.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin},
    pod::PodInfo,
    status::{Reason, Status},
};
use client::fit::resources::{Amount, Resources};
use k8s_openapi::api::core::v1::Node;

/// The scoring strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Prefers the least allocated nodes: pods are spread.
    #[default]
    LeastAllocated,
    /// Prefers the most allocated nodes: pods are packed.
    MostAllocated,
}

/// Compares CPU, memory, storage, extended resources and the number of pods.
pub struct NodeResourcesFit {
    strategy: Strategy,
}

impl NodeResourcesFit {
    /// With a scoring strategy.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy }
    }

    /// From 0 to [`MAX_SCORE`].
    fn share(&self, requested: Amount, capacity: Amount) -> i64 {
        let counts = match self.strategy {
            Strategy::LeastAllocated => capacity - requested.min(capacity),
            Strategy::MostAllocated => requested.min(capacity),
        };
        i64::try_from(counts * Amount::from(MAX_SCORE) / capacity).unwrap_or(MAX_SCORE)
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let mut reasons: Vec<Reason> = Vec::new();
        let mut hopeless = false;
        if node.pods.len() + 1 > node.max_pods {
            reasons.push("Too many pods".into());
        }
        let (asked, used, all) = (&pod.requests, &node.requested, &node.allocatable);
        let mut compare = |asked: Amount, used: Amount, all: Amount, reason: &dyn Fn() -> Reason| {
            if asked > 0 && asked > all - used {
                reasons.push(reason());
                hopeless |= asked > all;
            }
        };
        compare(asked.cpu, used.cpu, all.cpu, &|| "Insufficient cpu".into());
        compare(asked.memory, used.memory, all.memory, &|| "Insufficient memory".into());
        compare(asked.storage, used.storage, all.storage, &|| "Insufficient ephemeral-storage".into());
        for (name, amount) in &asked.scalar {
            let of = |r: &Resources| r.scalar.get(name).copied().unwrap_or(0);
            compare(*amount, of(used), of(all), &|| format!("Insufficient {name}").into());
        }
        match (reasons.is_empty(), hopeless) {
            (true, _) => Status::Success,
            (false, true) => Status::UnschedulableAndUnresolvable(reasons),
            (false, false) => Status::Unschedulable(reasons),
        }
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let parts = [
            (node.scored.0 + pod.scored.0, node.allocatable.cpu),
            (node.scored.1 + pod.scored.1, node.allocatable.memory),
        ];
        let (mut sum, mut count) = (0, 0);
        for (requested, capacity) in parts.into_iter().filter(|(_, capacity)| *capacity > 0) {
            sum += self.share(requested, capacity);
            count += 1;
        }
        if count == 0 { 0 } else { sum / count }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        !matches!(event, Event::PodAdded(_) | Event::PodChanged { .. })
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) | Event::PodUpdated => true,
            Event::NodeUpdated { old, new } => allocatable(old) != allocatable(new),
            // one more pod fits again, whatever resources the removed pod used
            Event::PodRemoved(_) => true,
            _ => false,
        }
    }
}

fn allocatable(
    node: &Node,
) -> Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>> {
    node.status.as_ref()?.allocatable.as_ref()
}
