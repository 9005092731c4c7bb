//! Guests that mean harm leave others alone. Bounds on time only tell alive from dead.

use crate::support::{Node, core_guest, http_guest};
use container::{ContainerState, ExitReason, Limits, Mount, Runtime};
use std::time::Duration;

const ALIVE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_beside_spinners_floods_and_memory_hogs() {
    let node = Node::with(|options| options.memory = 256 << 20).await;
    node.start(node.spec(&http_guest())).await;
    let mut hostile = Vec::new();
    for argument in ["spin", "spin", "spin", "flood", "flood"] {
        let mut spec = node.spec(&core_guest());
        spec.args = vec!["main".into(), argument.into()];
        hostile.push(node.start(spec).await);
    }
    for _ in 0..50 {
        let answer = tokio::time::timeout(ALIVE, node.net.get(80, "/")).await.expect("starved");
        assert_eq!(answer.0, 200);
    }
    // No limit of its own: the node's holds, and the one who asks above it is the one who ends.
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "grow".into()];
    let exit = node.run(spec).await;
    assert_eq!(exit.reason, ExitReason::OomKilled);
    assert!(exit.message.contains("in use by the node"), "{}", exit.message);
    assert_eq!(node.net.get(80, "/").await.0, 200);
    for id in hostile {
        assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
        tokio::time::timeout(ALIVE, node.runtime.remove(&id)).await.expect("it cannot be ended").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_flood_is_bounded_on_disk() {
    let node = Node::with(|options| {
        options.log.max_size = 64 << 10;
        options.log.max_files = 3;
    })
    .await;
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "flood".into()];
    let folder = spec.log.parent().unwrap().to_path_buf();
    let id = node.start(spec).await;
    let rotated = async {
        while std::fs::read_dir(&folder).map_or(0, Iterator::count) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(3 * ALIVE, rotated).await.expect("it does not rotate");
    node.runtime.stop(&id, Duration::ZERO).await.unwrap();
    let files: Vec<u64> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(files.len() <= 3, "{files:?}");
    assert!(files.iter().all(|size| *size <= (64 << 10) + (512 << 10)), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_storm_is_served_through_a_small_pool() {
    let node = Node::with(|options| {
        options.pool.pooled = 64;
        options.http.concurrency = 32;
    })
    .await;
    node.start(node.spec(&http_guest())).await;
    let handler = node.net.clone();
    let calls: Vec<_> = (0..2000)
        .map(|_| {
            let net = handler.clone();
            tokio::spawn(async move { net.get(80, "/").await.0 })
        })
        .collect();
    for call in calls {
        assert_eq!(tokio::time::timeout(3 * ALIVE, call).await.expect("stuck").unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_handlers_than_the_pool_has_instances_get_a_503_not_a_crash() {
    let node = Node::with(|options| {
        options.pool.pooled = 2;
        options.pool.unpooled = 0;
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut spec = node.spec(&core_guest());
        spec.args = vec!["main".into(), "wait".into()];
        waiting.push(node.start(spec).await);
    }
    let instances = async {
        for id in &waiting {
            while node.runtime.stats(id).await.unwrap().memory_bytes == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    tokio::time::timeout(ALIVE, instances).await.unwrap();
    node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/").await, (503, "this node runs as many instances as it can\n".to_string()));
    node.runtime.remove(&waiting[0]).await.unwrap();
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_pod_hold_for_all_its_containers() {
    let node = Node::new().await;
    let spec = container::SandboxSpec {
        id: "small".into(),
        hostname: "small".into(),
        labels: Default::default(),
        limits: Limits { memory_bytes: Some(4 << 20), cpu_millis: None },
        network: Default::default(),
    };
    node.runtime.sandbox(spec, node.net.clone()).await.unwrap();
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "grow".into()];
    let id = spec.id.clone();
    node.runtime.create(&"small".into(), spec).await.unwrap();
    node.runtime.start(&id).await.unwrap();
    let exit = node.exit(&id).await;
    assert_eq!(exit.reason, ExitReason::OomKilled);
    assert!(exit.message.contains("4194304 bytes are in use by the pod"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hoards_files_is_refused_more_long_before_the_process_has_none_left() {
    let node = Node::with(|options| options.files.max_open = 1 << 16).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "x").unwrap();
    let hoarder = r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (data (i32.const 0) "f")
      (func (export "_start") (local $i i32)
        (loop $more
          (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16))
            (then (call $exit (i32.div_u (local.get $i) (i32.const 100)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 1500))))))"#;
    let mut spec = node.spec(&wat::parse_str(hoarder).unwrap());
    spec.mounts = vec![Mount::new(folder.path(), "", "/data", false).unwrap()];
    let exit = node.run(spec).await;
    // EMFILE after 1,023: the folder is a file too
    assert_eq!(exit.code, 10, "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instructions_that_take_long_do_not_keep_the_threads_of_others() {
    let node = Node::new().await;
    // fills 512 MiB by one instruction, and says so
    let filler = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $print (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 8300)
      (data (i32.const 0) "\10\00\00\00\02\00\00\00") (data (i32.const 16) "f\n")
      (func (export "_start")
        (loop $again
          (memory.fill (i32.const 65536) (i32.const 1) (i32.const 536870912))
          (drop (call $print (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $again))))"#;
    let filler = wat::parse_str(filler).unwrap();
    node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
    // as many as there are threads
    let fillers = [node.start(node.spec(&filler)).await, node.start(node.spec(&filler)).await];
    let mut filled = 0;
    for id in &fillers {
        filled += node.log(id, |log| log.contains('f')).await.lines().count();
    }
    for _ in 0..200 {
        let answer = tokio::time::timeout(ALIVE, node.net.get(80, "/")).await.expect("starved");
        assert_eq!(answer.0, 200);
    }
    let mut since = 0;
    for id in &fillers {
        since += node.log(id, |log| log.contains('f')).await.lines().count();
    }
    since -= filled;
    // a request takes some milliseconds, one instruction takes more than 50: who waits for instructions waits for one or more each time
    assert!(since < 100, "{since} instructions while 200 requests were answered");
    for id in fillers {
        tokio::time::timeout(ALIVE, node.runtime.remove(&id)).await.expect("it cannot be ended").unwrap();
    }
}
