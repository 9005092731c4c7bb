//! Pods that get other resources while they run: API server, scheduler and node agree about who has what.

use crate::world::{PODS, World, condition};
use serde_json::{Value, json};

fn container(cpu: &str) -> Value {
    json!({"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}})
}

async fn create(world: &World, name: &str, cpu: &str) {
    let pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(cpu)]}});
    world.call("POST", PODS, pod).await;
}

async fn resize(world: &World, name: &str, cpu: &str) -> Result<Value, String> {
    let body = json!({"spec": {"containers": [container(cpu)]}});
    world.try_call("PATCH", &format!("{PODS}/{name}/resize"), body).await.map_err(|error| error.to_string())
}

/// The CPU that the pod has, once nothing more is to change.
fn has(world: &World, name: &str) -> String {
    let pod = world.find("", "pods", name).unwrap();
    if condition(&pod, "Ready") != "True" || condition(&pod, "PodResizeInProgress") == "True" {
        return String::new();
    }
    let container = &pod["status"]["containerStatuses"][0];
    assert!(container["resources"].is_object(), "{pod}");
    container["resources"]["requests"]["cpu"].as_str().unwrap_or_default().to_owned()
}

fn pending(world: &World, name: &str) -> String {
    condition(&world.find("", "pods", name).unwrap(), "PodResizePending")
}

#[tokio::test(start_paused = true)]
async fn a_resize_waits_for_room_which_nobody_else_gets() {
    let world = World::start().await;
    create(&world, "a", "1").await;
    create(&world, "b", "2").await;
    world.until("both to run", |w| has(w, "a") == "1" && has(w, "b") == "2").await;
    let refused = resize(&world, "b", "5").await.unwrap_err();
    let text = "node didn't have enough allocatable resources: cpu, requested: 5000, allocatable: 4000";
    assert!(refused.contains(text), "{refused}");
    resize(&world, "b", "3500m").await.unwrap();
    world.until("the resize to wait", |w| pending(w, "b") == "True").await;
    assert_eq!(has(&world, "b"), "2", "it keeps what it has");
    // What is asked for counts for the scheduler, although it is not given yet.
    create(&world, "c", "500m").await;
    world
        .until("no node for the third", |w| condition(&w.find("", "pods", "c").unwrap(), "PodScheduled") == "False")
        .await;
    resize(&world, "a", "250m").await.unwrap();
    world.until("the room to be used", |w| has(w, "b") == "3500m" && pending(w, "b").is_empty()).await;
    assert_eq!(has(&world, "a"), "250m");
    let started = world.find("", "pods", "b").unwrap();
    assert_eq!(started["status"]["containerStatuses"][0]["restartCount"], 0);
    resize(&world, "b", "1").await.unwrap();
    world.until("room for the third", |w| has(w, "c") == "500m").await;
    let told = |w: &World, reason: &str| w.events().iter().filter(|event| event.contains(reason)).count();
    world.until("the events", |w| told(w, "ResizeStarted") == 3 && told(w, "ResizeCompleted") == 3).await;
    assert_eq!(told(&world, "ResizeDeferred"), 1, "{:#?}", world.events());
}
