//! The root folders of containers.

use super::world::World;
use container::RootFolder;
use serde_json::json;
use std::{fs, path::PathBuf};

/// What the runtime would write of the container's last attempt.
fn written(world: &World, container: &str) -> PathBuf {
    match world.runtime.specs().into_iter().rfind(|spec| spec.name == container).expect("it was started").root {
        RootFolder::Writable(folder) => folder,
        other => panic!("{other:?}"),
    }
}

fn fill(folder: &std::path::Path, mebibytes: usize) {
    fs::create_dir_all(folder).expect("made");
    fs::write(folder.join("data"), vec![1; mebibytes << 20]).expect("written");
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_folder_of_its_own_that_goes_with_it() {
    let world = World::new().await;
    let read_only = json!({"name": "fixed", "image": "hello:1", "securityContext": {"readOnlyRootFilesystem": true}});
    world.pod("p", json!({"containers": [{"name": "c", "image": "hello:1"}, read_only]}));
    world.phase("p", "Running").await;
    assert!(world.runtime.specs().iter().any(|spec| spec.name == "fixed" && spec.root == RootFolder::ReadOnly));
    let first = written(&world, "c");
    assert!(first.starts_with(world.dir.path().join("volumes/uid-p")) && !first.exists());
    fill(&first, 1);
    world.runtime.exit("c", 1);
    world
        .until("p", |status| status["containerStatuses"][0]["restartCount"] == 1 && status["phase"] == "Running")
        .await;
    let second = written(&world, "c");
    assert!(second != first && !first.exists(), "the next attempt begins with the image");
    fill(&second, 1);
    world.delete("p", 0);
    world.gone("p").await;
    assert!(!world.dir.path().join("volumes/uid-p").exists());

    // What ends for good leaves nothing on the disk, although the pod stays.
    world.pod("job", json!({"restartPolicy": "Never", "containers": [{"name": "once", "image": "hello:1"}]}));
    world.phase("job", "Running").await;
    let folder = written(&world, "once");
    fill(&folder, 1);
    world.runtime.exit("once", 0);
    world.phase("job", "Succeeded").await;
    world.until("job", |_| !folder.exists()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_beside_volumes_counts_as_ephemeral_storage() {
    let world = World::new().await;
    let container =
        |name: &str| json!({"name": name, "image": "hello:1", "resources": {"limits": {"ephemeral-storage": "2Mi"}}});
    for name in ["small", "large"] {
        world.pod(name, json!({"terminationGracePeriodSeconds": 3600, "containers": [container(name)]}));
        world.phase(name, "Running").await;
    }
    fill(&written(&world, "small"), 1);
    fill(&written(&world, "large"), 3);
    let status = world.phase("large", "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("ephemeral") && message.contains("2Mi"), "{message}");
    assert_eq!(world.status("small")["phase"], "Running");
}
