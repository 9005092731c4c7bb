//! The end of a pod removes no user's files: neither of file systems that are mounted into its folders, nor files that no plugin created.
//! The mounts are real, in a mount namespace of the test.

#![allow(clippy::disallowed_methods, reason = "a test is told by its environment what it must not skip")]

use super::world::{World, path};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Whether the test runs in its own mount namespace. If not, runs the test again in one. If that is impossible and not required, skips the
/// test with a message.
fn alone(name: &str) -> bool {
    const INSIDE: &str = "SAMPAN_TEST_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshared = |program: &Path| {
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(program);
        command
    };
    if !unshared(Path::new("true")).status().is_ok_and(|status| status.success()) {
        let text = format!("SKIPPED: {name} needs root and a mount namespace");
        assert!(env::var("SAMPAN_TEST_REQUIRE").as_deref() != Ok("all"), "{text}");
        eprintln!("{text}");
        return false;
    }
    let mut command = unshared(&env::current_exe().expect("this test"));
    command.args(["--exact", &format!("tests::mounted::{name}"), "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().expect("it runs").success(), "{name} failed in its mount namespace");
    false
}

/// A user's folder, mounted until it is dropped.
struct Bound {
    own: tempfile::TempDir,
    at: PathBuf,
}

impl Bound {
    fn new(at: PathBuf) -> Self {
        let own = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(own.path().join("deep")).expect("made");
        fs::write(own.path().join("deep/thesis"), "years of work").expect("written");
        fs::create_dir_all(&at).expect("made");
        let done = Command::new("mount").arg("--bind").arg(own.path()).arg(&at).status().expect("mount is there");
        assert!(done.success(), "mounted at {}", at.display());
        Self { own, at }
    }

    fn check(&self, when: &str) {
        let text = fs::read_to_string(self.own.path().join("deep/thesis")).unwrap_or_default();
        assert_eq!(text, "years of work", "{when}, mounted at {}", self.at.display());
    }

    /// Unmounts it.
    fn unmount(&self) {
        // The mount point may have been moved.
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let root = self.own.path().to_str().expect("text");
        let line = mounts.lines().find(|line| line.split(' ').nth(3).is_some_and(|from| root.ends_with(from)));
        let at = line.and_then(|line| line.split(' ').nth(4)).expect("it is still mounted");
        assert!(Command::new("umount").arg(at).status().expect("umount is there").success(), "{at}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The pod is deleted gracefully.
    Deleted,
    /// The pod is removed from the API at once.
    Forced,
    /// The pod is removed from the API while the agent is down.
    Orphaned,
}

fn spec() -> Value {
    json!({
        "containers": [{"name": "c", "image": "hello:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "labels", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"name": "host", "hostPath": {"path": "/etc"}}
        ]
    })
}

#[tokio::test(start_paused = true)]
async fn mounted_files_survive_every_order_of_failure() {
    if !alone("mounted_files_survive_every_order_of_failure") {
        return;
    }
    for place in ["data", "data/a/b", "labels/..old/x", "host", "nobodys/x", "..files/c/x", "..termination/c/x"] {
        for end in [End::Deleted, End::Forced, End::Orphaned] {
            survives(place, end).await;
        }
    }
}

async fn survives(place: &str, end: End) {
    let case = format!("{end:?}, {place}");
    let mut world = World::new().await;
    world.pod("p", spec());
    world.phase("p", "Running").await;
    let root = world.dir.path().join("volumes/uid-p");
    let state = world.dir.path().join("state/uid-p.json");
    fs::write(root.join("data/scratch"), "").expect("the volume is there");
    let bound = Bound::new(root.join(place));
    match end {
        End::Deleted => world.delete("p", 1),
        End::Forced => world.api.delete(&path("p")),
        End::Orphaned => {
            world.stop().await;
            world.api.delete(&path("p"));
            world.start().await;
        }
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    bound.check(&case);
    assert_eq!(world.runtime.running(), Vec::<String>::new(), "{case}");
    assert!(state.exists(), "{case}: what is left is remembered");
    if place.starts_with("data") {
        assert!(!root.join("labels").exists(), "{case}: one volume does not hold up another");
    }
    if end == End::Deleted {
        assert!(!world.status("p").is_null(), "{case}: the pod waits for its volumes, as upstream");
    }
    bound.unmount();
    for nobodys in ["nobodys/x", "nobodys", "host"] {
        let _ = fs::remove_dir(root.join(nobodys));
    }
    world.until("p", |_| !state.exists()).await;
    world.gone("p").await;
    assert!(!root.exists(), "{case}");
    bound.check(&case);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn volumes_are_recorded_before_they_are_made() {
    let world = World::new().await;
    let states = world.dir.path().join("state");
    let away = world.dir.path().join("away");
    world.pod("first", spec());
    world.phase("first", "Running").await;
    // If the record cannot be saved, no volume is set up.
    fs::rename(&states, &away).expect("moved");
    world.pod("p", spec());
    world.until("p", |_| world.api.events().iter().any(|e| e.contains("cannot record"))).await;
    assert!(!world.dir.path().join("volumes/uid-p").exists());
    fs::rename(&away, &states).expect("moved back");
    world.phase("p", "Running").await;
    // If one volume cannot be set up, all are recorded and removed with the pod.
    let mut broken = spec();
    broken["volumes"][1] = json!({"name": "labels", "configMap": {"name": "none"}});
    world.pod("q", broken);
    world.until("q", |_| world.api.events().iter().any(|e| e.contains("\"none\" not found"))).await;
    let text = fs::read_to_string(states.join("uid-q.json")).expect("a state file");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    let made = |volume: &str, plugin: &str| json!({"volume": volume, "plugin": format!("kubernetes.io/{plugin}")});
    assert_eq!(
        state["volumes"],
        json!([made("data", "empty-dir"), made("labels", "projected"), made("host", "host-path")])
    );
    assert!(world.dir.path().join("volumes/uid-q/data").exists());
    for name in ["p", "q"] {
        world.delete(name, 1);
        world.gone(name).await;
        world.until(name, |_| !world.dir.path().join(format!("volumes/uid-{name}")).exists()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_known_plugin_made_is_left_alone() {
    let mut world = World::new().await;
    world.pod("p", spec());
    world.phase("p", "Running").await;
    world.stop().await;
    world.api.delete(&path("p"));
    let state = world.dir.path().join("state/uid-p.json");
    let text = fs::read_to_string(&state).expect("a state file");
    let other = text.replace("kubernetes.io/empty-dir", "kubernetes.io/csi");
    assert_ne!(text, other);
    fs::write(&state, other).expect("written");
    let data = world.dir.path().join("volumes/uid-p/data");
    fs::write(data.join("thesis"), "years of work").expect("written");
    world.start().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(data.join("thesis").exists() && state.exists());
    world.stop().await;
    fs::write(&state, text).expect("written");
    world.start().await;
    world.until("p", |_| !state.exists()).await;
    assert!(!data.exists());
    world.stop().await;
}
