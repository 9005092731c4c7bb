//! Pods that do not fit wait, and wake when they may.

use crate::world::{DEPLOYMENTS, PODS, World, complete, condition, deployment};
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

/// A pod that goes around the scheduler and asks for more than numbers hold.
#[tokio::test(start_paused = true)]
async fn a_pod_that_asks_for_everything_and_is_refused_makes_no_room_for_others() {
    let world = World::start().await;
    let mut set = deployment("d", 6, "i:1");
    let whole = &mut set["spec"]["template"]["spec"]["containers"][0]["resources"];
    *whole = json!({"requests": {"cpu": "1200m", "memory": "200Mi"}});
    world.call("POST", DEPLOYMENTS, set).await;
    let waiting = |w: &World| w.pods().iter().filter(|p| condition(p, "PodScheduled") == "False").count();
    world.until("three to run and three to wait", |w| w.in_phase("Running") == 3 && waiting(w) == 3).await;
    let container = |name: &str| json!({"name": name, "image": "i:1", "resources": {"requests": {"cpu": "9E", "memory": "9E", "ephemeral-storage": "9E"}}});
    let mut huge = pod("huge", "1");
    huge["spec"]["containers"] = json!([container("a"), container("b")]);
    huge["spec"]["nodeName"] = "n1".into();
    world.call("POST", PODS, huge).await;
    world.until("a refusal", |w| w.find("", "pods", "huge").unwrap()["status"]["phase"] == "Failed").await;
    world.pass(60).await;
    assert_eq!((world.pods().len(), world.in_phase("Running"), waiting(&world)), (7, 3, 3));
}

/// Upstream makes thousands of them.
#[tokio::test(start_paused = true)]
async fn pods_that_their_node_refuses_are_replaced_ever_more_slowly() {
    let world = World::start().await;
    let mut set = deployment("d", 3, "i:1");
    set["spec"]["template"]["spec"]["nodeName"] = "n1".into();
    set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "64"}});
    world.call("POST", DEPLOYMENTS, set.clone()).await;
    world.until("two rounds", |w| w.in_phase("Failed") == 6).await;
    world.pass(60).await;
    let count = world.pods().len();
    assert!((15..=24).contains(&count), "1, 2, 4, 8, 16 and 32 s apart, three each: {count}");
    assert_eq!(count, world.in_phase("Failed"));
    // What is mended begins anew.
    set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    world.call("PATCH", &format!("{DEPLOYMENTS}/d"), json!({"spec": set["spec"]})).await;
    world.until_within(Duration::from_secs(30), "those that fit", |w| complete(w, "d")).await;
}
