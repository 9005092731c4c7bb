//! Images that pods mount as volumes.

use super::world::{World, failure, waiting};
use serde_json::{Value, json};

fn spec(policy: &str) -> Value {
    json!({
        "volumes": [
            {"name": "files", "image": {"reference": "files:1", "pullPolicy": policy}},
            {"name": "other", "image": {"reference": "unused:1"}}],
        "containers": [
            {"name": "c", "image": "hello:1", "volumeMounts": [
                {"name": "files", "mountPath": "/files"}, {"name": "files", "mountPath": "/deep", "subPath": "a/b"}]}]
    })
}

#[tokio::test(start_paused = true)]
async fn a_container_mounts_the_files_of_an_image() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    world.images.folders.lock().insert("files:1@sha256:0".into(), folder.path().to_owned());
    world.pod("p", spec("Always"));
    world.phase("p", "Running").await;
    let pulled: Vec<_> = world.images.pulls.lock().iter().map(|(image, _)| image.clone()).collect();
    assert_eq!(pulled, ["files:1", "hello:1"], "what no container mounts is left alone");
    let mounts = world.runtime.specs().remove(0).mounts;
    let shown: Vec<_> = mounts.iter().filter(|mount| mount.root == folder.path()).collect();
    let told: Vec<_> = shown.iter().map(|mount| (&*mount.target, mount.below.to_str().unwrap())).collect();
    assert_eq!(told, [("/files", ""), ("/deep", "a/b")]);
    assert!(shown.iter().all(|mount| mount.read_only && mount.no_exec));
    let state = std::fs::read_to_string(world.dir.path().join("state/uid-p.json")).unwrap();
    assert!(state.contains(r#""volumeImages":["files:1@sha256:0"]"#), "{state}");
    world.delete("p", 0);
    world.gone("p").await;
    assert!(folder.path().join("a/b").exists());
}

#[tokio::test(start_paused = true)]
async fn the_pull_of_a_volume_that_fails_is_told_of_its_containers() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    world.images.broken.lock().insert("files:1".into(), failure("files:1"));
    world.pod("p", spec("IfNotPresent"));
    world.until("p", |status| waiting(status) == "ErrImagePull").await;
    world.until("p", |status| waiting(status) == "ImagePullBackOff").await;
    assert!(world.images.pulls.lock().iter().all(|(image, _)| image == "files:1"));
    world.pod("never", spec("Never"));
    world.until("never", |status| waiting(status) == "ErrImageNeverPull").await;
    // it arrives in another way
    world.images.folders.lock().insert("files:1@sha256:0".into(), folder.path().to_owned());
    world.images.load("files:1");
    world.phase("p", "Running").await;
    world.phase("never", "Running").await;
    assert!(world.images.pulls.lock().iter().filter(|(image, _)| image == "files:1").count() < 4);
    // a module is no folder
    world.images.folders.lock().clear();
    world.pod("module", spec("IfNotPresent"));
    world.until("module", |status| waiting(status) == "CreateContainerError").await;
}
