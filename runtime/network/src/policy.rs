//! Which endpoints of a port take the traffic of this node. Pure.
//!
//! Follows <https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-policies> and "Traffic distribution" there: hints of nodes
//! come first, then hints of zones, each only where all ready endpoints have one and one of them is for this place. Where nothing is ready,
//! endpoints that end and still serve take the traffic.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};
use std::net::SocketAddr;

/// Where this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The name of the node.
    pub node: String,
    /// Its zone, the label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// An endpoint of a port.
pub(crate) struct Candidate<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: &'a Endpoint,
}

fn condition(endpoint: &Endpoint, of: fn(&EndpointConditions) -> Option<bool>) -> Option<bool> {
    endpoint.conditions.as_ref().and_then(of)
}

/// Whether an endpoint is ready: one that says nothing is.
pub(crate) fn is_ready(endpoint: &Endpoint) -> bool {
    condition(endpoint, |c| c.ready).unwrap_or(true)
}

/// Whether an endpoint ends and still serves.
pub(crate) fn is_ending(endpoint: &Endpoint) -> bool {
    condition(endpoint, |c| c.terminating) == Some(true) && condition(endpoint, |c| c.serving) == Some(true)
}

/// Whether an endpoint is of this node.
pub(crate) fn is_here(endpoint: &Endpoint, place: &Place) -> bool {
    !place.node.is_empty() && endpoint.node_name.as_ref() == Some(&place.node)
}

fn nodes(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let hints = endpoint.hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    hints.map(|node| node.name.as_str())
}

fn zones(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let hints = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    hints.map(|zone| zone.name.as_str())
}

/// The addresses of those for which something holds.
fn those(all: &[Candidate<'_>], holds: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddr> {
    all.iter().filter(|one| holds(one.endpoint)).map(|one| one.address).collect()
}

/// Policy `Cluster`: the ready endpoints that are hinted for this place, or all of them.
pub(crate) fn cluster(all: &[Candidate<'_>], place: &Place) -> Vec<SocketAddr> {
    let ready = || all.iter().map(|one| one.endpoint).filter(|endpoint| is_ready(endpoint));
    let here = |node: &str| !place.node.is_empty() && node == place.node;
    let near = |zone: &str| Some(zone) == place.zone.as_deref();
    if ready().next().is_none() {
        return those(all, is_ending);
    }
    if ready().all(|endpoint| nodes(endpoint).next().is_some()) && ready().any(|endpoint| nodes(endpoint).any(here)) {
        return those(all, |endpoint| is_ready(endpoint) && nodes(endpoint).any(here));
    }
    if ready().all(|endpoint| zones(endpoint).next().is_some()) && ready().any(|endpoint| zones(endpoint).any(near)) {
        return those(all, |endpoint| is_ready(endpoint) && zones(endpoint).any(near));
    }
    those(all, is_ready)
}

/// Policy `Local`: the endpoints of this node.
pub(crate) fn local(all: &[Candidate<'_>], place: &Place) -> Vec<SocketAddr> {
    let ready = those(all, |endpoint| is_here(endpoint, place) && is_ready(endpoint));
    if !ready.is_empty() {
        return ready;
    }
    those(all, |endpoint| is_here(endpoint, place) && is_ending(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// An endpoint of a node and zone, with hints for zones and nodes.
    fn of(node: usize, zone: &str, zones: &[&str], nodes: &[&str]) -> Value {
        let named = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        json!({"addresses": ["10.0.0.1"], "nodeName": format!("n{node}"), "zone": zone,
            "conditions": {"ready": true}, "hints": {"forZones": named(zones), "forNodes": named(nodes)}})
    }

    fn with(mut endpoint: Value, ready: bool, serving: bool, terminating: bool) -> Value {
        endpoint["conditions"] = json!({"ready": ready, "serving": serving, "terminating": terminating});
        endpoint
    }

    /// The numbers of the endpoints that are chosen on node n1 in zone a, with policy Cluster and with policy Local.
    fn chosen(endpoints: &[Value]) -> (Vec<u16>, Vec<u16>) {
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|value| serde_json::from_value(value.clone()).expect("an endpoint")).collect();
        let one = |(number, endpoint)| Candidate {
            address: SocketAddr::new([10, 0, 0, 1].into(), u16::try_from(number).expect("few")),
            endpoint,
        };
        let all: Vec<Candidate<'_>> = endpoints.iter().enumerate().map(one).collect();
        let place = Place { node: "n1".into(), zone: Some("a".into()) };
        let ports = |addresses: Vec<SocketAddr>| addresses.iter().map(SocketAddr::port).collect();
        (ports(cluster(&all, &place)), ports(local(&all, &place)))
    }

    #[test]
    fn hints_and_policies_choose_as_kube_proxy_does() {
        let plain = |node: usize| of(node, "a", &[], &[]);
        for (what, endpoints, cluster, local) in [
            ("nothing", vec![], vec![], vec![]),
            ("no hints", vec![plain(1), plain(2)], vec![0, 1], vec![0]),
            ("zones", vec![of(1, "a", &["a"], &[]), of(2, "b", &["b"], &[])], vec![0], vec![0]),
            ("of several zones", vec![of(1, "a", &["b"], &[]), of(2, "b", &["a", "b"], &[])], vec![1], vec![0]),
            ("none for this zone", vec![of(1, "b", &["b"], &[]), of(2, "c", &["c"], &[])], vec![0, 1], vec![0]),
            ("one without", vec![of(1, "a", &["a"], &[]), plain(2)], vec![0, 1], vec![0]),
            ("nodes go first", vec![of(1, "a", &["a"], &["n1"]), of(2, "a", &["a"], &["n2"])], vec![0], vec![0]),
            (
                "none for this node: the zone",
                vec![of(2, "a", &["a"], &["n2"]), of(3, "b", &["b"], &["n3"])],
                vec![0],
                vec![],
            ),
            (
                "one without a node: the zone",
                vec![of(1, "a", &["a"], &["n1"]), of(2, "a", &["a"], &[]), of(3, "b", &["b"], &[])],
                vec![0, 1],
                vec![0],
            ),
            (
                "what is not ready has no say",
                vec![of(1, "a", &["a"], &[]), of(2, "b", &["b"], &[]), with(plain(3), false, false, false)],
                vec![0],
                vec![0],
            ),
            ("one that ends is passed over", vec![with(plain(1), false, true, true), plain(2)], vec![1], vec![0]),
            (
                "all end",
                vec![
                    with(plain(1), false, true, true),
                    with(plain(2), false, true, true),
                    with(plain(3), false, false, true),
                ],
                vec![0, 1],
                vec![0],
            ),
            (
                "hints do not hold for those that end",
                vec![
                    with(of(1, "a", &["a"], &[]), false, true, true),
                    with(of(2, "b", &["b"], &[]), false, true, true),
                ],
                vec![0, 1],
                vec![0],
            ),
            ("nothing here", vec![plain(2), plain(3)], vec![0, 1], vec![]),
        ] {
            assert_eq!(chosen(&endpoints), (cluster, local), "{what}");
        }
    }

    #[test]
    fn an_endpoint_that_says_nothing_is_ready_and_of_no_node() {
        assert_eq!(chosen(&[json!({"addresses": ["10.0.0.1"]})]), (vec![0], vec![]));
    }
}
