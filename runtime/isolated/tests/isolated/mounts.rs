//! Folders of the host in isolated pods.

use crate::support::{Node, core_guest, sample};
use container::{Artifact, Error, Exec, Folder, Mount, RootFolder, Runtime, Streams, net::Network};
use std::path::Path;
use tokio::io::AsyncReadExt;

/// Makes the file `new` in its first folder, and ends with the error number.
const WRITER: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "new")
  (data (i32.const 200) "made\n")
  (func (export "_start") (local $error i32)
    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))
    (if (local.get $error) (then (call $exit (local.get $error))))
    (i32.store (i32.const 16) (i32.const 200))
    (i32.store (i32.const 20) (i32.const 5))
    (call $exit (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 24)))))"#;

fn mount(folder: &Path, target: &str) -> Mount {
    Mount::new(folder, "", target, false).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_writes_to_its_folders_reads_others_and_sees_no_more() {
    let node = Node::new().await;
    let folders = ["own", "shown", "other"].map(|name| node.folder.path().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let [own, shown, other] = &folders;
    std::fs::write(shown.join("poem.txt"), "The boat drifts\n").unwrap();
    let mut spec = node.sandbox_spec("pod");
    spec.folders.push(Folder { path: own.clone(), read_only: false, links: false });
    spec.folders.push(Folder { path: shown.clone(), read_only: true, links: false });
    let sockets = node.network.view("unused").unwrap();
    node.runtime.sandbox(spec, sockets).await.unwrap();

    let write = async |folder: &Path| {
        let mut spec = node.spec(&wat::parse_str(WRITER).unwrap(), &["writer"]);
        spec.mounts = vec![mount(folder, "/data")];
        let id = node.start("pod", spec).await;
        (node.exit(&id).await.code, folder.join("new").exists())
    };
    assert_eq!(write(own).await, (0, true));
    assert_eq!(std::fs::read_to_string(own.join("new")).unwrap(), "made\n");
    // The mount says that it may write; the process of the pod cannot, whatever its guest makes of it.
    const ACCESS: i32 = 2;
    assert_eq!(write(shown).await, (ACCESS, false));
    assert_eq!(write(other).await, (ACCESS, false), "of no folder of the pod");

    let mut spec = node.spec(&sample("count/count.wasm"), &["count", "/poems/poem.txt"]);
    spec.mounts = vec![mount(shown, "/poems")];
    let id = node.start("pod", spec).await;
    assert_eq!(node.exit(&id).await.code, 0);
    assert_eq!(node.log(&id, |_| true).await, "stdout F 1 3 16 /poems/poem.txt\n");

    // The tools see what the program sees.
    let mut spec = node.spec(&core_guest(), &["main", "w"]);
    (spec.mounts, spec.stdin) = (vec![mount(shown, "/poems")], container::Stdin::Open);
    let id = node.start("pod", spec).await;
    let (stdout, mut output) = tokio::io::duplex(1 << 10);
    let exec = Exec { command: ["cat", "/poems/poem.txt"].map(str::to_owned).to_vec(), tty: false };
    let streams = Streams { stdout: Some(Box::new(stdout)), ..Streams::default() };
    let mut text = String::new();
    let (code, read) = tokio::join!(node.runtime.exec(&id, exec, streams), output.read_to_string(&mut text));
    read.unwrap();
    assert_eq!((code.unwrap(), text.as_str()), (0, "The boat drifts\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_the_files_of_its_image_as_its_root_and_no_others() {
    let node = Node::new().await;
    let [image, other, copies] = ["image", "other", "copies"].map(|name| node.folder.path().join(name));
    for folder in [&image, &other] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(image.join("poem.txt"), "The boat drifts\n").unwrap();
    let mut sandbox = node.sandbox_spec("pod");
    sandbox.folders.push(Folder { path: copies.clone(), read_only: false, links: true });
    sandbox.folders.push(Folder { path: image.clone(), read_only: true, links: true });
    node.runtime.sandbox(sandbox, node.network.view("unused").unwrap()).await.unwrap();
    let with_root = |wasm: &[u8], args: &[&str], image: &Path| {
        let mut spec = node.spec(wasm, args);
        let Artifact::Wasm { files, .. } = &mut spec.artifact else { unreachable!() };
        *files = Some(image.to_owned());
        spec.root = RootFolder::Writable(copies.join("0"));
        spec
    };

    let id = node.start("pod", with_root(&sample("count/count.wasm"), &["count", "/poem.txt"], &image)).await;
    assert_eq!(node.exit(&id).await.code, 0, "{}", node.exit(&id).await.message);
    assert!(!copies.join("0").exists(), "who only reads has no copy");

    let writer = wat::parse_str(WRITER).unwrap();
    let id = node.start("pod", with_root(&writer, &["writer"], &image)).await;
    assert_eq!(node.exit(&id).await.code, 0, "{}", node.exit(&id).await.message);
    assert_eq!(std::fs::read_to_string(copies.join("0/new")).unwrap(), "made\n");
    assert_eq!(std::fs::read_to_string(copies.join("0/poem.txt")).unwrap(), "The boat drifts\n");
    assert!(!image.join("new").exists(), "the image is shared");

    let refused = node.runtime.create(&"pod".into(), with_root(&writer, &["writer"], &other)).await;
    assert!(matches!(&refused, Err(Error::Unsupported(text)) if text.contains("one image with files")), "{refused:?}");
}
