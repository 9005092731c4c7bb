//! Hollow nodes: they register, keep their Leases, hold pods, and go with the cluster that asked for them.

use crate::world::{DEPLOYMENTS, PODS, World, complete, condition, deployment};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Hollow nodes that run until the token is cancelled.
struct Hollow(CancellationToken, JoinHandle<()>);

impl Hollow {
    fn start(world: &World, nodes: u32) -> Self {
        let options = hollow::Options {
            nodes,
            cidr: hollow::default_cidr(),
            version: "v1.36.0".to_owned(),
            clock: world.clock.clone(),
        };
        let token = CancellationToken::new();
        let (client, informers, stop) = (world.admin.clone(), world.informers.clone(), token.clone());
        Self(token, tokio::spawn(async move { hollow::run(client, &informers, options, stop).await }))
    }

    async fn stop(self) {
        self.0.cancel();
        self.1.await.unwrap();
    }
}

fn ready(world: &World) -> usize {
    world.all_in("", "", "nodes").iter().filter(|node| condition(node, "Ready") == "True").count()
}

fn addresses(world: &World) -> BTreeSet<String> {
    world.pods().iter().filter_map(|pod| Some(pod["status"]["podIP"].as_str()?.to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn hollow_nodes_hold_pods_as_real_ones_and_run_none() {
    let world = World::empty(1).await;
    let hollow = Hollow::start(&world, 20);
    world.until("20 ready nodes", |w| ready(w) == 20).await;
    let node = world.find("", "nodes", "hollow-7").unwrap();
    let zone = &node["metadata"]["labels"]["topology.kubernetes.io/zone"];
    assert_eq!((zone, &node["spec"]["podCIDR"]), (&json!("zone-2"), &json!("240.0.7.0/24")));
    world.call("POST", DEPLOYMENTS, deployment("web", 50, "i:1")).await;
    world.until("50 pods to be available", |w| complete(w, "web")).await;
    let first = addresses(&world);
    assert!(first.len() == 50 && first.iter().all(|address| address.starts_with("240.0.")), "{first:?}");
    let pod = world.pods().remove(0);
    assert_eq!(pod["status"]["hostIP"], node_address(&world, &pod));

    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 3}})).await;
    world.until("47 pods to be gone", |w| complete(w, "web") && w.all("", "pods").len() == 3).await;

    let job = json!({"metadata": {"name": "once"}, "spec": {"completions": 5, "parallelism": 2, "template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
    world.call("POST", "/apis/batch/v1/namespaces/default/jobs", job).await;
    world
        .until("the Job to succeed", |w| condition(&w.find("batch", "jobs", "once").unwrap(), "Complete") == "True")
        .await;

    // ten minutes later they are still there: Leases are renewed, and so are statuses
    world
        .call("DELETE", "/apis/batch/v1/namespaces/default/jobs/once", json!({"propagationPolicy": "Background"}))
        .await;
    world.pass(600).await;
    assert_eq!((ready(&world), complete(&world, "web")), (20, true));
    // one that is deleted registers again; its pods are others'
    world.call("DELETE", "/api/v1/nodes/hollow-7", json!({})).await;
    world.until("the node to come back", |w| ready(w) == 20).await;
    hollow.stop().await;

    // addresses outlive a restart, and fewer nodes means that the others go with their pods
    let (before, hollow) = (addresses(&world), Hollow::start(&world, 20));
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 40}})).await;
    world.until("40 pods", |w| complete(w, "web")).await;
    let now = addresses(&world);
    assert!(now.is_superset(&before) && now.len() == 40, "{before:?} {now:?}");
    hollow.stop().await;
    let hollow = Hollow::start(&world, 5);
    world.until("5 nodes, and all pods on them", |w| ready(w) == 5 && complete(w, "web")).await;
    hollow.stop().await;
    Hollow::start(&world, 0).1.await.unwrap();
    world.until("no node", |w| w.all_in("", "", "nodes").is_empty()).await;
    world.pass(60).await; // looks at pods cost more than what happens meanwhile
    world.until("no pod on one", |w| w.pods().iter().all(|pod| pod["spec"]["nodeName"].is_null())).await;
}

fn node_address(world: &World, pod: &Value) -> Value {
    let node = world.find("", "nodes", pod["spec"]["nodeName"].as_str().unwrap()).unwrap();
    node["status"]["addresses"][0]["address"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_hollow_node_waits_for_its_readiness_gates() {
    let world = World::empty(1).await;
    let hollow = Hollow::start(&world, 1);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"readinessGates": [{"conditionType": "example.com/mine"}],
        "containers": [{"name": "c", "image": "i:1"}]}});
    world.call("POST", PODS, pod).await;
    let phase = |w: &World, phase: &str, ready: &str| {
        w.find("", "pods", "p").is_some_and(|pod| pod["status"]["phase"] == phase && condition(&pod, "Ready") == ready)
    };
    world.until("the pod to run", |w| phase(w, "Running", "False")).await;
    let mut conditions = world.find("", "pods", "p").unwrap()["status"]["conditions"].clone();
    conditions.as_array_mut().unwrap().push(json!({"type": "example.com/mine", "status": "True"}));
    world.call("PATCH", &format!("{PODS}/p/status"), json!({"status": {"conditions": conditions}})).await;
    world.until("the pod to be ready", |w| phase(w, "Running", "True")).await;
    hollow.stop().await;
}
