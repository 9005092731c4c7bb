//! Pods that do not fit wait, and wake when they may.

use crate::world::{PODS, World, condition};
use container::fake::Script;
use serde_json::{Value, json};
use std::time::Duration;

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn runs(world: &World, name: &str) -> bool {
    world.find("", "pods", name).is_some_and(|p| p["status"]["phase"] == "Running")
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_bound_when_capacity_appears() {
    let mut world = World::start().await;
    world.call("POST", PODS, pod("first", "3")).await;
    world.until("the first to run", |w| runs(w, "first")).await;
    world.call("POST", PODS, pod("second", "3")).await;
    world
        .until("the second to be refused", |w| {
            condition(&w.find("", "pods", "second").unwrap(), "PodScheduled") == "False"
        })
        .await;
    let second = world.find("", "pods", "second").unwrap();
    let why = &second["status"]["conditions"][0];
    assert_eq!(why["reason"], "Unschedulable");
    let text = why["message"].as_str().unwrap();
    assert!(text.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{text}");
    // by a pod that goes
    let asked = world.elapsed();
    world.call("DELETE", &format!("{PODS}/first"), Value::Null).await;
    world.until("the second to run", |w| runs(w, "second")).await;
    assert!(world.elapsed() - asked < Duration::from_secs(30), "woken, not found by chance");
    // by a node that comes
    world.call("POST", PODS, pod("third", "3")).await;
    world
        .until("the third to be refused", |w| {
            condition(&w.find("", "pods", "third").unwrap(), "PodScheduled") == "False"
        })
        .await;
    let asked = world.elapsed();
    world.node("n2", 4, |_, _| Script::Run).await;
    world.until("the third to run", |w| runs(w, "third")).await;
    assert!(world.elapsed() - asked < Duration::from_secs(30));
    assert_eq!(world.find("", "pods", "third").unwrap()["spec"]["nodeName"], "n2");
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_node_takes_nothing_new_until_it_is_open_again() {
    let world = World::start().await;
    world.call("PATCH", "/api/v1/nodes/n1", json!({"spec": {"unschedulable": true}})).await;
    world.until("the taint", |w| w.find("", "nodes", "n1").unwrap()["spec"]["taints"].is_array()).await;
    world.call("POST", PODS, pod("p", "1")).await;
    world.until("a refusal", |w| condition(&w.find("", "pods", "p").unwrap(), "PodScheduled") == "False").await;
    // not long after a try without any event, which comes every five minutes and begins a pause
    world.pass(590).await;
    assert!(!runs(&world, "p"));
    let opened = world.elapsed();
    world.call("PATCH", "/api/v1/nodes/n1", json!({"spec": {"unschedulable": null}})).await;
    world.until("it to run", |w| runs(w, "p")).await;
    assert!(world.elapsed() - opened < Duration::from_millis(900), "at once: {:?}", world.elapsed() - opened);
}
