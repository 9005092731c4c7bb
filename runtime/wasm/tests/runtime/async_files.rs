//! Files of programs of WASI 0.3: volumes and the root, with the limits of files, disk and CPU.

use crate::{
    async_http::{hello, soon},
    limits::print_use,
    support::{Node, component, peer},
};
use bytes::Bytes;
use container::{Artifact, ContainerSpec, ContainerState, Exit, Mount, RootFolder};
use http_body_util::{BodyExt, Full};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// A command whose program does this.
fn command(body: &str) -> Vec<u8> {
    component("asynchronous-files", &include_str!("../guests/async-files.wat").replace("BODY", body))
}

fn spec(node: &Node, body: &str, volume: &Path, read_only: bool) -> ContainerSpec {
    let mut spec = node.spec(&command(body));
    spec.mounts = vec![Mount::new(volume, "", "/data", read_only).unwrap()];
    spec
}

async fn run(node: &Node, body: &str, volume: &Path, read_only: bool) -> Exit {
    node.run(spec(node, body, volume, read_only)).await
}

fn volume(node: &Node) -> std::path::PathBuf {
    let volume = node.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("greeting"), "inside\n").unwrap();
    fs::write(node.folder.path().join("x"), "outside\n").unwrap();
    volume
}

const FOLDER: &str = "(local.set $folder (call $folder (i32.const 0)))";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reads_writes_appends_lists_and_renames() {
    let node = Node::new().await;
    let volume = volume(&node);
    let body = format!(
        r#"{FOLDER}
        (call $must (call $open (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 0) (i32.const 1)) (i32.const 0))
        (call $must (call $read (call $opened) (i64.const 2) (i32.const 2048)) (i32.const 5))
        (call $must (i32.load8_u (i32.const 2048)) (i32.const 115))
        (call $must (call $mkdir (local.get $folder) (i32.const 1027) (i32.const 3)) (i32.const 0))
        ;; create and write, at an offset and at the end
        (call $must (call $open (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 1) (i32.const 3)) (i32.const 0))
        (local.set $file (call $opened))
        (call $must (call $write (local.get $file) (i64.const 2) (i32.const 1024) (i32.const 3) (i32.const 1)) (i32.const 0))
        (call $must (call $write (local.get $file) (i64.const -1) (i32.const 1027) (i32.const 3) (i32.const 2)) (i32.const 0))
        (call $must (call $read (local.get $file) (i64.const 0) (i32.const 2048)) (i32.const 11))
        (call $must (i32.load (i32.const 2052)) (i32.const 0x62757377)) ;; "wsub"
        ;; more than one piece
        (call $must (call $write (local.get $file) (i64.const 0) (i32.const 1048576) (i32.const 900000) (i32.const 1)) (i32.const 0))
        (call $must (call $read (local.get $file) (i64.const 0) (i32.const 1048576)) (i32.const 900000))
        ;; greeting, sub, new
        (call $must (call $list (local.get $folder)) (i32.const 1403))
        (call $must (call $rename (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 1034) (i32.const 5)) (i32.const 0))
        (call $must (call $open (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 1)) (i32.const 20))
        (call $must (call $list (local.get $folder)) (i32.const 1603))
        (call $must (call $unlink (local.get $folder) (i32.const 1042) (i32.const 8)) (i32.const 0))
        ;; a stream of a folder is none, nor is a listing of a file
        (call $must (call $write (local.get $folder) (i64.const 0) (i32.const 1024) (i32.const 3) (i32.const 1)) (i32.const 14))"#
    );
    let exit = run(&node, &body, &volume, false).await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
    assert_eq!(fs::metadata(volume.join("moved")).unwrap().len(), 900_000);
    assert!(volume.join("sub").is_dir() && !volume.join("greeting").exists() && !volume.join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_read_only_stays_so_and_nothing_leads_out() {
    let node = Node::new().await;
    let volume = volume(&node);
    symlink("../x", volume.join("out")).unwrap();
    // not-permitted is the 31st code
    let body = format!(
        r#"{FOLDER}
        (call $must (call $open (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 0) (i32.const 1)) (i32.const 0))
        (local.set $file (call $opened))
        (call $must (call $write (local.get $file) (i64.const 0) (i32.const 1024) (i32.const 3) (i32.const 1)) (i32.const 31))
        (call $must (call $write (local.get $file) (i64.const -1) (i32.const 1024) (i32.const 3) (i32.const 1)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 0) (i32.const 3)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 1) (i32.const 3)) (i32.const 31))
        (call $must (call $mkdir (local.get $folder) (i32.const 1027) (i32.const 3)) (i32.const 31))
        (call $must (call $unlink (local.get $folder) (i32.const 1042) (i32.const 8)) (i32.const 31))
        (call $must (call $rename (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 1024) (i32.const 3)) (i32.const 31))"#
    );
    let exit = run(&node, &body, &volume, true).await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(volume.join("greeting")).unwrap(), "inside\n");
    let body = format!(
        r#"{FOLDER}
        (call $must (call $open (local.get $folder) (i32.const 1030) (i32.const 4) (i32.const 0) (i32.const 1)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1030) (i32.const 4) (i32.const 1) (i32.const 3)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1039) (i32.const 3) (i32.const 0) (i32.const 1)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1039) (i32.const 3) (i32.const 9) (i32.const 3)) (i32.const 31))
        (call $must (call $open (local.get $folder) (i32.const 1050) (i32.const 4) (i32.const 0) (i32.const 1)) (i32.const 31))
        (call $must (call $symlink (local.get $folder) (i32.const 1030) (i32.const 4) (i32.const 1024) (i32.const 3)) (i32.const 0))
        (call $must (call $open (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 1)) (i32.const 31))
        (call $must (call $rename (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 1030) (i32.const 4)) (i32.const 31))"#
    );
    let exit = run(&node, &body, &volume, false).await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(node.folder.path().join("x")).unwrap(), "outside\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_end_stop_at_the_limits_of_disk_and_files() {
    let size = Arc::new(AtomicU64::new(20 << 20));
    let folder = tempfile::tempdir().unwrap();
    let (disk, path) = (size.clone(), folder.path().to_owned());
    let used = move || path.read_dir().unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum::<u64>();
    let written = used.clone();
    let node = Node::with(|options| {
        options.files.max_open = 1 << 16;
        options.files.writable_bytes = Arc::new(move || disk.load(SeqCst).saturating_sub(used()));
    })
    .await;
    for offset in ["0", "-1"] {
        // insufficient-space is the 23rd code
        let body = format!(
            r#"{FOLDER}
            (call $must (call $open (local.get $folder) (i32.const 1024) (i32.const 3) (i32.const 1) (i32.const 3)) (i32.const 0))
            (call $must (call $write (call $opened) (i64.const {offset}) (i32.const 1048576) (i32.const 900000) (i32.const 0)) (i32.const 23))"#
        );
        let exit = run(&node, &body, folder.path(), false).await;
        assert_eq!((exit.code, exit.message.as_str()), (0, ""));
        assert!((15 << 20..=20 << 20).contains(&written()), "{}", written());
        fs::remove_file(folder.path().join("new")).unwrap();
    }
    // insufficient-memory is the 22nd: there is none for too many files
    fs::write(folder.path().join("greeting"), "x").unwrap();
    let (open, stream) = (
        "(call $open (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 0) (i32.const 1))",
        "(call $read_via (local.get $file) (i64.const 0) (i32.const 64))",
    );
    let hoard = format!(
        r#"{FOLDER}
        (call $must {open} (i32.const 0))
        (local.set $file (call $opened))
        ;; streams are files, too
        (loop $more {stream} (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $more (i32.lt_u (local.get $i) (i32.const 500))))
        (loop $more
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.eqz {open})))
        (call $must (call $code) (i32.const 22))
        (if (i32.gt_u (local.get $i) (i32.const 1025)) (then (unreachable)))
        (if (i32.lt_u (local.get $i) (i32.const 900)) (then (unreachable)))
        {stream}
        (call $must (call $told (i32.load (i32.const 68))) (i32.const 22))"#
    );
    let exit = run(&node, &hoard, folder.path(), false).await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
}

#[tokio::test]
async fn a_handler_reads_and_writes_its_volume() {
    let node = Node::new().await;
    let volume = volume(&node);
    let mut spec = hello(&node);
    spec.mounts =
        vec![Mount::new(&volume, "", "/data", false).unwrap(), Mount::new(&volume, "", "/seen", true).unwrap()];
    let id = node.start(spec).await;
    assert_eq!(soon(node.net.get(80, "/files/data/greeting")).await, (200, "inside\n".to_string()));
    let put = async |path: &str, text: String| {
        let body =
            Full::new(Bytes::from(text)).map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        let request = http::Request::put(format!("http://hello{path}")).body(body).unwrap();
        soon(node.net.handler(80).unwrap().call(request, peer())).await.unwrap().status().as_u16()
    };
    let large = "x".repeat(300_000);
    assert!((200..300).contains(&put("/files/data/new", large.clone()).await));
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap().len(), large.len());
    assert_eq!(soon(node.net.get(80, "/files/seen/new")).await, (200, large));
    assert!(put("/files/seen/refused", "x".into()).await >= 400);
    assert!(soon(node.net.get(80, "/files/data/../x")).await.0 >= 400);
    assert!(!volume.join("refused").exists());
    let told = node.log(&id, |_| true).await;
    assert!(!told.contains("not visible"), "{told}");
}

/// The first write makes the container's copy of its image's files, also by WASI 0.3.
#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_copied_at_the_first_write() {
    let node = Node::new().await;
    let (image, copy) = (volume(&node), node.folder.path().join("copies/0"));
    fs::create_dir(image.join("sub")).unwrap();
    let body = format!(
        r#"{FOLDER}
        (call $must (call $open (local.get $folder) (i32.const 1027) (i32.const 3) (i32.const 2) (i32.const 1)) (i32.const 0))
        (local.set $file (call $opened))
        (call $must (call $mkdir (local.get $folder) (i32.const 1024) (i32.const 3)) (i32.const 0))
        (call $must (call $mkdir (local.get $file) (i32.const 1024) (i32.const 3)) (i32.const 0))
        (call $must (call $list (local.get $file)) (i32.const 301))
        (call $must (call $unlink (local.get $folder) (i32.const 1042) (i32.const 8)) (i32.const 0))"#
    );
    let mut spec = node.spec(&command(&body));
    let Artifact::Wasm { files, .. } = &mut spec.artifact else { unreachable!() };
    (*files, spec.root) = (Some(image.clone()), RootFolder::Writable(copy.clone()));
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
    assert!(copy.join("new").is_dir() && copy.join("sub/new").is_dir() && !copy.join("greeting").exists());
    assert!(image.join("greeting").exists() && !image.join("new").exists() && !image.join("sub/new").exists());
}

/// As `limits::files_alone`, for streams of WASI 0.3.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test in a process of its own"]
async fn streams_alone() {
    let node = Node::new().await;
    let volume = volume(&node);
    fs::write(volume.join("greeting"), vec![1; 900_000]).unwrap();
    let body = format!(
        r#"{FOLDER}
        (call $must (call $open (local.get $folder) (i32.const 1042) (i32.const 8) (i32.const 0) (i32.const 1)) (i32.const 0))
        (local.set $file (call $opened))
        (loop $more (drop (call $read (local.get $file) (i64.const 0) (i32.const 1048576))) (br $more))"#
    );
    let mut spec = spec(&node, &body, &volume, false);
    spec.limits.cpu_millis = Some(100);
    let id = node.start(spec).await;
    print_use().await;
    assert!(matches!(node.state(&id).await, ContainerState::Running { .. }), "it reads for ever");
}
