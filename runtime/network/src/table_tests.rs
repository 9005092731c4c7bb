//! Services, slices and what the table and the names make of them.

use crate::{
    names::{Known, lookup},
    slices::Protocol,
    table::*,
};
use container::net::PodNetwork;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

pub(crate) fn service(name: &str, spec: Value) -> Service {
    let value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    serde_json::from_value(value).expect("a service")
}

pub(crate) fn slice(ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
    let value = json!({"metadata": {"name": "s", "namespace": "default"}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    Arc::new(serde_json::from_value(value).expect("a slice"))
}

pub(crate) fn name(service: &str) -> Name {
    ("default".into(), service.into())
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Picks `n` times for a client.
fn picks(table: &ServiceTable, to: &str, client: &str, n: usize) -> Vec<String> {
    let Found::Port(port) = table.find(Protocol::Tcp, at(to)) else { return Vec::new() };
    (0..n).filter_map(|_| port.pick(ip(client), Instant::now())).map(|e| e.to_string()).collect()
}

fn web() -> Service {
    service(
        "web",
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    )
}

fn ready(addresses: &[&str]) -> Value {
    addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect()
}

fn http_ports(number: u16) -> Value {
    json!([{"name": "http", "port": number, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}])
}

#[test]
fn ready_endpoints_are_taken_in_turn() {
    let mut table = ServiceTable::default();
    let slices =
        [slice(http_ports(8080), ready(&["10.32.0.2", "10.32.0.3"])), slice(http_ports(9090), ready(&["10.32.0.4"]))];
    table.update(&name("web"), Some((&web(), &slices)));
    let expected = ["10.32.0.2:8080", "10.32.0.3:8080", "10.32.0.4:9090", "10.32.0.2:8080"];
    assert_eq!(
        picks(&table, "10.96.0.7:80", "10.32.0.9", 4),
        expected,
        "slices resolve the named target port, each its own"
    );
    let node_port = table.node_port(Protocol::Tcp, 30080).expect("a node port");
    assert_eq!(node_port.endpoints(false).len(), 3);
    let Found::Port(dns) = table.find(Protocol::Udp, at("10.96.0.7:53")) else { panic!("a UDP port") };
    assert_eq!(dns.endpoints(false)[0], at("10.32.0.2:5353"));
    assert!(matches!(table.find(Protocol::Udp, at("10.96.0.7:80")), Found::NoPort(s) if s == "default/web"));
    assert!(matches!(table.find(Protocol::Tcp, at("10.32.0.2:8080")), Found::Nothing));
}

#[test]
fn readiness_decides() {
    let conditions = |ready: Value, serving: Value, terminating: Value| json!({"addresses": ["10.32.0.2"], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let other = json!({"addresses": ["10.32.0.3"]});
    let not_ready = conditions(json!(false), json!(false), json!(false));
    let ending = conditions(json!(false), json!(true), json!(true));
    for (endpoints, publish, expected) in [
        (json!([not_ready, other]), false, vec!["10.32.0.3:1"]),
        (json!([ending, other]), false, vec!["10.32.0.3:1"]),
        (json!([ending, not_ready]), false, vec!["10.32.0.2:1"]),
        (json!([not_ready]), false, vec![]),
        // that a Service publishes what is not ready is said by its slices: they are ready then
        (json!([not_ready]), true, vec![]),
        (json!([conditions(json!(true), json!(false), json!(false))]), true, vec!["10.32.0.2:1"]),
    ] {
        let mut table = ServiceTable::default();
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 1}], "publishNotReadyAddresses": publish});
        let slices = [slice(json!([{"port": 1}]), endpoints.clone())];
        table.update(&name("s"), Some((&service("s", spec), &slices)));
        assert_eq!(picks(&table, "10.96.0.7:1", "10.32.0.9", 1), expected, "{endpoints}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_ip_affinity_sticks_until_its_time_or_its_endpoint_ends() {
    let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 1}], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    let service = service("s", spec);
    let mut table = ServiceTable::default();
    let both = [slice(json!([{"port": 1}]), ready(&["10.32.0.2", "10.32.0.3"]))];
    table.update(&name("s"), Some((&service, &both)));
    let to = "10.96.0.7:1";
    assert_eq!(picks(&table, to, "10.32.0.8", 3), ["10.32.0.2:1"; 3]);
    assert_eq!(picks(&table, to, "10.32.0.9", 3), ["10.32.0.3:1"; 3]);
    tokio::time::advance(Duration::from_secs(59)).await;
    table.update(&name("s"), Some((&service, &both)));
    assert_eq!(picks(&table, to, "10.32.0.9", 1), ["10.32.0.3:1"], "an update forgets nobody");
    table.update(&name("s"), Some((&service, &[slice(json!([{"port": 1}]), ready(&["10.32.0.2"]))])));
    assert_eq!(picks(&table, to, "10.32.0.9", 1), ["10.32.0.2:1"], "its endpoint is gone");
    table.update(&name("s"), Some((&service, &both)));
    tokio::time::advance(Duration::from_secs(61)).await;
    let mut after: Vec<String> = ["10.32.0.8", "10.32.0.9"].iter().flat_map(|c| picks(&table, to, c, 1)).collect();
    after.sort();
    assert_eq!(after, ["10.32.0.2:1", "10.32.0.3:1"], "after the timeout it is anybody's turn");
}

#[test]
fn updates_move_and_remove_addresses_and_node_ports() {
    let mut table = ServiceTable::default();
    table.update(&name("web"), Some((&web(), &[])));
    assert_eq!(table.node_ports(), [NodePort { protocol: Protocol::Tcp, number: 30080, service: name("web") }]);
    assert!(picks(&table, "10.96.0.7:80", "10.32.0.9", 1).is_empty(), "no endpoints");
    let moved = service(
        "web",
        json!({"clusterIP": "10.96.0.8", "ports": [{"port": 81, "nodePort": 30081}], "externalIPs": ["203.0.113.5"]}),
    );
    table.update(&name("web"), Some((&moved, &[])));
    assert!(matches!(table.find(Protocol::Tcp, at("10.96.0.7:80")), Found::Nothing));
    assert!(matches!(table.find(Protocol::Tcp, at("10.96.0.8:81")), Found::Port(_)));
    assert!(matches!(table.find(Protocol::Tcp, at("203.0.113.5:81")), Found::Port(_)));
    assert!(table.node_port(Protocol::Tcp, 30080).is_none());
    // Another Service takes an address before the first one's deletion is seen.
    let other = service("other", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 81}]}));
    table.update(&name("other"), Some((&other, &[])));
    table.update(&name("web"), None);
    assert!(
        matches!(table.find(Protocol::Tcp, at("10.96.0.8:81")), Found::Port(port) if port.service == "default/other")
    );
    assert!(table.node_ports().is_empty());
    assert!(matches!(table.find(Protocol::Tcp, at("203.0.113.5:81")), Found::Nothing));
}

#[test]
fn names_resolve_as_in_a_pod() {
    let mut table = ServiceTable::default();
    table.update(&name("web"), Some((&web(), &[])));
    let headless = service("db", json!({"clusterIP": "None", "ports": [{"port": 1}]}));
    let endpoints = json!([{"addresses": ["10.32.0.2"], "hostname": "db-0"}, {"addresses": ["10.32.0.3"], "hostname": "db-1"},
        {"addresses": ["10.32.0.4"], "hostname": "db-2", "conditions": {"ready": false}}]);
    table.update(&name("db"), Some((&headless, &[slice(json!([{"port": 1}]), endpoints)])));
    let alias = service("ext", json!({"type": "ExternalName", "externalName": "example.com"}));
    table.update(&name("ext"), Some((&alias, &[])));
    let pod = |namespace: &str| PodNetwork {
        id: "u".into(),
        name: "p".into(),
        namespace: namespace.into(),
        hostname: "p-0".into(),
        address: None,
        host_aliases: vec![(ip("192.0.2.1"), vec!["legacy".into(), "old.example".into()])],
        host_ports: Vec::new(),
        kernel: false,
    };
    let known = |texts: &[&str]| Known::Addresses(texts.iter().map(|t| ip(t)).collect());
    for (namespace, asked, expected) in [
        ("default", "web", known(&["10.96.0.7"])),
        ("default", "WEB", known(&["10.96.0.7"])),
        ("default", "web.default", known(&["10.96.0.7"])),
        ("default", "web.default.svc", known(&["10.96.0.7"])),
        ("default", "web.default.svc.cluster.local", known(&["10.96.0.7"])),
        ("default", "web.default.svc.cluster.local.", known(&["10.96.0.7"])),
        ("other", "web.default", known(&["10.96.0.7"])),
        ("other", "web", Known::Outside("web".into())),
        ("default", "web.", Known::Outside("web".into())),
        ("other", "web.other.svc.cluster.local", Known::Missing),
        ("default", "cluster.local", Known::Missing),
        ("default", "db", known(&["10.32.0.2", "10.32.0.3"])),
        ("default", "db-1.db", known(&["10.32.0.3"])),
        ("default", "db-2.db.default.svc.cluster.local", Known::Missing),
        ("default", "10-32-0-9.default.pod.cluster.local", known(&["10.32.0.9"])),
        ("default", "ext", Known::Alias("example.com".into())),
        ("default", "example.com", Known::Outside("example.com".into())),
        ("default", "notcluster.local", Known::Outside("notcluster.local".into())),
        ("default", "localhost", known(&["127.0.0.1"])),
        ("default", "p-0", known(&["10.32.0.5"])),
        ("default", "legacy", known(&["192.0.2.1"])),
        ("default", "Old.example", known(&["192.0.2.1"])),
        ("default", "192.0.2.8", known(&["192.0.2.8"])),
        ("default", "[2001:db8::1]", known(&["2001:db8::1"])),
        ("default", "", Known::Missing),
        ("default", "a..b", Known::Missing),
    ] {
        assert_eq!(
            lookup(asked, &pod(namespace), ip("10.32.0.5"), "cluster.local", &table),
            expected,
            "{asked} in {namespace}"
        );
    }
    let long = "a".repeat(64);
    assert_eq!(lookup(&long, &pod("default"), ip("10.32.0.5"), "cluster.local", &table), Known::Missing);
}

#[test]
fn policies_and_hints_choose_the_endpoints_of_inside_and_of_the_node_port() {
    let endpoint = |address: &str, node: &str, zone: &str| json!({"addresses": [address], "nodeName": node, "hints": {"forZones": [{"name": zone}]}});
    let endpoints =
        json!([endpoint("10.32.0.2", "n1", "a"), endpoint("10.32.0.3", "n2", "b"), endpoint("10.32.0.4", "n3", "a")]);
    let slices = [slice(json!([{"port": 8080}]), endpoints)];
    let (all, near, here) =
        (vec!["10.32.0.2", "10.32.0.3", "10.32.0.4"], vec!["10.32.0.2", "10.32.0.4"], vec!["10.32.0.2"]);
    for (what, zone, policies, inside, outside) in [
        ("a node of no zone", None, json!({}), &all, &all),
        ("hints", Some("a"), json!({}), &near, &near),
        ("a zone without endpoints", Some("c"), json!({}), &all, &all),
        ("local from outside", Some("a"), json!({"externalTrafficPolicy": "Local"}), &near, &here),
        ("local from inside", Some("a"), json!({"internalTrafficPolicy": "Local"}), &here, &near),
        ("both", None, json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}), &here, &here),
    ] {
        let mut spec =
            json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
        spec.as_object_mut().expect("an object").extend(policies.as_object().expect("an object").clone());
        let mut table = ServiceTable::default();
        table.set_place(crate::Place { node: "n1".into(), zone: zone.map(str::to_owned) });
        table.update(&name("web"), Some((&service("web", spec), &slices)));
        let port = table.node_port(Protocol::Tcp, 30080).expect("a node port");
        let ips = |outside: bool| port.endpoints(outside).iter().map(|a| a.ip().to_string()).collect::<Vec<_>>();
        assert_eq!(
            (&ips(false), &ips(true)),
            (&inside.iter().map(|a| (*a).to_owned()).collect(), &outside.iter().map(|a| (*a).to_owned()).collect()),
            "{what}"
        );
        assert!(
            port.candidates(ip("192.0.2.1"), Instant::now(), true).all(|a| ips(true).contains(&a.ip().to_string()))
        );
    }
}

#[test]
fn a_health_check_port_counts_the_ready_addresses_of_this_node() {
    let of = |address: &str, node: &str, ready: bool| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
    let one = json!([of("10.32.0.2", "n1", true), of("10.32.0.3", "n2", true), of("10.32.0.4", "n1", false)]);
    let again = json!([of("10.32.0.2", "n1", true), of("10.32.0.5", "n1", true)]);
    let slices = [
        slice(http_ports(8080), one),
        slice(http_ports(9090), again),
        slice(json!([]), json!([of("10.32.0.6", "n1", true)])),
    ];
    let balanced = json!({"clusterIP": "10.96.0.7", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    for (what, change, wanted) in [
        ("as it is", json!({}), Some(2)),
        ("without a node port", json!({"ports": [{"name": "http", "port": 80}]}), Some(2)),
        ("policy Cluster", json!({"externalTrafficPolicy": "Cluster"}), None),
        ("type NodePort", json!({"type": "NodePort"}), None),
        ("without a number", json!({"healthCheckNodePort": 0}), None),
    ] {
        let mut spec = balanced.clone();
        spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let mut table = ServiceTable::default();
        table.set_place(crate::Place { node: "n1".into(), zone: None });
        table.update(&name("web"), Some((&service("web", spec), &slices)));
        let wanted = wanted.map(|local| Health { number: 31000, local, asleep: false });
        assert_eq!(table.health(&name("web")), wanted, "{what}");
        let ports = wanted.map(|health| (name("web"), health.number)).into_iter().collect();
        assert_eq!(table.health_ports(), ports, "{what}");
    }
}

#[test]
fn what_another_proxy_serves_has_a_name_and_nothing_else_here() {
    let mut table = ServiceTable::default();
    let mut web = web();
    web.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".to_owned(), "other".to_owned())].into());
    table.update(&name("web"), Some((&web, &[slice(http_ports(8080), ready(&["10.32.0.2"]))])));
    assert_eq!(table.resolve("default", "web", None), Some(Answer::Addresses(vec![ip("10.96.0.7")])));
    assert!(matches!(table.find(Protocol::Tcp, at("10.96.0.7:80")), Found::Nothing));
    assert!(table.node_ports().is_empty());
}

#[test]
fn only_what_was_put_to_zero_while_idle_sleeps() {
    let of = |annotation: Option<&str>, endpoints: Value| {
        let mut slice = (*slice(http_ports(8080), endpoints)).clone();
        slice.metadata.annotations =
            annotation.map(|value| [("sampan.dev/scaled-to-zero".to_owned(), value.to_owned())].into());
        let mut table = ServiceTable::default();
        table.update(&name("web"), Some((&web(), &[Arc::new(slice)])));
        let Found::Port(dns) = table.find(Protocol::Udp, at("10.96.0.7:53")) else { panic!("a UDP port") };
        assert!(!dns.is_asleep(false), "datagrams do not wait");
        table.node_port(Protocol::Tcp, 30080).expect("a node port").is_asleep(true)
    };
    assert!(of(Some("web"), json!([])));
    assert!(of(Some("web"), json!([{"addresses": ["10.32.0.2"], "conditions": {"ready": false}}])), "it starts");
    assert!(!of(Some("web"), ready(&["10.32.0.2"])), "it serves");
    assert!(!of(None, json!([])), "nobody told so");
}
