//! Controllers by name: which of them run.

use crate::world::{DEPLOYMENTS, World, deployment};
use client::Informers;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Controllers beside those of the world. They end with the token.
pub fn start(world: &World, selection: &str) -> (CancellationToken, TaskTracker) {
    start_at(world, selection, world.clock.clone())
}

/// As [`start`], with a clock of their own.
pub fn start_at(world: &World, selection: &str, clock: api::Clock) -> (CancellationToken, TaskTracker) {
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut options = controllers::Options::new(clock, "certificate".into());
    options.selection = selection.parse().unwrap();
    let informers = Informers::new(world.admin.clone(), token.clone(), tasks.clone());
    let admin = world.admin.clone();
    let context =
        controllers::Context::new(std::sync::Arc::new(move |_: &str| admin.clone()), informers, options, tasks.clone());
    controllers::start(&context, &token, &tasks);
    tasks.close();
    (token, tasks)
}

fn sets(world: &World) -> Vec<Value> {
    world.all("apps", "replicasets").into_iter().map(|set| set["metadata"]["name"].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_switched_off_does_nothing_and_the_others_work() {
    let world = World::empty(1).await;
    // its own ones
    world.switch.cut();
    let (token, tasks) = start(&world, "*,-deployment");
    world.call("POST", DEPLOYMENTS, deployment("d", 1, "i:1")).await;
    let mut set = deployment("r", 2, "i:1");
    set["metadata"] = json!({"name": "r"});
    world.call("POST", "/apis/apps/v1/namespaces/default/replicasets", set).await;
    world.until("two pods", |w| w.pods().len() == 2).await;
    world.pass(120).await;
    assert_eq!(sets(&world), ["r"]);
    token.cancel();
    tasks.wait().await;
    let (token, tasks) = start(&world, "deployment-controller");
    world.until("the Deployment's ReplicaSet", |w| sets(w).len() == 2).await;
    world.pass(120).await;
    assert_eq!(world.pods().len(), 2, "nobody makes its pods");
    token.cancel();
    tasks.wait().await;
}
