//! What tests of plugins build clusters from.

use crate::{
    CycleState, Plugins, Snapshot,
    cache::Cache,
    cycle::{Decision, schedule},
    node::NodeInfo,
    plugin::{MAX_SCORE, Plugin, PreFilter, PreScore},
    pod::PodInfo,
    search::Search,
    status::Status,
};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use std::sync::Arc;

/// A node with labels; its host name is its name.
pub(crate) fn node(name: &str, labels: Value) -> Value {
    let mut all = json!({"kubernetes.io/hostname": name});
    for (key, value) in labels.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": name, "labels": all},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}

/// A pod with labels and parts of a spec, in namespace d.
pub(crate) fn pod(name: &str, labels: Value, spec: Value) -> Value {
    let mut value = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}});
    for (key, part) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = part.clone();
    }
    value
}

/// The same pod in another namespace.
pub(crate) fn within(namespace: &str, mut pod: Value) -> Value {
    pod["metadata"]["namespace"] = namespace.into();
    pod
}

pub(crate) fn info(pod: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
}

pub(crate) fn object(node: Value) -> Arc<Node> {
    Arc::new(serde_json::from_value(node).expect("a node"))
}

/// A cluster of nodes, and pods on them by the names of nodes.
pub(crate) fn cluster(nodes: &[Value], pods: &[(&str, Value)]) -> Cache {
    let mut cache = Cache::default();
    nodes.iter().for_each(|node| drop(cache.set_node(object(node.clone()))));
    pods.iter().for_each(|(node, pod)| put(&mut cache, node, pod.clone()));
    cache
}

/// Puts a pod on a node.
pub(crate) fn put(cache: &mut Cache, node: &str, pod: Value) {
    cache.assume(info(pod), node);
}

/// What the filter of a plugin says of each node, by name: nothing where the pod fits, `!` before what pods that go do not change.
pub(crate) fn filtered(plugin: &dyn Plugin, pod: &PodInfo, snapshot: &Snapshot) -> Vec<String> {
    let mut state = CycleState::default();
    let skips = plugin.pre_filter(&mut state, pod, snapshot) == PreFilter::Skip;
    sorted(snapshot)
        .into_iter()
        .map(|node| match plugin.filter(&state, pod, node) {
            _ if skips => String::new(),
            Status::Success => String::new(),
            Status::Unschedulable(why) => why.all().join(", "),
            Status::UnschedulableAndUnresolvable(why) => format!("!{}", why.all().join(", ")),
        })
        .collect()
}

/// The normalized scores of a plugin, by the names of nodes; `None` if it skips.
pub(crate) fn scored(plugin: &dyn Plugin, pod: &PodInfo, snapshot: &Snapshot) -> Option<Vec<i64>> {
    let mut state = CycleState::default();
    let nodes = sorted(snapshot);
    if plugin.pre_score(&mut state, pod, &nodes, snapshot) == PreScore::Skip {
        return None;
    }
    let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(&state, pod, node)).collect();
    plugin.normalize_score(&state, pod, &nodes, &mut scores);
    assert!(scores.iter().all(|score| (0..=MAX_SCORE).contains(score)), "{scores:?}");
    Some(scores)
}

fn sorted(snapshot: &Snapshot) -> Vec<&NodeInfo> {
    let mut nodes: Vec<&NodeInfo> = snapshot.iter().collect();
    nodes.sort_by_key(|node| node.name().to_owned());
    nodes
}

/// One cycle.
pub(crate) fn decide(plugins: &Plugins, cache: &Cache, pod: &PodInfo) -> (Decision, CycleState) {
    let mut state = CycleState::default();
    let (mut search, mut chance) = (Search::default(), fastrand::Rng::with_seed(1));
    (schedule(&mut state, pod, &cache.snapshot(), plugins, &mut search, &mut chance), state)
}
