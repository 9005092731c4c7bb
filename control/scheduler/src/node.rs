//! The nodes and what their pods use, kept up to date change by change. Pure.

use std::{collections::HashMap, sync::Arc};

use client::fit::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pod::{HostPort, PodInfo, node_name};

/// One node with its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` while pods are known whose node is not.
    pub node: Option<Arc<Node>>,
    /// What it can give.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: usize,
    /// What its pods ask for.
    pub requested: Resources,
    /// CPU and memory that its pods count for in scores.
    pub scored: (i64, i64),
    /// Its pods by uid.
    pub pods: HashMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    /// The node's name; empty while the node is unknown.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or("")
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let pods = allocatable.and_then(|a| a.get("pods")).and_then(|q| api::quantity::Quantity::parse(&q.0).ok());
        self.max_pods = pods.and_then(|q| usize::try_from(q.value()).ok()).unwrap_or(0);
        self.allocatable = Resources::parse(allocatable);
        self.node = Some(node);
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(pod.uid());
        self.requested.add(&pod.requests);
        self.scored = (self.scored.0 + pod.scored.0, self.scored.1 + pod.scored.1);
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.sub(&pod.requests);
        self.scored = (self.scored.0 - pod.scored.0, self.scored.1 - pod.scored.1);
        Some(pod)
    }

    /// Whether a pod on the node holds one of `ports`.
    pub fn has_conflict(&self, ports: &[HostPort]) -> bool {
        let taken = || self.pods.values().flat_map(|p| &p.ports);
        !ports.is_empty() && ports.iter().any(|p| taken().any(|t| t.conflicts(p)))
    }
}

/// All nodes. Pods that were given a node but are not yet seen there (assumed) count like the others, so that no room is given twice.
#[derive(Debug, Default)]
pub struct Nodes {
    infos: Vec<NodeInfo>,
    names: HashMap<String, usize>,
    /// Where each pod is, by uid, and whether that is only assumed.
    places: HashMap<String, (String, bool)>,
}

impl Nodes {
    /// Every known node, in no particular order; those of which only pods are known are left out.
    pub fn iter(&self) -> impl Iterator<Item = &NodeInfo> {
        self.infos.iter().filter(|i| i.node.is_some())
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// One node by name.
    pub fn get(&self, name: &str) -> Option<&NodeInfo> {
        self.names.get(name).map(|i| &self.infos[*i])
    }

    /// Adds or replaces a node; answers what it was before.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.entry(&name);
        let old = info.node.take();
        info.set_node(node);
        old
    }

    /// Forgets a node; its pods stay until they are gone themselves.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(index) = self.names.get(name) {
            self.infos[*index].node = None;
        }
        self.drop_if_unused(name);
    }

    /// Takes a pod that is bound. It confirms an assumption, or corrects it.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(name) = node_name(&pod.pod).map(str::to_owned) else { return };
        self.place(pod, name, false);
    }

    /// Counts a pod on a node before it is bound there.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node.to_owned(), true);
    }

    /// Takes an assumption back; a pod that is known to be bound stays.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// Whether the pod's node is assumed only.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.places.get(uid).is_some_and(|(_, assumed)| *assumed)
    }

    /// Whether the pod holds room on a node.
    pub fn holds(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Frees the room of a pod.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let (name, _) = self.places.remove(uid)?;
        let index = *self.names.get(&name)?;
        let pod = self.infos[index].remove(uid);
        self.drop_if_unused(&name);
        pod
    }

    /// The pod as it was last counted.
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        let (name, _) = self.places.get(uid)?;
        self.get(name)?.pods.get(uid).map(|p| &p.pod)
    }

    fn place(&mut self, pod: Arc<PodInfo>, name: String, assumed: bool) {
        let uid = pod.uid().to_owned();
        if self.places.get(&uid).is_some_and(|(n, _)| *n != name) {
            self.remove_pod(&uid);
        }
        self.entry(&name).add(pod);
        self.places.insert(uid, (name, assumed));
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let index = match self.names.get(name) {
            Some(index) => *index,
            None => {
                self.infos.push(NodeInfo::default());
                self.names.insert(name.to_owned(), self.infos.len() - 1);
                self.infos.len() - 1
            }
        };
        &mut self.infos[index]
    }

    fn drop_if_unused(&mut self, name: &str) {
        let Some(index) = self.names.get(name).copied() else { return };
        if self.infos[index].node.is_some() || !self.infos[index].pods.is_empty() {
            return;
        }
        self.names.remove(name);
        self.infos.swap_remove(index);
        if let Some(moved) = self.names.values_mut().find(|i| **i == self.infos.len()) {
            *moved = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str) -> Arc<Node> {
        let value =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
        Arc::new(serde_json::from_value(value).expect("a node"))
    }

    fn pod(uid: &str, node: &str, cpu: &str) -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn cpu(nodes: &Nodes, name: &str) -> i64 {
        nodes.get(name).map_or(0, |n| n.requested.cpu)
    }

    #[test]
    fn room_is_counted_once_whatever_order_news_arrive_in() {
        let mut nodes = Nodes::default();
        nodes.set_pod(pod("early", "a", "1"));
        assert_eq!(nodes.count(), 0, "a node that is not known is not offered");
        nodes.set_node(node("a"));
        nodes.set_node(node("b"));
        assert_eq!((cpu(&nodes, "a"), nodes.get("a").expect("a").max_pods), (1000, 10));
        nodes.assume(pod("p", "", "2"), "a");
        assert_eq!(cpu(&nodes, "a"), 3000);
        nodes.set_pod(pod("p", "a", "2"));
        assert_eq!(cpu(&nodes, "a"), 3000, "confirmed, not counted twice");
        assert!(!nodes.is_assumed("p"));
        nodes.forget("p");
        assert_eq!(cpu(&nodes, "a"), 3000, "what is bound cannot be forgotten");
        nodes.assume(pod("q", "", "1"), "a");
        nodes.set_pod(pod("q", "b", "1"));
        assert_eq!((cpu(&nodes, "a"), cpu(&nodes, "b")), (3000, 1000), "the truth corrects the assumption");
        nodes.remove_pod("q");
        nodes.assume(pod("r", "", "1"), "b");
        nodes.forget("r");
        assert_eq!(cpu(&nodes, "b"), 0);
    }

    #[test]
    fn a_node_that_comes_back_finds_its_pods() {
        let mut nodes = Nodes::default();
        for name in ["a", "b", "c"] {
            nodes.set_node(node(name));
        }
        nodes.set_pod(pod("p", "a", "1"));
        nodes.remove_node("a");
        nodes.remove_node("b");
        assert_eq!(nodes.iter().map(NodeInfo::name).collect::<Vec<_>>(), ["c"]);
        nodes.set_node(node("a"));
        assert_eq!(cpu(&nodes, "a"), 1000);
        nodes.remove_pod("p");
        nodes.remove_node("a");
        assert!(nodes.get("a").is_none() && nodes.get("c").is_some());
    }

    #[test]
    fn host_ports_conflict_by_number_protocol_and_address() {
        let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
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
