//! Node selectors and node affinity.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, Plugin, PreFilter, PreScore, scale},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
};
use client::fit::affinity::{Preferred, Required};
use k8s_openapi::api::core::v1::{Affinity, PodSpec};

/// Filters by required and scores by preferred terms.
#[derive(Default)]
pub struct NodeAffinity {
    /// What is asked of the nodes of every pod of the profile (`addedAffinity`), besides what the pod asks for.
    added: (Required, Preferred),
}

impl NodeAffinity {
    /// With an affinity that every pod of the profile has as well.
    pub fn with_added(added: Affinity) -> Self {
        let spec = PodSpec { affinity: Some(added), ..PodSpec::default() };
        Self { added: (Required::of(&spec), Preferred::of(&spec)) }
    }
}

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
        if pod.required.is_empty() && self.added.0.is_empty() {
            return PreFilter::Skip;
        }
        match pod.required.names() {
            None => PreFilter::AllNodes,
            Some(names) if names.is_empty() => {
                PreFilter::UnschedulableAndUnresolvable("pod affinity terms conflict".into())
            }
            // the pods of a DaemonSet: each names its node
            Some(names) => PreFilter::Nodes(names),
        }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(info) = node.node.as_deref() else { return Status::Success };
        if !self.added.0.matches(info) {
            return Status::UnschedulableAndUnresolvable(
                "node(s) didn't match scheduler-enforced node affinity".into(),
            );
        }
        if pod.required.matches(info) {
            return Status::Success;
        }
        Status::UnschedulableAndUnresolvable("node(s) didn't match Pod's node affinity/selector".into())
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], _: &Snapshot) -> PreScore {
        if pod.preferred.is_empty() && self.added.1.is_empty() { PreScore::Skip } else { PreScore::Score }
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.node.as_deref().map_or(0, |n| self.added.1.score(n) + pod.preferred.score(n))
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, _: &[&NodeInfo], scores: &mut [i64]) {
        scale(scores, false);
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. })
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        let matches = |node| self.added.0.matches(node) && pod.required.matches(node);
        match event {
            Event::NodeAdded(node) => matches(node),
            Event::NodeUpdated { old, new } => !matches(old) && matches(new),
            Event::PodUpdated => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, filtered, info, node, object, pod};
    use serde_json::json;

    #[test]
    fn an_added_affinity_holds_for_every_pod() {
        let terms = json!([{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]);
        let fast = json!({"matchExpressions": [{"key": "fast", "operator": "Exists"}]});
        let added = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": fast}]}});
        let plugin = NodeAffinity::with_added(serde_json::from_value(added).expect("an affinity"));
        let (a, b, c) = (json!({"pool": "a"}), json!({"pool": "b"}), json!({"pool": "a", "disk": "ssd", "fast": ""}));
        let cache = cluster(&[node("a", a), node("b", b), node("c", c)], &[]);
        let snapshot = cache.snapshot();
        let (enforced, own) = (
            "!node(s) didn't match scheduler-enforced node affinity",
            "!node(s) didn't match Pod's node affinity/selector",
        );
        let any = info(pod("p", json!({}), json!({})));
        assert_eq!(filtered(&plugin, &any, &snapshot), ["", enforced, ""]);
        let picky = info(pod("q", json!({}), json!({"nodeSelector": {"disk": "ssd"}})));
        assert_eq!(filtered(&plugin, &picky, &snapshot), [own, enforced, ""]);
        let score = |name: &str| plugin.score(&CycleState::default(), &any, snapshot.get(name).expect("a node"));
        assert_eq!((score("a"), score("c")), (0, 7));
        let (old, new) = (object(node("n", json!({"pool": "b"}))), object(node("n", json!({"pool": "a"}))));
        assert!(plugin.wakes_on(&Event::NodeUpdated { old: &old, new: &new }, &any));
        assert!(!plugin.wakes_on(&Event::NodeAdded(&old), &any));
    }

    #[test]
    fn a_pod_that_names_its_node_is_tried_on_no_other() {
        let cache = cluster(&[node("a", json!({})), node("b", json!({}))], &[]);
        let snapshot = cache.snapshot();
        let pinned = |names: &[&str]| {
            let fields: Vec<_> =
                names.iter().map(|name| json!({"key": "metadata.name", "operator": "In", "values": [name]})).collect();
            let terms = json!([{"matchFields": fields}]);
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            info(pod("p", json!({}), json!({"affinity": {"nodeAffinity": required}})))
        };
        let tried = |names| NodeAffinity::default().pre_filter(&mut CycleState::default(), &pinned(names), &snapshot);
        assert_eq!(tried(&["b"]), PreFilter::Nodes(["b".to_owned()].into()));
        assert_eq!(tried(&["a", "b"]), PreFilter::UnschedulableAndUnresolvable("pod affinity terms conflict".into()));
    }
}
