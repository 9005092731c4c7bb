//! Statuses that another client overwrites.

use super::world::{World, condition, elapsed, path};
use serde_json::{Value, json};
use std::time::Duration;

fn one() -> Value {
    json!({"containers": [{"name": "c", "image": "hello:1"}], "initContainers": [{"name": "i", "image": "hello:1", "restartPolicy": "Always"}]})
}

#[tokio::test(start_paused = true)]
async fn what_is_written_over_is_put_right_and_the_pod_goes_on() {
    let world = World::new().await;
    world.pod("p", one());
    let ready = |s: &Value| condition(s, "Ready").0 == "True";
    let right = world.until("p", ready).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let said = world.api.statuses().len();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.api.statuses().len(), said, "what is right is not said again");
    let running = world.runtime.sandboxes();
    for wrong in [
        json!({"containerStatuses": [{}]}),
        json!({"containerStatuses": null}),
        json!({"initContainerStatuses": []}),
        json!({"phase": "Failed", "reason": "x", "message": "y"}),
        json!({"phase": "Succeeded"}),
        json!({"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}),
        json!({"hostIP": null, "hostIPs": null, "startTime": null}),
        json!({"conditions": [{"type": "Ready", "status": "False", "reason": "z"}, {"type": "example.com/gate", "status": "True"}]}),
        json!({"conditions": []}),
    ] {
        world.api.edit(&path("p"), |pod| {
            for (field, value) in wrong.as_object().unwrap() {
                pod["status"][field] = value.clone();
            }
        });
        let changed = elapsed();
        let same = |s: &Value| {
            let mut s = s.clone();
            let conditions = s["conditions"].take();
            let mut right = right.clone();
            right["conditions"].take();
            s == right && ready(&json!({"conditions": conditions}))
        };
        world.until("p", same).await;
        assert!(elapsed() - changed <= Duration::from_secs(10), "{wrong}: {:?}", elapsed() - changed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.runtime.sandboxes(), running, "{wrong}: the containers run on");
    }
    let said = world.api.statuses().len();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.api.statuses().len(), said);
    world.api.edit(&path("p"), |pod| pod["status"]["nominatedNodeName"] = "n".into());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.api.statuses().len(), said, "what is others' is left to them");
    world.delete("p", 0);
    world.gone("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_stays_so_and_keeps_its_place_free() {
    let world = World::scripted(|_, _| container::fake::Script::Exit(Duration::from_secs(1), 0)).await;
    world.pod("p", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "hello:1"}]}));
    let over = |s: &Value| s["phase"] == "Succeeded" && condition(s, "PodReadyToStartContainers").0 == "False";
    world.until("p", over).await;
    world.api.edit(&path("p"), |pod| pod["status"]["phase"] = "Running".into());
    world.until("p", over).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(over(&world.status("p")) && world.runtime.sandboxes().is_empty());
}
