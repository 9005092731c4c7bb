//! A node and what its pods use. Pure.

use crate::pod::PodInfo;
use client::fit::{
    ports::HostPort,
    resources::{Amount, Resources},
};
use k8s_openapi::api::core::v1::Node;
use std::{collections::HashMap, sync::Arc};

/// One node with its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` while only pods of it are known.
    pub node: Option<Arc<Node>>,
    /// Its allocatable resources.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub max_pods: usize,
    /// The requests of its pods.
    pub requested: Resources,
    /// CPU and memory of its pods in scores.
    pub scored: (Amount, Amount),
    /// Its pods by uid.
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Its place among the nodes: a small number that no other node has at the same time.
    pub slot: usize,
    /// The images that it reports, by name, with their sizes in bytes.
    pub images: Arc<HashMap<String, i64>>,
    /// Grows with each change of any node: an equal number means an equal value, so that plugins may cache per node.
    pub generation: u64,
}

impl NodeInfo {
    /// The node's name; empty while the node is unknown.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or("")
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let pods = allocatable.and_then(|a| a.get("pods")).and_then(|q| api::quantity::Quantity::parse(&q.0).ok());
        self.max_pods = pods.and_then(|q| usize::try_from(q.value()).ok()).unwrap_or(0);
        self.allocatable = Resources::parse(allocatable);
        self.node = Some(node);
    }

    /// Takes the images that the node reports; returns those before.
    pub(crate) fn set_images(&mut self) -> Arc<HashMap<String, i64>> {
        let reported = self.node.as_ref().and_then(|n| n.status.as_ref()).and_then(|s| s.images.as_ref());
        let mut images = HashMap::new();
        for image in reported.into_iter().flatten() {
            let size = image.size_bytes.unwrap_or(0);
            images.extend(image.names.iter().flatten().map(|name| (name.clone(), size)));
        }
        std::mem::replace(&mut self.images, Arc::new(images))
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Adds a pod; returns its previous state.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let old = self.remove(pod.uid());
        self.requested.add(&pod.requests);
        self.scored = (self.scored.0 + pod.scored.0, self.scored.1 + pod.scored.1);
        self.pods.insert(pod.key.clone(), pod);
        old
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.sub(&pod.requests);
        self.scored = (self.scored.0 - pod.scored.0, self.scored.1 - pod.scored.1);
        Some(pod)
    }

    /// Whether a pod on the node uses one of `ports`.
    pub fn has_conflict(&self, ports: &[HostPort]) -> bool {
        let taken = || self.pods.values().flat_map(|p| &p.ports);
        !ports.is_empty() && ports.iter().any(|p| taken().any(|t| t.conflicts(p)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_conflict_by_number_protocol_and_address() {
        let port =
            |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port, target: 1 };
        for (a, b, expected) in [
            (port("", "TCP", 80), port("", "TCP", 80), true),
            (port("", "TCP", 80), port("", "UDP", 80), false),
            (port("", "TCP", 80), port("", "TCP", 81), false),
            (port("127.0.0.1", "TCP", 80), port("0.0.0.0", "TCP", 80), true),
            (port("127.0.0.1", "TCP", 80), port("127.0.0.2", "TCP", 80), false),
        ] {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
        }
    }
}
