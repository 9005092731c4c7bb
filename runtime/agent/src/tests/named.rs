//! What a node reads from the API: its own objects, and those that its pods reference.

use super::world::{World, path, waiting};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn put(world: &World, collection: &str, name: &str, value: &str) {
    let data = if collection == SECRETS { "eA==" } else { value };
    let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
    world.api.put(&format!("{collection}/{name}"), json!({"metadata": metadata, "data": {"key": data}}));
}

fn naming(map: &str, secret: &str) -> Value {
    json!({
        "containers": [{"name": "c", "image": "img:1", "volumeMounts": [{"name": "m", "mountPath": "/m"}],
            "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": secret, "key": "key"}}}]}],
        "volumes": [{"name": "m", "configMap": {"name": map}}]
    })
}

fn watch(collection: &str, name: &str) -> String {
    format!("{collection}?watch=true&allowWatchBookmarks=true&fieldSelector=metadata.name%3D{name}")
}

/// The open watches of ConfigMaps and Secrets, without revisions.
fn watches(world: &World) -> Vec<String> {
    let open = world.api.open().into_iter().filter(|url| url.contains("/configmaps") || url.contains("/secrets"));
    open.map(|url| url.split("&resourceVersion").next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_reads_its_own_pods_and_what_they_name() {
    let world = World::new().await;
    for name in ["shared", "other", "of-nobody"] {
        put(&world, MAPS, name, "v");
        put(&world, SECRETS, name, "v");
    }
    let elsewhere = json!({"metadata": {"name": "elsewhere", "namespace": "default", "uid": "e"},
        "spec": {"nodeName": "another", "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "of-nobody"}}]}]}});
    world.api.put(&path("elsewhere"), elsewhere);
    world.pod("a", naming("shared", "shared"));
    world.pod("b", naming("shared", "other"));
    for name in ["a", "b"] {
        world.phase(name, "Running").await;
    }
    let expected = [watch(MAPS, "shared"), watch(SECRETS, "other"), watch(SECRETS, "shared")];
    assert_eq!(watches(&world), expected, "one for each object, however many pods name it");

    let asked: BTreeSet<String> = world
        .api
        .asked()
        .iter()
        .map(|url| url.split("&resourceVersion").next().unwrap_or_default().to_owned())
        .collect();
    let of = |what: &str| asked.iter().filter(|url| url.contains(what)).cloned().collect::<Vec<_>>();
    let reads = |collection: &str, name: &str| {
        [format!("{collection}?fieldSelector=metadata.name%3D{name}"), watch(collection, name)]
    };
    assert_eq!(of("/configmaps"), reads(MAPS, "shared"), "and no GET beside the list");
    assert_eq!(of("/secrets"), {
        let mut all = [reads(SECRETS, "other"), reads(SECRETS, "shared")].concat();
        all.sort();
        all
    });
    let pods: Vec<String> = of("/pods").into_iter().filter(|url| url.contains('?')).collect();
    assert!(!pods.is_empty() && pods.iter().all(|url| url.contains("fieldSelector=spec.nodeName%3Dnode")), "{pods:?}");
    let nodes: Vec<String> = of("/nodes").into_iter().filter(|url| url.contains('?')).collect();
    assert!(
        !nodes.is_empty() && nodes.iter().all(|url| url.contains("fieldSelector=metadata.name%3Dnode")),
        "{nodes:?}"
    );
    assert!(world.runtime.sandboxes().len() == 2, "not the pod of another node");

    world.delete("a", 1);
    world.gone("a").await;
    assert_eq!(watches(&world), [watch(MAPS, "shared"), watch(SECRETS, "other")]);
    world.delete("b", 1);
    world.gone("b").await;
    // The task of a watch ends shortly after its last user.
    let ended = async {
        while !watches(&world).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), ended).await.expect("nobody names any");
}

#[tokio::test(start_paused = true)]
async fn what_was_made_just_before_a_pod_is_there_for_its_first_start() {
    let world = World::new().await;
    // This pod waits for both objects. Their watches are open and stalled.
    world.pod("early", naming("map", "secret"));
    world.until("early", |_| watches(&world).len() == 2).await;
    while !world.api.events().iter().any(|event| event.starts_with("FailedMount")) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let failed = world.api.events().len();
    world.api.silence(&["configmaps", "secrets"]);
    put(&world, MAPS, "map", "v");
    put(&world, SECRETS, "secret", "v");
    world.pod("late", naming("map", "secret"));
    world.phase("late", "Running").await;
    world.api.silence(&[]);
    let events = world.api.events().split_off(failed);
    assert!(!events.iter().any(|event| event.contains("not found")), "{events:#?}");
    world.phase("early", "Running").await;
    // A volume that equals its first list is not synced again: its folder is written once.
    let begin = world.api.asked().len();
    world.pod("first", naming("map", "secret"));
    world.phase("first", "Running").await;
    let reads = world.api.asked().split_off(begin);
    assert!(reads.iter().all(|url| !url.contains("configmaps") && !url.contains("secrets")), "{reads:#?}");
    assert_eq!(waiting(&world.status("first")), "");
}
