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
async fn a_lease_that_goes_or_changes_is_renewed_all_the_same() {
    let world = World::new().await;
    world.ready().await;
    let before = elapsed();
    // the garbage collector takes the Lease of a Node's predecessor after the Node is back
    world.api.delete(LEASE);
    world.until("none", |_| world.lease().is_object()).await;
    assert!(elapsed() - before <= Duration::from_secs(11), "{:?}", elapsed() - before);
    assert_eq!(world.lease()["spec"]["holderIdentity"], "node");
}
