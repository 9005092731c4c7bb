//! The root folder of a container: its image's files, and what it writes beside its volumes.

use crate::{
    exec::{run, tar},
    support::{Node, core_guest, files_guest},
};
use container::{Artifact, ContainerSpec, ExitReason, Mount, RootFolder, Runtime};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// The files of an image, and where the copy of a container goes.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::create_dir_all(image.join("sub/deep")).unwrap();
        fs::write(image.join("data"), "of the image\n").unwrap();
        fs::write(image.join("sub/one"), "1").unwrap();
        fs::hard_link(image.join("sub/one"), image.join("sub/same")).unwrap();
        symlink("sub/one", image.join("link")).unwrap();
        symlink("/etc/passwd", image.join("out")).unwrap();
        fs::write(folder.path().join("secret"), "of the host").unwrap();
        symlink("../secret", image.join("up")).unwrap();
        Self(folder)
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn copy(&self) -> PathBuf {
        self.0.path().join("copies/0")
    }

    fn spec(&self, node: &Node, wasm: &[u8]) -> ContainerSpec {
        let mut spec = node.spec(wasm);
        let Artifact::Wasm { files, .. } = &mut spec.artifact else { unreachable!() };
        *files = Some(self.image());
        spec.root = RootFolder::Writable(self.copy());
        spec
    }

    /// Nobody has changed them.
    fn unchanged(&self) {
        let mut names: Vec<_> = fs::read_dir(self.image()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["data", "link", "out", "sub", "up"]);
        assert_eq!(fs::read_to_string(self.image().join("data")).unwrap(), "of the image\n");
        assert_eq!(fs::read_to_string(self.image().join("sub/one")).unwrap(), "1");
        assert_eq!(fs::read_dir(self.image().join("sub")).unwrap().count(), 3);
    }
}

#[tokio::test]
async fn who_only_reads_sees_the_image_and_has_no_folder() {
    let (node, files) = (Node::new().await, Files::new());
    node.start(files.spec(&node, &files_guest())).await;
    for (path, answer) in [
        ("/data", (200, "of the image\n")),
        ("/sub/one", (200, "1")),
        ("/link", (200, "1")),
        // not-permitted: no link leads out
        ("/up", (404, "error `")),
        ("/out", (404, "error `")),
        ("/../secret", (404, "error `")),
        // no-entry
        ("/none", (404, "error U")),
    ] {
        assert_eq!(node.net.get(80, path).await, (answer.0, answer.1.into()), "{path}");
    }
    assert!(!files.0.path().join("copies").exists());
}

/// `/+NAME` writes until it is refused, here by the limit of the disk.
#[tokio::test]
async fn the_first_write_makes_a_copy_that_all_instances_see() {
    let (written, files) = (Arc::new(AtomicU64::new(0)), Files::new());
    let disk = written.clone();
    let node = Node::with(|options| {
        options.files.writable_bytes = Arc::new(move || (4u64 << 20).saturating_sub(disk.swap(4 << 20, SeqCst)));
    })
    .await;
    let mut spec = files.spec(&node, &files_guest());
    spec.mounts = vec![Mount::new(files.0.path(), "", "/mnt/volume", false).unwrap()];
    let id = node.start(spec).await;
    // insufficient-space
    assert_eq!(node.net.get(80, "/+data").await, (404, "error X".into()));
    let copy = files.copy();
    assert_eq!(
        fs::metadata(copy.join("data")).unwrap().len(),
        3 << 20,
        "three pieces of a mebibyte beside the entries"
    );
    files.unchanged();
    assert_eq!(node.net.get(80, "/data").await.0, 200);
    assert!(node.net.get(80, "/data").await.1.starts_with('\0'), "a later instance sees what the first has written");
    assert_eq!(node.net.get(80, "/link").await, (200, "1".into()));
    let inode = |name: &str| fs::metadata(copy.join(name)).unwrap().ino();
    assert_eq!(inode("sub/one"), inode("sub/same"));
    assert_eq!(fs::read_link(copy.join("up")).unwrap(), Path::new("../secret"));
    assert_eq!(node.net.get(80, "/up").await, (404, "error `".into()));
    assert!(copy.join("mnt/volume").is_dir(), "where the volumes are");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    node.runtime.remove(&id).await.unwrap();
    // The next attempt begins with the image again.
    fs::remove_dir_all(files.0.path().join("copies")).unwrap();
    node.start(files.spec(&node, &files_guest())).await;
    assert_eq!(node.net.get(80, "/data").await, (200, "of the image\n".into()));
}

#[tokio::test]
async fn a_copy_that_the_disk_has_no_room_for_is_not_made() {
    let files = Files::new();
    fs::write(files.image().join("sub/large"), vec![1; 1 << 20]).unwrap();
    let node = Node::with(|options| options.files.writable_bytes = Arc::new(|| 64 << 10)).await;
    let id = node.start(files.spec(&node, &files_guest())).await;
    assert_eq!(node.net.get(80, "/+new").await, (404, "error X".into()));
    assert!(!files.copy().exists());
    let told = "sampan: the root folder cannot be written: No space left on device (os error 28)\n";
    node.log(&id, |log| log.contains(told)).await;
    assert_eq!(node.net.get(80, "/data").await, (200, "of the image\n".into()));
}

#[tokio::test]
async fn a_root_that_is_read_only_stays_so() {
    let (node, files) = (Node::new().await, Files::new());
    let mut spec = files.spec(&node, &files_guest());
    spec.root = RootFolder::ReadOnly;
    node.start(spec).await;
    assert_eq!(node.net.get(80, "/data").await, (200, "of the image\n".into()));
    for path in ["/+data", "/+new"] {
        assert_eq!(node.net.get(80, path).await, (404, "error `".into()), "{path}");
    }
    files.unchanged();
}

/// Imports of the modules here.
const IMPORTS: &str = r#"
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "sub" "data" "deep" "new" "sub/new" "one" "none")
  ;; what a call gives must be this, else the exit code says which one did not, and what it gave
  (func $must (param $step i32) (param $given i32) (param $expected i32)
    (if (i32.ne (local.get $given) (local.get $expected))
      (then (call $exit (i32.add (i32.mul (local.get $step) (i32.const 10)) (i32.rem_u (local.get $given) (i32.const 10)))))))
  (func $open (param $folder i32) (param $name i32) (param $length i32) (param $how i32) (param $rights i64) (result i32)
    (call $path_open (local.get $folder) (i32.const 0) (local.get $name) (local.get $length) (local.get $how)
      (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 100)))
  ;; opens and closes with the first byte of the file
  (func $first (param $folder i32) (param $name i32) (param $length i32) (result i32)
    (call $must (i32.const 20) (call $open (local.get $folder) (local.get $name) (local.get $length) (i32.const 0) (i64.const 2))
      (i32.const 0))
    (i32.store (i32.const 104) (i32.const 200))
    (i32.store (i32.const 108) (i32.const 1))
    (call $must (i32.const 21) (call $fd_read (i32.load (i32.const 100)) (i32.const 104) (i32.const 1) (i32.const 112)) (i32.const 0))
    (i32.load8_u (i32.const 200)))
"#;

fn module(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {IMPORTS} (func (export \"_start\") (local $sub i32) {body}))")).unwrap()
}

/// Folders that were opened before the first write are those of the copy afterwards, by whatever number.
#[tokio::test]
async fn folders_that_are_open_follow_the_copy() {
    let (node, files) = (Node::new().await, Files::new());
    let spec = files.spec(
        &node,
        &module(
            r#"
            (call $must (i32.const 1) (call $open (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 2) (i64.const 0)) (i32.const 0))
            (local.set $sub (i32.load (i32.const 100)))
            (call $must (i32.const 2) (call $first (local.get $sub) (i32.const 21) (i32.const 3)) (i32.const 49))
            ;; the same folder by another number
            (call $must (i32.const 3) (call $open (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 2) (i64.const 0)) (i32.const 0))
            (call $must (i32.const 4) (call $renumber (i32.load (i32.const 100)) (local.get $sub)) (i32.const 0))
            ;; the first write, by the root
            (call $must (i32.const 5) (call $mkdir (i32.const 3) (i32.const 24) (i32.const 4)) (i32.const 0))
            ;; a new file by the folder, seen by the root, written, and read by the folder
            (call $must (i32.const 6) (call $open (local.get $sub) (i32.const 11) (i32.const 3) (i32.const 1) (i64.const 66)) (i32.const 0))
            (i32.store (i32.const 104) (i32.const 0))
            (i32.store (i32.const 108) (i32.const 1))
            (call $must (i32.const 7) (call $fd_write (i32.load (i32.const 100)) (i32.const 104) (i32.const 1) (i32.const 112)) (i32.const 0))
            (call $must (i32.const 8) (call $first (i32.const 3) (i32.const 14) (i32.const 7)) (i32.const 115))
            (call $must (i32.const 9) (call $first (local.get $sub) (i32.const 11) (i32.const 3)) (i32.const 115))
            (call $must (i32.const 10) (call $unlink (i32.const 3) (i32.const 3) (i32.const 4)) (i32.const 0))
            (call $must (i32.const 11) (call $open (i32.const 3) (i32.const 3) (i32.const 4) (i32.const 0) (i64.const 2)) (i32.const 44))
            (call $must (i32.const 12) (call $rename (local.get $sub) (i32.const 21) (i32.const 3) (i32.const 3) (i32.const 3) (i32.const 4))
              (i32.const 0))
            (call $must (i32.const 13) (call $first (i32.const 3) (i32.const 3) (i32.const 4)) (i32.const 49))"#,
        ),
    );
    let id = node.start(spec).await;
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed), "{}", exit.message);
    files.unchanged();
    assert_eq!(fs::read_to_string(files.copy().join("sub/new")).unwrap(), "s");
    assert!(files.copy().join("none").is_dir() && !files.copy().join("sub/one").exists());
}

/// A program that changes its first folder as told, once, and ends with the error.
#[tokio::test]
async fn every_kind_of_change_makes_the_copy() {
    let node = Node::new().await;
    for change in [
        "(call $mkdir (i32.const 3) (i32.const 24) (i32.const 4))",
        "(call $unlink (i32.const 3) (i32.const 3) (i32.const 4))",
        "(call $rename (i32.const 3) (i32.const 3) (i32.const 4) (i32.const 3) (i32.const 24) (i32.const 4))",
        // create, truncate, and write
        "(call $open (i32.const 3) (i32.const 24) (i32.const 4) (i32.const 1) (i64.const 2))",
        "(call $open (i32.const 3) (i32.const 3) (i32.const 4) (i32.const 8) (i64.const 2))",
        "(call $open (i32.const 3) (i32.const 3) (i32.const 4) (i32.const 0) (i64.const 64))",
    ] {
        let wasm = module(&format!("(call $exit {change})"));
        let files = Files::new();
        let exit = node.run(files.spec(&node, &wasm)).await;
        assert_eq!((exit.code, files.copy().exists()), (0, true), "{change} {}", exit.message);
        files.unchanged();
        // An image without files: what is not there cannot be changed, and the rest can.
        let empty = Files::new();
        let spec = ContainerSpec { root: RootFolder::Writable(empty.copy()), ..node.spec(&wasm) };
        let exit = node.run(spec).await;
        let expected =
            if change.contains("const 24) (i32.const 4) (i32.const 1)") || change.contains("mkdir") { 0 } else { 44 };
        assert_eq!((exit.code, empty.copy().exists()), (expected, true), "{change}");
        let spec = ContainerSpec { root: RootFolder::ReadOnly, ..node.spec(&wasm) };
        assert_ne!(node.run(spec).await.code, 0, "{change}");
    }
}

/// With a working directory in the image, relative names begin there, and absolute ones at the root; one that is not there is made.
#[tokio::test]
async fn relative_names_begin_in_a_folder_of_the_image() {
    let node = Node::new().await;
    for (cwd, folder, name, length, code) in [
        // the root, the folder at the top, and the working directory
        ("/sub", 5, 21, 3, 0),
        ("/sub", 4, 21, 3, 0),
        ("/sub", 3, 3, 4, 0),
        // the working directory is made with the copy
        ("/made/here", 5, 21, 3, 44),
        ("/", 4, 3, 4, 8),
    ] {
        let files = Files::new();
        let wasm = module(&format!(
            "(call $exit (call $open (i32.const {folder}) (i32.const {name}) (i32.const {length}) (i32.const 0) (i64.const 2)))"
        ));
        let mut spec = files.spec(&node, &wasm);
        spec.cwd = Some(cwd.into());
        let exit = node.run(spec).await;
        assert_eq!((exit.code, exit.message.as_str()), (code, ""), "{cwd} {folder}");
        assert_eq!(files.copy().join("made/here").exists(), cwd == "/made/here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_see_the_root_with_its_mounts_and_copy_files_to_it() {
    let (node, files, volume) = (Node::new().await, Files::new(), tempfile::tempdir().unwrap());
    fs::write(volume.path().join("inside"), "of the volume").unwrap();
    let mut spec = files.spec(&node, &core_guest());
    spec.args = vec!["main".into(), "wait".into()];
    // one where the image has a folder, one where it has none
    spec.mounts = ["/sub/deep", "/mnt/volume"].map(|to| Mount::new(volume.path(), "", to, false).unwrap()).into();
    let id = node.start(spec).await;
    let said = async |command: &[&str]| {
        let said = run(&node, &id, command, b"").await.unwrap();
        (said.code, String::from_utf8(said.out).unwrap() + &said.err)
    };
    let is = |code: i32, text: &str| (code, text.to_owned());
    assert_eq!(said(&["ls", "/"]).await, is(0, "data\nlink\nmnt\nout\nsub\nup\n"));
    assert_eq!(
        said(&["ls", "/sub", "/sub/deep", "/mnt"]).await.1,
        "/sub:\ndeep\none\nsame\n\n/sub/deep:\ninside\n\n/mnt:\nvolume\n"
    );
    assert_eq!(said(&["cat", "data", "/link", "/mnt/volume/inside"]).await, is(0, "of the image\n1of the volume"));
    let (code, error) = said(&["cat", "/up"]).await;
    assert_eq!((code, error.contains("of the host")), (1, false), "{error}");
    assert!(!files.copy().exists());
    fs::create_dir(files.0.path().join("in")).unwrap();
    fs::write(files.0.path().join("in/copied"), "copied").unwrap();
    let packed = tar(&["cf", "-", "in"], files.0.path(), b"");
    for target in ["/tmp", "/mnt"] {
        let packed = run(&node, &id, &["tar", "xf", "-", "-C", target], &packed).await.unwrap();
        assert_eq!(packed.text(), (if target == "/tmp" { 2 } else { 0 }, "", packed.err.as_str()), "{target}");
    }
    assert_eq!(said(&["cat", "/mnt/in/copied"]).await, is(0, "copied"));
    assert_eq!(said(&["ls", "/mnt"]).await, is(0, "in\nvolume\n"));
    assert!(files.copy().join("mnt/in/copied").exists());
    files.unchanged();
}
