//! Reads the state of an applied object and of the pods that it owns. Pods of other owners with the same labels are ignored.

use super::{
    Node,
    state::{self, Problem, State},
    tcp_node_ports,
};
use crate::{
    port::{self, PortHolder},
    remote::Outcome,
};
use api::selector::Selector;
use client::{Client, Error, Kind, ListOptions};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1::{Node as NodeObject, Pod},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;
use std::{collections::HashSet, net::SocketAddr};

/// The state of a Service whose node ports refuse connections because it has no pods.
pub(super) const NO_PODS: &str = "no pod behind it is ready";

/// The reason of a Service whose node port is used by another process. It recovers when that process ends.
pub(super) const TAKEN: &str = "NodePortUnavailable";

/// An observation of an object.
#[derive(Default)]
pub(super) struct Observation {
    pub(super) state: Option<State>,
    pub(super) problems: Vec<Problem>,
    /// The uids of the object, its dependents, and their pods.
    pub(super) uids: HashSet<String>,
}

impl Observation {
    fn of(state: State) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// The most important problem: a lasting one.
    pub(super) fn worst(&self) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.lasting).or(self.problems.first())
    }

    /// Whether something is missing without a known reason.
    pub(super) fn is_unexplained(&self) -> bool {
        matches!(self.state, Some(State::Waiting(_))) && self.problems.is_empty()
    }
}

/// Reads the state of an object once. A deleted object is not awaited: a finished Job may be removed.
pub(super) async fn observe(client: &Client, outcome: &Outcome, node: Option<Node>, since: Timestamp) -> Observation {
    let found = match outcome.object["kind"].as_str() {
        Some("Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "Pod") => {
            workload(client, &outcome.object, since).await
        }
        Some("Service") => service(client, outcome, node).await,
        _ => Ok(Observation::of(State::Done)),
    };
    match found {
        Ok(found) => found,
        Err(error) if error.is_not_found() => Observation::of(State::Done),
        Err(error) => Observation::of(State::Waiting(error.to_string())),
    }
}

/// A Service is ready once its node ports are open, which requires a ready pod.
async fn service(client: &Client, outcome: &Outcome, node: Option<Node>) -> Result<Observation, Error> {
    let Some(node) = node else { return Ok(Observation::of(State::Done)) };
    let look = node_ports(outcome, node);
    if !matches!(look.state, Some(State::Waiting(_))) || !look.problems.is_empty() {
        return Ok(look);
    }
    let text = |path: &str| outcome.object["metadata"][path].as_str().unwrap_or_default();
    let labels = format!("kubernetes.io/service-name={}", text("name"));
    let options = ListOptions { labels, ..ListOptions::default() };
    let slices = client.list::<EndpointSlice>(text("namespace"), &options).await?.items;
    let mut endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.any(|it| it.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    Ok(if ready { look } else { Observation::of(State::Waiting(NO_PODS.to_owned())) })
}

async fn workload(client: &Client, object: &Value, since: Timestamp) -> Result<Observation, Error> {
    let text = |path: &str| object["metadata"][path].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let selector = Selector::from_label_selector(&object["spec"]["selector"]).map(|selector| selector.to_string());
    let (state, pods, mut uids) = match object["kind"].as_str() {
        Some("Deployment") => {
            let found: Deployment = client.get(namespace, name).await?;
            let selector = selector.map_err(Error::Decode)?;
            let sets = owned::<ReplicaSet>(client, namespace, &selector, &uid(&found.metadata)).await?;
            let mut uids: HashSet<String> = sets.iter().flat_map(|set| uid(&set.metadata)).collect();
            let mut pods = owned::<Pod>(client, namespace, &selector, &uids).await?;
            let state = state::deployment(&found, &pods);
            // Problems of pods of an older template do not matter any more.
            uids = sets.iter().max_by_key(|set| revision(set)).map(|set| uid(&set.metadata)).unwrap_or_default();
            pods.retain(|pod| is_controlled(&pod.metadata, &uids));
            uids.extend(uid(&found.metadata));
            (state, pods, uids)
        }
        Some("ReplicaSet") => {
            let found: ReplicaSet = client.get(namespace, name).await?;
            let uids = uid(&found.metadata);
            let pods = owned::<Pod>(client, namespace, &selector.map_err(Error::Decode)?, &uids).await?;
            (state::replica_set(&found, &pods), pods, uids)
        }
        Some("StatefulSet") => {
            let found: StatefulSet = client.get(namespace, name).await?;
            let uids = uid(&found.metadata);
            let pods = owned::<Pod>(client, namespace, &selector.map_err(Error::Decode)?, &uids).await?;
            (state::stateful_set(&found, &pods), pods, uids)
        }
        Some("DaemonSet") => {
            let found: DaemonSet = client.get(namespace, name).await?;
            let uids = uid(&found.metadata);
            let pods = owned::<Pod>(client, namespace, &selector.map_err(Error::Decode)?, &uids).await?;
            (state::daemon_set(&found, &pods), pods, uids)
        }
        Some("Job") => {
            let found: Job = client.get(namespace, name).await?;
            let uids = uid(&found.metadata);
            let pods = owned::<Pod>(client, namespace, &selector.map_err(Error::Decode)?, &uids).await?;
            (state::job(&found), pods, uids)
        }
        _ => {
            let found: Pod = client.get(namespace, name).await?;
            (state::pod(&found), vec![found], HashSet::new())
        }
    };
    let mut problems: Vec<Problem> = pods.iter().flat_map(|pod| state::problems_since(pod, since)).collect();
    if problems.iter().any(|problem| problem.reason == state::UNSCHEDULED) {
        let nodes = client.list::<NodeObject>("", &ListOptions::default()).await?.items;
        pods.iter().for_each(|pod| state::mark_what_never_fits(&mut problems, pod, &nodes));
    }
    uids.extend(pods.iter().flat_map(|pod| uid(&pod.metadata)));
    Ok(Observation { state: Some(state), problems, uids })
}

/// The revision of a ReplicaSet's template.
fn revision(set: &ReplicaSet) -> u64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get("deployment.kubernetes.io/revision")?.parse().ok()).unwrap_or(0)
}

fn uid(meta: &ObjectMeta) -> HashSet<String> {
    meta.uid.iter().cloned().collect()
}

/// The objects that a selector finds and that one of these uids controls.
async fn owned<K: Kind>(
    client: &Client,
    namespace: &str,
    selector: &str,
    owners: &HashSet<String>,
) -> Result<Vec<K>, Error> {
    let options = ListOptions { labels: selector.to_owned(), ..ListOptions::default() };
    let mut items = client.list::<K>(namespace, &options).await?.items;
    items.retain(|item| is_controlled(item.metadata(), owners));
    Ok(items)
}

fn is_controlled(meta: &ObjectMeta, owners: &HashSet<String>) -> bool {
    client::meta::controller_of(meta).is_some_and(|owner| owners.contains(&owner.uid))
}

/// Whether the cluster's process listens on a Service's node ports: a connection could reach another process.
fn node_ports(outcome: &Outcome, node: Node) -> Observation {
    let mut waiting = None;
    let mut problems = Vec::new();
    for number in tcp_node_ports(&outcome.object) {
        match port::holder(SocketAddr::new(node.address, number), node.pid) {
            PortHolder::Expected => continue,
            PortHolder::Other(who) => problems.push(Problem {
                object: outcome.label.clone(),
                reason: TAKEN.to_owned(),
                message: taken(number, &outcome.label, &who, node),
                lasting: true,
                old: false,
                output: None,
            }),
            PortHolder::Nobody => {}
        }
        waiting.get_or_insert_with(|| State::Waiting(format!("node port {number} is not open")));
    }
    Observation { state: Some(waiting.unwrap_or(State::Done)), problems, uids: HashSet::new() }
}

/// The process that occupies a node port, and how to resolve that.
fn taken(number: u16, label: &str, who: &str, node: Node) -> String {
    // It belongs to another cluster: on loopback, each cluster can have its own address.
    let hint = match who.contains("(sampan)") && node.address.is_loopback() {
        true => "; give one of the two clusters an address of its own: --node-address 127.0.0.2",
        false => "",
    };
    format!("node port {number} of {label} is taken by {who}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(object: Value) -> Outcome {
        Outcome { label: "service/hello".into(), verb: "created", object }
    }

    #[test]
    fn a_node_port_counts_only_if_the_clusters_process_has_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("free");
        let address = listener.local_addr().expect("bound");
        let node = |pid| Node { address: address.ip(), pid };
        let service = outcome(json!({"kind": "Service", "spec": {"ports": [
            {"port": 80, "nodePort": address.port(), "protocol": "TCP"},
            {"port": 53, "nodePort": 1, "protocol": "UDP"}]}}));
        assert_eq!(node_ports(&service, node(std::process::id())).state, Some(State::Done));
        let other = node_ports(&service, node(u32::MAX));
        assert!(other.problems[0].message.contains("is taken by process "), "{:?}", other.problems);
        drop(listener);
        let closed = node_ports(&service, node(std::process::id()));
        let want = State::Waiting(format!("node port {} is not open", address.port()));
        assert_eq!((closed.state, closed.problems), (Some(want), Vec::new()));
    }

    #[test]
    fn a_port_of_another_cluster_is_told_with_the_way_out() {
        let node = |address: &str| Node { address: address.parse().expect("an address"), pid: 1 };
        let hint = "--node-address 127.0.0.2";
        assert!(taken(30080, "service/a", "process 7 (sampan)", node("127.0.0.1")).ends_with(hint));
        assert!(!taken(30080, "service/a", "process 7 (nginx)", node("127.0.0.1")).contains(hint));
        assert!(!taken(30080, "service/a", "process 7 (sampan)", node("192.0.2.1")).contains(hint));
    }

    #[test]
    fn pods_are_those_that_are_owned_not_those_with_the_same_labels() {
        let owners = HashSet::from(["mine".to_owned()]);
        let meta = |uid: &str, controller: bool| ObjectMeta {
            owner_references: Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                uid: uid.to_owned(),
                controller: Some(controller),
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert!(is_controlled(&meta("mine", true), &owners));
        assert!(!is_controlled(&meta("other", true), &owners) && !is_controlled(&meta("mine", false), &owners));
        assert!(!is_controlled(&ObjectMeta::default(), &owners));
    }
}
