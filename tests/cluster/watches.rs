//! Components that lose their watches lose nothing else.

use crate::world::{DEPLOYMENTS, PODS, World, complete, deployment};
use client::{Delta, Informers};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(start_paused = true)]
async fn an_informer_that_comes_too_late_for_a_watch_learns_of_deletions() {
    let world = World::start().await;
    let service = world.server.service_for(server::User::new("watcher", &["system:masters"]));
    let client = client::Client::new(kube::Client::new(world.switch.over(service), "default"));
    let informers = Informers::new(client, CancellationToken::new(), TaskTracker::new());
    let maps = informers.of::<ConfigMap>();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = log.clone();
    maps.subscribe(move |delta| {
        let word = match delta {
            Delta::Added(_) => "added",
            Delta::Modified { .. } => "modified",
            Delta::Deleted(_) => "deleted",
        };
        let meta = &delta.object().metadata;
        let name = meta.name.clone().unwrap();
        if name.starts_with('m') {
            lines.lock().push(format!("{word} {name}"));
        }
    });
    informers.synced().await;
    for name in ["m1", "m2", "m3"] {
        world.call("POST", MAPS, json!({"metadata": {"name": name}})).await;
    }
    world.until("three", |_| log.lock().len() == 3).await;
    world.switch.cut();
    world.call("DELETE", &format!("{MAPS}/m1"), Value::Null).await;
    world.call("PATCH", &format!("{MAPS}/m2"), json!({"data": {"a": "b"}})).await;
    world.call("DELETE", &format!("{MAPS}/m3"), Value::Null).await;
    world.call("POST", MAPS, json!({"metadata": {"name": "m3"}})).await;
    world.call("POST", MAPS, json!({"metadata": {"name": "m4"}})).await;
    world.pass(30).await;
    assert_eq!(log.lock().len(), 3, "cut off");
    world.store.compact(world.store.revision());
    let late =
        world.try_call("GET", &format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact"), Value::Null).await;
    assert!(late.unwrap_err().is_expired());
    world.switch.mend();
    world.until("all changes", |_| log.lock().len() >= 8).await;
    let mut seen = log.lock().split_off(3);
    seen.sort();
    assert_eq!(seen, ["added m3", "added m4", "deleted m1", "deleted m3", "modified m2"]);
}

#[tokio::test(start_paused = true)]
async fn controllers_and_agents_recover_from_a_lost_history() {
    let world = World::with_nodes(2, 9).await;
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let old: Vec<Value> = world.pods().iter().map(|p| p["metadata"]["name"].clone()).collect();
    world.switch.cut();
    for name in &old {
        let target = format!("{PODS}/{}", name.as_str().unwrap());
        world.call("DELETE", &target, json!({"gracePeriodSeconds": 0})).await;
    }
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 4}})).await;
    world.pass(20).await;
    assert!(world.pods().is_empty(), "nobody can do anything");
    world.store.compact(world.store.revision());
    world.switch.mend();
    world.until("four new pods", |w| complete(w, "web")).await;
    let running: usize = world.machines.values().map(|m| m.runtime.sandboxes().len()).sum();
    world
        .until("the old containers to be stopped", |w| {
            w.machines.values().map(|m| m.runtime.sandboxes().len()).sum::<usize>() == 4
        })
        .await;
    assert!(running >= 4);
}
