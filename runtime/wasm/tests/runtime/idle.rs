//! Commands that wait: a node has room for ten thousand, and fewer descriptors than that times two.

use crate::support::{Node, component};
use container::{ContainerId, Mount, Runtime};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

fn module() -> Vec<u8> {
    wat::parse_str(include_str!("../guests/idle.wat")).unwrap()
}

fn idle_component() -> Vec<u8> {
    component("idle", include_str!("../guests/idle-component.wat"))
}

/// Two folders; `greeting` of the second says `inside`.
fn folders(node: &Node) -> PathBuf {
    let root = node.folder.path().join("volumes");
    for name in ["token", "data"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::write(root.join("data/greeting"), "inside\n").unwrap();
    root
}

/// What this process has open below a folder: other tests have files too.
fn open_below(root: &Path) -> usize {
    let root = root.canonicalize().unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter(|one| std::fs::read_link(one.as_ref().unwrap().path()).is_ok_and(|path| path.starts_with(&root)))
        .count()
}

async fn start(node: &Node, guest: &[u8], root: &Path, argument: &str) -> ContainerId {
    let mut spec = node.spec(guest);
    spec.args = vec![argument.into()];
    let mount = |name: &str| Mount::new(root.join(name), "", format!("/{name}"), false).unwrap();
    spec.mounts = vec![mount("token"), mount("data")];
    node.start(spec).await
}

#[tokio::test]
async fn a_command_that_uses_no_folder_holds_none_open() {
    for guest in [module(), idle_component()] {
        let node = Node::new().await;
        let root = folders(&node);
        let mut ids = Vec::new();
        for _ in 0..20 {
            let id = start(&node, &guest, &root, "wait").await;
            node.log(&id, |log| log.contains("2\n") || log.contains("2 folders\n")).await;
            ids.push(id);
        }
        assert_eq!(open_below(&root), 0);
        let log = node.log(&ids[0], |_| true).await;
        assert!(log.contains("2 folders") || log.contains("/token\nstdout F /data\nstdout F 2\n"), "{log}");
        for id in ids {
            node.runtime.remove(&id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_command_that_uses_one_has_it_from_then_on() {
    for (guest, how) in [(module(), "use"), (module(), "close"), (idle_component(), "use")] {
        let node = Node::new().await;
        let root = folders(&node);
        let id = start(&node, &guest, &root, how).await;
        let log = node.log(&id, |log| log.contains("inside\n")).await;
        // what had been printed of a line before goes on in it
        assert!(log.contains("stdout F oneinside\n") || log.contains("stdout F inside\n"), "{log}");
        assert_eq!(open_below(&root.join("token")), 0);
        // the folder, and perhaps the file
        assert!((1..=2).contains(&open_below(&root)), "{}", open_below(&root));
        node.runtime.remove(&id).await.unwrap();
        let closed = async {
            while open_below(&root) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed).await.expect("its files stay open");
    }
}

/// Opens `greeting` of folder after folder, and exits with the first error that it is told.
const UNTIL_REFUSED: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "greeting")
  (func (export "_start") (local $fd i32) (local $errno i32)
    (local.set $fd (i32.const 3))
    (loop $more
      (local.set $errno (call $open (local.get $fd) (i32.const 1) (i32.const 100) (i32.const 8) (i32.const 0) (i64.const 2)
        (i64.const 2) (i32.const 0) (i32.const 0)))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $more (i32.eqz (local.get $errno))))
    ;; and again: the log says it once
    (drop (call $open (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1) (i32.const 100) (i32.const 8) (i32.const 0) (i64.const 2)
      (i64.const 2) (i32.const 0) (i32.const 0)))
    (call $exit (local.get $errno))))"#;

#[tokio::test]
async fn a_folder_that_cannot_be_opened_is_an_error_and_no_trap() {
    let node = Node::new().await;
    let root = folders(&node);
    let guest = wat::parse_str(UNTIL_REFUSED).unwrap();
    let run = async |mounts: Vec<Mount>| {
        let mut spec = node.spec(&guest);
        spec.mounts = mounts;
        let id = node.start(spec).await;
        let exit = node.exit(&id).await;
        let log = node.log(&id, |_| true).await;
        (exit.code, log.matches("sampan: ").count(), log)
    };
    let data = |number: usize| Mount::new(root.join("data"), "", format!("/data{number}"), false).unwrap();
    // more folders than an instance may hold files: EMFILE
    let (code, told, log) = run((0..1_030).map(data).collect()).await;
    assert_eq!((code, told), (33, 1), "{log}");
    assert!(log.contains("the volumes cannot be opened: guests of this node hold too many files open"), "{log}");
}
