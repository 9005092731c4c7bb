//! A pod fits where its requests are still free; the score prefers the least or the most allocated nodes, or those with a wanted allocation.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/>.

use super::allocation::{Counting, Used, Weighted, broken_line, used};
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin},
    pod::PodInfo,
    status::{Reason, Reasons, Status},
};
use client::fit::resources::{Amount, Resources};
use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeSet;

/// The scoring strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Prefers the least allocated nodes: pods are spread.
    #[default]
    LeastAllocated,
    /// Prefers the most allocated nodes: pods are packed.
    MostAllocated,
    /// Scores by points of a line: percent of allocation, and a score from 0 to [`MAX_SCORE`], by rising percent.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// What a configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeResourcesFitArgs {
    /// How nodes are scored.
    pub strategy: Strategy,
    /// The resources that count in scores.
    pub resources: Vec<Weighted>,
    /// Extended resources that the filter ignores.
    pub ignored_resources: BTreeSet<String>,
    /// The filter ignores extended resources whose name begins with one of these and a slash.
    pub ignored_resource_groups: BTreeSet<String>,
}

impl Default for NodeResourcesFitArgs {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            resources: Weighted::defaults(),
            ignored_resources: BTreeSet::new(),
            ignored_resource_groups: BTreeSet::new(),
        }
    }
}

/// Compares CPU, memory, storage, extended resources and the number of pods.
pub struct NodeResourcesFit {
    args: NodeResourcesFitArgs,
}

impl NodeResourcesFit {
    /// With a scoring strategy over CPU and memory.
    pub fn new(strategy: Strategy) -> Self {
        Self::with(NodeResourcesFitArgs { strategy, ..NodeResourcesFitArgs::default() })
    }

    /// With arguments.
    pub fn with(args: NodeResourcesFitArgs) -> Self {
        Self { args }
    }

    /// From 0 to [`MAX_SCORE`].
    fn share(&self, Used { all, after, .. }: Used) -> i64 {
        let percent = |amount: Amount| i64::try_from(amount * Amount::from(MAX_SCORE) / all).unwrap_or(MAX_SCORE);
        match &self.args.strategy {
            Strategy::LeastAllocated => percent(all - after.min(all)),
            Strategy::MostAllocated => percent(after.min(all)),
            Strategy::RequestedToCapacityRatio(points) => broken_line(points, percent(after.min(all))),
        }
    }

    fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map(|(group, _)| group);
        self.args.ignored_resources.contains(resource)
            || group.is_some_and(|group| self.args.ignored_resource_groups.contains(group))
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn weight(&self) -> i64 {
        1
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let mut reasons = Reasons::default();
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
        for (name, amount) in asked.scalar.iter().filter(|(name, _)| !self.ignores(name)) {
            let of = |r: &Resources| r.scalar.get(name).copied().unwrap_or(0);
            compare(*amount, of(used), of(all), &|| format!("Insufficient {name}").into());
        }
        match (reasons.all().is_empty(), hopeless) {
            (true, _) => Status::Success,
            (false, true) => Status::UnschedulableAndUnresolvable(reasons),
            (false, false) => Status::Unschedulable(reasons),
        }
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream rounds")]
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let by_ratio = matches!(self.args.strategy, Strategy::RequestedToCapacityRatio(_));
        let (mut sum, mut weights) = (0, 0);
        for Weighted { name, weight } in &self.args.resources {
            let Some(share) = used(pod, node, name, Counting::Assumed).map(|used| self.share(used)) else { continue };
            if share > 0 || !by_ratio {
                sum += share * weight;
                weights += weight;
            }
        }
        match (weights, by_ratio) {
            (0, _) => 0,
            (_, true) => (sum as f64 / weights as f64).round() as i64,
            (_, false) => sum / weights,
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        !matches!(event, Event::PodAdded(_) | Event::PodChanged { .. } | Event::VolumesChanged)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, filtered, info, node, pod, scored};
    use serde_json::{Value, json};

    fn asks(requests: Value) -> Value {
        pod("p", json!({}), json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn with_gpus(name: &str, gpus: &str) -> Value {
        let mut node = node(name, json!({}));
        node["status"]["allocatable"]["example.com/gpu"] = gpus.into();
        node
    }

    #[test]
    fn each_strategy_prefers_what_it_is_for() {
        let cache =
            cluster(&[node("a", json!({})), with_gpus("b", "4")], &[("a", asks(json!({"cpu": "2", "memory": "2Gi"})))]);
        let by = |strategy: Strategy, resources: &[(&str, i64)]| {
            let resources =
                resources.iter().map(|(name, weight)| Weighted { name: (*name).to_owned(), weight: *weight }).collect();
            NodeResourcesFit::with(NodeResourcesFitArgs { strategy, resources, ..NodeResourcesFitArgs::default() })
        };
        let both = [("cpu", 1), ("memory", 1)];
        let packed = || Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]);
        for (what, plugin, requests, expected) in [
            ("least", by(Strategy::LeastAllocated, &both), json!({"cpu": "1", "memory": "2Gi"}), vec![37, 75]),
            ("most", by(Strategy::MostAllocated, &both), json!({"cpu": "1", "memory": "2Gi"}), vec![62, 25]),
            (
                "memory weighs three times",
                by(Strategy::MostAllocated, &[("cpu", 1), ("memory", 3)]),
                json!({"cpu": "1", "memory": "2Gi"}),
                vec![56, 25],
            ),
            ("by a line", by(packed(), &both), json!({"cpu": "1", "memory": "2Gi"}), vec![63, 25]),
            (
                "by a line that falls",
                by(Strategy::RequestedToCapacityRatio(vec![(0, 100), (50, 0)]), &both),
                json!({"cpu": "1", "memory": "2Gi"}),
                vec![0, 50],
            ),
            (
                "an extended resource counts for who asks for it",
                by(packed(), &[("example.com/gpu", 5), ("cpu", 1)]),
                json!({"cpu": "1", "example.com/gpu": "2"}),
                vec![75, 46],
            ),
            (
                "and not for others",
                by(packed(), &[("example.com/gpu", 5), ("cpu", 1)]),
                json!({"cpu": "1"}),
                vec![75, 25],
            ),
        ] {
            assert_eq!(scored(&plugin, &info(asks(requests)), &cache.snapshot()), Some(expected), "{what}");
        }
    }

    #[test]
    fn what_others_provide_is_ignored() {
        let cache = cluster(&[with_gpus("a", "1")], &[]);
        let ignoring = |resources: &[&str], groups: &[&str]| {
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let (ignored_resources, ignored_resource_groups) = (set(resources), set(groups));
            NodeResourcesFit::with(NodeResourcesFitArgs {
                ignored_resources,
                ignored_resource_groups,
                ..NodeResourcesFitArgs::default()
            })
        };
        let two = info(asks(json!({"example.com/gpu": "2"})));
        for (plugin, expected) in [
            (ignoring(&[], &[]), "!Insufficient example.com/gpu"),
            (ignoring(&["example.com/gpu"], &[]), ""),
            (ignoring(&[], &["example.com"]), ""),
            (ignoring(&["example.com"], &["example.com/gpu"]), "!Insufficient example.com/gpu"),
        ] {
            assert_eq!(filtered(&plugin, &two, &cache.snapshot()), [expected]);
        }
    }
}
