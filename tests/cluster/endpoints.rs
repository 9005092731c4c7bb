//! Endpoints and EndpointSlices: what Services have behind them, by controllers and by users.

use crate::world::{DEPLOYMENTS, World, deployment};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// The slices of a Service that a controller keeps.
pub fn slices(world: &World, service: &str, manager: &str) -> Vec<Value> {
    let all = world.all("discovery.k8s.io", "endpointslices").into_iter();
    all.filter(|slice| {
        let labels = &slice["metadata"]["labels"];
        labels["kubernetes.io/service-name"] == service
            && labels["endpointslice.kubernetes.io/managed-by"] == format!("{manager}.k8s.io")
    })
    .collect()
}

fn addresses(slices: &[Value]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut all: Vec<String> = endpoints.filter_map(|e| e["addresses"][0].as_str().map(str::to_owned)).collect();
    all.sort();
    all
}

fn of_user(world: &World) -> Vec<String> {
    addresses(&slices(world, "db", "endpointslicemirroring-controller"))
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_a_user_wrote_are_mirrored_and_cleaned_up() {
    let world = World::start().await;
    world.call("POST", SERVICES, json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    let of = |ips: &[&str]| -> Value {
        let addresses: Value = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!([{"addresses": addresses, "ports": [{"port": 5432}]}])
    };
    let body = json!({"metadata": {"name": "db", "labels": {"team": "x"}, "annotations": {"note": "y"}}, "subsets": of(&["192.0.2.1", "192.0.2.2"])});
    world.call("POST", ENDPOINTS, body).await;
    world.until("the mirror", |w| of_user(w) == ["192.0.2.1", "192.0.2.2"]).await;
    let slice = slices(&world, "db", "endpointslicemirroring-controller").remove(0);
    let meta = &slice["metadata"];
    assert_eq!((&meta["labels"]["team"], &meta["annotations"]), (&json!("x"), &json!({"note": "y"})));
    assert_eq!((&meta["ownerReferences"][0]["kind"], &slice["ports"][0]["port"]), (&json!("Endpoints"), &json!(5432)));
    // a change is written into the same slice
    let url = format!("{ENDPOINTS}/db");
    world.call("PATCH", &url, json!({"subsets": of(&["192.0.2.3"])})).await;
    world.until("the change", |w| of_user(w) == ["192.0.2.3"]).await;
    assert_eq!(slices(&world, "db", "endpointslicemirroring-controller")[0]["metadata"]["name"], meta["name"]);
    // what somebody else does to the mirror is undone
    let url_of_slice = format!("{SLICES}/{}", meta["name"].as_str().unwrap());
    world.call("PATCH", &url_of_slice, json!({"endpoints": []})).await;
    world.until("the repair", |w| of_user(w) == ["192.0.2.3"]).await;
    // not to be mirrored, and again
    let label = |value: Value| json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": value}}});
    world.call("PATCH", &url, label("true".into())).await;
    world.until("no mirror", |w| of_user(w).is_empty()).await;
    world.call("PATCH", &url, label(Value::Null)).await;
    world.until("the mirror again", |w| of_user(w) == ["192.0.2.3"]).await;
    // a selector takes over, and lets go
    let selector = |value: Value| json!({"spec": {"selector": value}});
    let service = format!("{SERVICES}/db");
    world.call("PATCH", &service, selector(json!({"app": "db"}))).await;
    world.until("no mirror of what is selected", |w| of_user(w).is_empty()).await;
    // Endpoints go with their Service, and the mirror with them
    world.call("DELETE", &service, Value::Null).await;
    world.until("no Endpoints", |w| w.find("", "endpoints", "db").is_none()).await;
    world
        .until("no slices", |w| {
            w.all("discovery.k8s.io", "endpointslices")
                .iter()
                .all(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] != "db")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_service_without_selector_go_with_it_and_others_stay() {
    let world = World::start().await;
    let body = |name: &str| json!({"metadata": {"name": name}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]});
    world.call("POST", ENDPOINTS, body("lock")).await;
    world.call("POST", ENDPOINTS, body("db")).await;
    world.call("POST", SERVICES, json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 1}]}})).await;
    world.until("the mirror", |w| of_user(w) == ["192.0.2.1"]).await;
    world.call("DELETE", &format!("{SERVICES}/db"), Value::Null).await;
    world.until("no Endpoints", |w| w.find("", "endpoints", "db").is_none()).await;
    world.until("no mirror", |w| of_user(w).is_empty()).await;
    assert!(world.find("", "endpoints", "lock").is_some(), "it never had a Service");
}

#[tokio::test(start_paused = true)]
async fn slices_follow_pods_zones_and_traffic_distribution_without_needless_writes() {
    let mut world = World::empty(1).await;
    for (node, zone) in [("n1", "a"), ("n2", "b")] {
        world.node(node, 4, |_, _| container::fake::Script::Run).await;
        let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        world.call("PATCH", &format!("/api/v1/nodes/{node}"), label).await;
    }
    let mut web = deployment("web", 2, "i:1");
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    web["spec"]["template"]["spec"]["topologySpreadConstraints"] = spread;
    world.call("POST", DEPLOYMENTS, web).await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    world.call("POST", SERVICES, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let ours = |world: &World| slices(world, "web", "endpointslice-controller");
    let ready = |world: &World| -> usize {
        ours(world)
            .iter()
            .flat_map(|s| s["endpoints"].as_array().into_iter().flatten())
            .filter(|e| e["conditions"]["ready"] == true)
            .count()
    };
    world.until("both to be ready", |w| ready(w) == 2).await;
    assert_eq!(ours(&world).len(), 1, "the placeholder became the slice");
    let trigger =
        ours(&world)[0]["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"].clone();
    let last = world
        .pods()
        .iter()
        .flat_map(|pod| pod["status"]["conditions"].as_array().cloned().unwrap())
        .filter(|c| c["type"] == "Ready")
        .map(|c| c["lastTransitionTime"].as_str().unwrap().to_owned())
        .max();
    assert!(trigger.as_str().map(str::to_owned) <= last, "{trigger} {last:?}");
    let hints = |world: &World| -> Vec<String> {
        let slices = ours(world);
        let mut all: Vec<String> = slices
            .iter()
            .flat_map(|s| s["endpoints"].as_array().into_iter().flatten())
            .map(|e| {
                format!("{} {} {}", e["nodeName"], e["hints"]["forZones"][0]["name"], e["hints"]["forNodes"][0]["name"])
            })
            .collect();
        all.sort();
        all
    };
    let set = |value: Value| json!({"spec": {"trafficDistribution": value}});
    let url = format!("{SERVICES}/web");
    world.call("PATCH", &url, set("PreferSameNode".into())).await;
    world.until("hints", |w| hints(w) == ["\"n1\" \"a\" \"n1\"", "\"n2\" \"b\" \"n2\""]).await;
    world.call("PATCH", &url, set("PreferSameZone".into())).await;
    world.until("hints of zones", |w| hints(w) == ["\"n1\" \"a\" null", "\"n2\" \"b\" null"]).await;
    world.call("PATCH", &url, set(Value::Null)).await;
    world.until("no hints", |w| hints(w) == ["\"n1\" null null", "\"n2\" null null"]).await;
    let revision = ours(&world)[0]["metadata"]["resourceVersion"].clone();
    world.pass(300).await;
    assert_eq!(ours(&world)[0]["metadata"]["resourceVersion"], revision, "nothing changed, nothing is written");
    let auto = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}});
    world.call("PATCH", &url, auto).await;
    world.until("hints by the share of CPU", |w| hints(w) == ["\"n1\" \"a\" null", "\"n2\" \"b\" null"]).await;
    let said = "\"web\" \"TopologyAwareHintsEnabled\" \"Topology Aware Hints has been enabled, addressType: IPv4\"";
    world.until("the event", |w| w.events().iter().any(|event| event == said)).await;
    let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": Value::Null}}});
    world.call("PATCH", "/api/v1/nodes/n2", label).await;
    world.until("no hints without a zone", |w| hints(w) == ["\"n1\" null null", "\"n2\" null null"]).await;
    let said =
        "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4";
    world.until("the warning", |w| w.events().iter().any(|event| event.contains(said))).await;
}
