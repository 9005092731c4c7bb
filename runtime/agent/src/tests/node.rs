//! The Node object and its Lease.

use super::world::{World, condition, elapsed};
use serde_json::{Value, json};
use std::time::Duration;

const NODE: &str = "/api/v1/nodes/node";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node";

impl World {
    pub(super) async fn ready(&self) {
        self.until("none", |_| self.api.get(NODE).is_some_and(|n| n["status"]["nodeInfo"].is_object())).await;
        self.until("none", |_| self.api.get(LEASE).is_some()).await;
    }

    fn lease(&self) -> Value {
        self.api.get(LEASE).unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_node_is_registered_and_its_lease_renewed() {
    let world = World::new().await;
    world.agent.as_ref().unwrap().node_is_registered().await;
    assert!(
        world.api.get(NODE).is_some_and(|n| n["status"]["nodeInfo"].is_object()),
        "it is there when it is said to be"
    );
    world.ready().await;
    let node = world.api.get(NODE).unwrap();
    assert_eq!(condition(&node["status"], "Ready").1, "KubeletReady");
    assert_eq!(node["status"]["allocatable"]["pods"], "10000");
    let addresses = json!([{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "host"}]);
    assert_eq!(node["status"]["addresses"], addresses);
    let created = world.api.created(NODE).unwrap();
    assert_eq!(created["status"]["allocatable"]["pods"], "10000", "there is room from the first moment: {created}");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/arch"], "amd64");
    let first = world.lease();
    world.until("none", |_| world.lease()["spec"]["renewTime"] != first["spec"]["renewTime"]).await;
    assert_eq!(world.lease()["metadata"]["uid"], first["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_back_at_the_next_heartbeat_with_its_lease() {
    let world = World::new().await;
    world.ready().await;
    let (node, lease) = (world.api.get(NODE).unwrap(), world.lease());
    let deleted = elapsed();
    world.api.delete(NODE);
    world.api.delete(LEASE);
    world.ready().await;
    assert!(elapsed() - deleted <= Duration::from_secs(11), "{:?}", elapsed() - deleted);
    let (again, renewed) = (world.api.get(NODE).unwrap(), world.lease());
    assert_ne!(again["metadata"]["uid"], node["metadata"]["uid"]);
    assert_ne!(renewed["metadata"]["uid"], lease["metadata"]["uid"]);
    assert_eq!(renewed["metadata"]["ownerReferences"][0]["uid"], again["metadata"]["uid"]);
    assert_eq!(condition(&again["status"], "Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn conditions_that_another_hand_changed_are_taken_back_at_the_next_heartbeat() {
    let world = World::new().await;
    world.ready().await;
    let find = |kind: &str| {
        let node = world.api.get(NODE).unwrap();
        node["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap().clone()
    };
    let (ready, disk) = (find("Ready"), find("DiskPressure"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(find("Ready"), ready, "what has not changed is not sent again");
    world.api.edit(NODE, |node| {
        let conditions = node["status"]["conditions"].as_array_mut().unwrap();
        let ready = conditions.iter_mut().find(|c| c["type"] == "Ready").unwrap();
        ready["status"] = "Unknown".into();
        ready["lastTransitionTime"] = api::time::rfc3339(super::world::now()).into();
    });
    let changed = elapsed();
    world.until("none", |_| find("Ready")["status"] == "True").await;
    assert!(elapsed() - changed <= Duration::from_secs(11), "{:?}", elapsed() - changed);
    let since = |condition: &Value| condition["lastTransitionTime"].as_str().unwrap().to_owned();
    assert!(since(&find("Ready")) > since(&ready), "it turned just now");
    assert_eq!(since(&find("DiskPressure")), since(&disk));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_goes_or_changes_is_renewed_all_the_same() {
    let world = World::new().await;
    world.ready().await;
    let before = elapsed();
    // The garbage collector deletes the Lease of the previous Node after the new Node was registered.
    world.api.delete(LEASE);
    world.until("none", |_| world.lease().is_object()).await;
    assert!(elapsed() - before <= Duration::from_secs(11), "{:?}", elapsed() - before);
    assert_eq!(world.lease()["spec"]["holderIdentity"], "node");
}

#[tokio::test(start_paused = true)]
async fn what_a_runtime_says_of_itself_is_a_condition_and_an_event_once() {
    let world = World::new().await;
    world.ready().await;
    let degraded = || condition(&world.api.get(NODE).unwrap_or_default()["status"], "RuntimeDegraded").0;
    let told = || world.api.events().into_iter().filter(|event| event.starts_with("RuntimeHas")).collect::<Vec<_>>();
    assert_eq!((degraded().as_str(), told()), ("False", vec![]), "no word of what works");
    world.runtime.set_problem(Some("few places are left"));
    world.until("none", |_| degraded() == "True" && told().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.runtime.set_problem(None);
    world.until("none", |_| degraded() == "False" && told().len() == 2).await;
    let texts = [
        "RuntimeHasProblem: wasmtime: few places are left",
        "RuntimeHasNoProblem: all container runtimes work as configured",
    ];
    assert_eq!(told(), texts);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_short_and_is_not_any_more_is_told_as_events_once() {
    let world = World::new().await;
    world.ready().await;
    let told = || world.api.events().into_iter().filter(|event| event.starts_with("NodeHas")).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told(), Vec::<String>::new());
    let short = "NodeHasDiskPressure: Node node status is now: NodeHasDiskPressure";
    let enough = "NodeHasNoDiskPressure: Node node status is now: NodeHasNoDiskPressure";
    world.short.store(true, std::sync::atomic::Ordering::SeqCst);
    world.until("none", |_| told() == [short]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.short.store(false, std::sync::atomic::Ordering::SeqCst);
    world.until("none", |_| told() == [short, enough]).await;
}

#[test]
fn a_handler_without_runtime_is_told_with_those_that_are_there() {
    let clock = container::Clock::new(|| std::time::SystemTime::UNIX_EPOCH);
    let fake = |name| -> std::sync::Arc<dyn container::Runtime> {
        std::sync::Arc::new(container::fake::FakeRuntime::new(name, clock.clone(), |_, _| container::fake::Script::Run))
    };
    let runtimes = crate::Runtimes::new([fake("wasmtime"), fake("runc")]);
    let artifact = container::Artifact::Wasm { path: "/none".into(), digest: "sha256:0".into(), files: None };
    let error = runtimes.choose(&artifact, Some("spin"), "").map(|it| it.name()).unwrap_err();
    assert_eq!(error, r#"no runtime for "spin" is configured: this node has "runc", "wasmtime""#);
}
