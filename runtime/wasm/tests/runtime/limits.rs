//! The node's files and disk, shared out among guests.

use crate::support::{Node, files_guest};
use container::{ContainerSpec, Limits, Mount, Runtime, SandboxSpec};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// Opens `f` until that fails, says how often it could by its exit code in tens, or waits for ever with all of them if `keep`.
fn hoarder(keep: bool) -> Vec<u8> {
    let end = match keep {
        true => {
            "(call $print (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 64)) drop (loop $for_ever (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 64))) (br $for_ever))"
        }
        false => "(call $exit (i32.div_u (local.get $i) (i32.const 10)))",
    };
    let text = format!(
        r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $print (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "f")
      (data (i32.const 16) "\20\00\00\00\05\00\00\00")
      (data (i32.const 32) "full\n")
      ;; a clock an hour away
      (data (i32.const 128) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\a0\b8\30\46\03\00\00")
      (func (export "_start") (local $i i32) (local $error i32)
        (loop $more
          (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 64)))
          (if (local.get $error) (then
            ;; EMFILE, and nothing else
            (if (i32.ne (local.get $error) (i32.const 33)) (then (call $exit (i32.const 125))))
            {end}
            ))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 1500))))
        (call $exit (i32.const 124))))"#
    );
    wat::parse_str(text).unwrap()
}

async fn pod(node: &Node, name: &str) {
    let (id, hostname) = (name.into(), name.into());
    let spec = SandboxSpec {
        id,
        hostname,
        labels: Default::default(),
        limits: Limits::default(),
        network: Default::default(),
        folders: Vec::new(),
        linux: Default::default(),
    };
    node.runtime.sandbox(spec, node.net.clone()).await.unwrap();
}

async fn start(node: &Node, sandbox: &str, spec: ContainerSpec) -> container::ContainerId {
    let id = spec.id.clone();
    let _prepared = node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
    node.runtime.create(&sandbox.into(), spec).await.unwrap();
    node.runtime.start(&id).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_hoard_files_leave_some_for_the_next() {
    let node = Node::with(|options| options.files.max_open = 400).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "some\n").unwrap();
    let spec = |keep: bool| {
        let mut spec = node.spec(&hoarder(keep));
        spec.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
        spec
    };
    let mut ids = Vec::new();
    for name in ('a'..='n').map(String::from) {
        pod(&node, &name).await;
        ids.push(start(&node, &name, spec(true)).await);
        node.log(ids.last().unwrap(), |log| log.contains("full")).await;
    }
    assert!(node.runtime.health().unwrap().contains("files open of the 400"));
    // 14 have taken what they may: another gets 16, one of them its folder
    pod(&node, "last").await;
    let id = start(&node, "last", spec(false)).await;
    assert_eq!(node.exit(&id).await.code, 1, "{}", node.exit(&id).await.message);
    let mut reader = node.spec(&files_guest());
    reader.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
    start(&node, "last", reader).await;
    assert_eq!(node.net.get(80, "/f").await, (200, "some\n".into()), "an HTTP pod goes on");
    for id in ids {
        node.runtime.remove(&id).await.unwrap();
    }
    assert_eq!(node.runtime.health(), None);
    let id = start(&node, "last", spec(false)).await;
    assert_eq!(node.exit(&id).await.code, 4, "a ninth of 400, and the folder is one of them");
    // a component is told by the code W, insufficient-memory: WASI 0.2 has no other
    assert_eq!(node.net.get(80, "/*f").await, (404, "error W".into()));
    assert_eq!(node.net.get(80, "/f").await, (200, "some\n".into()), "what it held went with its instance");
}

/// Writes 1 MiB again and again with `fd_write` (or `fd_pwrite`, or through descriptor 1 after it closed standard output) until that fails;
/// exits with the error.
fn filler(how: &str) -> Vec<u8> {
    let (before, write) = match how {
        "pwrite" => (
            "",
            "(call $pwrite (local.get $fd) (i32.const 16) (i32.const 1) (i64.mul (i64.extend_i32_u (local.get $i)) (i64.const 1048576)) (i32.const 64))",
        ),
        "stdout" => (
            "(drop (call $renumber (local.get $fd) (i32.const 1))) (local.set $fd (i32.const 1))",
            "(call $write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 64))",
        ),
        _ => ("", "(call $write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 64))"),
    };
    let text = format!(
        r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 32)
      (data (i32.const 0) "f")
      (data (i32.const 16) "\00\00\01\00\00\00\10\00")
      (func (export "_start") (local $i i32) (local $fd i32) (local $error i32)
        ;; create, to write
        (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 64)))
        (if (local.get $error) (then (call $exit (local.get $error))))
        (local.set $fd (i32.load (i32.const 64)))
        {before}
        (loop $more
          (local.set $error {write})
          (if (local.get $error) (then (call $exit (local.get $error))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 100))))
        (call $exit (i32.const 124))))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_fills_the_disk_is_told_before_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let written = {
        let folder = folder.path().to_owned();
        move || folder.read_dir().unwrap().flatten().map(|e| e.metadata().unwrap().len()).sum::<u64>()
    };
    let size = Arc::new(AtomicU64::new(20 << 20));
    let (disk, used) = (size.clone(), written.clone());
    let node =
        Node::with(|options| options.files.writable_bytes = Arc::new(move || disk.load(SeqCst).saturating_sub(used())))
            .await;
    for how in ["write", "pwrite", "stdout"] {
        let mut spec = node.spec(&filler(how));
        spec.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
        let exit = node.run(spec).await;
        // ENOSPC
        assert_eq!(exit.code, 51, "{how}: {}", exit.message);
        assert!((15 << 20..=20 << 20).contains(&written()), "{how}: {}", written());
        std::fs::remove_file(folder.path().join("f")).unwrap();
    }
    let mut spec = node.spec(&files_guest());
    spec.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
    node.start(spec).await;
    // X is insufficient-space
    for (path, answer) in [("/+f", "error X"), ("/!f", "error X")] {
        assert_eq!(node.net.get(80, path).await, (404, answer.into()));
        assert!((15 << 20..=20 << 20).contains(&written()), "{path}: {}", written());
        std::fs::remove_file(folder.path().join("f")).unwrap();
    }
    size.store(0, SeqCst);
    let mut spec = node.spec(&filler("write"));
    spec.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
    assert_eq!(node.run(spec).await.code, 51, "it exits with what is granted still, then no more");
}

/// Not a test: a node in a process of its own, so that what the process uses is what the guest and its node use. Tells thousandths of a core.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test in a process of its own"]
async fn files_alone() {
    let node = Node::new().await;
    let volume = node.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), vec![b'x'; 1 << 20]).unwrap();
    let text = r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pread" (func $read (param i32 i32 i32 i64 i32) (result i32)))
      (memory (export "memory") 20)
      (data (i32.const 0) "f")
      (data (i32.const 16) "\00\00\01\00\00\00\10\00")
      (func $must (param i32) (if (local.get 0) (then (unreachable))))
      (func (export "_start")
        (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
        (loop $again
          (call $must (call $stat (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)))
          (call $must (call $read (i32.load (i32.const 32)) (i32.const 16) (i32.const 1) (i64.const 0) (i32.const 40)))
          (br $again))))"#;
    let mut spec = node.spec(&wat::parse_str(text).unwrap());
    spec.mounts = vec![Mount::new(&volume, "", "/data", false).unwrap()];
    spec.limits.cpu_millis = Some(100);
    let id = node.start(spec).await;
    print_use().await;
    assert!(matches!(node.state(&id).await, container::ContainerState::Running { .. }));
}

/// As [`files_alone`], for a component.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test in a process of its own"]
async fn files_of_a_component_alone() {
    let node = Node::new().await;
    let volume = node.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), vec![b'x'; 1 << 20]).unwrap();
    let mut spec = node.spec(&files_guest());
    spec.mounts = vec![Mount::new(&volume, "", "/data", false).unwrap()];
    spec.limits.cpu_millis = Some(100);
    node.start(spec).await;
    let net = node.net.clone();
    let reads = tokio::spawn(async move { net.get(80, "/&f").await });
    print_use().await;
    assert!(!reads.is_finished(), "it reads for ever");
}

/// Prints the CPU time that this process uses from now on, in thousandths of a core.
pub(crate) async fn print_use() {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, begin) = (used(), tokio::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let millis = (used() - before) as f64 / begin.elapsed().as_secs_f64();
    println!("used {millis:.0}");
}

#[test]
fn files_count_for_the_limit_of_cpu() {
    for guest in ["limits::files_alone", "limits::files_of_a_component_alone", "async_files::streams_alone"] {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--ignored", "--exact", guest, "--nocapture"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let used = text.lines().find_map(|line| line.split_once("used ")?.1.trim().parse::<u64>().ok());
        let used = used.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        // 114 to 124 on two busy cores: beside the guest, its epochs and the wake-ups for its slices
        assert!(used < 150, "{guest}: a guest of 100m and its node used {used}m");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_keeps_its_thread_does_not_keep_the_container() {
    let node = Node::new().await;
    let volume = node.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    // who opens a pipe to read waits for who writes
    assert!(std::process::Command::new("mkfifo").arg(volume.join("f")).status().unwrap().success());
    let mut spec = node.spec(&hoarder(false));
    spec.mounts = vec![Mount::new(&volume, "", "/data", false).unwrap()];
    let id = node.start(spec).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stopped = tokio::time::timeout(Duration::from_secs(30), node.runtime.stop(&id, Duration::from_secs(1))).await;
    stopped.expect("it cannot be stopped").unwrap();
    let tool = container::Exec { command: vec!["cat".into(), "/data/f".into()], tty: false };
    let other = node.start(waiting_spec(&node, &volume)).await;
    let code = tokio::time::timeout(Duration::from_secs(30), node.runtime.exec(&other, tool, Default::default())).await;
    assert_eq!(code.expect("a tool waits as well").unwrap(), 1);
}

fn waiting_spec(node: &Node, volume: &std::path::Path) -> ContainerSpec {
    let mut spec = node.spec(&crate::support::core_guest());
    spec.args = vec!["main".into(), "wait".into()];
    spec.mounts = vec![Mount::new(volume, "", "/data", false).unwrap()];
    spec
}
