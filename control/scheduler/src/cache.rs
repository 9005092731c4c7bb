//! The nodes and the pods on them, updated change by change. Pure.

use crate::{
    pod::{PodInfo, node_name, uid},
    snapshot::Snapshot,
    terms::Labels,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::{collections::HashMap, sync::Arc};

/// All nodes with their pods. Assumed pods, whose binding is not observed yet, count like the others, so that no capacity is given twice.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Snapshot,
    /// The node of each pod by uid, and whether the pod is only assumed there.
    places: HashMap<String, (String, bool)>,
    /// The node that each pod is nominated to, by uid.
    nominations: HashMap<String, String>,
}

impl Cache {
    /// The nodes and pods as they are now; later changes do not affect it.
    pub fn snapshot(&self) -> Snapshot {
        self.nodes.clone()
    }

    /// Adds or replaces a node; returns its previous state.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.nodes.set_node(&name, node)
    }

    /// Removes a node; its pods stay until they are removed themselves.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove_node(name);
    }

    /// Sets the labels of a namespace; `None` forgets it.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        self.nodes.set_namespace(name, labels);
    }

    /// Nominates a pod that has no node to one, where it counts for pods of lower priority.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(pod.uid());
        self.nominations.insert(pod.uid().to_owned(), node.to_owned());
        self.nodes.set_nominated(node, |pods| pods.push(pod));
    }

    /// Takes the nomination of a pod back; returns the pod and the node if there was one.
    pub fn withdraw(&mut self, uid: &str) -> Option<(Arc<PodInfo>, String)> {
        let node = self.nominations.remove(uid)?;
        let mut found = None;
        self.nodes.set_nominated(&node, |pods| {
            let index = pods.iter().position(|pod| pod.uid() == uid);
            found = index.map(|index| pods.remove(index));
        });
        found.map(|pod| (pod, node))
    }

    /// The node that a pod is nominated to.
    pub fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominations.get(uid).map(String::as_str)
    }

    /// Adds or updates a bound pod, which confirms or corrects an assumption.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let name = node_name(&pod.pod).to_owned();
        if name.is_empty() {
            return;
        }
        self.place(pod, name, false);
    }

    /// Counts a pod on a node before it is bound there.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node.to_owned(), true);
    }

    /// Forgets an assumed pod; a pod that is known to be bound stays.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// Whether the pod is only assumed.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.places.get(uid).is_some_and(|(_, assumed)| *assumed)
    }

    /// Removes a pod from its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let (name, _) = self.places.remove(uid)?;
        self.nodes.remove_pod(&name, uid)
    }

    /// The last known state of a pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let (name, _) = self.places.get(uid)?;
        self.nodes.info(name)?.pods.get(uid)
    }

    /// Takes the newest state of a known pod that differs in nothing that counts here: else an old one is held in memory for as long as the
    /// pod lives.
    pub fn refresh(&mut self, pod: &Arc<Pod>) {
        let uid = uid(pod);
        if let Some((name, _)) = self.places.get(uid) {
            self.nodes.refresh_pod(name, uid, pod);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, name: String, assumed: bool) {
        let uid = pod.uid().to_owned();
        if self.places.get(&uid).is_some_and(|(n, _)| *n != name) {
            self.remove_pod(&uid);
        }
        self.nodes.add_pod(&name, pod);
        self.places.insert(uid, (name, assumed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeInfo;
    use serde_json::json;

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

    fn cpu(cache: &Cache, name: &str) -> client::fit::resources::Amount {
        cache.snapshot().get(name).map_or(0, |n| n.requested.cpu)
    }

    #[test]
    fn room_is_counted_once_whatever_order_news_arrive_in() {
        let mut nodes = Cache::default();
        nodes.set_pod(pod("early", "a", "1"));
        assert_eq!(nodes.snapshot().count(), 0, "a node that is not known is not offered");
        nodes.set_node(node("a"));
        nodes.set_node(node("b"));
        assert_eq!((cpu(&nodes, "a"), nodes.snapshot().get("a").expect("a").max_pods), (1000, 10));
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
    fn a_pod_that_asks_for_everything_leaves_no_trace() {
        let huge = |uid: &str| {
            let most = json!({"cpu": "9E", "memory": "9E", "ephemeral-storage": "9E", "example.com/gpu": "9E"});
            let container = |name: &str| json!({"name": name, "resources": {"requests": most}});
            let value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": "a",
                "containers": [container("c"), container("d")]}});
            Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
        };
        let mut nodes = Cache::default();
        nodes.set_node(node("a"));
        nodes.set_pod(pod("p", "a", "3"));
        let sums = |nodes: &Cache| {
            let all = nodes.snapshot();
            let info = all.get("a").expect("a");
            (info.requested.cpu, info.requested.memory, info.requested.storage, info.scored)
        };
        let before = sums(&nodes);
        for uid in ["huge", "other", "third"] {
            nodes.set_pod(huge(uid));
        }
        nodes.assume(huge("fourth"), "a");
        nodes.forget("fourth");
        for uid in ["huge", "other", "third"] {
            nodes.remove_pod(uid);
        }
        assert_eq!(sums(&nodes), before);
        assert_eq!(nodes.snapshot().get("a").expect("a").requested.scalar.get("example.com/gpu"), Some(&0));
    }

    #[test]
    fn a_node_that_comes_back_finds_its_pods() {
        let mut nodes = Cache::default();
        for name in ["a", "b", "c"] {
            nodes.set_node(node(name));
        }
        nodes.set_pod(pod("p", "a", "1"));
        nodes.remove_node("a");
        nodes.remove_node("b");
        assert_eq!(nodes.snapshot().iter().map(NodeInfo::name).collect::<Vec<_>>(), ["c"]);
        nodes.set_node(node("a"));
        assert_eq!(cpu(&nodes, "a"), 1000);
        nodes.remove_pod("p");
        nodes.remove_node("a");
        assert!(nodes.snapshot().get("a").is_none() && nodes.snapshot().get("c").is_some());
    }

    /// Where each node's value is in memory.
    fn places(nodes: &Cache) -> Vec<*const NodeInfo> {
        nodes.snapshot().iter().map(std::ptr::from_ref).collect()
    }

    fn copied(before: &[*const NodeInfo], after: &[*const NodeInfo]) -> usize {
        before.iter().zip(after).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn a_cycle_copies_no_node_and_a_snapshot_that_is_kept_costs_what_changes() {
        let mut nodes = Cache::default();
        for i in 0..1000 {
            nodes.set_node(node(&format!("n{i}")));
        }
        let start = places(&nodes);
        for i in 0..100 {
            assert_eq!(nodes.snapshot().count(), 1000);
            nodes.assume(pod(&format!("p{i}"), "", "1"), &format!("n{i}"));
        }
        assert_eq!(copied(&start, &places(&nodes)), 0, "changed in place");
        let kept = nodes.snapshot();
        for i in 0..3 {
            nodes.assume(pod(&format!("q{i}"), "", "1"), "n7");
        }
        assert_eq!(copied(&start, &places(&nodes)), 1, "one node changed, so one was copied, once");
        let used = |snapshot: &Snapshot| snapshot.get("n7").expect("n7").requested.cpu;
        assert_eq!((used(&kept), used(&nodes.snapshot())), (1000, 4000));
        assert!(kept.get("n7").expect("n7").generation < nodes.snapshot().get("n7").expect("n7").generation);
        assert_eq!(nodes.snapshot().get("n8").expect("n8").generation, kept.get("n8").expect("n8").generation);
        nodes.remove_node("n999");
        assert_eq!((kept.count(), nodes.snapshot().count()), (1000, 999));
    }
}
