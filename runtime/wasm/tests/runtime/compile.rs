//! Compiling: what is refused, what is bounded, what is cached and what is not believed.

use crate::support::{Node, component, core_guest, http_guest, options};
use container::{Artifact, Error, Progress, Runtime};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};
use wasm::Wasmtime;

async fn refused(node: &Node, wasm: &[u8]) -> Error {
    node.runtime.prepare(&node.artifact(wasm), "", &|_| ()).await.expect_err("it was accepted")
}

fn invalid(error: &Error) -> &str {
    match error {
        Error::Invalid(text) => text,
        other => panic!("not Invalid: {other:?}"),
    }
}

fn exhausted(error: &Error) -> &str {
    match error {
        Error::Exhausted(text) => text,
        other => panic!("not Exhausted: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_not_wasm_is_refused_with_what_it_is() {
    let node = Node::new().await;
    for (bytes, expected) in [
        (&b""[..], "empty or too short"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0", "a Linux program (ELF)"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0", "gzip data"),
        (b"#!/bin/sh\necho", "a script"),
        (b"(module (func))", "text (compile .wat files first)"),
    ] {
        let error = refused(&node, bytes).await;
        let expected = format!("not WebAssembly: the file does not begin with \\0asm; it is {expected}");
        assert_eq!(invalid(&error), expected);
    }
    let error = refused(&node, b"\0asm\x01\0\0\0garbage follows here").await;
    assert!(invalid(&error).starts_with("it does not compile: "), "{error}");
    let error = refused(&node, b"\0asm\x63\0\0\0").await;
    assert!(invalid(&error).contains("unknown version of WebAssembly"), "{error}");
    let error =
        refused(&node, &wat::parse_str(r#"(module (func (export "_start") (result i32) (i64.const 1)))"#).unwrap())
            .await;
    assert!(invalid(&error).contains("type mismatch"), "{error}");
}

#[tokio::test]
async fn other_shapes_are_refused_with_what_was_found_and_what_is_expected() {
    let node = Node::new().await;
    const EXPECTED: &str = "; expected a component that exports wasi:http/incoming-handler@0.2, wasi:http/handler@0.3, or wasi:cli/run@0.2 or @0.3, or a \
                            core module with the function _start (WASI preview 1)";
    let add =
        r#"(module (func (export "add") (param i32 i32) (result i32) (i32.const 1)) (memory (export "memory") 1))"#;
    let error = refused(&node, &component("library", add)).await;
    assert_eq!(invalid(&error), format!("this component exports add{EXPECTED}"));
    let error = refused(&node, &wat::parse_str(add).unwrap()).await;
    assert_eq!(invalid(&error), format!("this core module exports add, memory{EXPECTED}"));
    let strange = r#"(module (import "strange" "knock" (func $knock)) (memory (export "memory") 1)
        (func (export "wasi:cli/run@0.2.0#run") (result i32) (call $knock) (i32.const 0)))"#;
    let error = refused(&node, &component("stranger", strange)).await;
    assert!(invalid(&error).starts_with("it imports what this node does not offer"), "{error}");
    assert!(invalid(&error).contains("strange"), "{error}");
    let foreign = r#"(module (import "env" "gettimeofday" (func)) (func (export "_start")))"#;
    let error = refused(&node, &wat::parse_str(foreign).unwrap()).await;
    assert!(invalid(&error).contains("env::gettimeofday"), "{error}");
    let shared = r#"(module (memory 1 1 shared) (func (export "_start")))"#;
    let error = refused(&node, &wat::parse_str(shared).unwrap()).await;
    assert_eq!(
        invalid(&error),
        "it has a memory that threads share, which this node does not offer (atomics on other memories run)"
    );
    let program = r#"(module (func (export "_start") (param i32)))"#;
    let error = refused(&node, &wat::parse_str(program).unwrap()).await;
    assert!(invalid(&error).starts_with("this core module's function `_start` takes parameters"), "{error}");
}

#[tokio::test]
async fn what_can_never_run_is_not_compiled() {
    // a compiler that may not compile anything of this size
    let node = Node::with(|options| options.compiler.cpu = Duration::from_secs(1)).await;
    let library = [bomb(300, 5000).as_slice(), &[]].concat();
    let at = library.windows(6).position(|name| name == b"_start").unwrap();
    let renamed = [&library[..at], b"_begin", &library[at + 6..]].concat();
    let error = refused(&node, &renamed).await;
    assert!(invalid(&error).starts_with("this core module exports _begin; expected"), "{error}");
}

/// A module of `functions` functions, each of `lines` times `x = x * x + 3`, as bytes: text of that size takes longer to parse than
/// to compile.
fn bomb(functions: usize, lines: usize) -> Vec<u8> {
    let line = [0x20, 0, 0x20, 0, 0x6c, 0x41, 3, 0x6a, 0x21, 0];
    let body = [&[1, 1, 0x7f][..], &line.repeat(lines), &[0x0b]].concat();
    module(vec![body; functions])
}

/// A module of functions without parameters and results, of which the first is exported as `_start`.
fn module(bodies: Vec<Vec<u8>>) -> Vec<u8> {
    fn number(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    fn section(id: u8, content: Vec<u8>) -> Vec<u8> {
        [vec![id], number(content.len()), content].concat()
    }
    let functions = bodies.len();
    let code: Vec<u8> = bodies.into_iter().flat_map(|body| [number(body.len()), body].concat()).collect();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 0, 0]),
        section(3, [number(functions), vec![0; functions]].concat()),
        section(7, [&[1, 6][..], b"_start", &[0, 0]].concat()),
        section(10, [number(functions), code].concat()),
    ]
    .concat()
}

#[tokio::test]
async fn a_compile_bomb_runs_into_its_limits() {
    let node = Node::with(|options| options.compiler.cpu = Duration::from_secs(1)).await;
    let error = refused(&node, &bomb(1200, 5000)).await;
    assert_eq!(exhausted(&error), "compiling it takes more than the allowed 1 s of CPU time");
    let node = Node::with(|options| options.compiler.timeout = Duration::from_millis(300)).await;
    assert_eq!(exhausted(&refused(&node, &bomb(300, 5000)).await), "not compiled after 0 s: given up");
    let node = Node::with(|options| options.compiler.input = 1000).await;
    assert!(invalid(&refused(&node, &bomb(1, 5000)).await).contains("are more than the 1000 this node compiles"));
    // The rest of the node goes on compiling.
    node.runtime
        .prepare(&node.artifact(&wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()), "", &|_| ())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_compiler_that_needs_too_much_memory_says_so() {
    let node = Node::with(|options| options.compiler.memory = 384 << 20).await;
    node.runtime
        .prepare(&node.artifact(&core_guest()), "", &|_| ())
        .await
        .expect("384 MiB are enough for a small module");
    let error = refused(&node, &bomb(1, 700_000)).await;
    assert_eq!(exhausted(&error), "compiling it takes more than the allowed 384 MiB");
}

#[tokio::test]
async fn a_file_that_is_not_what_its_digest_says_is_not_compiled() {
    let node = Node::new().await;
    let Artifact::Wasm { path, .. } = node.artifact(&core_guest()) else { unreachable!() };
    let artifact = Artifact::Wasm { path, digest: format!("sha256:{}", "0".repeat(64)), files: None };
    let error = node.runtime.prepare(&artifact, "", &|_| ()).await.unwrap_err();
    assert!(exhausted(&error).contains("is not what its digest sha256:000000"), "{error}");
    let artifact =
        Artifact::Wasm { path: PathBuf::from("/nowhere"), digest: "sha256:../../etc/passwd".into(), files: None };
    assert!(
        invalid(&node.runtime.prepare(&artifact, "", &|_| ()).await.unwrap_err()).contains("is not a sha256 digest")
    );
}

#[tokio::test]
async fn concurrent_callers_share_one_compilation_and_a_cancelled_one_hands_over() {
    let node = Node::new().await;
    let artifact = node.artifact(&http_guest());
    let compiled = Mutex::new(0);
    let progress = |step| {
        if matches!(step, Progress::Compiling { .. }) {
            *compiled.lock() += 1;
        }
    };
    let prepare = || node.runtime.prepare(&artifact, "", &progress);
    let (a, b, c) = tokio::join!(prepare(), prepare(), prepare());
    assert_eq!((a.unwrap().target(), b.unwrap().target(), c.unwrap().target()), ("http", "http", "http"));
    assert_eq!(*compiled.lock(), 1);

    let other = node.artifact(&bomb(60, 5000));
    let cancelled = tokio::time::timeout(Duration::from_millis(100), node.runtime.prepare(&other, "", &|_| ())).await;
    assert!(cancelled.is_err(), "that was quick");
    assert_eq!(node.runtime.prepare(&other, "", &|_| ()).await.unwrap().target(), "core");
}

#[tokio::test]
async fn compiled_code_is_reused_after_a_restart_but_only_if_it_is_authentic() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new().await;
    let artifact = node.artifact(&core_guest());
    let compiles = async |key: [u8; 32]| {
        let mut options = options(folder.path());
        options.key = key;
        let compiled = Mutex::new(false);
        let runtime = Wasmtime::new(options);
        runtime.prepare(&artifact, "", &|_| *compiled.lock() = true).await.unwrap();
        compiled.into_inner()
    };
    assert!(compiles([1; 32]).await, "the first time");
    assert!(!compiles([1; 32]).await, "again");
    let cache = folder.path().join("cache");
    assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
    let code = || {
        let mut paths = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().unwrap() == "cwasm").unwrap()
    };
    // One bit of native code changed.
    let mut bytes = fs::read(code()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(code(), &bytes).unwrap();
    assert!(compiles([1; 32]).await, "altered");
    assert!(!compiles([1; 32]).await);
    fs::remove_file(code().with_extension("mac")).unwrap();
    assert!(compiles([1; 32]).await, "without its MAC");
    assert!(compiles([2; 32]).await, "by another key");
    assert!(!compiles([2; 32]).await);
}

/// A module of 200 functions that differ, 1.2 MB. The last one depends on the version.
fn version(version: i8) -> Vec<u8> {
    let functions = (0..200u8).map(|number| {
        let constant = if number == 199 { version } else { (number / 4) as i8 };
        let line = [0x20, 0, 0x20, 0, 0x6c, 0x41, constant as u8 & 0x7f, 0x6a, 0x21, 0];
        let count = 600 + usize::from(number);
        [&[1, 1, 0x7f][..], &line.repeat(count), &[0x0b]].concat()
    });
    module(functions.collect())
}

#[tokio::test]
async fn of_another_version_only_what_changed_is_compiled_and_never_with_functions_of_another_scope() {
    // With several threads more functions are compiled anew.
    let node = Node::with(|options| options.compiler.threads = 1).await;
    let mut registry = prometheus_client::registry::Registry::default();
    node.runtime.register(&mut registry);
    let counted = |what: &str| -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let name = format!("sampan_wasm_functions_compiled_total{{result=\"{what}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    // cached and compiled functions of one more version
    let prepare = async |number: i8, scope: &str| {
        let before = (counted("cached"), counted("compiled"));
        let artifact = node.artifact(&version(number));
        let _prepared = node.runtime.prepare(&artifact, scope, &|_| ()).await.unwrap();
        (counted("cached") - before.0, counted("compiled") - before.1)
    };
    let (none, all) = prepare(1, "a/app").await;
    assert!(none == 0 && all >= 200, "{none} {all}");
    // One function changed; the compiler's key of another may depend on what it compiled before it.
    let few = |(cached, compiled): (u64, u64)| (1..=5).contains(&compiled) && cached + compiled == all;
    assert!(few(prepare(2, "a/app").await));
    assert_eq!(prepare(3, "b/app").await, (0, all), "another namespace");
    assert_eq!(prepare(4, "a/other").await, (0, all), "another repository");
    assert_eq!(prepare(5, "").await, (0, 0), "nobody's: nothing is kept");

    // What a compiler that lies returned in one scope, put in the place of another's.
    let file = |scope: &str, extension: &str| {
        let hash: String = Sha256::digest(scope).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut paths = fs::read_dir(node.folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
        let of_scope = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&hash);
        paths.find(|path| of_scope(path) && path.extension().unwrap() == extension).unwrap()
    };
    for extension in ["functions", "mac"] {
        fs::copy(file("a/app", extension), file("b/app", extension)).unwrap();
    }
    assert_eq!(prepare(6, "b/app").await, (0, all));
    assert!(few(prepare(7, "b/app").await));
    // One bit changed.
    let path = file("a/app", "functions");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(prepare(8, "a/app").await, (0, all));
    assert!(few(prepare(9, "a/app").await));
}

#[tokio::test]
async fn code_with_functions_of_the_version_before_is_the_code_that_a_full_compilation_makes() {
    let code = async |numbers: &[i8]| {
        let node = Node::new().await;
        let mut name = String::new();
        for number in numbers {
            let artifact = node.artifact(&version(*number));
            node.runtime.prepare(&artifact, "a/app", &|_| ()).await.unwrap();
            name = artifact.digest().trim_start_matches("sha256:").to_owned();
        }
        let mut paths = fs::read_dir(node.folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
        let of_last =
            |path: &PathBuf| path.extension().unwrap() == "cwasm" && path.display().to_string().contains(&name);
        fs::read(paths.find(of_last).unwrap()).unwrap()
    };
    assert!(code(&[1, 2]).await == code(&[2]).await, "the code differs");
}

#[tokio::test]
async fn the_cache_forgets_what_was_used_longest_ago() {
    let node = Node::with(|options| options.cache_bytes = 1).await;
    node.runtime.prepare(&node.artifact(&core_guest()), "", &|_| ()).await.unwrap();
    node.runtime.prepare(&node.artifact(&http_guest()), "", &|_| ()).await.unwrap();
    let names: Vec<_> =
        fs::read_dir(node.folder.path().join("cache")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "one image and its MAC: {names:?}");
}

#[tokio::test]
async fn a_compiler_that_cannot_be_started_is_named() {
    let node = Node::with(|options| options.compiler.program = "/nowhere/sampan".into()).await;
    let error = refused(&node, &core_guest()).await;
    assert!(exhausted(&error).contains("the compiler /nowhere/sampan cannot be started"), "{error}");
    let node = Node::with(|options| options.compiler.args = vec!["--no-such-flag".into()]).await;
    assert!(exhausted(&refused(&node, &core_guest()).await).contains("the compiler ended without a result"));
}

#[tokio::test]
async fn a_container_of_what_cannot_be_prepared_ends_as_cannot_run() {
    let node = Node::new().await;
    let spec = node.spec(b"\x7fELF garbage");
    let id = spec.id.clone();
    node.runtime.create(&node.sandbox, spec).await.unwrap();
    node.runtime.start(&id).await.unwrap();
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason, exit.started_at), (128, container::ExitReason::ContainerCannotRun, None));
    assert!(exit.message.contains("a Linux program (ELF)"));
}
