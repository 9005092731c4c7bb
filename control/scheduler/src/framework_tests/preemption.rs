//! Preemption from the decision to the binding, over an API that only answers.

use super::world::{World, failure, node, pod};
use crate::{
    Listers,
    plugins::{Strategy, defaults},
};
use client::WatchEvent;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

fn of(name: &str, priority: i32, cpu: &str) -> Value {
    let mut value = pod(name, cpu);
    value["spec"]["priority"] = priority.into();
    value["spec"]["schedulerName"] = "default-scheduler".into();
    value
}

fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = node.into();
    pod
}

fn start(nodes: &[Value], pods: &[Value]) -> World {
    World::start(nodes, pods, defaults(Strategy::default(), &Listers::default()))
}

const VICTIM: &str = "/api/v1/namespaces/d/pods/victim";

#[tokio::test(start_paused = true)]
async fn a_victim_is_told_why_and_deleted_and_its_place_goes_to_who_preempted_it() {
    let victim = on("n", of("victim", 0, "1"));
    let world = start(&[node("n")], &[victim.clone(), of("p", 5, "1")]);
    world.until("the deletion", || world.called(&format!("DELETE {VICTIM}"))).await;
    let told = &world.sent(&format!("PATCH {VICTIM}/status"))[0];
    assert_eq!(told["metadata"]["uid"], "victim");
    let condition = &told["status"]["conditions"][0];
    assert_eq!(
        (condition["type"].as_str(), condition["status"].as_str(), condition["reason"].as_str()),
        (Some("DisruptionTarget"), Some("True"), Some("PreemptionByScheduler"))
    );
    assert_eq!(condition["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let deletion = &world.sent(&format!("DELETE {VICTIM}"))[0];
    assert_eq!(deletion["preconditions"]["uid"], "victim");
    assert_eq!(deletion["gracePeriodSeconds"], Value::Null, "its own grace period");
    let status = world.status("p").expect("a status");
    assert_eq!(status["nominatedNodeName"], "n");
    assert_eq!(status["conditions"][0]["message"], "0/1 nodes are available: 1 Insufficient cpu.");
    let event = || {
        let events = world.sent("POST /api/v1/namespaces/d/events");
        events.into_iter().find(|event| event["reason"] == "Preempted")
    };
    world.until("the event", || event().is_some()).await;
    let event = event().expect("an event");
    assert_eq!(
        (event["message"].as_str(), event["type"].as_str()),
        (Some("Preempted by pod p on node n"), Some("Normal"))
    );
    // a pod of lower priority does not get the place meanwhile
    world.tell(WatchEvent::Added, of("late", 1, "1"));
    world.tell(WatchEvent::Deleted, victim);
    world.until("bound", || world.bound("p").is_some()).await;
    assert_eq!(world.bound("late"), None);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_preempted_is_tried_again() {
    let begin = Instant::now();
    let world = start(&[node("n")], &[on("n", of("victim", 0, "1")), of("p", 5, "1")]);
    world.answer(&format!("DELETE {VICTIM}"), 500, failure(500, "InternalError"));
    world.until("two deletions", || world.sent(&format!("DELETE {VICTIM}")).len() == 2).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "not at once");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_lower_priority_lose_their_nomination() {
    let mut low = of("low", 3, "1");
    low["status"] = json!({"nominatedNodeName": "n"});
    let mut ending = on("n", of("ending", 0, "1"));
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    ending["status"] = json!({"conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]});
    let world = start(&[node("n")], &[ending, low, of("p", 5, "1")]);
    let cleared = || {
        let patches = world.sent("PATCH /api/v1/namespaces/d/pods/low/status");
        patches.iter().any(|p| p["status"].get("nominatedNodeName") == Some(&Value::Null))
    };
    world.until("cleared", cleared).await;
    assert!(!world.called("DELETE /api/v1/namespaces/d/pods/ending"), "it goes already");
    assert_eq!(world.status("p").expect("a status")["nominatedNodeName"], "n");
    world.stop().await;
}
