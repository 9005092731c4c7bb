//! Pods of Linux images, which the runtime `runc` gets.

use super::world::World;
use container::{ContainerSpec, Seccomp, fake::Script};
use serde_json::{Value, json};
use std::fs;

fn spec(world: &World, container: &str) -> ContainerSpec {
    world.runtime.specs().into_iter().find(|spec| spec.name == container).expect("it was started")
}

/// The paths at which something is mounted, and whether it is a file.
fn targets(spec: &ContainerSpec) -> Vec<(&str, bool)> {
    spec.mounts.iter().map(|mount| (&*mount.target, mount.is_file)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_linux_container_gets_what_its_pod_asks_for() {
    let world = World::of("runc", |_, _| Script::Run).await;
    let own = json!({"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}});
    let mounts = json!([{"name": "v", "mountPath": "/data"}]);
    world.pod(
        "p",
        json!({
            "securityContext": {"runAsUser": 5, "fsGroup": 7},
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "linux:1", "securityContext": own, "volumeMounts": mounts}],
        }),
    );
    world.phase("p", "Running").await;
    let spec = spec(&world, "c");
    let linux = spec.linux.as_ref().expect("it is one of Linux");
    assert_eq!((linux.user.user, &linux.user.groups[..]), (Some(5), &[7][..]));
    assert_eq!(linux.capabilities.drop, ["ALL"]);
    assert_eq!(linux.seccomp, Seccomp::Localhost(world.dir.path().join("seccomp/x.json")));
    assert_eq!(targets(&spec), [("/data", false), ("/etc/hosts", true), ("/dev/termination-log", true)]);
    let hosts = fs::read_to_string(spec.mounts[1].root.join(&spec.mounts[1].below)).unwrap();
    assert!(hosts.contains("\tp\n") && hosts.ends_with("10.0.0.1\tdb\n"), "{hosts}");
}

#[tokio::test(start_paused = true)]
async fn who_must_not_be_root_waits_with_the_reason() {
    let world = World::of("runc", |_, _| Script::Run).await;
    let context = json!({"runAsNonRoot": true});
    world.pod("p", json!({"securityContext": context, "containers": [{"name": "c", "image": "linux:1"}]}));
    let waiting = |status: &Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    let status = world.until("p", |status| waiting(status)["reason"] == "CreateContainerConfigError").await;
    let message = waiting(&status)["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("container has runAsNonRoot and image will run as root (pod: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_of_webassembly_gets_none_of_it() {
    let world = World::new().await;
    world.pod(
        "p",
        json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "image": "hello:1"}]}),
    );
    world.phase("p", "Running").await;
    let spec = spec(&world, "c");
    assert!(spec.linux.is_none());
    assert_eq!(targets(&spec), [("/dev", false)]);
}
