//! Guests that are initialised once, before they are compiled.

use crate::support::{Node, component, http_guest};
use container::{Error, Runtime};
use std::time::Duration;

/// The HTTP guest, which counts its requests from 4: it comes to that number by work of some milliseconds, before its first request unless it
/// did so earlier. `more`: of its text.
fn working(more: &str) -> String {
    let text = include_str!("../guests/http.wat").trim_end().strip_suffix(')').unwrap();
    let count = "(global.set $count (i32.rem_u";
    assert_eq!(text.matches(count).count(), 1);
    let text = text.replace(count, &format!("(if (i32.eqz (global.get $count)) (then (call $work)))\n    {count}"));
    format!(
        r#"{text}
  (func $work (local $at i32)
    (loop $again
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $at) (i32.const 40000000))))
    (global.set $count (i32.const 4)))
  {more})"#
    )
}

const INITIALISER: &str = r#"(func (export "wizer-initialize") (call $work))"#;

async fn refused(node: &Node, wasm: &[u8]) -> String {
    match node.runtime.prepare(&node.artifact(wasm), "", &|_| ()).await.expect_err("it was accepted") {
        Error::Invalid(text) => text,
        other => panic!("not Invalid: {other:?}"),
    }
}

/// A core module with an initialiser; its program ends with the number that `$state` has.
fn module(imports: &str, initialiser: &str) -> Vec<u8> {
    let text = format!(
        r#"(module $app
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) {imports}
  (memory (export "memory") 1)
  (global $state (mut i32) (i32.const 7))
  (func (export "_start") (call $exit (global.get $state)))
  (func $initialise (export "wizer-initialize") {initialiser}))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_of_a_handler_begins_as_the_initialiser_left_it() {
    let node = Node::new().await;
    let mut taken = Vec::new();
    for guest in [component("initialised-http", &working(INITIALISER)), component("http", &working(""))] {
        let id = node.start(node.spec(&guest)).await;
        for _ in 0..4 {
            assert_eq!(node.net.get(80, "/i").await, (200, "5".into()), "a new instance, whose count begins at 4");
        }
        crate::http::idle(&node, &id).await;
        taken.push(node.runtime.stats(&id).await.unwrap().cpu_nanos);
        node.runtime.remove(&id).await.unwrap();
    }
    assert!(taken[0] * 4 < taken[1], "nanoseconds of CPU time of four requests, with and without: {taken:?}");
    // the initialiser is the consent
    let id = node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/i").await, (200, "1".into()));
    node.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_is_initialised_by_either_name_of_the_function() {
    let node = Node::new().await;
    let state = r#"(global.set $state (i32.add (global.get $state) (i32.const 2)))"#;
    let wasm = module("", state);
    assert_eq!(node.run(node.spec(&wasm)).await.code, 9);
    assert_eq!(node.run(node.spec(&wasm)).await.code, 9, "from the cache");
    let at = wasm.windows(16).position(|name| name == b"wizer-initialize").unwrap();
    let mut older = wasm.clone();
    older[at + 5] = b'.';
    assert_eq!(node.run(node.spec(&older)).await.code, 9);
    older[at + 5] = b'_';
    assert_eq!(node.run(node.spec(&older)).await.code, 7, "another function of the program");
    // memory, and what C programs have in the place of their start
    let memory = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (data (i32.const 8) "\01\02")
        (func (export "_start") (call $exit (i32.const 1)))
        (func (export "wizer.resume")
          (call $exit (i32.add (i32.load8_u (i32.const 8)) (i32.add (i32.load8_u (i32.const 9)) (i32.load8_u (i32.const 196607))))))
        (func (export "wizer-initialize")
          (drop (memory.grow (i32.const 2)))
          (i32.store8 (i32.const 196607) (i32.const 40)) (i32.store8 (i32.const 9) (i32.const 4))))"#;
    assert_eq!(node.run(node.spec(&wat::parse_str(memory).unwrap())).await.code, 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_initialiser_calls_is_refused_by_its_name_and_one_that_it_only_has_is_not() {
    let node = Node::new().await;
    for (import, call) in [
        (
            r#""environ_sizes_get" (func $call (param i32 i32) (result i32))"#,
            "(drop (call $call (i32.const 0) (i32.const 4)))",
        ),
        (
            r#""fd_prestat_get" (func $call (param i32 i32) (result i32))"#,
            "(drop (call $call (i32.const 3) (i32.const 4)))",
        ),
        (
            r#""clock_time_get" (func $call (param i32 i64 i32) (result i32))"#,
            "(drop (call $call (i32.const 0) (i64.const 0) (i32.const 0)))",
        ),
        (
            r#""random_get" (func $call (param i32 i32) (result i32))"#,
            "(drop (call $call (i32.const 0) (i32.const 4)))",
        ),
    ] {
        let name = import.split('"').nth(1).unwrap();
        let import = format!(r#"(import "wasi_snapshot_preview1" {import})"#);
        let error = refused(&node, &module(&import, call)).await;
        let begin = format!("its initialiser wizer-initialize calls wasi_snapshot_preview1::{name}: ");
        assert!(error.starts_with(&begin) && error.contains("app!initialise"), "{error}");
        assert_eq!(error.contains("would be the same in all of them"), name == "random_get", "{error}");
        assert_eq!(error.contains("without environment, arguments, files, clocks and network"), name != "random_get");
        assert_eq!(node.run(node.spec(&module(&import, ""))).await.code, 7, "{name} is only imported");
    }
    let stdout = component("initialised-http", &working(r#"(func (export "wizer-initialize") (drop (call $stdout)))"#));
    let error = refused(&node, &stdout).await;
    assert!(error.starts_with("its initialiser wizer-initialize calls wasi:cli/stdout@0.2.0#get-stdout: "), "{error}");
    // a container of it says so
    let spec = node.spec(&stdout);
    let id = spec.id.clone();
    node.runtime.create(&node.sandbox, spec).await.unwrap();
    node.runtime.start(&id).await.unwrap();
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (128, container::ExitReason::ContainerCannotRun));
    assert!(exit.message.contains("calls wasi:cli/stdout@0.2.0#get-stdout"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialiser_that_does_not_end_traps_or_takes_too_much_says_so_and_others_go_on() {
    let node = Node::with(|options| options.compiler.cpu = Duration::from_secs(20)).await;
    let error = refused(&node, &module("", "(loop (br 0))")).await;
    assert!(error.starts_with("its initialiser wizer-initialize takes more than 5000 ms of CPU time\n"), "{error}");
    assert!(error.contains("app!initialise"), "{error}");
    let error = refused(&node, &module("", "unreachable")).await;
    assert!(error.starts_with("its initialiser wizer-initialize fails: wasm trap: "), "{error}");
    assert!(error.contains("app!initialise"), "{error}");
    let error = refused(&node, &module("", "(call $initialise)")).await;
    assert!(error.contains("fails: wasm trap: call stack exhausted"), "{error}");
    const TOO_LARGE: &str = "its initialiser wizer-initialize needs more than 256 MiB of memory";
    assert_eq!(refused(&node, &module("", "(loop (drop (memory.grow (i32.const 1))) (br 0))")).await, TOO_LARGE);
    let large = r#"(module (memory 65536) (func (export "_start")) (func (export "wizer-initialize")))"#;
    assert_eq!(refused(&node, &wat::parse_str(large).unwrap()).await, TOO_LARGE);
    let large = r#"(module (table 60000000 funcref) (func (export "_start")) (func (export "wizer-initialize")))"#;
    assert_eq!(refused(&node, &wat::parse_str(large).unwrap()).await, TOO_LARGE);
    let full = "(drop (memory.grow (i32.const 1100))) (memory.fill (i32.const 0) (i32.const 1) (i32.const 72000000))";
    let error = refused(&node, &module("", full)).await;
    assert_eq!(error, "its initialiser wizer-initialize leaves more than 64 MiB that is not zero in memory");
    // what is zero takes no place
    let empty = "(drop (memory.grow (i32.const 3000))) (i32.store (i32.const 190000000) (i32.const 1))";
    assert_eq!(node.run(node.spec(&module("", empty))).await.code, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_whose_state_cannot_be_kept_are_refused() {
    let node = Node::new().await;
    let error = refused(&node, &module("(table $t 1 funcref)", "(table.set $t (i32.const 0) (ref.null func))")).await;
    assert!(error.contains("wizer-initialize fails: unsupported `table.set` instruction"), "{error}");
    let parameters = r#"(module (func (export "_start")) (func (export "wizer-initialize") (param i32)))"#;
    let error = refused(&node, &wat::parse_str(parameters).unwrap()).await;
    assert!(error.contains("wizer-initialize fails: "), "{error}");
    let run = r#"(instance $run) (export "wasi:cli/run@0.2.0" (instance $run))"#;
    let lifted = r#"(func (export "wizer-initialize") (canon lift (core func $i "wizer-initialize")))"#;
    // a handle that it keeps would be one of nothing
    let handle = format!(
        r#"(component
          (type $thing (resource (rep i32)))
          (core func $new (canon resource.new $thing))
          (core module $m (import "" "new" (func $new (param i32) (result i32)))
            (func $initialise (export "wizer-initialize") (drop (call $new (i32.const 1)))))
          (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
          {lifted} {run})"#
    );
    let error = refused(&node, &wat::parse_str(handle).unwrap()).await;
    assert!(error.starts_with("its initialiser wizer-initialize fails: ") && error.contains("handle"), "{error}");
    // Wizer panics
    let hidden = format!(
        r#"(component (core module $m (func (export "wizer-initialize")))
          (core module $hidden (memory 1)) (core instance (instantiate $hidden)) (core instance $i (instantiate $m)) {lifted} {run})"#
    );
    assert_eq!(
        refused(&node, &wat::parse_str(hidden).unwrap()).await,
        "its initialiser wizer-initialize cannot be run: the program has a shape that Wizer does not know"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_of_an_initialised_guest_tells_its_functions_and_lines() {
    let node = Node::new().await;
    let text = r#"(module $app
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $divisor (mut i32) (i32.const 1))
  (func $divide (param i32) (result i32)
    (i32.div_u (i32.const 1) (local.get 0)))
  (func $start (export "_start")
    (drop (call $divide (global.get $divisor))))
  (func (export "wizer-initialize")
    (drop (memory.grow (i32.const 20)))
    (memory.fill (i32.const 100) (i32.const 1) (i32.const 1000000))
    (global.set $divisor (i32.const 0))))"#;
    let mut parser = wat::Parser::new();
    let wasm = parser.generate_dwarf(wat::GenerateDwarf::Lines).parse_str(Some("divide.wat".as_ref()), text).unwrap();
    let exit = node.run(node.spec(&wasm)).await;
    assert!(exit.message.starts_with("wasm trap: integer divide by zero\n"), "{}", exit.message);
    let lines: Vec<&str> = exit.message.lines().map(str::trim).collect();
    let frame = |function: &str| lines.iter().position(|line| line.ends_with(function)).expect(function);
    let (first, second) = (frame(" - divide"), frame(" - start"));
    assert!(lines[first + 1].contains("divide.wat:6"), "{}", exit.message);
    assert!(lines[second + 1].contains("divide.wat:8"), "{}", exit.message);

    // the module of a component, which has others of other names
    let source = working(INITIALISER);
    let line = 1 + source.lines().position(|line| line.contains("$step_on_a_mine (unreachable)")).unwrap();
    let id = node.start(node.spec(&component("initialised-http", &source))).await;
    assert_eq!(node.net.get(80, "/t").await.0, 500);
    let log = node.log(&id, |log| log.contains("guest.wat:")).await;
    assert!(log.contains("step_on_a_mine") && log.contains(&format!("guest.wat:{line}:")), "{line}: {log}");
}
