//! Folders of the host: what a guest may see of them however another guest changes them meanwhile (CVE-2017-1002101).

use crate::support::{Node, core_guest, files_guest};
use container::{ContainerId, ContainerState, ExitReason, Mount, Runtime};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A volume with a folder `sub`, of which `greeting` says `inside`; beside it lies a folder that says `outside`.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("volume/sub", "inside\n"), ("outside", "outside\n")] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("greeting"), text).unwrap();
        }
        Self(folder)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("volume")
    }

    fn mount(&self) -> Mount {
        Mount::new(self.root(), "sub", "/sub", false).unwrap()
    }

    /// What a guest does that sees the whole volume.
    fn swap(&self) {
        std::fs::rename(self.root().join("sub"), self.root().join("old")).unwrap();
        symlink("../outside", self.root().join("sub")).unwrap();
    }

    fn swap_back(&self) {
        std::fs::remove_file(self.root().join("sub")).unwrap();
        std::fs::rename(self.root().join("old"), self.root().join("sub")).unwrap();
    }
}

const SWAPPED: &str = "mount /sub cannot be opened: sub: it is not a folder, or it was replaced by a link";

async fn ended(node: &Node, id: &ContainerId) -> (i32, ExitReason, String) {
    let exit = node.exit(id).await;
    (exit.code, exit.reason, exit.message)
}

#[tokio::test]
async fn a_handler_sees_the_folder_that_was_there_when_it_was_made_or_none() {
    let (node, volume) = (Node::new().await, Volume::new());
    let mut spec = node.spec(&files_guest());
    spec.mounts = vec![volume.mount()];
    let id = node.start(spec).await;
    assert_eq!(node.net.get(80, "/greeting").await, (200, "inside\n".into()));
    // between two requests, and between start and first request, which is the same: nothing is held
    volume.swap();
    let (status, body) = node.net.get(80, "/greeting").await;
    assert_eq!(status, 500, "{body}");
    node.log(&id, |log| log.contains(SWAPPED)).await;
    // another folder is not the one that was mounted either
    std::fs::remove_file(volume.root().join("sub")).unwrap();
    std::fs::create_dir(volume.root().join("sub")).unwrap();
    assert_eq!(node.net.get(80, "/greeting").await.0, 500);
    node.log(&id, |log| log.contains("sub: it was replaced since the container was made")).await;
    std::fs::remove_dir(volume.root().join("sub")).unwrap();
    std::fs::rename(volume.root().join("old"), volume.root().join("sub")).unwrap();
    assert_eq!(node.net.get(80, "/greeting").await, (200, "inside\n".into()));
}

#[tokio::test]
async fn a_link_within_a_folder_leads_nowhere_else() {
    let (node, volume) = (Node::new().await, Volume::new());
    symlink("../../outside/greeting", volume.root().join("sub/link")).unwrap();
    symlink("greeting", volume.root().join("sub/fine")).unwrap();
    let mut spec = node.spec(&files_guest());
    spec.mounts = vec![volume.mount()];
    node.start(spec).await;
    assert_eq!(node.net.get(80, "/fine").await, (200, "inside\n".into()));
    for path in ["/link", "/../../outside/greeting"] {
        // the 32nd code is not-permitted
        assert_eq!(node.net.get(80, path).await, (404, "error `".into()), "{path}");
    }
}

#[tokio::test]
async fn a_swap_between_creation_and_start_ends_the_start() {
    let node = Node::new().await;
    for (guest, arguments) in [(files_guest(), vec![]), (core_guest(), vec!["main".into(), "print".into()])] {
        let volume = Volume::new();
        let mut spec = node.spec(&guest);
        (spec.args, spec.mounts) = (arguments, vec![volume.mount()]);
        let id = spec.id.clone();
        let _prepared = node.runtime.prepare(&spec.artifact, &|_| ()).await.unwrap();
        node.runtime.create(&node.sandbox, spec.clone()).await.unwrap();
        volume.swap();
        node.runtime.start(&id).await.unwrap();
        assert_eq!(ended(&node, &id).await, (128, ExitReason::ContainerCannotRun, SWAPPED.into()));
        volume.swap_back();
        spec.id = format!("{id}0").into();
        spec.log = Path::new("/nowhere").into();
        let id = node.start(spec).await;
        assert!(!matches!(node.state(&id).await, ContainerState::Created), "and what is right again starts again");
        node.runtime.remove(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_that_runs_keeps_its_folder() {
    let (node, volume) = (Node::new().await, Volume::new());
    let mut spec = node.spec(&core_guest());
    (spec.args, spec.mounts) = (vec!["main".into(), "print".into()], vec![volume.mount()]);
    let id = node.start(spec).await;
    assert_eq!(node.exit(&id).await.code, 0);
    assert!(node.log(&id, |_| true).await.ends_with("stderr F inside\n"));
}
