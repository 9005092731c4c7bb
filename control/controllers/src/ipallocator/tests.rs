//! What is repaired, as tables.

use super::{address::*, service::*, *};
use jiff::Timestamp;
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"namespace": "ns", "name": name, "creationTimestamp": "2026-01-01T00:00:10Z"}, "spec": spec});
    Arc::new(serde_json::from_value(object).expect("a Service"))
}

fn web(ips: &[&str]) -> Arc<Service> {
    service("web", json!({"type": "ClusterIP", "clusterIPs": ips}))
}

fn range() -> Vec<Arc<ServiceCIDR>> {
    let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
    vec![Arc::new(serde_json::from_value(object).expect("a ServiceCIDR"))]
}

fn ip_address(ip: &str, labels: Value, parent: Value, created: &str) -> Arc<IPAddress> {
    let object = json!({"metadata": {"name": ip, "labels": labels, "creationTimestamp": created}, "spec": {"parentRef": parent}});
    Arc::new(serde_json::from_value(object).expect("an IPAddress"))
}

fn labels() -> Value {
    json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
}

fn named(name: &str) -> Value {
    json!({"resource": "services", "namespace": "ns", "name": name})
}

const OLD: &str = "2026-01-01T00:00:00Z";

/// Reason and message, whether it is deleted first, and whether it is created.
fn found(service: &Service, address: Option<Arc<IPAddress>>, owner: Option<Arc<Service>>) -> Vec<(String, bool, bool)> {
    let facts: Vec<Fact> = cluster_ips(service)
        .map(|ip| Fact { ip: ip.parse().ok(), address: address.clone(), owner: owner.clone() })
        .collect();
    let shown = |step: Step| {
        let told = step.told.map(|told| format!("{}: {}", told.reason, told.message)).unwrap_or_default();
        (told, step.replaced.is_some(), step.create.is_some())
    };
    steps(service, &range(), &facts).into_iter().map(shown).collect()
}

#[test]
fn each_cluster_ip_gets_an_ip_address_that_names_its_service() {
    let own = |labels: Value| Some(ip_address("10.0.0.5", labels, named("web"), OLD));
    let with = |parent: Value| Some(ip_address("10.0.0.5", labels(), parent, OLD));
    let wrong =
        "ClusterIPNotAllocated: the ClusterIP [IPv4]: 10.0.0.5 for Service ns/web has a wrong reference; repairing";
    let twice = "ClusterIPAlreadyAllocated: Cluster IP [IPv4]:10.0.0.5 was assigned to multiple services; please recreate service";
    for (ip, address, owner, expected) in [
        ("10.0.0.5", own(labels()), None, None),
        (
            "10.0.0.5",
            None,
            None,
            Some(("ClusterIPNotAllocated: Cluster IP [IPv4]: 10.0.0.5 is not allocated; repairing", false, true)),
        ),
        ("None", None, None, None),
        (
            "10.0.1.5",
            None,
            None,
            Some((
                "ClusterIPOutOfRange: Cluster IP [IPv4]: 10.0.1.5 is not within any configured Service CIDR; please recreate service",
                false,
                false,
            )),
        ),
        (
            "x",
            None,
            None,
            Some(("ClusterIPNotValid: Cluster IP <nil> is not a valid IP; please recreate Service", false, false)),
        ),
        ("10.0.0.5", with(json!({"group": "g", "resource": "gateways", "name": "x"})), None, Some((wrong, true, true))),
        ("10.0.0.5", with(named("gone")), None, Some((wrong, true, true))),
        (
            "10.0.0.5",
            with(named("other")),
            Some(service("other", json!({"clusterIPs": ["10.0.0.6"]}))),
            Some((wrong, true, true)),
        ),
        (
            "10.0.0.5",
            with(named("other")),
            Some(service("other", json!({"clusterIPs": ["10.0.0.5"]}))),
            Some((twice, false, false)),
        ),
        ("10.0.0.5", own(json!({})), None, Some(("", true, true))),
        (
            "10.0.0.5",
            own(json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})),
            None,
            Some(("", true, true)),
        ),
    ] {
        let expected: Vec<_> =
            expected.map(|(told, delete, create)| (told.to_owned(), delete, create)).into_iter().collect();
        assert_eq!(found(&web(&[ip]), address, owner), expected, "{ip}");
    }
    let external = service("web", json!({"type": "ExternalName", "clusterIPs": ["10.0.0.5"]}));
    assert_eq!(found(&external, None, None), []);
    let made = of_service("10.0.0.5".parse().expect("an address"), &web(&["10.0.0.5"]));
    assert_eq!(found(&web(&["10.0.0.5"]), Some(Arc::new(made)), None), [], "what is created is right");
}

#[test]
fn an_ip_address_without_its_service_goes_after_a_while() {
    let by_us = |parent: Value, created: &str| ip_address("10.0.0.5", labels(), parent, created);
    let told = |reason: &'static str, message: &str| Verdict::Delete(Told { reason, message: message.to_owned() });
    let leaked =
        told("IPAddressNotAllocated", "IPAddress: 10.0.0.5 for Service ns/web appears to have leaked: cleaning up");
    let wrong =
        told("IPAddressWrongReference", "IPAddress: 10.0.0.5 for Service ns/web has a wrong reference; cleaning up");
    let modified = told(
        "IPAddressNotAllocated",
        "IPAddress 10.0.0.5 appears to have been modified, not referencing a Service &ParentReference{Group:g,Resource:r,Namespace:,Name:n,}: cleaning up",
    );
    let external = service("web", json!({"type": "ExternalName"}));
    let now: Timestamp = "2026-01-01T00:01:12Z".parse().expect("a time");
    let later = |seconds| Verdict::Later(Duration::from_secs(seconds));
    for (address, service, expected) in [
        (ip_address("10.0.0.5", json!({}), json!({"resource": "x", "name": "y"}), OLD), None, Verdict::Keep),
        (by_us(json!({"group": "g", "resource": "r", "name": "n"}), OLD), None, modified),
        (by_us(named("web"), OLD), None, leaked),
        (by_us(named("web"), "2026-01-01T00:01:02Z"), None, later(50)),
        (by_us(named("web"), OLD), Some(web(&["10.0.0.5"])), Verdict::Keep),
        (by_us(named("web"), "2026-01-01T00:01:09Z"), Some(web(&["10.0.0.6"])), later(2)),
        (by_us(named("web"), "2026-01-01T00:01:09Z"), Some(external.clone()), later(57)),
        (
            by_us(named("web"), OLD),
            Some(external),
            told(
                "IPAddressWrongReference",
                "IPAddress: 10.0.0.5 for Service ns/web has a wrong reference; cleaning up",
            ),
        ),
        (by_us(named("web"), OLD), Some(web(&["10.0.0.6"])), wrong),
    ] {
        assert_eq!(verdict(&address, service.as_deref(), now), expected, "{address:?}");
    }
}
