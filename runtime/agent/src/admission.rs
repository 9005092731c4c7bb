//! Decides whether the node admits a pod that was bound to it. The binding may be wrong or based on stale data. A rejected pod fails, and
//! its controller creates another. Pure.
//!
//! Upstream's kubelet checks the scheduler's filters. This module checks NodePorts, NodeResourcesFit and NodeAffinity. Admitted pods are never checked
//! again. See <https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>.

use crate::{pod, state::Failure};
use client::fit::{
    affinity::Required,
    ports::{HostPort, host_ports},
    resources::{Amount, Resources, requests},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::{collections::HashMap, sync::Arc};

/// The node's allocatable resources, and the requests of the admitted pods.
#[derive(Clone, Debug)]
pub struct AdmittedPods {
    capacity: Resources,
    max_pods: usize,
    used: Resources,
    requests: HashMap<Arc<str>, Resources>,
    /// Of pods that have some.
    ports: HashMap<Arc<str>, Vec<HostPort>>,
}

/// Why a pod is rejected. Reason and message are upstream's, and those of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Such as `OutOfcpu` or `NodeAffinity`.
    pub reason: String,
    /// The message of the event.
    pub message: String,
}

impl Rejection {
    /// The failure for the pod's status.
    pub fn failure(&self) -> Failure {
        let message = format!("Pod was rejected: {}", self.message);
        Failure { reason: self.reason.clone(), message, rejected: true, pressure: false }
    }
}

impl AdmittedPods {
    /// Creates the table of a node without pods. `capacity` is what the node's pods may request together.
    pub fn new(capacity: Resources, max_pods: u32) -> Self {
        let max_pods = usize::try_from(max_pods).unwrap_or(usize::MAX);
        Self { capacity, max_pods, used: Resources::default(), requests: HashMap::new(), ports: HashMap::new() }
    }

    /// Admits a pod if its requests fit, and its host ports are free.
    ///
    /// # Errors
    /// A resource does not suffice, or a port is another pod's.
    pub fn admit(&mut self, pod: &Pod) -> Result<(), Rejection> {
        let ports = host_ports(pod);
        let is_taken = |port: &HostPort| self.ports.values().flatten().any(|taken| taken.conflicts(port));
        if ports.iter().any(is_taken) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection { reason: "NodePorts".into(), message: message.into() });
        }
        let requested = requests(pod::spec(pod));
        match self.insufficient(&requested) {
            None => {
                self.insert(pod, requested);
                Ok(())
            }
            Some((resource, requested, used, capacity)) => Err(Rejection {
                reason: format!("OutOf{resource}"),
                message: insufficient(resource, requested, used, capacity),
            }),
        }
    }

    /// Gives an admitted pod the resources of its spec, if they fit beside the others. The API refuses what exceeds all that the node has.
    ///
    /// # Errors
    /// A resource does not suffice: the message of the condition, in upstream's words. The pod keeps what it was given.
    pub fn resize(&mut self, pod: &Pod) -> Result<(), String> {
        let requested = requests(pod::spec(pod));
        let own = self.requests.remove(pod::uid(pod)).unwrap_or_default();
        self.used.sub(&own);
        let refusal = self
            .insufficient(&requested)
            .map(|(resource, requested, used, capacity)| insufficient(resource, requested, used, capacity));
        self.insert(pod, if refusal.is_some() { own } else { requested });
        refusal.map_or(Ok(()), Err)
    }

    /// Adds a pod that was admitted before, whether it fits or not.
    pub fn add(&mut self, pod: &Pod) {
        self.insert(pod, requests(pod::spec(pod)));
    }

    /// Releases the requests of a pod that ended or was deleted. Idempotent.
    pub fn remove(&mut self, uid: &str) {
        self.ports.remove(uid);
        if let Some(share) = self.requests.remove(uid) {
            self.used.sub(&share);
        }
    }

    fn insert(&mut self, pod: &Pod, share: Resources) {
        self.remove(pod::uid(pod));
        self.used.add(&share);
        self.requests.insert(pod::uid(pod).into(), share);
        let ports = host_ports(pod);
        if !ports.is_empty() {
            self.ports.insert(pod::uid(pod).into(), ports);
        }
    }

    /// The first insufficient resource: its name, and the requested, used and available amounts.
    fn insufficient<'a>(&self, requested: &'a Resources) -> Option<(&'a str, Amount, Amount, Amount)> {
        let count = |n: usize| Amount::try_from(n).unwrap_or(Amount::MAX);
        let (taken, max_pods) = (count(self.requests.len()), count(self.max_pods));
        let (used, has) = (&self.used, &self.capacity);
        let of = |all: &Resources, name: &str| all.scalar.get(name).copied().unwrap_or(0);
        let named = [
            ("pods", 1, taken, max_pods),
            ("cpu", requested.cpu, used.cpu, has.cpu),
            ("memory", requested.memory, used.memory, has.memory),
            ("ephemeral-storage", requested.storage, used.storage, has.storage),
        ];
        // The kubelet ignores extended resources that the node does not have.
        let own = requested.scalar.iter().filter(|(name, _)| !name.contains('/') || has.scalar.contains_key(*name));
        let scalar = own.map(|(name, amount)| (name.as_str(), *amount, of(used, name), of(has, name)));
        named.into_iter().chain(scalar).find(|(_, requested, used, has)| *requested > 0 && *requested > has - used)
    }
}

fn insufficient(resource: &str, requested: Amount, used: Amount, capacity: Amount) -> String {
    format!("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}")
}

/// Checks that the node matches the pod's node selector and required node affinity.
///
/// # Errors
/// It does not match.
pub fn check_node_affinity(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    if Required::of(pod::spec(pod)).matches(node) {
        return Ok(());
    }
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned();
    Err(Rejection { reason: "NodeAffinity".to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, requests: Value) -> Pod {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": spec})).unwrap()
    }

    fn admitted(max_pods: u32) -> AdmittedPods {
        let capacity = Resources { cpu: 4000, memory: 1 << 30, storage: 1 << 30, ..Resources::default() };
        AdmittedPods::new(capacity, max_pods)
    }

    #[test]
    fn a_host_port_is_given_once() {
        let pod = |name: &str, ip: &str, protocol: &str| -> Pod {
            let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol});
            let spec = json!({"containers": [{"name": "c", "ports": [port]}]});
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": spec})).unwrap()
        };
        let mut admitted = admitted(10);
        admitted.admit(&pod("a", "127.0.0.1", "TCP")).unwrap();
        admitted.admit(&pod("b", "127.0.0.2", "TCP")).unwrap();
        admitted.admit(&pod("c", "", "UDP")).unwrap();
        let rejection = admitted.admit(&pod("d", "", "TCP")).unwrap_err();
        assert_eq!(rejection.reason, "NodePorts");
        let failure = rejection.failure().message;
        let said =
            "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        assert_eq!(failure, said);
        admitted.remove("a");
        admitted.remove("b");
        admitted.admit(&pod("d", "", "TCP")).unwrap();
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_upstreams_words() {
        let mut admitted = admitted(2);
        admitted.admit(&pod("a", json!({"cpu": "3", "memory": "512Mi"}))).unwrap();
        for (requests, reason, numbers) in [
            (json!({"cpu": "1001m", "memory": "1Gi"}), "OutOfcpu", "cpu, requested: 1001, used: 3000, capacity: 4000"),
            (
                json!({"memory": "513Mi"}),
                "OutOfmemory",
                "memory, requested: 537919488, used: 536870912, capacity: 1073741824",
            ),
            (
                json!({"ephemeral-storage": "2Gi"}),
                "OutOfephemeral-storage",
                "ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824",
            ),
            (
                json!({"hugepages-2Mi": "2Mi"}),
                "OutOfhugepages-2Mi",
                "hugepages-2Mi, requested: 2097152, used: 0, capacity: 0",
            ),
        ] {
            let rejection = admitted.admit(&pod("b", requests)).unwrap_err();
            assert_eq!(rejection.reason, reason);
            assert_eq!(rejection.message, format!("Node didn't have enough resource: {numbers}"));
            let failure = rejection.failure();
            assert_eq!(failure.message, format!("Pod was rejected: Node didn't have enough resource: {numbers}"));
        }
        admitted.admit(&pod("b", json!({"cpu": "1", "memory": "512Mi", "example.com/gpu": "1"}))).unwrap();
        let rejection = admitted.admit(&pod("c", json!({"cpu": "1"}))).unwrap_err();
        assert_eq!(rejection.reason, "OutOfpods", "the number of pods is looked at first");
        assert_eq!(rejection.message, "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2");
    }

    #[test]
    fn a_share_is_given_back_once_and_kept_pods_count() {
        let mut admitted = admitted(9);
        admitted.add(&pod("a", json!({"cpu": "6"})));
        assert!(admitted.admit(&pod("b", json!({"cpu": "1m"}))).is_err(), "too full, and yet nobody leaves");
        admitted.admit(&pod("c", json!({}))).expect("asks for nothing");
        admitted.remove("a");
        admitted.remove("a");
        admitted.remove("unknown");
        admitted.admit(&pod("b", json!({"cpu": "4"}))).unwrap();
        assert!(admitted.admit(&pod("d", json!({"cpu": "1m"}))).is_err());
    }

    #[test]
    fn a_pod_is_resized_if_it_fits_beside_the_others() {
        let mut admitted = admitted(2);
        admitted.admit(&pod("a", json!({"cpu": "1"}))).unwrap();
        admitted.admit(&pod("b", json!({"cpu": "2"}))).unwrap();
        let told = |admitted: &mut AdmittedPods, cpu: &str| admitted.resize(&pod("a", json!({"cpu": cpu})));
        let text = "Node didn't have enough resource: cpu, requested: 2001, used: 2000, capacity: 4000";
        assert_eq!(told(&mut admitted, "2001m"), Err(text.to_owned()));
        assert_eq!(admitted.used.cpu, 3000, "it keeps what it has");
        assert_eq!(told(&mut admitted, "2"), Ok(()));
        assert_eq!((admitted.used.cpu, admitted.requests.len()), (4000, 2));
        admitted.remove("b");
        assert_eq!(told(&mut admitted, "4"), Ok(()));
        assert_eq!(told(&mut admitted, "1m"), Ok(()));
        admitted.remove("a");
        assert_eq!(admitted.used, Resources::default());
    }

    #[test]
    fn a_pod_that_asks_for_everything_leaves_no_trace() {
        let huge = json!({"cpu": "9E", "memory": "9E", "ephemeral-storage": "9E", "hugepages-2Mi": "9E"});
        let mut admitted = admitted(9);
        admitted.admit(&pod("a", json!({"cpu": "3", "memory": "512Mi"}))).unwrap();
        let rejection = admitted.admit(&pod("huge", huge.clone())).unwrap_err();
        assert_eq!(rejection.reason, "OutOfcpu");
        admitted.add(&pod("huge", huge.clone()));
        admitted.add(&pod("other", huge));
        admitted.remove("huge");
        admitted.remove("other");
        let rejection = admitted.admit(&pod("b", json!({"memory": "513Mi"}))).unwrap_err();
        assert!(rejection.message.contains("used: 536870912"), "{}", rejection.message);
        admitted.admit(&pod("b", json!({"memory": "512Mi"}))).unwrap();
    }

    #[test]
    fn selectors_and_affinity_must_match_the_node() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}})).unwrap();
        let affinity = |value: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}]}}}})
        };
        for (spec, suitable) in [
            (json!({}), true),
            (json!({"nodeSelector": {"disk": "ssd"}}), true),
            (json!({"nodeSelector": {"disk": "hdd"}}), false),
            (affinity("ssd"), true),
            (affinity("hdd"), false),
        ] {
            let mut pod = pod("p", json!({}));
            let mut whole = serde_json::to_value(&pod.spec).unwrap();
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            pod.spec = serde_json::from_value(whole).unwrap();
            assert_eq!(check_node_affinity(&pod, &node).is_ok(), suitable, "{spec}");
        }
    }
}
