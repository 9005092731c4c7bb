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
        let _prepared = node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
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

/// Opens `name` in the folder that is listed `number`th, and ends with the length of that folder's listed name, times ten, and the first
/// digit that the file has; or with the error.
fn opener(number: u32, name: &str) -> Vec<u8> {
    let (fd, length) = (3 + number, name.len());
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "{name}")
          (func $must (param i32) (if (local.get 0) (then (call $exit (i32.add (i32.const 100) (local.get 0))))))
          (func (export "_start")
            (call $must (call $prestat (i32.const {fd}) (i32.const 64)))
            (call $must (call $open (i32.const {fd}) (i32.const 0) (i32.const 0) (i32.const {length}) (i32.const 0)
              (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
            (i32.store (i32.const 40) (i32.const 128))
            (i32.store (i32.const 44) (i32.const 1))
            (call $must (call $read (i32.load (i32.const 32)) (i32.const 40) (i32.const 1) (i32.const 48)))
            (call $exit (i32.add (i32.mul (i32.load (i32.const 68)) (i32.const 10))
              (i32.sub (i32.load8_u (i32.const 128)) (i32.const 48))))))"#
    );
    wat::parse_str(text).unwrap()
}

/// wasi-libc takes for the working directory what is listed as `.`, the last of them, and for a folder in it what is listed by that name.
#[tokio::test]
async fn relative_names_begin_in_the_working_directory() {
    let (node, volume) = (Node::new().await, Volume::new());
    std::fs::write(volume.root().join("sub/one"), "1").unwrap();
    std::fs::write(volume.root().join("two"), "2").unwrap();
    let whole = |target: &str| Mount::new(volume.root(), "", target, false).unwrap();
    // the number of the listed folder, the name in it, the working directory, the mounts, and how it ends
    for (number, name, cwd, mounts, code) in [
        (1, "one", "/data/sub", vec![whole("/data")], 11),
        (1, "two", "/data/", vec![whole("/data")], 12),
        // a folder of that name is not hidden by what is listed for the other
        (2, "two", "/data", vec![whole("/data"), volume.mount()], 12),
        (1, "one", "/app", vec![Mount { target: "/app/conf".into(), ..volume.mount() }], 41),
        (1, "one", "/", vec![whole("/data")], 108),
        (1, "one", "/elsewhere", vec![whole("/data")], 108),
        (1, "one", "/data/none", vec![whole("/data")], 108),
        (2, "one", "/data/sub", vec![whole("/data"), whole("/")], 108),
    ] {
        let mut spec = node.spec(&opener(number, name));
        (spec.cwd, spec.mounts) = (Some(cwd.into()), mounts);
        let id = node.start(spec).await;
        let exit = node.exit(&id).await;
        assert_eq!((exit.code, exit.message.as_str()), (code, ""), "{cwd}: {name}");
        let told = node.log(&id, |_| true).await;
        let expected = "stderr F sampan: the working directory /data/none cannot be opened: none: No such file or directory \
                        (os error 2): relative names begin at /\n";
        assert_eq!(told, if cwd == "/data/none" { expected } else { "" });
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
