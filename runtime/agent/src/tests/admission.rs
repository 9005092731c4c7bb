//! Pods that the node rejects.

use super::world::{World, path};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn pods_that_do_not_fit_are_refused_and_those_that_run_stay() {
    let mut world = World::new().await;
    world.ready().await;
    let asks =
        |cpu: &str| json!({"containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}]});
    world.pod("first", asks("3"));
    world.phase("first", "Running").await;
    world.pod("second", asks("3"));
    let refused = world.phase("second", "Failed").await;
    assert_eq!(refused["reason"], "OutOfcpu");
    let text = "Node didn't have enough resource: cpu, requested: 3000, used: 3000, capacity: 4000";
    assert_eq!(refused["message"], format!("Pod was rejected: {text}"));
    assert!(refused["containerStatuses"].is_null() && refused["podIP"].is_null(), "{refused}");
    assert!(refused["startTime"].is_string());
    let mut elsewhere = asks("1m");
    elsewhere["nodeSelector"] = json!({"disk": "ssd"});
    world.pod("elsewhere", elsewhere.clone());
    let refused = world.phase("elsewhere", "Failed").await;
    assert_eq!(refused["reason"], "NodeAffinity");
    let unsuitable = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(refused["message"], format!("Pod was rejected: {unsuitable}"));
    let events = world.api.events();
    for expected in [format!("OutOfcpu: {text}"), format!("NodeAffinity: {unsuitable}")] {
        assert!(events.contains(&expected), "{expected} in {events:#?}");
    }
    assert_eq!(world.runtime.specs().len(), 1, "nothing of them ran");
    // A node with less capacity keeps its pods. Pods that wait for its start are admitted by age.
    world.stop().await;
    let created = |name: &str, at: &str| {
        world.pod(name, asks("1"));
        world.api.edit(&path(name), |pod| pod["metadata"]["creationTimestamp"] = at.into());
    };
    created("a-later", "2026-01-01T00:00:09Z");
    created("b-earlier", "2026-01-01T00:00:08Z");
    world.start().await;
    world
        .until("first", |s| s["containerStatuses"][0]["lastState"]["terminated"].is_object() && s["phase"] == "Running")
        .await;
    world.phase("b-earlier", "Running").await;
    assert_eq!(world.phase("a-later", "Failed").await["reason"], "OutOfcpu");
    // Released resources can be requested again.
    world.delete("first", 0);
    world.gone("first").await;
    world.pod("third", asks("3"));
    world.phase("third", "Running").await;
    world.delete("second", 0);
    world.gone("second").await;
}
