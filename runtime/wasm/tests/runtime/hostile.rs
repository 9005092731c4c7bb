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
        limits: Limits { memory_bytes: Some(4 << 20), ..Limits::default() },
        network: Default::default(),
        folders: Vec::new(),
        linux: Default::default(),
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

/// A kind of guest that means harm.
struct Hostile {
    name: &'static str,
    text: String,
    /// Its limit, in MiB.
    memory: u64,
    /// How it ends: its exit code, and what its message holds. Without it, it runs until it is removed.
    end: Option<(i32, &'static str)>,
}

fn for_ever(name: &'static str, memory: u64, fields: &str, body: &str) -> Hostile {
    let text = format!(r#"(module {fields} (func (export "_start") (loop $again {body} (br $again))))"#);
    Hostile { name, text, memory, end: None }
}

fn until(end: (i32, &'static str), hostile: Hostile) -> Hostile {
    Hostile { end: Some(end), ..hostile }
}

fn hostile_guests() -> Vec<Hostile> {
    const OOM: (i32, &str) = (137, "bytes are in use by the container");
    const DEEP: (i32, &str) = (134, "wasm trap: call stack exhausted");
    let grow = |operation: &str| format!("(br_if $again (i32.ne ({operation}) (i32.const -1))) (unreachable)");
    let locals: String = (0..20_000).map(|_| "(local i64)").collect();
    let used: String = (0..20_000).map(|local| format!("(local.set {local} (call $f (local.get {local})))")).collect();
    let poll = r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)"#;
    let random = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (memory (export "memory") 300)"#;
    let list = "(type $bytes (array (mut i8))) (type $node (struct (field (ref $bytes)) (field (ref null $node))))
      (global $head (mut (ref null $node)) (ref.null $node))";
    let array = "(type $bytes (array (mut i64))) (global $all (mut (ref null $bytes)) (ref.null $bytes))
      (func $init (global.set $all (array.new_default $bytes (i32.const 6000000)))) (start $init)";
    vec![
        for_ever("spins", 16, "", ""),
        for_ever(
            "polls a clock that is over",
            16,
            poll,
            "(drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))",
        ),
        for_ever("asks for randomness", 64, random, "(drop (call $random (i32.const 1024) (i32.const 1048576)))"),
        until(OOM, for_ever("grows its memory", 64, "(memory 1)", &grow("memory.grow (i32.const 16)"))),
        until(
            OOM,
            for_ever(
                "grows a table",
                64,
                "(table $t 1 funcref)",
                &grow("table.grow $t (ref.null func) (i32.const 10000)"),
            ),
        ),
        until(
            OOM,
            for_ever(
                "grows a heap of collected objects",
                64,
                list,
                "(global.set $head (struct.new $node (array.new $bytes (i32.const 1) (i32.const 100000)) (global.get $head)))",
            ),
        ),
        for_ever(
            "fills a large memory",
            600,
            "(memory 4200)",
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 268435456))",
        ),
        for_ever(
            "copies a large memory",
            600,
            "(memory 4200)",
            "(memory.copy (i32.const 0) (i32.const 134217728) (i32.const 134217728))",
        ),
        for_ever(
            "fills a large table",
            600,
            "(table $t 20000000 funcref)",
            "(table.fill $t (i32.const 0) (ref.null func) (i32.const 20000000))",
        ),
        for_ever(
            "copies a large table",
            600,
            "(table $t 20000000 funcref)",
            "(table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 19999999))",
        ),
        for_ever(
            "fills a large array",
            600,
            array,
            "(array.fill $bytes (global.get $all) (i32.const 0) (i64.const 1) (i32.const 6000000))",
        ),
        until(
            DEEP,
            for_ever(
                "calls itself",
                16,
                "(func $f (result i32) (i32.add (call $f) (i32.const 1)))",
                "(drop (call $f))",
            ),
        ),
        until(
            DEEP,
            for_ever(
                "calls itself with large frames",
                16,
                &format!("(func $f (param i64) (result i64) {locals} {used} (local.get 0))"),
                "(drop (call $f (i64.const 1)))",
            ),
        ),
        until((134, "wasm trap: wasm `unreachable` instruction executed"), for_ever("traps", 16, "", "(unreachable)")),
    ]
}

/// A neighbour, new containers and the lists of the runtime go on beside several guests of each kind, which end as they should.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_hostile_guest_leaves_others_alone() {
    let node = Node::new().await;
    node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
    for Hostile { name, text, memory, end } in hostile_guests() {
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut running = Vec::new();
        // more than there are threads
        for _ in 0..3 {
            let mut spec = node.spec(&wasm);
            spec.limits.memory_bytes = Some(memory << 20);
            running.push(node.start(spec).await);
        }
        let others = async {
            for _ in 0..10 {
                assert_eq!(node.net.get(80, "/").await.0, 200, "{name}");
            }
            let mut spec = node.spec(&core_guest());
            spec.args = vec!["main".into(), "e3".into()];
            assert_eq!(node.run(spec).await.code, 3, "{name}");
        };
        tokio::time::timeout(3 * ALIVE, others).await.unwrap_or_else(|_| panic!("others are starved: it {name}"));
        for id in running {
            match end {
                Some((code, message)) => {
                    let exit = node.exit(&id).await;
                    assert!(exit.code == code && exit.message.contains(message), "it {name}: {exit:?}");
                }
                None => {
                    let state = node.state(&id).await;
                    assert!(matches!(state, ContainerState::Running { .. }), "it {name}: {state:?}");
                }
            }
            let removed = tokio::time::timeout(3 * ALIVE, node.runtime.remove(&id)).await;
            removed.unwrap_or_else(|_| panic!("it cannot be removed: it {name}")).unwrap();
        }
    }
    assert_eq!(node.runtime.health(), None);
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_traps_at_each_request_and_a_crowd_that_sleeps_leave_others_alone() {
    let node = Node::new().await;
    node.start(node.spec(&http_guest())).await;
    let mut spec = node.spec(&http_guest());
    spec.ports[0].number = 81;
    spec.core_dump = true;
    let trapping = node.start(spec).await;
    let mut sleeping = Vec::new();
    for _ in 0..60 {
        let mut spec = node.spec(&core_guest());
        spec.args = vec!["main".into(), "wait".into()];
        sleeping.push(node.start(spec).await);
    }
    let traps: Vec<_> = (0..8)
        .map(|_| {
            let net = node.net.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    assert_eq!(net.get(81, "/trap").await.0, 500);
                }
            })
        })
        .collect();
    for _ in 0..50 {
        let answer = tokio::time::timeout(ALIVE, node.net.get(80, "/")).await.expect("starved");
        assert_eq!(answer.0, 200);
    }
    for task in traps {
        tokio::time::timeout(3 * ALIVE, task).await.expect("stuck").unwrap();
    }
    let log = node.log(&trapping, |log| log.matches("GET /trap failed").count() == 200).await;
    assert_eq!(log.matches("a core dump of").count(), 1, "only the first trap leaves one");
    for id in sleeping.into_iter().chain([trapping]) {
        assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
        tokio::time::timeout(ALIVE, node.runtime.remove(&id)).await.expect("it cannot be removed").unwrap();
    }
}
