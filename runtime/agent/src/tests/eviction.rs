//! Pods that fill the disk.

use super::world::{World, condition};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::atomic::Ordering};

fn spec(size_limit: Option<&str>) -> Value {
    let source = size_limit.map_or(json!({}), |limit| json!({"sizeLimit": limit}));
    json!({
        "terminationGracePeriodSeconds": 3600,
        "containers": [{"name": "c", "image": "hello:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": source}]
    })
}

async fn running(world: &World, name: &str, size_limit: Option<&str>) -> PathBuf {
    world.pod(name, spec(size_limit));
    world.phase(name, "Running").await;
    world.dir.path().join("volumes").join(format!("uid-{name}")).join("v")
}

fn fill(volume: &std::path::Path, mib: usize) {
    std::fs::write(volume.join("data"), vec![1; mib << 20]).expect("written");
}

#[tokio::test(start_paused = true)]
async fn a_volume_above_its_size_limit_ends_its_pod() {
    let world = World::new().await;
    let small = running(&world, "small", Some("2Mi")).await;
    let large = running(&world, "large", Some("1Mi")).await;
    fill(&small, 1);
    fill(&large, 2);
    let status = world.phase("large", "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(status["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    assert_eq!(condition(&status, "DisruptionTarget").0, "", "the pod's own doing");
    let event = "Evicted: Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".to_owned();
    assert!(world.api.events().contains(&event), "{:?}", world.api.events());
    assert!(super::world::elapsed().as_secs() < 60, "its grace period does not count");
    let gone = async {
        while large.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    gone.await;
    assert_eq!(world.status("small")["phase"], "Running");
}

#[tokio::test(start_paused = true)]
async fn what_a_container_writes_beside_its_termination_message_is_its_own() {
    let world = World::new().await;
    let container = |name: &str, limit: &str| json!({"name": name, "image": "hello:1", "resources": {"limits": {"ephemeral-storage": limit}}});
    world.pod("p", json!({"containers": [container("small", "1Mi"), container("large", "100Mi")]}));
    world.phase("p", "Running").await;
    let folder = |name: &str| world.dir.path().join("volumes/uid-p/..termination").join(name);
    assert!(folder("small").join("termination-log").exists());
    fill(&folder("large"), 2);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.status("p")["phase"], "Running");
    fill(&folder("small"), 2);
    let status = world.phase("p", "Failed").await;
    let message = "Container small exceeded its local ephemeral storage limit \"1Mi\". ";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_is_short_the_pod_that_takes_most_goes() {
    let world = World::new().await;
    running(&world, "idle", None).await;
    let small = running(&world, "small", None).await;
    let large = running(&world, "large", None).await;
    fill(&small, 2);
    fill(&large, 3);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.status("large")["phase"], "Running", "there is room");
    world.short.store(true, Ordering::SeqCst);
    let status = world.phase("large", "Failed").await;
    assert_eq!(world.status("small")["phase"], "Running", "one at a time");
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("Evicted"), &json!("The node was low on resource: ephemeral-storage. "))
    );
    let (is, reason, message) = condition(&status, "DisruptionTarget");
    assert_eq!((&*is, &*reason), ("True", "TerminationByKubelet"));
    assert_eq!(message, "The node was low on resource: ephemeral-storage. ");
    assert!(world.api.events().contains(&"EvictionThresholdMet: Attempting to reclaim ephemeral-storage".to_owned()));
    world.phase("small", "Failed").await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.status("idle")["phase"], "Running", "its end would free nothing");
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_is_short_the_logs_of_pods_that_are_over_go() {
    use tower::ServiceExt;
    let world = World::new().await;
    let names = ["over", "silent", "runs"];
    for name in names {
        let container = json!({"name": name, "image": "hello:1"});
        world.pod(name, json!({"restartPolicy": "Never", "containers": [container]}));
        world.phase(name, "Running").await;
    }
    let log = |name: &str| world.runtime.specs().iter().find(|spec| spec.name == name).expect("started").log.clone();
    for name in ["over", "runs"] {
        std::fs::create_dir_all(log(name).parent().expect("a folder")).expect("made");
        std::fs::write(log(name), "2026-01-01T00:00:00Z stdout F text\n").expect("written");
        std::fs::write(log(name).with_extension("log.20260101-000000"), "").expect("written");
    }
    for name in ["over", "silent"] {
        world.runtime.exit(name, 0);
        world.phase(name, "Succeeded").await;
    }
    let router = world.agent.as_ref().expect("runs").router();
    let get = async |name: &str| {
        let path = format!("/containerLogs/default/{name}/{name}");
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("answered");
        let code = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        (code, String::from_utf8(body.to_vec()).expect("text"))
    };
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(get("over").await, (200, "text\n".into()), "there is room");
    world.short.store(true, Ordering::SeqCst);
    world.until("over", |_| !log("over").exists()).await;
    assert_eq!(
        std::fs::read_dir(log("over").parent().expect("a folder")).expect("stays").count(),
        0,
        "rotated ones too"
    );
    let id = world.status("over")["containerStatuses"][0]["containerID"].as_str().expect("an id").to_owned();
    assert_eq!(get("over").await, (400, format!("unable to retrieve container logs for {id}")));
    assert_eq!(get("silent").await, (200, String::new()), "it has said nothing");
    assert_eq!(get("runs").await, (200, "text\n".into()));
}
