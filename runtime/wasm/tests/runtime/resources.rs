//! What guests take is counted and shared out: memory that the host holds for them, memory of the machine, places for instances.

use crate::support::{Node, component, core_guest, http_guest};
use container::{ContainerState, Exit, ExitReason, Limits, Runtime};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

const ALIVE: Duration = Duration::from_secs(20);

fn module(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

async fn run(node: &Node, text: &str) -> Exit {
    node.run(node.spec(&module(text))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_holds_for_a_guest_counts_for_its_limit() {
    let node = Node::new().await;
    let hoarder = component("http", include_str!("../guests/hoard.wat"));
    for path in ["/fields", "/bodies"] {
        let mut spec = node.spec(&hoarder);
        spec.limits.memory_bytes = Some(16 << 20);
        let id = node.start(spec).await;
        assert_eq!(node.net.get(80, "/").await.0, 200, "an honest request of it");
        assert_eq!(node.net.get(80, path).await.0, 500);
        let exit = node.exit(&id).await;
        assert_eq!((exit.reason, exit.code), (ExitReason::OomKilled, 137), "{path}: {}", exit.message);
        assert!(exit.message.contains("bytes are in use by the container"), "{path}: {}", exit.message);
        assert_eq!(node.runtime.stats(&id).await.unwrap().memory_bytes, 0);
        node.runtime.remove(&id).await.unwrap();
    }
    // Within a larger limit the same are no more than a request.
    let mut spec = node.spec(&hoarder);
    spec.limits.memory_bytes = Some(128 << 20);
    node.start(spec).await;
    assert_eq!(node.net.get(80, "/fields").await.0, 200);
    assert_eq!(node.net.get(80, "/bodies").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_have_no_more_memory_than_the_machine_has_room_for() {
    let with_room = |room: &Arc<AtomicU64>| {
        let machine = room.clone();
        Node::with(|options| options.memory_probe = Arc::new(move |_| machine.load(SeqCst)))
    };
    let room = Arc::new(AtomicU64::new(8 << 20));
    let node = with_room(&room).await;
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "grow".into()];
    let exit = node.run(spec).await;
    assert_eq!((exit.reason, exit.code), (ExitReason::OomKilled, 137));
    assert!(exit.message.contains("of 8388608 bytes are in use by the node"), "{}", exit.message);
    // A request waits for room instead: it asked for nothing that is too much.
    room.store(0, SeqCst);
    let node = with_room(&room).await;
    let id = node.start(node.spec(&http_guest())).await;
    let net = node.net.clone();
    let late = tokio::spawn(async move { net.get(80, "/").await.0 });
    while node.runtime.stats(&id).await.unwrap().requests == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!late.is_finished());
    room.store(u64::MAX, SeqCst);
    assert_eq!(tokio::time::timeout(ALIVE, late).await.expect("it waits for ever").unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_heap_of_collected_objects_is_out_of_memory() {
    let node = Node::new().await;
    let lists = module(
        r#"(module
          (type $words (array (mut i64)))
          (type $node (struct (field (ref $words)) (field (ref null $node))))
          (global $head (mut (ref null $node)) (ref.null $node))
          (memory (export "memory") 1)
          (func (export "_start")
            (loop $more
              (global.set $head
                (struct.new $node (array.new $words (i64.const 1) (i32.const 10000)) (global.get $head)))
              (br $more))))"#,
    );
    let mut spec = node.spec(&lists);
    spec.limits.memory_bytes = Some(16 << 20);
    let exit = node.run(spec).await;
    assert_eq!((exit.reason, exit.code), (ExitReason::OomKilled, 137), "{}", exit.message);
    assert!(exit.message.starts_with("out of memory: "), "{}", exit.message);
    assert!(exit.message.contains("of 16777216 bytes are in use by the container"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_the_low_eight_bits_as_a_processs() {
    let node = Node::new().await;
    for (code, expected) in [(126, 126), (127, 127), (128, 128), (200, 200), (255, 255), (-1, 255), (256, 0), (259, 3)]
    {
        let text = format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        );
        let exit = run(&node, &text).await;
        let reason = if expected == 0 { ExitReason::Completed } else { ExitReason::Error };
        assert_eq!((exit.code, exit.reason, exit.message.as_str()), (expected, reason, ""), "of {code}");
    }
    let text = r#"(module
      (import "wasi:cli/exit@0.2.0" "exit-with-code" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
      (func (export "wasi:cli/run@0.2.0#run") (result i32) (call $exit (i32.const 200)) (i32.const 0)))"#;
    let exit = node.run(node.spec(&component("leaver", text))).await;
    assert_eq!((exit.code, exit.reason), (200, ExitReason::Error), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_have_the_pools_shape_runs_by_itself() {
    let node = Node::new().await;
    let globals: String = (0..200_000).map(|_| "(global i64 (i64.const 1))").collect();
    let tables: String = (0..9).map(|_| "(table 1 funcref)").collect();
    for (what, text) in [
        ("a large table", "(table 30000 funcref)".to_string()),
        ("two memories", "(memory 1) (memory 1)".to_string()),
        ("nine tables", tables),
        ("many globals", globals),
    ] {
        let exit = run(&node, &format!(r#"(module {text} (func (export "_start")))"#)).await;
        assert_eq!((exit.code, exit.message.as_str()), (0, ""), "{what}");
    }
    let grown = run(
        &node,
        r#"(module (table $t 1 funcref) (func (export "_start")
             (if (i32.eq (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1)) (then (unreachable)))))"#,
    );
    assert_eq!(grown.await.code, 0, "a table grows beyond what the pool has");
    let deep = run(
        &node,
        r#"(module (func $f (param i32) (result i32)
             (if (result i32) (local.get 0) (then (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
               (else (i32.const 0))))
           (func (export "_start") (drop (call $f (i32.const 20000)))))"#,
    );
    assert_eq!(deep.await.message, "", "as deep as `wasmtime run`");
    let many: String = (0..64).map(|_| "(memory 1)").collect();
    let exit = run(&node, &format!(r#"(module {many} (func (export "_start")))"#)).await;
    assert!(exit.message.contains("memory count too high"), "no instance has 64 memories: {exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_never_take_all_places_and_the_node_tells_before() {
    let node = Node::with(|options| {
        options.pool.pooled = 8;
        options.pool.unpooled = 8;
    })
    .await;
    node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
    let waiting = || {
        let mut spec = node.spec(&core_guest());
        spec.args = vec!["main".into(), "wait".into()];
        spec
    };
    // All by themselves, then the pool without the quarter that is for requests.
    let mut commands = Vec::new();
    for _ in 0..14 {
        assert_eq!(node.runtime.health().is_some(), commands.len() >= 13, "{} are running", commands.len());
        let id = node.start(waiting()).await;
        while node.runtime.stats(&id).await.unwrap().memory_bytes == 0 {
            assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        commands.push(id);
    }
    let told = node.runtime.health().unwrap();
    assert!(told.starts_with("more than 90% of the places for 16 Wasm instances are taken"), "{told}");
    let exit = node.run(waiting()).await;
    assert_eq!((exit.code, exit.reason), (128, ExitReason::ContainerCannotRun));
    assert_eq!(exit.message, "this node runs as many Wasm instances as it can: it has places for 16");
    assert_eq!(node.net.get(80, "/").await.0, 200, "requests have places left");
    node.runtime.remove(&commands.pop().unwrap()).await.unwrap();
    let again = node.start(waiting()).await;
    assert!(matches!(node.state(&again).await, ContainerState::Running { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_handler_never_takes_all_places() {
    let node = Node::with(|options| {
        options.pool.pooled = 64;
        options.pool.unpooled = 0;
    })
    .await;
    let mut greedy = node.spec(&http_guest());
    greedy.ports[0].number = 81;
    let greedy = node.start(greedy).await;
    node.start(node.spec(&http_guest())).await;
    let spinning: Vec<_> = (0..40)
        .map(|_| {
            let net = node.net.clone();
            tokio::spawn(async move { net.get(81, "/spin").await })
        })
        .collect();
    let busy = async {
        while node.runtime.stats(&greedy).await.unwrap().instances < 16 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(ALIVE, busy).await.expect("it never gets its share");
    for _ in 0..20 {
        let answer = tokio::time::timeout(ALIVE, node.net.get(80, "/")).await.expect("starved");
        assert_eq!(answer.0, 200);
        assert!(node.runtime.stats(&greedy).await.unwrap().instances <= 16, "a quarter of 64");
    }
    spinning.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_beyond_the_pool() {
    let node = Node::with(|options| {
        options.pool.pooled = 1;
        options.pool.unpooled = 64;
    })
    .await;
    let mut spec = node.spec(&http_guest());
    spec.limits = Limits { cpu_millis: Some(500), ..Limits::default() };
    spec.ports[0].number = 81;
    let id = node.start(spec).await;
    let net = node.net.clone();
    let spinning = tokio::spawn(async move { net.get(81, "/spin").await });
    while node.runtime.stats(&id).await.unwrap().instances == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    node.start(node.spec(&http_guest())).await;
    for _ in 0..10 {
        assert_eq!(node.net.get(80, "/").await, (200, "hello\n".to_string()), "the only place of the pool is taken");
    }
    spinning.abort();
}
