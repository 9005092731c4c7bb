//! ServiceCIDRs and IPAddresses with the controllers that keep them.

use crate::world::{World, condition};
use serde_json::{Value, json};

const GROUP: &str = "networking.k8s.io";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn range(world: &World, name: &str) -> Option<Value> {
    world.find(GROUP, "servicecidrs", name)
}

fn is_ready(world: &World, name: &str) -> bool {
    range(world, name).is_some_and(|range| {
        condition(&range, "Ready") == "True"
            && range["metadata"]["finalizers"] == json!(["networking.k8s.io/service-cidr-finalizer"])
    })
}

fn parent(world: &World, ip: &str) -> String {
    let address = world.find(GROUP, "ipaddresses", ip).unwrap_or_default();
    address["spec"]["parentRef"]["name"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_range_is_kept_until_no_service_needs_it() {
    let world = World::start().await;
    world.until("the default range", |w| is_ready(w, "kubernetes")).await;
    world.call("POST", RANGES, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}})).await;
    world.until("the new range", |w| is_ready(w, "more")).await;
    let service = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "203.0.113.10", "ports": [{"port": 80}]}});
    world.call("POST", SERVICES, service).await;
    world.call("DELETE", &format!("{RANGES}/more"), Value::Null).await;
    world.until("why it stays", |w| range(w, "more").is_some_and(|range| condition(&range, "Ready") == "False")).await;
    let why = range(&world, "more").unwrap()["status"]["conditions"][0].clone();
    assert_eq!(
        (&why["reason"], &why["message"]),
        (
            &json!("Terminating"),
            &json!(
                "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
            )
        )
    );
    world.pass(60).await;
    assert!(range(&world, "more").is_some());
    world.call("DELETE", &format!("{SERVICES}/a"), Value::Null).await;
    world.until("its end", |w| range(w, "more").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_by_hand_is_repaired() {
    let world = World::start().await;
    let service =
        |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    world.call("POST", SERVICES, service("a", "10.96.0.60")).await;
    assert_eq!(parent(&world, "10.96.0.60"), "a");
    world.call("DELETE", &format!("{ADDRESSES}/10.96.0.60"), Value::Null).await;
    world.until("the address again", |w| parent(w, "10.96.0.60") == "a").await;
    let told = r#""ClusterIPNotAllocated" "Cluster IP [IPv4]: 10.96.0.60 is not allocated; repairing""#;
    world.until("why", |w| w.events().iter().any(|event| event.contains(told))).await;
    // Of a Service that never was.
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let orphan = json!({"metadata": {"name": "10.96.0.61", "labels": labels},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    world.call("POST", ADDRESSES, orphan).await;
    world.pass(50).await;
    assert_eq!(parent(&world, "10.96.0.61"), "gone", "its Service may be on its way");
    world.until("no orphan", |w| w.find(GROUP, "ipaddresses", "10.96.0.61").is_none()).await;
    // Of somebody else: it stays.
    let gateway = json!({"metadata": {"name": "10.96.0.62"}, "spec": {"parentRef": {"group": "g.example.com", "resource": "gateways", "name": "g"}}});
    world.call("POST", ADDRESSES, gateway).await;
    world.pass(300).await;
    assert_eq!((parent(&world, "10.96.0.62"), parent(&world, "10.96.0.60")), ("g".to_owned(), "a".to_owned()));
}
