//! Ephemeral containers, which are added to a running pod.

use super::world::{World, condition, path};
use container::{Stdin, fake::Script};
use serde_json::{Value, json};
use std::time::Duration;

fn add(world: &World, name: &str, container: Value) {
    world.api.edit(&path(name), |pod| {
        let list = &mut pod["spec"]["ephemeralContainers"];
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut().unwrap().push(container);
        pod["metadata"]["generation"] = 2.into();
    });
}

fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["ephemeralContainerStatuses"].as_array();
    all.and_then(|all| all.iter().find(|c| c["name"] == name)).unwrap_or(&Value::Null)
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_is_started_once_and_decides_nothing() {
    let world = World::scripted(|name, _| match name {
        "short" => Script::Exit(Duration::from_secs(1), 3),
        _ => Script::Run,
    })
    .await;
    let app = json!({"name": "c", "image": "hello:1"});
    world.pod("p", json!({"containers": [app], "volumes": [{"name": "v", "emptyDir": {}}]}));
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    let mount = json!({"name": "v", "mountPath": "/v"});
    let debugger = json!({"name": "debugger", "image": "tools:1", "stdin": true, "tty": true, "volumeMounts": [mount]});
    add(&world, "p", debugger);
    let status = world.until("p", |s| of(s, "debugger")["state"]["running"].is_object()).await;
    assert_eq!((&status["phase"], condition(&status, "Ready").0), (&"Running".into(), "True".into()));
    let debugger = of(&status, "debugger");
    assert_eq!(
        (&debugger["ready"], &debugger["started"], &debugger["restartCount"]),
        (&false.into(), &Value::Null, &0.into())
    );
    assert!(debugger["containerID"].as_str().unwrap().starts_with("wasmtime://"));
    let spec = world.runtime.specs().pop().unwrap();
    assert_eq!((spec.name.as_str(), spec.stdin, spec.tty), ("debugger", Stdin::Open, true));
    assert!(spec.mounts.iter().any(|mount| mount.target == "/v"), "it has the pod's volumes");
    assert!(world.api.events().iter().any(|e| e.starts_with("Pulled: Successfully pulled image \"tools:1\"")));

    add(&world, "p", json!({"name": "short", "image": "tools:1"}));
    let ended = |s: &Value| of(s, "short")["state"]["terminated"]["exitCode"] == 3;
    world.until("p", ended).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = world.status("p");
    assert!(ended(&status) && of(&status, "short")["restartCount"] == 0, "never restarted: {status}");
    assert_eq!((&status["phase"], condition(&status, "Ready").0), (&"Running".into(), "True".into()));
    world.delete("p", 5);
    world.gone("p").await;
    let stopped: Vec<_> = world.runtime.stops().into_iter().map(|(name, _)| name).collect();
    assert!(stopped.contains(&"debugger".into()), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_does_not_keep_a_pod_alive_nor_wait_for_its_start() {
    let world = World::scripted(|name, _| match name {
        "init" => Script::Exit(Duration::from_secs(100), 0),
        "app" => Script::Exit(Duration::from_secs(5), 0),
        _ => Script::Run,
    })
    .await;
    world.pod(
        "p",
        json!({"restartPolicy": "Never", "initContainers": [{"name": "init", "image": "i:1"}],
            "containers": [{"name": "app", "image": "i:1"}]}),
    );
    world.until("p", |_| world.runtime.running() == ["init"]).await;
    add(&world, "p", json!({"name": "debugger", "image": "tools:1"}));
    world.until("p", |_| world.runtime.running() == ["debugger", "init"]).await;
    let status = world.phase("p", "Succeeded").await;
    assert_eq!(of(&status, "debugger")["state"]["terminated"]["exitCode"], 143, "{status}");
    assert!(world.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_ends_with_the_agent_and_stays_ended() {
    let mut world = World::new().await;
    world.pod("p", json!({"containers": [{"name": "c", "image": "hello:1"}]}));
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    add(&world, "p", json!({"name": "debugger", "image": "tools:1"}));
    world.until("p", |s| of(s, "debugger")["state"]["running"].is_object()).await;
    world.stop().await;
    world.start().await;
    let again = |s: &Value| condition(s, "Ready").0 == "True" && of(s, "debugger")["state"]["terminated"].is_object();
    let status = world.until("p", again).await;
    assert_eq!(of(&status, "debugger")["state"]["terminated"]["exitCode"], 143);
    assert_eq!(world.runtime.running(), ["c"]);
}
