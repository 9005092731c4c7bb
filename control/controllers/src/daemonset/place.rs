//! Which nodes a DaemonSet's pods belong on, and what binds a pod to its node. Pure.

use crate::{history::POD_REVISION, meta, pods};
use client::fit::{affinity::Required, tolerates};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        PodTemplateSpec, Taint, Toleration,
    },
};

/// The field by which a pod is bound to its node.
const NODE_NAME: &str = "metadata.name";

/// Whether a node runs a pod of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod belongs there.
    Runs,
    /// None is started there, but one that runs stays: the node is unschedulable.
    Stays,
    /// A pod that runs there goes.
    No,
}

/// The conditions of a node that a daemon pod does not mind, with the effect of their taints.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The tolerations of the set's pods.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let network = (spec.host_network == Some(true)).then_some(network);
    let own = |(key, effect): (&str, &str)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for wanted in TOLERATED.iter().copied().chain(network).map(own) {
        if !all.contains(&wanted) {
            all.push(wanted);
        }
    }
    all
}

/// What becomes of the set's pod on a node.
pub(super) fn place(set: &DaemonSet, node: &Node) -> Place {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else { return Place::No };
    let name = meta::name(&node.metadata);
    let other = spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name);
    if other || !Required::of(spec).matches(node) {
        return Place::No;
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let refused = |taint: &&Taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint));
    let refusing: Vec<_> = taints.iter().filter(refused).map(|taint| taint.effect.as_str()).collect();
    match refusing {
        effects if effects.contains(&"NoExecute") => Place::No,
        effects if effects.contains(&"NoSchedule") => Place::Stays,
        _ => Place::Runs,
    }
}

/// A new pod of the set for a node. It replaces the required affinity of the template, which the controller has considered.
pub(super) fn pod(set: &DaemonSet, template: &PodTemplateSpec, revision: &str, node: &str) -> Pod {
    let (namespace, name) = (meta::namespace(&set.metadata), meta::name(&set.metadata));
    let mut pod = pods::from_template(namespace, name, template, meta::controller_ref(set));
    pod.metadata.labels.get_or_insert_default().insert(POD_REVISION.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let only = NodeSelectorRequirement {
        key: NODE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

/// The node that a pod runs on or is made for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let name = pods::node_name(pod);
    if !name.is_empty() {
        return Some(name);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == NODE_NAME && field.operator == "In").find_map(|field| {
        match field.values.as_deref() {
            Some([node]) => Some(node.as_str()),
            _ => None,
        }
    })
}
