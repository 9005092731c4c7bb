//! Which changes may make a pod fit that its constraints kept from all nodes. Pure.

use crate::{pod::PodInfo, terms::Constraint};
use k8s_openapi::api::core::v1::Node;

/// Whether a pod of a node that came or went helps `pod`.
pub(super) fn pod_helps(constraints: &[Constraint], pod: &PodInfo, other: &PodInfo) -> bool {
    other.namespace() == pod.namespace() && constraints.iter().any(|c| c.selects(other.labels()))
}

/// Whether a changed node helps.
pub(super) fn node_helps(constraints: &[Constraint], old: &Node, new: &Node) -> bool {
    fn value<'a>(node: &'a Node, constraint: &Constraint) -> Option<&'a String> {
        node.metadata.labels.as_ref()?.get(&constraint.topology_key)
    }
    let all = |node: &Node| constraints.iter().all(|c| value(node, c).is_some());
    let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let moved = || constraints.iter().any(|c| value(old, c) != value(new, c));
    all(old) != all(new) || (all(new) && (moved() || taints(old) != taints(new)))
}
