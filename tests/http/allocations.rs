//! The addresses of Services: ServiceCIDRs say which there are, and each is taken by an IPAddress that is written and deleted with its Service.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, spec: Value) -> Value {
    let mut whole = json!({"ports": [{"port": 80}]});
    spec.as_object().unwrap().iter().for_each(|(field, value)| whole[field] = value.clone());
    json!({"metadata": {"name": name}, "spec": whole})
}

/// The addresses and whose they are.
async fn taken(cluster: &Cluster) -> Vec<(String, String)> {
    let list = cluster.get(ADDRESSES).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |item: &Value| (text(&item["metadata"]["name"]), text(&item["spec"]["parentRef"]["name"]));
    list["items"].as_array().unwrap().iter().map(one).filter(|(_, name)| name != "kubernetes").collect()
}

fn of(ip: &str, name: &str) -> (String, String) {
    (ip.to_owned(), name.to_owned())
}

async fn range(cluster: &Cluster, name: &str, cidr: &str) {
    cluster.post(RANGES, json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}})).await.ok();
}

#[tokio::test]
async fn a_service_and_its_ip_address_are_written_and_deleted_together() {
    let cluster = Cluster::new().await;
    let before = cluster.store.revision();
    let made = cluster.post(SERVICES, service("a", json!({"clusterIP": "10.96.0.40"}))).await.ok();
    assert_eq!(
        made["metadata"]["resourceVersion"],
        (before + 2).to_string(),
        "one transaction, in which the Service is last"
    );
    let address = cluster.get(&format!("{ADDRESSES}/10.96.0.40")).await.ok();
    assert_eq!(address["metadata"]["resourceVersion"], (before + 1).to_string());
    assert_eq!(
        address["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(address["spec"], json!({"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}));
    assert_eq!(address["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    assert!(!address["metadata"]["uid"].as_str().unwrap().is_empty());
    let owner = &address["metadata"]["managedFields"][0];
    assert_eq!((&owner["manager"], &owner["operation"]), (&json!("kube-apiserver"), &json!("Update")));
    cluster.delete(&format!("{SERVICES}/a"), Value::Null).await.ok();
    assert_eq!((taken(&cluster).await, cluster.store.revision()), (vec![], before + 4));
    // A dry run, and what is refused, takes nothing.
    cluster.post(&format!("{SERVICES}?dryRun=All"), service("a", json!({}))).await.ok();
    assert_eq!(cluster.post(SERVICES, service("a", json!({"sessionAffinity": "x"}))).await.code, 422);
    assert_eq!(taken(&cluster).await, []);
    // A collection.
    for name in ["a", "b", "c"] {
        cluster.post(SERVICES, service(name, json!({}))).await.ok();
    }
    assert_eq!(taken(&cluster).await.len(), 3);
    cluster.delete(SERVICES, Value::Null).await.ok();
    assert_eq!(taken(&cluster).await, []);
}

#[tokio::test]
async fn a_change_of_type_takes_an_address_or_gives_it_back() {
    let cluster = Cluster::new().await;
    let url = format!("{SERVICES}/a");
    cluster.post(SERVICES, service("a", json!({"clusterIP": "10.96.0.40"}))).await.ok();
    let external =
        json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}});
    cluster.patch(&url, "merge-patch+json", external).await.ok();
    assert_eq!(taken(&cluster).await, []);
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": "10.96.0.41"}});
    cluster.patch(&url, "merge-patch+json", back).await.ok();
    assert_eq!(taken(&cluster).await, [of("10.96.0.41", "a")]);
    cluster.post(SERVICES, service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}}))).await.ok();
    cluster.patch(&url, "merge-patch+json", json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(taken(&cluster).await, [of("10.96.0.41", "a")], "others take none");
    // Finalizers keep a Service, and its address with it.
    cluster.patch(&url, "merge-patch+json", json!({"metadata": {"finalizers": ["a/b"]}})).await.ok();
    cluster.delete(&url, Value::Null).await.ok();
    assert_eq!(taken(&cluster).await.len(), 1);
    cluster.patch(&url, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(taken(&cluster).await, []);
}

#[tokio::test]
async fn an_address_that_anybody_has_is_refused_in_upstreams_words() {
    let cluster = Cluster::new().await;
    let gateway = json!({"group": "gateway.example.com", "resource": "gateways", "name": "g"});
    let answer =
        cluster.post(ADDRESSES, json!({"metadata": {"name": "10.96.0.50"}, "spec": {"parentRef": gateway}})).await;
    assert_eq!(answer.header("warning"), "");
    answer.ok();
    cluster.post(SERVICES, service("a", json!({"clusterIP": "10.96.0.51"}))).await.ok();
    for (ip, why) in [
        ("10.96.0.50", "provided IP is already allocated"),
        ("10.96.0.51", "provided IP is already allocated"),
        ("10.97.0.1", "the provided network does not match the current range"),
        ("10.96.255.255", "the provided network does not match the current range"),
    ] {
        cluster.post(SERVICES, service("b", json!({"clusterIP": ip}))).await.fails(
            422,
            &format!(
                r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: {why}"#
            ),
        );
    }
    assert_eq!(taken(&cluster).await.len(), 2);
    // The IPAddress of a Service can be deleted by hand; the Service goes nevertheless.
    cluster.delete(&format!("{ADDRESSES}/10.96.0.51"), Value::Null).await.ok();
    cluster.delete(&format!("{SERVICES}/a"), Value::Null).await.ok();
    assert_eq!(taken(&cluster).await, [of("10.96.0.50", "g")]);
}

#[tokio::test]
async fn addresses_come_from_every_range_that_is_ready() {
    let cluster = Cluster::new().await;
    let small =
        cluster.post(RANGES, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.70.0.0/30"]}})).await;
    assert_eq!((small.code, small.header("warning")), (201, ""));
    for name in ["a", "b"] {
        cluster.post(SERVICES, service(name, json!({}))).await.ok();
    }
    let full = r#"Internal error occurred: failed to allocate a serviceIP for Service "c": range is full"#;
    cluster.post(SERVICES, service("c", json!({}))).await.fails(500, full);
    range(&cluster, "more", "10.71.0.0/30").await;
    let made = cluster.post(SERVICES, service("c", json!({}))).await.ok();
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10.71.0."), "{made}");
    // One that is not ready, or is being deleted, gives none.
    let condition = |status: &str| {
        json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let status = format!("{RANGES}/more/status");
    cluster.patch(&status, "merge-patch+json", condition("False")).await.ok();
    cluster.post(SERVICES, service("d", json!({}))).await.fails(500, &full.replace("\"c\"", "\"d\""));
    cluster.patch(&status, "merge-patch+json", condition("True")).await.ok();
    cluster
        .patch(
            &format!("{RANGES}/more"),
            "merge-patch+json",
            json!({"metadata": {"finalizers": ["networking.k8s.io/service-cidr-finalizer"]}}),
        )
        .await
        .ok();
    cluster.delete(&format!("{RANGES}/more"), Value::Null).await.ok();
    assert_eq!(cluster.post(SERVICES, service("d", json!({}))).await.code, 500);
    // An address that is given back is given again.
    cluster.delete(&format!("{SERVICES}/a"), Value::Null).await.ok();
    let made = cluster.post(SERVICES, service("d", json!({}))).await.ok();
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10.70.0."), "{made}");
}

#[tokio::test]
async fn concurrent_services_get_all_addresses_and_none_twice() {
    let cluster = Cluster::new().await;
    range(&cluster, "kubernetes", "10.70.0.0/26").await;
    let names: Vec<String> = (0..70).map(|n| format!("s{n}")).collect();
    let made =
        futures::future::join_all(names.iter().map(|name| cluster.post(SERVICES, service(name, json!({}))))).await;
    let stored = made.iter().filter(|answer| answer.code == 201).count();
    let taken = taken(&cluster).await;
    let mut names: Vec<&String> = taken.iter().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!((stored, taken.len(), names.len()), (62, 62, 62));
}
