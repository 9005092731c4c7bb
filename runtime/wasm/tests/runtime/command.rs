//! Commands: components with `wasi:cli/run`, modules with `_start`.

use crate::support::{Node, command_guest, component, core_guest};
use container::{ContainerSpec, ExitReason, Limits, Mount, Runtime};
use std::time::Duration;

/// A busy machine takes its time.
const ALIVE: Duration = Duration::from_secs(60);

fn spec(node: &Node, argument: &str) -> ContainerSpec {
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), argument.into()];
    spec
}

#[tokio::test]
async fn a_module_sees_its_arguments_environment_and_mounts() {
    let node = Node::new().await;
    let folder = node.folder.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("greeting"), "from a file\n").unwrap();
    let mut spec = spec(&node, "print");
    spec.env = vec![("A".into(), "0".into()), ("A".into(), "1".into()), ("B".into(), "two words".into())];
    spec.mounts = vec![Mount::new(folder, "", "/data", true).unwrap()];
    let id = node.start(spec).await;
    assert_eq!(node.exit(&id).await.code, 0);
    let log = node.log(&id, |_| true).await;
    assert_eq!(
        log,
        "stdout F main\nstdout F print\nstdout F A=1\nstdout F B=two words\nstdout F PWD=/\nstderr F from a file\n"
    );
}

#[tokio::test]
async fn a_component_runs_and_may_open_sockets() {
    let node = Node::new().await;
    for (argument, code) in [("hello", 0), ("x", 1)] {
        let mut spec = node.spec(&command_guest());
        spec.args = vec!["main".into(), argument.into()];
        spec.env = vec![("A".into(), "value".into())];
        let id = node.start(spec).await;
        assert_eq!(node.exit(&id).await.code, code);
        let log = node.log(&id, |_| true).await;
        assert_eq!(log, format!("stdout F value\nstdout F ok\nstdout P {argument}\n"));
    }
}

#[tokio::test]
async fn a_command_of_both_versions_is_one_of_0_3() {
    let node = Node::new().await;
    let text = r#"(component
        (core module $code
            (func (export "trap") (result i32) unreachable)
            (func (export "fine") (result i32) (i32.const 0)))
        (core instance $code (instantiate $code))
        (func $old (result (result)) (canon lift (core func $code "trap")))
        (func $new async (result (result)) (canon lift (core func $code "fine")))
        (instance $old (export "run" (func $old)))
        (instance $new (export "run" (func $new)))
        (export "wasi:cli/run@0.2.0" (instance $old))
        (export "wasi:cli/run@0.3.0" (instance $new)))"#;
    let exit = node.run(node.spec(&wat::parse_str(text).unwrap())).await;
    assert_eq!(exit.code, 0, "{exit:?}");
}

#[tokio::test]
async fn containers_of_a_pod_share_pairs_and_have_their_environment_as_configuration() {
    let node = Node::new().await;
    let guest = component("pairs", include_str!("../guests/pairs.wat"));
    for (value, sum) in [("one", 5), ("two", 10)] {
        let mut spec = node.spec(&guest);
        spec.env = vec![("A".into(), value.into())];
        let id = node.start(spec).await;
        assert_eq!(node.exit(&id).await.code, 0);
        assert_eq!(node.log(&id, |_| true).await, format!("stdout F {value}\nstdout F {sum}\n"));
    }
    let without = node.run(node.spec(&guest)).await;
    assert_eq!(without.code, 134, "there is no A");
}

/// More of them than one piece that the host makes.
#[tokio::test]
async fn a_component_gets_as_many_random_bytes_as_it_asks_for() {
    let node = Node::new().await;
    for (interface, function) in [("random", "get-random-bytes"), ("insecure", "get-insecure-random-bytes")] {
        let text = format!(
            r#"(component
        (import "wasi:random/{interface}@0.2.3" (instance $random
            (export "{function}" (func (param "len" u64) (result (list u8))))))
        (core module $memory-code
            (memory (export "memory") 16)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
        (core instance $memory (instantiate $memory-code))
        (core func $bytes (canon lower (func $random "{function}") (memory $memory "memory") (realloc (func $memory "realloc"))))
        (core module $code
            (import "host" "memory" (memory 16))
            (import "host" "bytes" (func $bytes (param i64 i32)))
            (func (export "run") (result i32)
                (call $bytes (i64.const 1000000) (i32.const 8))
                (if (i32.ne (i32.load (i32.const 12)) (i32.const 1000000)) (then (unreachable)))
                (i64.eqz (i64.load (i32.const 1001016)))))
        (core instance $host (export "memory" (memory $memory "memory")) (export "bytes" (func $bytes)))
        (core instance $guest (instantiate $code (with "host" (instance $host))))
        (func $run (result (result)) (canon lift (core func $guest "run")))
        (instance $exported (export "run" (func $run)))
        (export "wasi:cli/run@0.2.3" (instance $exported)))"#
        );
        let exit = node.run(node.spec(&wat::parse_str(text).unwrap())).await;
        assert_eq!(exit.code, 0, "{interface}: {exit:?}");
    }
}

#[tokio::test]
async fn what_wasmtime_runs_a_container_runs() {
    let node = Node::new().await;
    // each ends with 7 if it did what it says
    let exit = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    let seven = "(call $exit (i32.const 7))";
    for (what, text) in [
        (
            "atomics",
            format!(
                r#"(module {exit} (memory (export "memory") 1) (func (export "_start")
            (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 7)))
            (call $exit (i32.atomic.load (i32.const 0)))))"#
            ),
        ),
        (
            "a 64-bit memory",
            format!(
                r#"(module {exit} (memory (export "memory") i64 1) (func (export "_start")
            (i32.store8 (i64.const 65535) (i32.const 7)) (call $exit (i32.load8_u (i64.const 65535)))))"#
            ),
        ),
        (
            "wide arithmetic",
            format!(
                r#"(module {exit} (memory (export "memory") 1) (func (export "_start")
            (i64.mul_wide_u (i64.const -1) (i64.const 8)) (call $exit (i32.wrap_i64)) (drop)))"#
            ),
        ),
        (
            "exceptions",
            format!(
                r#"(module {exit} (memory (export "memory") 1) (tag $oops (param i32))
            (func (export "_start") (call $exit
              (block $caught (result i32) (try_table (catch $oops $caught) (throw $oops (i32.const 7))) (unreachable)))))"#
            ),
        ),
        (
            "a function without a name",
            format!(
                r#"(module {exit} (memory (export "memory") 1)
            (func (export "_start") (unreachable)) (func (export "") {seven}))"#
            ),
        ),
        (
            "what makes itself ready first",
            format!(
                r#"(module {exit} (memory (export "memory") 1) (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.const 7)))
            (func (export "_start") (call $exit (global.get $ready))))"#
            ),
        ),
        (
            "tail calls",
            format!(
                r#"(module {exit} (memory (export "memory") 1)
            (func $down (param i32) (if (local.get 0) (then (return_call $down (i32.sub (local.get 0) (i32.const 1))))))
            (func (export "_start") (call $down (i32.const 1000000)) {seven}))"#
            ),
        ),
    ] {
        let exit = node.run(node.spec(&wat::parse_str(&text).unwrap())).await;
        assert_eq!((exit.code, exit.message.as_str()), (7, ""), "{what}");
    }
}

#[tokio::test]
async fn the_first_form_of_preview_1_is_held_to_the_same_limits() {
    let node = Node::new().await;
    let folder = node.folder.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("greeting"), "hello").unwrap();
    // The size of a file is 24 bytes into its answer there, and 32 in preview 1. It ends with it, and with what seek tells from the end.
    let text = r#"(module
      (import "wasi_unstable" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_unstable" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
      (import "wasi_unstable" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
      (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "greeting")
      (func $must (param i32) (if (local.get 0) (then (call $exit (i32.add (i32.const 100) (local.get 0))))))
      (func (export "_start")
        (call $must (call $stat (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 64)))
        (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0)
          (i64.const 6) (i64.const 0) (i32.const 0) (i32.const 32)))
        (call $must (call $seek (i32.load (i32.const 32)) (i64.const 0) (i32.const 1) (i32.const 40)))
        (call $exit (i32.add (i32.mul (i32.load (i32.const 88)) (i32.const 10)) (i32.load (i32.const 40))))))"#;
    let mut spec = node.spec(&wat::parse_str(text).unwrap());
    spec.mounts = vec![Mount::new(&folder, "", "/data", true).unwrap()];
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.message.as_str()), (55, ""));
}

#[tokio::test]
async fn a_poll_of_too_many_is_an_error_and_no_trap() {
    let node = Node::new().await;
    // each subscription is 48 bytes of zeros: the clock, now
    for (module, count, code) in [
        ("wasi_snapshot_preview1", 1024, 0),
        ("wasi_snapshot_preview1", 1025, 48),
        ("wasi_snapshot_preview1", 5000, 48),
        ("wasi_unstable", 5000, 48),
    ] {
        let text = format!(
            r#"(module
              (import "{module}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
              (import "{module}" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 8)
              (func (export "_start")
                (call $exit (call $poll (i32.const 16) (i32.const 300000) (i32.const {count}) (i32.const 0)))))"#
        );
        let exit = node.run(node.spec(&wat::parse_str(&text).unwrap())).await;
        assert_eq!((exit.code, exit.message.as_str()), (code, ""), "{count} of {module}");
    }
}

#[tokio::test]
async fn a_mount_that_is_not_there_fails_with_its_name() {
    let node = Node::new().await;
    let gone = node.folder.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let mut spec = spec(&node, "print");
    spec.mounts = vec![Mount::new(&gone, "", "/data", true).unwrap()];
    std::fs::remove_dir(&gone).unwrap();
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.reason), (128, ExitReason::ContainerCannotRun));
    assert!(exit.message.contains("mount /data cannot be opened: the volume: No such file"), "{}", exit.message);
}

#[tokio::test]
async fn a_trap_is_code_134_with_a_symbolised_backtrace() {
    let node = Node::new().await;
    let id = node.start(spec(&node, "trap")).await;
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    assert!(exit.message.starts_with("wasm trap: wasm `unreachable` instruction executed"), "{}", exit.message);
    assert!(exit.message.contains("!step_on_a_mine"), "{}", exit.message);
    assert!(exit.message.len() <= 4096);
    // The log has all of it by then, each line on standard error.
    let log = node.log(&id, |_| true).await;
    let expected: String = format!("sampan: main failed: {}", exit.message.trim_end())
        .lines()
        .map(|line| format!("stderr F {line}\n"))
        .collect();
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_stop_acts_as_an_unhandled_sigterm() {
    let node = Node::new().await;
    for argument in ["wait", "spin"] {
        let id = node.start(spec(&node, argument)).await;
        node.runtime.stop(&id, Duration::from_secs(3600)).await.unwrap();
        assert_eq!(node.exit(&id).await.code, 143);
    }
}

#[tokio::test]
async fn a_cpu_limit_holds_and_can_be_changed() {
    let node = Node::new().await;
    let mut limited = spec(&node, "spin");
    limited.limits.cpu_millis = Some(100);
    let id = node.start(limited).await;
    let cpu = async |window: Duration| {
        let before = node.runtime.stats(&id).await.unwrap().cpu_nanos;
        let started = tokio::time::Instant::now();
        tokio::time::sleep(window).await;
        let used = node.runtime.stats(&id).await.unwrap().cpu_nanos - before;
        used as f64 / started.elapsed().as_nanos() as f64
    };
    cpu(Duration::from_millis(300)).await;
    let share = cpu(Duration::from_secs(2)).await;
    assert!(share < 0.15, "100m got {share} of a core");
    // On a busy machine a guest may get less than its limit for a while.
    let throttled = async {
        while node.runtime.stats(&id).await.unwrap().throttled == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(3 * ALIVE, throttled).await.expect("it reached its limit and was not throttled");
    node.runtime.update_limits(&id, Limits::default()).await.unwrap();
    // How much it gets now is up to the machine.
    let before = node.runtime.stats(&id).await.unwrap();
    let goes_on = async {
        while node.runtime.stats(&id).await.unwrap().cpu_nanos < before.cpu_nanos + 100_000_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(3 * ALIVE, goes_on).await.expect("it does not go on");
    assert_eq!(node.runtime.stats(&id).await.unwrap().throttled, before.throttled);
    node.runtime.remove(&id).await.unwrap();
}

#[tokio::test]
async fn lowering_a_memory_limit_stops_growth() {
    let node = Node::new().await;
    let mut spec = spec(&node, "wait");
    spec.limits.memory_bytes = Some(1 << 20);
    let id = node.start(spec).await;
    let memory = async {
        while node.runtime.stats(&id).await.unwrap().memory_bytes < 64 << 10 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), memory).await.unwrap();
    assert_eq!(node.runtime.stats(&id).await.unwrap().instances, 1);
    node.runtime.remove(&id).await.unwrap();
    assert!(node.runtime.stats(&id).await.is_err());
}

#[tokio::test]
async fn what_is_removed_while_it_starts_does_not_run_on() {
    let node = Node::new().await;
    let spec = spec(&node, "spin");
    let id = spec.id.clone();
    node.runtime.create(&node.sandbox, spec).await.unwrap();
    // The start has to compile first.
    let starting = tokio::spawn({
        let (runtime, id) = (node.runtime.clone(), id.clone());
        async move { runtime.start(&id).await }
    });
    tokio::task::yield_now().await;
    let mut events = node.runtime.events();
    node.runtime.remove(&id).await.unwrap();
    starting.await.unwrap().unwrap();
    let ended = async {
        loop {
            if let container::ContainerState::Exited(exit) = events.recv().await.unwrap().state {
                return exit;
            }
        }
    };
    let exit = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it runs on");
    assert_eq!(exit.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_tells_the_line_of_the_source_in_its_message_and_in_the_log() {
    let node = Node::new().await;
    let text = r#"(module
  (func $divide (param i32) (result i32)
    (i32.div_u (i32.const 1) (local.get 0)))
  (func $start (export "_start")
    (drop (call $divide (i32.const 0)))))"#;
    let mut parser = wat::Parser::new();
    let wasm = parser.generate_dwarf(wat::GenerateDwarf::Lines).parse_str(Some("divide.wat".as_ref()), text).unwrap();
    let id = node.start(node.spec(&wasm)).await;
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    assert!(exit.message.starts_with("wasm trap: integer divide by zero\n"), "{}", exit.message);
    let lines: Vec<&str> = exit.message.lines().map(str::trim).collect();
    let frame = |function: &str| lines.iter().position(|line| line.ends_with(function)).expect(function);
    let (first, second) = (frame(" - divide"), frame(" - start"));
    assert!(lines[first + 1].starts_with("at ") && lines[first + 1].contains("divide.wat:3"), "{}", exit.message);
    assert!(first < second && lines[second + 1].contains("divide.wat:5"), "{}", exit.message);
    let log = node.log(&id, |log| log.contains("divide.wat:5")).await;
    assert!(log.contains("sampan: main failed: wasm trap: integer divide by zero"), "{log}");
    assert!(log.contains("divide.wat:3"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_leaves_a_core_dump_only_where_it_is_asked_for() {
    let node = Node::new().await;
    let text = r#"(module $app
      (memory (export "memory") 2) (data (i32.const 70000) "what it held")
      (global $count (mut i32) (i32.const 41))
      (func $fail (global.set $count (i32.const 42)) (unreachable))
      (func (export "_start") (call $fail)))"#;
    let spec = || node.spec(&wat::parse_str(text).unwrap());
    let silent = spec();
    let none = container::core_dump_file(&silent.log);
    assert!(!node.run(silent).await.message.contains("core dump") && !none.exists());
    let mut asks = spec();
    asks.core_dump = true;
    let file = container::core_dump_file(&asks.log);
    let exit = node.run(asks).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    let dump = std::fs::read(&file).unwrap();
    let told = format!("a core dump of {} bytes is in {}", dump.len(), file.display());
    assert_eq!(exit.message.lines().nth(1), Some(&*told), "{}", exit.message);
    assert!(exit.message.contains("app!fail"), "{}", exit.message);
    assert!(std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o077 == 0);
    let (mut name, mut functions, mut globals, mut data) = (String::new(), Vec::new(), Vec::new(), Vec::new());
    for payload in wasmparser::Parser::new(0).parse_all(&dump) {
        match payload.unwrap() {
            wasmparser::Payload::CustomSection(section) => match section.as_known() {
                wasmparser::KnownCustom::CoreDump(section) => name = section.name.to_owned(),
                wasmparser::KnownCustom::CoreDumpStack(stack) => {
                    functions.extend(stack.frames.iter().map(|frame| frame.funcidx));
                }
                _ => {}
            },
            wasmparser::Payload::GlobalSection(section) => {
                globals.extend(
                    section.into_iter().map(|global| global.unwrap().init_expr.get_operators_reader().read().unwrap()),
                );
            }
            wasmparser::Payload::DataSection(section) => {
                data.extend(section.into_iter().map(|data| data.unwrap().data.to_vec()));
            }
            _ => {}
        }
    }
    assert_eq!((name.as_str(), functions), ("main", vec![0, 1]));
    assert!(matches!(globals[..], [wasmparser::Operator::I32Const { value: 42 }]), "{globals:?}");
    assert_eq!(data, [b"what it held"]);
    let mut large = node.spec(&wat::parse_str(text.replace("\"memory\") 2)", "\"memory\") 3000)")).unwrap());
    large.core_dump = true;
    let (file, exit) = (container::core_dump_file(&large.log), node.run(large).await);
    let why = "there is no core dump: the 196608000 bytes of memory are more than the 134217728 that one may have";
    assert_eq!((exit.message.lines().nth(1), file.exists()), (Some(why), false), "{}", exit.message);
}
