use super::world::{World, condition, elapsed, failure, path, waiting};
use crate::images::Keyring;
use container::{
    ContainerSpec, Runtime, SandboxSpec,
    fake::Script,
    net::{Network, PodNetwork},
};
use serde_json::{Value, json};
use std::time::Duration;

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    if container["image"].is_null() {
        container["image"] = "hello:1".into();
    }
    json!({"containers": [container]})
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_environment_and_a_config_map_volume_runs() {
    let world = World::new().await;
    world.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"color": "blue"}}),
    );
    world.pod(
        "p",
        json!({
            "containers": [{
                "name": "c", "image": "hello:1",
                "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "color"}}}],
                "ports": [{"containerPort": 8080}],
                "volumeMounts": [{"name": "v", "mountPath": "/etc/cm"}]
            }],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}]
        }),
    );
    let status = world.phase("p", "Running").await;
    assert_eq!(status["podIP"], "10.32.0.2");
    assert_eq!(status["hostIP"], "192.0.2.7");
    assert_eq!(status["observedGeneration"], 1);
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["ready"], &container["started"], &container["restartCount"]),
        (&true.into(), &true.into(), &0.into())
    );
    assert!(container["containerID"].as_str().unwrap().starts_with("wasmtime://"));
    assert_eq!(container["imageID"], "hello:1@sha256:0");
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, kind).0, "True", "{kind}");
    }
    let spec = &world.runtime.specs()[0];
    assert!(spec.env.contains(&("COLOR".into(), "blue".into())));
    let mount = &spec.mounts[0];
    assert_eq!((mount.target.as_str(), mount.read_only), ("/etc/cm", true));
    assert_eq!(std::fs::read_to_string(mount.root.join("color")).unwrap(), "blue");
    let statuses = world.api.statuses();
    assert_eq!(statuses.len(), 1, "a pod that runs soon is told once: {statuses:#?}");
    // The volume follows the ConfigMap.
    world.api.edit("/api/v1/namespaces/default/configmaps/cm", |cm| cm["data"]["color"] = "red".into());
    let file = mount.root.join("color");
    world.until("p", |_| std::fs::read_to_string(&file).unwrap() == "red").await;
    let events = world.api.events();
    for expected in [
        "Pulling: Pulling image \"hello:1\"",
        "Pulled: Successfully pulled image \"hello:1\" in 100ms (100ms including waiting). Image size: 1000 bytes.",
        "Created: Container created",
        "Started: Container started",
    ] {
        assert!(events.iter().any(|e| e == expected), "{expected} in {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_is_restarted_with_back_off() {
    let world = World::scripted(|_, _| Script::Exit(Duration::from_secs(1), 3)).await;
    world.pod("p", one(json!({})));
    let status = world.until("p", |s| waiting(s) == "CrashLoopBackOff").await;
    assert_eq!(status["phase"], "Running");
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_default(uid-p)"
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(container["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(container["restartCount"], 1, "the first restart is not held back");
    assert_eq!(condition(&status, "Ready").2, "containers with unready status: [c]");
    let begin = super::world::elapsed();
    world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 4).await;
    let took = (super::world::elapsed() - begin).as_secs();
    assert!((70..80).contains(&took), "10 s + 20 s + 40 s and the runs between: {took}");
    let expected = "BackOff: Back-off restarting failed container c in pod p_default(uid-p)";
    assert!(world.api.events().iter().any(|e| e == expected));
    let mut registry = prometheus_client::registry::Registry::default();
    world.agent.as_ref().unwrap().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "kubelet_container_restarts_total 4",
        "kubelet_started_containers_total{container_type=\"container\"} 5",
        "kubelet_pod_start_duration_seconds_count 1",
        "kubelet_running_pods 1",
        "kubelet_running_containers{container_state=\"running\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn finished_pods_keep_their_word() {
    let world = World::scripted(|name, _| Script::Exit(Duration::from_secs(1), i32::from(name != "c"))).await;
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "OnFailure".into();
    world.pod("good", spec.clone());
    spec["restartPolicy"] = "Never".into();
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "hello:1"}));
    world.pod("bad", spec);
    let good = world.phase("good", "Succeeded").await;
    assert_eq!(good["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(condition(&good, "Ready").1, "PodCompleted");
    let bad = world.phase("bad", "Failed").await;
    assert_eq!(bad["containerStatuses"][1]["state"]["terminated"]["exitCode"], 1);
    // Only their logs and their objects in the API remain.
    world.until("bad", |_| world.runtime.sandboxes().is_empty()).await;
    let good = world.until("good", |s| condition(s, "PodReadyToStartContainers").0 == "False").await;
    assert!(good["podIP"].is_string(), "the address stays on record");
    world.delete("good", 0);
    world.gone("good").await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_and_sidecars_stay() {
    let world = World::scripted(|name, _| match name {
        "init" => Script::Exit(Duration::from_secs(2), 0),
        "app" => Script::Exit(Duration::from_secs(5), 0),
        _ => Script::Run,
    })
    .await;
    world.pod(
        "p",
        json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "init", "image": "i:1"}, {"name": "side", "image": "i:1", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "i:1"}]
        }),
    );
    let status = world.until("p", |s| s["initContainerStatuses"][0]["state"]["running"].is_object()).await;
    assert_eq!((&status["phase"], waiting(&status)), (&"Pending".into(), "PodInitializing"));
    assert_eq!(condition(&status, "Initialized").2, "containers with incomplete status: [init side]");
    world.phase("p", "Running").await;
    assert_eq!(world.runtime.running(), ["app", "side"]);
    let status = world.phase("p", "Succeeded").await;
    assert_eq!(status["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 143);
    let names: Vec<_> = world.runtime.specs().iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["init", "side", "app"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_is_told_held_back_and_tried_again() {
    let world = World::new().await;
    world.images.broken.lock().insert("hello:1".into(), failure("hello:1"));
    world.api.put(
        "/api/v1/namespaces/default/secrets/pull",
        json!({"metadata": {"name": "pull", "namespace": "default"}, "data": {
            ".dockerconfigjson": "eyJhdXRocyI6eyJyIjp7InVzZXJuYW1lIjoidSIsInBhc3N3b3JkIjoicCJ9fX0="}}),
    );
    let mut spec = one(json!({}));
    spec["imagePullSecrets"] = json!([{"name": "pull"}]);
    world.pod("p", spec);
    let status = world.until("p", |s| waiting(s) == "ErrImagePull").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no such tag"), "{message}");
    let status = world.until("p", |s| waiting(s) == "ImagePullBackOff").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("Back-off pulling image \"hello:1\": ErrImagePull: "), "{message}");
    let mut keyring = Keyring::new();
    keyring.add_dockercfg(br#"{"r": {"username": "u", "password": "p"}}"#).unwrap();
    assert_eq!(world.images.pulls.lock()[0].1, keyring);
    world.images.broken.lock().clear();
    world.phase("p", "Running").await;
    let events = world.api.events();
    for expected in [
        "Failed: Error: ErrImagePull",
        "Failed: Error: ImagePullBackOff",
        "BackOff: Back-off pulling image \"hello:1\"",
    ] {
        assert!(events.iter().any(|e| e == expected), "{expected} in {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_loaded_ends_the_back_off_of_who_waits_for_it() {
    let world = World::new().await;
    for image in ["own:1", "other:1"] {
        world.images.broken.lock().insert(image.into(), failure(image));
    }
    let spec =
        |image: &str, policy: &str| json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]});
    world.pod("absent", spec("own:1", "IfNotPresent"));
    world.pod("never", spec("own:1", "Never"));
    world.pod("always", spec("own:1", "Always"));
    world.pod("other", spec("other:1", "IfNotPresent"));
    world.until("absent", |s| waiting(s) == "ImagePullBackOff").await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    world.until("absent", |s| waiting(s) == "ImagePullBackOff").await;
    let (loaded, pulls) = (elapsed(), world.images.pulls.lock().len());
    // Like `sampan image load`, which is another process.
    world.images.load("own:1");
    for name in ["absent", "never"] {
        world.phase(name, "Running").await;
        assert!(elapsed() - loaded <= Duration::from_secs(2), "{name}: {:?}", elapsed() - loaded);
    }
    assert_eq!(world.images.pulls.lock().len(), pulls, "no registry was asked for it");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.images.pulls.lock().len() <= pulls + 2, "the others wait on as they did");
}

#[tokio::test(start_paused = true)]
async fn images_that_cannot_run_say_why_and_never_run() {
    let world = World::new().await;
    world.runtime.script(|name, _| match name {
        "sha256:broken:1" => Script::FailPrepare("unknown import".into()),
        "refused" => Script::FailStart("no entry point".into()),
        _ => Script::Run,
    });
    world.pod("never", one(json!({"imagePullPolicy": "Never"})));
    world.pod("invalid", one(json!({"image": "INVALID"})));
    world.pod("linux", one(json!({"image": "linux:1"})));
    world.pod("broken", one(json!({"image": "broken:1"})));
    world.pod("refused", json!({"containers": [{"name": "refused", "image": "hello:1"}]}));
    for (name, reason, text) in [
        ("never", "ErrImageNeverPull", "Container image \"hello:1\" is not present with pull policy of Never"),
        ("invalid", "InvalidImageName", "invalid reference format"),
        ("linux", "ImageUnsupported", "this is a Linux image (linux/amd64)"),
        ("broken", "CreateContainerError", "unknown import"),
        ("refused", "RunContainerError", "no entry point"),
    ] {
        let status = world.until(name, |s| waiting(s) == reason).await;
        let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
        assert!(message.contains(text), "{name}: {message}");
        assert_eq!(status["phase"], "Pending", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_configuration_is_waited_for() {
    let world = World::new().await;
    world.pod("env", one(json!({"envFrom": [{"configMapRef": {"name": "cm"}}]})));
    let mut spec = one(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "cm"}}]);
    world.pod("volume", spec);
    let status = world.until("env", |s| waiting(s) == "CreateContainerConfigError").await;
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], "configmap \"cm\" not found");
    let text = "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found";
    world.until("volume", |_| world.api.events().iter().any(|e| e == text)).await;
    world.until("volume", |status| waiting(status) == "ContainerCreating").await;
    world.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "1"}}),
    );
    world.phase("env", "Running").await;
    world.phase("volume", "Running").await;
    assert!(world.api.events().iter().any(|e| e == "Failed: Error: configmap \"cm\" not found"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_stopped_with_grace_and_then_really_deleted() {
    let world = World::scripted(|_, _| Script::SlowStop(Duration::from_secs(4))).await;
    let stopped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, runtime) = (stopped.clone(), world.runtime.clone());
    world.network.answer(80, move |request| {
        let retired = runtime.retired() == ["c"] && runtime.stops().is_empty();
        seen.fetch_or(request.uri().path() == "/bye" && retired, std::sync::atomic::Ordering::SeqCst);
        (200, vec![])
    });
    world.pod("p", one(json!({"lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 80}}}})));
    world.phase("p", "Running").await;
    world.delete("p", 20);
    world.gone("p").await;
    assert!(
        stopped.load(std::sync::atomic::Ordering::SeqCst),
        "the hook was called, and clients were asked to leave before"
    );
    assert_eq!(world.runtime.stops(), [("c".to_owned(), Duration::from_secs(20))]);
    let last = world.api.statuses().pop().unwrap().1;
    assert_eq!(
        (&last["phase"], &last["containerStatuses"][0]["state"]["terminated"]["exitCode"]),
        (&"Failed".into(), &143.into())
    );
    assert!(world.api.events().iter().any(|e| e == "Killing: Stopping container c"));
    let left = |dir: &str| std::fs::read_dir(world.dir.path().join(dir)).map_or(0, Iterator::count);
    world.until("p", |_| left("state") == 0 && left("volumes") == 0 && left("logs") == 0).await;
    assert!(world.runtime.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_second_grace_cuts_the_first_and_a_forced_deletion_is_cleaned_up_after() {
    let world = World::scripted(|_, _| Script::SlowStop(Duration::from_secs(600))).await;
    world.pod("p", one(json!({})));
    world.pod("forced", one(json!({})));
    world.phase("p", "Running").await;
    world.phase("forced", "Running").await;
    world.delete("p", 300);
    world.until("p", |_| world.runtime.stops().len() == 1).await;
    world.delete("p", 1);
    let begin = super::world::elapsed();
    world.gone("p").await;
    assert!(super::world::elapsed() - begin < Duration::from_secs(60));
    world.api.delete(&path("forced"));
    world.until("forced", |_| world.runtime.sandboxes().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn probes_decide_about_readiness_and_restarts() {
    use std::sync::atomic::{AtomicU16, Ordering};
    let world = World::new().await;
    let (live, ready) = (std::sync::Arc::new(AtomicU16::new(200)), std::sync::Arc::new(AtomicU16::new(500)));
    let (l, r) = (live.clone(), ready.clone());
    world.network.answer(80, move |request| match request.uri().path() {
        "/live" => (l.load(Ordering::SeqCst), vec![]),
        _ => (r.load(Ordering::SeqCst), vec![]),
    });
    world.pod(
        "p",
        one(json!({
            "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
            "livenessProbe": {"httpGet": {"path": "/live", "port": 80}, "periodSeconds": 2, "failureThreshold": 2},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 80}, "periodSeconds": 1, "failureThreshold": 1}
        })),
    );
    let started = |s: &Value| s["containerStatuses"][0]["started"] == true;
    let is_ready = |s: &Value| s["containerStatuses"][0]["ready"] == true;
    let status = world.until("p", started).await;
    assert!(!is_ready(&status));
    ready.store(200, Ordering::SeqCst);
    let status = world.until("p", is_ready).await;
    assert_eq!(condition(&status, "Ready").0, "True");
    ready.store(500, Ordering::SeqCst);
    world.until("p", |s| !is_ready(s)).await;
    live.store(503, Ordering::SeqCst);
    let status = world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 143);
    live.store(200, Ordering::SeqCst);
    world.until("p", started).await;
    let events = world.api.events();
    for expected in [
        "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500",
        "Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 503",
        "Killing: Container c failed liveness probe, will be restarted",
    ] {
        assert!(events.iter().any(|e| e == expected), "{expected} in {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_agent_pods_go_on_where_they_were() {
    let mut world = World::new().await;
    world.pod("p", one(json!({})));
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    world.pod("never", spec);
    let before = world.phase("p", "Running").await;
    world.phase("never", "Running").await;
    world.stop().await;
    assert_eq!(world.status("p"), before, "draining changes nothing in the API");
    assert!(world.runtime.retired().is_empty(), "nobody else is there to go to");
    assert!(world.runtime.running().is_empty());
    // The new process has an empty network, and another pod is set up first.
    world.network = Default::default();
    world.start().await;
    let again = |s: &Value| {
        let container = &s["containerStatuses"][0];
        container["lastState"]["terminated"].is_object() && container["ready"] == true
    };
    let after = world.until("p", again).await;
    assert_eq!(after["containerStatuses"][0]["restartCount"], 0, "it goes on: nobody is to be alarmed");
    assert_eq!((&after["podIP"], &after["startTime"]), (&before["podIP"], &before["startTime"]));
    let last = &after["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&143.into(), &"Error".into()), "as it really ended");
    assert!(last["finishedAt"].is_string(), "{last}");
    assert_eq!(last["containerID"], before["containerStatuses"][0]["containerID"]);
    assert_eq!(after["phase"], "Running");
    let never = world.phase("never", "Failed").await;
    assert_eq!(never["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    // A container that is repeatedly drained has no restart back-off.
    let begin = super::world::elapsed();
    for _ in 2..5 {
        world.stop().await;
        let starts = world.runtime.specs().len();
        world.start().await;
        world.until("p", |s| world.runtime.specs().len() > starts && again(s)).await;
    }
    let last = world.status("p");
    assert!(super::world::elapsed() - begin < Duration::from_secs(5));
    assert_eq!(last["containerStatuses"][0]["restartCount"], 0);
    let mut logs: Vec<_> = world.runtime.specs().iter().filter(|s| s.name == "c").map(|s| s.log.clone()).collect();
    logs.sort();
    assert!(logs.iter().any(|log| log.ends_with("4.log")), "each attempt has a log of its own: {logs:?}");
    // A pod that was deleted meanwhile is cleaned up.
    world.stop().await;
    world.api.delete(&path("p"));
    world.start().await;
    world.until("never", |_| std::fs::read_dir(world.dir.path().join("state")).unwrap().count() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_removed_keeps_no_pod_from_starting() {
    let mut world = World::new().await;
    world.pod("known", one(json!({})));
    world.phase("known", "Running").await;
    world.runtime.fail_sandbox_removal(true);
    world.stop().await;
    world.api.delete(&path("known"));
    // The pods of an earlier process whose state files are lost.
    let attached = world.network.attach(PodNetwork {
        id: "unknown".into(),
        name: "unknown".to_owned(),
        namespace: "default".to_owned(),
        hostname: String::new(),
        address: None,
        host_aliases: Vec::new(),
        host_ports: Vec::new(),
        kernel: false,
    });
    let attached = attached.await.unwrap();
    let spec = SandboxSpec {
        id: "unknown".into(),
        hostname: String::new(),
        labels: Default::default(),
        limits: Default::default(),
        network: attached.sandbox,
        folders: Vec::new(),
        linux: Default::default(),
    };
    let container = world.runtime.specs()[0].clone();
    world.runtime.sandbox(spec, attached.sockets).await.unwrap();
    world.runtime.create(&"unknown".into(), ContainerSpec { id: "unknown".into(), ..container }).await.unwrap();
    assert_eq!(world.runtime.sandboxes().len(), 2);
    world.start().await;
    world.pod("next", one(json!({})));
    world.phase("next", "Running").await;
    assert_eq!(world.runtime.sandboxes().len(), 3, "both are still there");
    world.runtime.fail_sandbox_removal(false);
    world.until("next", |_| world.runtime.sandboxes().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_obeys_a_drain_with_code_0_has_not_done_its_work() {
    let mut world = World::scripted(|_, _| Script::ExitOnStop(0)).await;
    for (name, policy) in [("always", "Always"), ("failure", "OnFailure"), ("never", "Never")] {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = policy.into();
        world.pod(name, spec);
        world.phase(name, "Running").await;
    }
    world.stop().await;
    world.start().await;
    let last = |s: &Value| s["containerStatuses"][0]["lastState"]["terminated"].clone();
    for (name, code, reason) in [("always", 0, "Completed"), ("failure", 137, "ContainerStatusUnknown")] {
        let status = world.until(name, |s| last(s).is_object() && s["containerStatuses"][0]["ready"] == true).await;
        assert_eq!((&last(&status)["exitCode"], &last(&status)["reason"]), (&code.into(), &reason.into()), "{name}");
    }
    world.phase("never", "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_the_drain_is_cut_counted_and_remembered() {
    let mut world =
        World::scripted(|name, _| Script::SlowStop(Duration::from_secs(if name == "slow" { 600 } else { 9 }))).await;
    world.pod("p", json!({"containers": [{"name": "slow", "image": "i:1"}, {"name": "fast", "image": "i:1"}]}));
    world.until("p", |s| condition(s, "Ready").0 == "True").await;
    world.stop().await;
    assert_eq!(world.agent.as_ref().unwrap().killed_containers(), 1);
    world.start().await;
    let status = world.until("p", |s| s["containerStatuses"][1]["lastState"]["terminated"].is_object()).await;
    let code = |n: usize| status["containerStatuses"][n]["lastState"]["terminated"]["exitCode"].clone();
    assert_eq!((code(0), code(1)), (137.into(), 143.into()));
    assert!(status["containerStatuses"][0]["lastState"]["terminated"]["finishedAt"].is_string(), "{status}");
}

#[tokio::test(start_paused = true)]
async fn statuses_reach_an_api_that_says_no_for_a_while() {
    let world = World::new().await;
    world.api.fail(5);
    world.pod("p", one(json!({})));
    world.phase("p", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_mounted_and_rotated_before_it_ends() {
    let world = World::new().await;
    let mut spec =
        one(json!({"volumeMounts": [{"name": "t", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}));
    spec["volumes"] = json!([{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]);
    world.pod("p", spec);
    world.phase("p", "Running").await;
    let dir = world.runtime.specs()[0].mounts[0].root.clone();
    let token = || std::fs::read_to_string(dir.join("token")).unwrap();
    assert_eq!(
        (token(), std::fs::read_to_string(dir.join("namespace")).unwrap()),
        ("token-1".into(), "default".into())
    );
    let begin = super::world::elapsed();
    world.until("p", |_| token() == "token-2").await;
    let took = (super::world::elapsed() - begin).as_secs();
    assert!((790..=810).contains(&took), "at 80 % of its life: {took}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_fails() {
    let world = World::new().await;
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = 30.into();
    world.pod("p", spec);
    let status = world.phase("p", "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    assert_eq!(status["message"], "Pod was active on the node longer than the specified deadline");
    assert!(world.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn single_files_are_mounted_by_their_folder() {
    let world = World::new().await;
    world.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"a.conf": "1"}}),
    );
    let host = tempfile::tempdir().unwrap();
    let mut spec = one(json!({"volumeMounts": [
        {"name": "cm", "mountPath": "/etc/app/a.conf", "subPath": "a.conf"},
        {"name": "tmp", "mountPath": "/data", "subPath": "sub"},
        {"name": "host", "mountPath": "/host", "readOnly": true}
    ]}));
    spec["volumes"] = json!([
        {"name": "cm", "configMap": {"name": "cm", "defaultMode": 0o400}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": host.path(), "type": "Directory"}}
    ]);
    world.pod("p", spec);
    world.phase("p", "Running").await;
    let mounts = world.runtime.specs()[0].mounts.clone();
    let find =
        |target: &str| mounts.iter().find(|m| m.target == target).unwrap_or_else(|| panic!("{target} in {mounts:#?}"));
    assert_eq!(std::fs::read_to_string(find("/etc/app").root.join("a.conf")).unwrap(), "1");
    assert!(find("/etc/app").read_only, "the volume is");
    assert!(find("/data").root.ends_with("tmp") && find("/data").below == std::path::Path::new("sub"));
    assert!(find("/data").open().is_ok() && !find("/data").read_only);
    assert_eq!((find("/host").root.as_path(), find("/host").read_only), (host.path(), true));
    let mut spec = one(json!({"volumeMounts": [{"name": "x", "mountPath": "/x", "subPath": "../.."}]}));
    spec["volumes"] = json!([{"name": "x", "emptyDir": {}}]);
    world.pod("out", spec);
    let status = world.until("out", |s| waiting(s) == "CreateContainerConfigError").await;
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "unable to provision SubPath `../..`: must not contain '..'");
}

#[tokio::test(start_paused = true)]
async fn a_host_path_of_the_data_directory_is_refused_with_the_reason() {
    let world = World::new().await;
    let inside = world.dir.path().join("state");
    let above = world.dir.path().parent().expect("it lies somewhere").to_owned();
    let made = world.dir.path().join("volumes/new/er");
    for (name, path, kind, why) in [
        ("in", &inside, "", "it lies in the data directory of this node, which pods may not see"),
        ("above", &above, "Directory", "it holds the data directory of this node, which pods may not see"),
        ("made", &made, "DirectoryOrCreate", "it lies in the data directory of this node, which pods may not see"),
    ] {
        let mut spec = one(json!({"volumeMounts": [{"name": "h", "mountPath": "/h"}]}));
        spec["volumes"] = json!([{"name": "h", "hostPath": {"path": path, "type": kind}}]);
        world.pod(name, spec);
        let path = path.display();
        let event =
            format!("FailedMount: MountVolume.SetUp failed for volume \"h\" : hostPath {path} is refused: {why}");
        world.until(name, |_| world.api.events().contains(&event)).await;
        world.until(name, |status| waiting(status) == "ContainerCreating").await;
    }
    assert!(!made.exists() && !made.parent().expect("a folder").exists(), "nor is anything made there");
}

#[tokio::test(start_paused = true)]
async fn logs_are_served_as_the_kubelet_does() {
    use tower::ServiceExt;
    let world = World::new().await;
    world.images.broken.lock().insert("none:1".into(), failure("none:1"));
    world.pod("p", one(json!({})));
    world.pod("waits", one(json!({"image": "none:1"})));
    world.phase("p", "Running").await;
    world.until("waits", |s| waiting(s) == "ImagePullBackOff").await;
    let write = |path: &std::path::Path, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("2026-01-01T00:00:00Z stdout F {text}\n")).unwrap();
    };
    write(&world.runtime.specs()[0].log, "first");
    world.runtime.exit("c", 1);
    world.until("p", |s| s["containerStatuses"][0]["restartCount"] == 1 && s["phase"] == "Running").await;
    write(&world.runtime.specs()[1].log, "second");
    let router = world.agent.as_ref().unwrap().router();
    let get = async |path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(get("/containerLogs/default/p/c").await, (200, "second\n".into()));
    assert_eq!(get("/containerLogs/default/p/c?previous=true").await, (200, "first\n".into()));
    assert_eq!(get("/containerLogs/default/p/x").await, (404, "container \"x\" not found in pod \"p\"\n".into()));
    let waits = "container \"c\" in pod \"waits\" is waiting to start: trying and failing to pull image";
    assert_eq!(get("/containerLogs/default/waits/c").await, (400, waits.into()));
    let none = "previous terminated container \"c\" in pod \"waits\" not found";
    assert_eq!(get("/containerLogs/default/waits/c?previous=true").await, (400, none.into()));
    assert_eq!(get("/exec/default/p/c").await.0, 400, "without an upgrade");
    assert_eq!(get("/healthz").await, (200, "ok".into()));
    let summary: Value = serde_json::from_str(&get("/stats/summary").await.1).unwrap();
    assert_eq!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 1 << 20);
    let metrics = get("/metrics/resource").await.1;
    assert!(
        metrics.contains("container_memory_working_set_bytes{container=\"c\",namespace=\"default\",pod=\"p\"} 1048576")
    );
    // A followed log ends with its container, after its last line.
    let follow = tokio::spawn({
        let request =
            axum::http::Request::get("/containerLogs/default/p/c?follow=true").body(axum::body::Body::empty()).unwrap();
        let answer = router.clone().oneshot(request);
        async move { axum::body::to_bytes(answer.await.unwrap().into_body(), usize::MAX).await.unwrap() }
    });
    use std::io::Write;
    let mut log = std::fs::OpenOptions::new().append(true).open(&world.runtime.specs()[1].log).unwrap();
    log.write_all(b"2026-01-01T00:00:01Z stdout F more\n").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!follow.is_finished());
    world.runtime.exit("c", 0);
    assert_eq!(follow.await.unwrap(), "second\nmore\n");
    // Following the log of an exited container returns at once.
    let begin = super::world::elapsed();
    assert_eq!(get("/containerLogs/default/p/c?previous=true&follow=true").await, (200, "second\nmore\n".into()));
    assert_eq!(super::world::elapsed(), begin);
}
