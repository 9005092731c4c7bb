//! Exec probes and life-cycle hooks, compared with upstream's kubelet.

use super::world::{World, condition, elapsed, waiting};
use container::fake::Script;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "hello:1".into();
    json!({"containers": [container]})
}

fn say(code: u8, output: &str, errors: &str) -> Value {
    json!({"exec": {"command": ["say", code.to_string(), output, errors]}})
}

fn with(mut handler: Value, more: Value) -> Value {
    handler.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    handler
}

fn told(world: &World, event: &str) -> bool {
    world.api.events().iter().any(|e| e == event)
}

#[tokio::test(start_paused = true)]
async fn an_exec_probe_passes_with_exit_code_0() {
    let world = World::new().await;
    let ready = with(say(0, "", ""), json!({"periodSeconds": 1}));
    world.pod("p", one(json!({"readinessProbe": ready, "startupProbe": ready, "livenessProbe": ready})));
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    assert!(!world.api.events().iter().any(|e| e.starts_with("Unhealthy")), "{:#?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn an_exec_probe_that_fails_tells_what_it_wrote_and_restarts() {
    let world = World::new().await;
    let long = "o".repeat(20 << 10);
    let live = with(say(3, "out ", "err"), json!({"periodSeconds": 1, "failureThreshold": 2}));
    let ready = with(say(1, &long, "never seen"), json!({"periodSeconds": 1}));
    world.pod("p", one(json!({"livenessProbe": live, "readinessProbe": ready})));
    world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    for event in
        ["Unhealthy: Liveness probe failed: out err", "Killing: Container c failed liveness probe, will be restarted"]
    {
        assert!(told(&world, event), "{event} in {:#?}", world.api.events());
    }
    let readiness = world.api.events().into_iter().find(|e| e.contains("Readiness probe failed"));
    // The message is truncated to the maximum length of an event.
    assert!(readiness.is_some_and(|text| text.len() <= 1100 && text.contains("ooo")));
}

#[tokio::test(start_paused = true)]
async fn an_exec_probe_that_takes_too_long_has_failed() {
    let world = World::new().await;
    let hang = json!({"exec": {"command": ["hang"]}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 1});
    world.pod("p", one(json!({"livenessProbe": hang})));
    world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    let event = "Unhealthy: Liveness probe failed: command timed out: \"hang\" timed out after 2s";
    assert!(told(&world, event), "{:#?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn an_exec_probe_that_cannot_be_made_says_so_and_decides_nothing() {
    let world = World::new().await;
    let none = json!({"exec": {"command": ["none"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.pod("p", one(json!({"readinessProbe": none, "livenessProbe": none})));
    let event = |kind| {
        format!("Unhealthy: {kind} probe errored and resulted in unknown state: [\"none\"] is not in the container")
    };
    world.until("p", |_| told(&world, &event("Readiness")) && told(&world, &event("Liveness"))).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = world.status("p");
    assert_eq!(
        (&status["containerStatuses"][0]["ready"], &status["containerStatuses"][0]["restartCount"]),
        (&false.into(), &0.into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_after_the_start_ends_the_container() {
    let world = World::new().await;
    let hook = say(1, "half\n", "no luck");
    world.pod("p", one(json!({"lifecycle": {"postStart": hook}})));
    let status = world.until("p", |s| waiting(s) == "PostStartHookError").await;
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"]["waiting"]["message"],
        "Exec lifecycle hook ([say 1 half\n no luck]) for Container \"c\" in Pod \"p_default(uid-p)\" failed - \
         error: command 'say 1 half\n no luck' exited with 1: no luck, message: \"half\\nno luck\""
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 143);
    world.until("p", |s| waiting(s) == "CrashLoopBackOff").await;
    for event in ["FailedPostStartHook: PostStartHook failed", "Killing: FailedPostStartHook"] {
        assert!(told(&world, event), "{event} in {:#?}", world.api.events());
    }
    // A container that is not restarted shows how it terminated.
    let mut spec = one(json!({"lifecycle": {"postStart": {"tcpSocket": {"port": 80}}}}));
    spec["restartPolicy"] = "Never".into();
    world.pod("never", spec);
    let status = world.phase("never", "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143, "{status}");
}

#[tokio::test(start_paused = true)]
async fn an_http_hook_has_passed_with_any_answer() {
    let world = World::new().await;
    let agent = Arc::new(parking_lot::Mutex::new(String::new()));
    let seen = agent.clone();
    world.network.answer(80, move |request| {
        *seen.lock() = request.headers()["user-agent"].to_str().unwrap().to_owned();
        (500, vec![])
    });
    world.pod("p", one(json!({"lifecycle": {"postStart": {"httpGet": {"port": 80}}}})));
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    assert_eq!(*agent.lock(), "kube-lifecycle/1.36");
    world.pod("none", one(json!({"lifecycle": {"postStart": {"httpGet": {"path": "/x", "port": 81}}}})));
    let status = world.until("none", |s| waiting(s) == "PostStartHookError").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("HTTP lifecycle hook (/x) for Container \"c\" in Pod \"none_default(uid-none)\" failed - error: Get \"http://10.32.0.3:81/x\": dial tcp 10.32.0.3:81: connect: connection refused"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_container_waits_for_the_hook_of_the_one_before_it() {
    let world = World::new().await;
    world.pod(
        "p",
        json!({"containers": [
            {"name": "a", "image": "hello:1", "lifecycle": {"postStart": {"sleep": {"seconds": 30}}}},
            {"name": "b", "image": "hello:1"}
        ]}),
    );
    world.until("p", |_| world.runtime.running() == ["a"]).await;
    let begin = elapsed();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = world.status("p");
    assert_eq!(
        (&status["phase"], waiting(&status)),
        (&"Pending".into(), "ContainerCreating"),
        "not before the hook is over"
    );
    assert_eq!(world.runtime.running(), ["a"]);
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    let took = (elapsed() - begin).as_secs();
    assert!((29..32).contains(&took), "{took}");
    assert_eq!(world.runtime.running(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_does_not_wait_for_its_hook() {
    let world = World::new().await;
    world.pod("p", one(json!({"lifecycle": {"postStart": {"exec": {"command": ["hang"]}}}})));
    world.until("p", |_| !world.runtime.commands().is_empty()).await;
    let begin = elapsed();
    world.delete("p", 30);
    world.gone("p").await;
    assert!(elapsed() - begin < Duration::from_secs(5));
    assert!(!world.api.events().iter().any(|e| e.contains("PostStart")), "{:#?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_the_stop_takes_of_the_grace_period() {
    let world = World::scripted(|_, _| Script::Linger(Duration::from_secs(600))).await;
    for (name, hook, left) in [
        ("sleeps", json!({"sleep": {"seconds": 12}}), 18),
        ("hangs", json!({"exec": {"command": ["hang"]}}), 2),
        ("passes", say(0, "", ""), 30),
        ("fails", say(1, "", ""), 30),
    ] {
        world.pod(name, one(json!({"lifecycle": {"preStop": hook}})));
        world.until(name, |s| condition(s, "Ready").0 == "True").await;
        let stops = world.runtime.stops().len();
        world.delete(name, 30);
        world.until(name, |_| world.runtime.stops().len() > stops).await;
        assert_eq!(world.runtime.stops()[stops].1.as_secs_f64().round() as u64, left, "{name}");
        let failed = world.api.events().iter().filter(|e| **e == "FailedPreStopHook: PreStopHook failed").count();
        assert_eq!(failed, usize::from(name == "fails"), "{name}");
        world.gone(name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_that_fails_runs_the_hook_before_the_stop() {
    let world = World::new().await;
    let code = Arc::new(AtomicU16::new(500));
    let answer = code.clone();
    world.network.answer(80, move |_| (answer.load(Ordering::SeqCst), vec![]));
    world.pod(
        "p",
        one(json!({
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
            "lifecycle": {"preStop": say(0, "bye", "")}
        })),
    );
    world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(world.runtime.commands()[0], ["say", "0", "bye", ""]);
    code.store(200, Ordering::SeqCst);
}
