//! How often a pod's status is written.

use super::world::{World, condition};
use serde_json::json;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_within_milliseconds_is_told_once_and_then_it_is_ready() {
    let world = World::new().await;
    world.images.load("hello:1");
    world.pod("p", json!({"containers": [{"name": "c", "image": "hello:1"}]}));
    world.until("p", |status| condition(status, "Ready").0 == "True").await;
    let said = world.api.statuses();
    assert_eq!(said.len(), 1, "{said:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_start_takes_longer_is_told_on_its_way() {
    let world = World::new().await;
    world.pod("p", json!({"containers": [{"name": "c", "image": "slow:1"}]}));
    let before = tokio::time::Instant::now();
    world.until("p", |status| condition(status, "Ready").0 == "False").await;
    assert!(before.elapsed() < Duration::from_millis(1_100), "told before the image is there: {:?}", before.elapsed());
    world.until("p", |status| condition(status, "Ready").0 == "True").await;
}
