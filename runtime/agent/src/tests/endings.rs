//! The termination of containers and pods.

use super::world::{World, elapsed, path};
use container::fake::Script;
use serde_json::{Value, json};
use std::time::Duration;

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "hello:1".into();
    json!({"containers": [container]})
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_not_the_end_of_a_pod() {
    let world = World::new().await;
    world.api.conflict(4, "pods");
    world.pod("p", one(json!({})));
    world.phase("p", "Running").await;
    assert_eq!(world.api.conflict(0, "pods"), 0, "the first report met conflicts");
    // The replies to the last report and to the deletion after it.
    for conflicts in [1, 6] {
        let name = format!("p{conflicts}");
        world.pod(&name, one(json!({})));
        world.phase(&name, "Running").await;
        world.api.conflict(conflicts, "pods");
        world.delete(&name, 1);
        world.gone(&name).await;
        assert_eq!(world.api.conflict(0, "pods"), 0);
    }
    // Another pod with the same name is not deleted.
    world.delete("p", 1);
    world.api.conflict(3, "pods");
    world.until("p", |_| world.runtime.stops().len() == 3).await;
    world.api.edit(&path("p"), |pod| {
        pod["metadata"] = json!({"name": "p", "namespace": "default", "uid": "another"});
        pod["spec"]["nodeName"] = "elsewhere".into();
        pod["status"] = json!({"phase": "Pending"});
    });
    let left = || std::fs::read_dir(world.dir.path().join("state")).unwrap().count();
    world.until("p", |_| left() == 0).await;
    assert_eq!(world.status("p"), json!({"phase": "Pending"}));
}

#[tokio::test(start_paused = true)]
async fn what_a_container_writes_before_its_end_is_told() {
    let world = World::new().await;
    world.pod("p", one(json!({"terminationMessagePolicy": "FallbackToLogsOnError"})));
    world.phase("p", "Running").await;
    let mount = |n: usize| world.runtime.specs()[n].mounts.last().unwrap().clone();
    assert_eq!((mount(0).target.as_str(), mount(0).read_only), ("/dev", false));
    std::fs::write(mount(0).root.join("termination-log"), "why").unwrap();
    let log = world.runtime.specs()[0].log.clone();
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F the log\n").unwrap();
    world.runtime.exit("c", 3);
    let status = world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["message"], "why");
    // The next attempt starts with an empty file and writes nothing, so that the end of its log is used.
    let log = world.runtime.specs()[1].log.clone();
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F the log\n").unwrap();
    world.runtime.exit("c", 3);
    let status = world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 2).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["message"], "the log\n");
}

#[tokio::test(start_paused = true)]
async fn app_containers_do_not_wait_for_a_sidecar_that_crashed() {
    let world = World::scripted(|name, attempt| match (name, attempt) {
        ("init", _) => Script::Exit(Duration::from_secs(2), 0),
        ("side", _) => Script::Exit(Duration::from_millis(100), 7),
        _ => Script::Run,
    })
    .await;
    world.pod(
        "p",
        json!({
            "initContainers": [{"name": "side", "image": "i:1", "restartPolicy": "Always"}, {"name": "init", "image": "i:1"}],
            "containers": [{"name": "app", "image": "i:1"}]
        }),
    );
    let begin = elapsed();
    world.until("p", |s| s["containerStatuses"][0]["state"]["running"].is_object()).await;
    let took = elapsed() - begin;
    assert!(took < Duration::from_secs(4), "{took:?}");
}
