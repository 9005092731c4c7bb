//! Pods whose containers get other resources while they run.

use super::world::{World, condition, path};
use serde_json::{Value, json};
use std::time::Duration;

fn spec(cpu: &str, memory: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    json!({"name": "c", "image": "i:1", "resources": resources})
}

fn resize(world: &World, name: &str, cpu: &str, memory: &str) {
    world.api.edit(&path(name), |pod| {
        pod["spec"]["containers"][0]["resources"] = spec(cpu, memory)["resources"].clone();
        let generation = pod["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        pod["metadata"]["generation"] = generation.into();
    });
}

/// The CPU that was allocated, and the CPU limit that it has.
fn cpu(status: &Value) -> (&str, &str) {
    let container = &status["containerStatuses"][0];
    let text = |value: &'static str| container.pointer(value).and_then(Value::as_str).unwrap_or_default();
    (text("/allocatedResources/cpu"), text("/resources/limits/cpu"))
}

fn generations(status: &Value, kind: &str) -> (Option<i64>, Option<i64>) {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let own = all.iter().find(|c| c["type"] == kind).and_then(|c| c["observedGeneration"].as_i64());
    (status["observedGeneration"].as_i64(), own)
}

async fn running(world: &World, name: &str, containers: Value) -> Value {
    world.pod(name, json!({"containers": containers}));
    world.until(name, |s| condition(s, "Ready").0 == "True").await
}

#[tokio::test(start_paused = true)]
async fn a_running_container_gets_other_limits() {
    let world = World::new().await;
    let mut plain = spec("1", "64Mi");
    plain["resources"]["requests"]["ephemeral-storage"] = "1Mi".into();
    let status = running(&world, "p", json!([plain, {"name": "d", "image": "i:1"}])).await;
    assert_eq!(cpu(&status), ("1", "1"), "it is told before any resize");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["allocatedResources"]["ephemeral-storage"], "1Mi");
    assert_eq!(status["containerStatuses"][1]["resources"], json!({}), "and of one that asks for nothing");

    resize(&world, "p", "2", "128Mi");
    let status = world.until("p", |s| cpu(s) == ("2", "2") && generations(s, "Ready").0 == Some(2)).await;
    world.until("p", |s| condition(s, "PodResizeInProgress").0.is_empty()).await;
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["restartCount"], &container["resources"]["requests"]["memory"]),
        (&0.into(), &"128Mi".into())
    );
    let limits = world.runtime.limits("c").expect("it runs");
    assert_eq!((limits.cpu_millis, limits.memory_bytes), (Some(2000), Some(128 << 20)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let events: Vec<String> = world.api.events().into_iter().filter(|e| e.starts_with("Resize")).collect();
    let asked = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"2","memory":"128Mi"},"requests":{"cpu":"2","memory":"128Mi"}}},{"name":"d","resources":{}}],"generation":2}"#;
    let told = [
        format!("ResizeStarted: Pod resize started: {asked}"),
        format!("ResizeCompleted: Pod resize completed: {asked}"),
    ];
    assert_eq!(events, told);
}

#[tokio::test(start_paused = true)]
async fn a_container_restarts_where_its_policy_says_so() {
    let world = World::new().await;
    let mut container = spec("1", "64Mi");
    container["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    running(&world, "p", json!([container])).await;
    resize(&world, "p", "2", "64Mi");
    let status = world.until("p", |s| cpu(s) == ("2", "2")).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    resize(&world, "p", "2", "32Mi");
    let restarted = |s: &Value| s["containerStatuses"][0]["restartCount"] == 1 && condition(s, "Ready").0 == "True";
    let status = world.until("p", restarted).await;
    assert_eq!(status["containerStatuses"][0]["resources"]["limits"]["memory"], "32Mi");
    assert_eq!(condition(&status, "PodResizeInProgress").0, "");
    let specs = world.runtime.specs();
    assert_eq!(specs.last().and_then(|spec| spec.limits.memory_bytes), Some(32 << 20));
    let events = world.api.events();
    assert!(events.iter().any(|e| e.contains("Container c resize requires restart")), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_resize_waits_for_room_and_survives_a_restart_of_the_agent() {
    let mut world = World::new().await;
    running(&world, "other", json!([spec("2", "64Mi")])).await;
    running(&world, "p", json!([spec("1", "64Mi")])).await;
    resize(&world, "p", "3", "64Mi");
    let status = world.until("p", |s| condition(s, "PodResizePending").0 == "True").await;
    let text = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000";
    let pending = ("True".to_owned(), "Deferred".to_owned(), text.to_owned());
    assert_eq!(condition(&status, "PodResizePending"), pending);
    assert_eq!(generations(&status, "PodResizePending"), (Some(2), Some(2)));
    assert_eq!(cpu(&status), ("1", "1"), "it keeps what it was given");
    world.stop().await;
    world.start().await;
    let again = |s: &Value| {
        s["containerStatuses"][0]["lastState"]["terminated"].is_object() && condition(s, "Ready").0 == "True"
    };
    let status = world.until("p", again).await;
    assert_eq!((cpu(&status), condition(&status, "PodResizePending")), (("1", "1"), pending));
    assert_eq!(world.runtime.specs().iter().filter(|spec| spec.limits.cpu_millis == Some(3000)).count(), 0);
    // What it waits for is not given to others.
    world.pod("late", json!({"containers": [spec("1", "64Mi")]}));
    world.phase("late", "Running").await;
    world.delete("other", 0);
    world.gone("other").await;
    let status = world.until("p", |s| cpu(s) == ("3", "3")).await;
    assert_eq!(status["phase"], "Running");
    world
        .until("p", |s| {
            condition(s, "PodResizePending").0.is_empty() && condition(s, "PodResizeInProgress").0.is_empty()
        })
        .await;
    let deferred =
        world.api.events().iter().filter(|e| e.starts_with("ResizeDeferred: Pod resize Deferred: {")).count();
    assert_eq!(deferred, 1, "{:#?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_waits_can_be_taken_back() {
    let world = World::new().await;
    running(&world, "p", json!([spec("1", "64Mi")])).await;
    resize(&world, "p", "5", "64Mi");
    let status = world.until("p", |s| condition(s, "PodResizePending").0 == "True").await;
    let text = "Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000";
    assert_eq!(condition(&status, "PodResizePending"), ("True".into(), "Deferred".into(), text.into()));
    assert_eq!(cpu(&status), ("1", "1"));
    resize(&world, "p", "1", "64Mi");
    world.until("p", |s| condition(s, "PodResizePending").0.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn memory_does_not_shrink_below_what_is_used() {
    let world = World::new().await;
    running(&world, "p", json!([spec("1", "64Mi")])).await;
    resize(&world, "p", "1", "512Ki");
    let status = world.until("p", |s| condition(s, "PodResizeInProgress").1 == "Error").await;
    let text = "cannot decrease memory limits: attempting to set container \"c\" memory limit (524288) below current usage (1048576)";
    assert_eq!(condition(&status, "PodResizeInProgress").2, text);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["allocatedResources"]["memory"], "512Ki");
    assert_eq!(container["resources"]["limits"]["memory"], "64Mi", "that is what it has");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = world.api.events().iter().filter(|e| e.starts_with("ResizeError: Pod resize error: {")).count();
    assert_eq!(told, 1, "once, however often it is tried");
    resize(&world, "p", "1", "2Mi");
    let done = |s: &Value| {
        s["containerStatuses"][0]["resources"]["limits"]["memory"] == "2Mi"
            && condition(s, "PodResizeInProgress").0.is_empty()
    };
    world.until("p", done).await;
}
