//! Pods of Linux images, which the runtime `runc` gets.

use super::world::World;
use container::{ContainerSpec, Mount, Seccomp, fake::Script, net::Network};
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
    assert_eq!(
        targets(&spec),
        [("/data", false), ("/etc/hosts", true), ("/etc/resolv.conf", true), ("/dev/termination-log", true)]
    );
    let text = |mount: &Mount| fs::read_to_string(mount.root.join(&mount.below)).unwrap();
    let (hosts, resolver) = (text(&spec.mounts[1]), text(&spec.mounts[2]));
    assert!(hosts.contains("\tp\n") && hosts.ends_with("10.0.0.1\tdb\n"), "{hosts}");
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local\n";
    assert_eq!(resolver, format!("{search}nameserver 10.96.0.10\noptions ndots:5\n"));
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

#[tokio::test(start_paused = true)]
async fn the_images_decide_whether_a_pod_has_a_network_namespace() {
    let world = World::of("runc", |_, _| Script::Run).await;
    world.images.load("linux:1");
    // one is on the node, one at its registry, and of one the registry does not tell it beforehand
    for image in ["linux:1", "linux:2", "unclear-linux:1"] {
        let name = image.replace(':', "-");
        world.pod(&name, json!({"containers": [{"name": "c", "image": image}]}));
        let status = world.phase(&name, "Running").await;
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "{image}");
        assert!(world.network.has_namespace(&format!("uid-{name}")), "{image}");
        let addresses: Vec<_> = world.network.list().into_iter().map(|(_, address)| address.to_string()).collect();
        assert!(addresses.contains(&status["podIP"].as_str().expect("an address").to_owned()), "{image}: {status}");
    }
    assert!(!world.api.events().iter().any(|event| event.contains("no network")), "{:?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn where_the_machine_refuses_namespaces_an_event_says_so() {
    let world = World::of("runc", |_, _| Script::Run).await;
    world.network.refuse_namespaces();
    world.pod("p", json!({"containers": [{"name": "c", "image": "linux:1"}]}));
    world.phase("p", "Running").await;
    assert!(!world.network.has_namespace("uid-p"));
    let told = "NetworkUnavailable: The Linux containers of the pod have no network: this machine has no namespaces";
    assert!(world.api.events().iter().any(|event| event == told), "{:?}", world.api.events());
}

#[tokio::test(start_paused = true)]
async fn no_mount_is_left_of_a_volume_of_memory() {
    let mut world = World::of("runc", |_, _| Script::Run).await;
    let root = world.dir.path().to_owned();
    let mounted = || {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(&*root.to_string_lossy())).count()
    };
    let spec = |image: &str| {
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        let volumes = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
        json!({"volumes": volumes, "containers": [{"name": "c", "image": image, "volumeMounts": mounts}]})
    };
    world.pod("wasm", spec("hello:1"));
    world.until("wasm", |status| super::world::waiting(status) == "ImageUnsupported").await;
    assert_eq!(mounted(), 0, "modules do without");
    for name in ["p", "q"] {
        world.pod(name, spec("linux:1"));
        world.phase(name, "Running").await;
    }
    if mounted() == 0 {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        let events = world.api.events();
        assert!(events.iter().any(|event| event.contains("may mount no tmpfs")), "{events:?}");
    } else {
        assert_eq!(mounted(), 2);
    }
    fs::write(root.join("volumes/uid-p/v/file"), "kept").unwrap();
    world.stop().await;
    world.api.delete(&super::world::path("q"));
    world.start().await;
    world.phase("p", "Running").await;
    assert_eq!(fs::read_to_string(root.join("volumes/uid-p/v/file")).unwrap(), "kept");
    for name in ["p", "wasm"] {
        world.delete(name, 0);
        world.gone(name).await;
    }
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(mounted(), 0);
    assert_eq!(fs::read_dir(root.join("volumes")).unwrap().count(), 0);
}
