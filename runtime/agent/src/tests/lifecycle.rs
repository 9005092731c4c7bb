use super::world::{World, condition, path, waiting};
use crate::images::PullError;
use container::fake::Script;
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
    assert_eq!(status["hostIP"], "10.32.0.1");
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
    assert_eq!(std::fs::read_to_string(mount.source.join("color")).unwrap(), "blue");
    let statuses = world.api.statuses();
    assert_eq!(statuses[0].1["phase"], "Pending", "the first report is Pending");
    assert!(statuses.len() < 6, "statuses are not repeated: {statuses:#?}");
    // the volume follows the ConfigMap
    world.api.edit("/api/v1/namespaces/default/configmaps/cm", |cm| cm["data"]["color"] = "red".into());
    let file = mount.source.join("color");
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
