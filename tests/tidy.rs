//! The rules of the house, checked: the crate graph, where clocks and `unsafe` may be, the size of files, the documentation of
//! modules, how modules, tests and imports are written, and that every promise names a test or command that exists. The reasons are in
//! `control/README.md`.

#[path = "tidy/circles.rs"]
mod circles;

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which of our crates each crate may use outside its tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("cel", &["api"]),
    ("store", &[]),
    ("container", &[]),
    ("image", &[]),
    ("server", &["api", "store", "container"]),
    ("kinds", &["api", "cel", "server"]),
    ("client", &["api"]),
    ("scheduler", &["api", "client"]),
    ("controllers", &["api", "cel", "client"]),
    ("wasm", &["container"]),
    ("isolated", &["container", "wasm"]),
    ("runc", &["container"]),
    ("netns", &[]),
    ("network", &["api", "client", "container", "netns"]),
    ("agent", &["api", "client", "container", "image"]),
    ("hollow", &["api", "client"]),
    (
        "cli",
        &[
            "agent",
            "api",
            "client",
            "container",
            "controllers",
            "hollow",
            "image",
            "isolated",
            "kinds",
            "netns",
            "network",
            "runc",
            "scheduler",
            "server",
            "store",
            "wasm",
        ],
    ),
    ("sampan", &["cli"]),
    ("tests", &["api", "cel", "kinds", "server", "store"]),
];

/// The longest a source file may be before it is a room nobody knows.
const LONGEST_FILE: usize = 700;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder of the checkout") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path.strip_prefix(root()).expect("inside").to_owned(), text));
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["control", "runtime", "tests", "samples"] {
        walk(&root().join(folder), &mut found);
    }
    found
}

#[test]
fn crates_use_only_what_the_design_allows() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let may = allowed.get(name).unwrap_or_else(|| panic!("crate {name} is not in the design's table"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            if dependency["kind"].is_null() && ours.contains(used) {
                assert!(may.contains(&used), "{name} must not use {used}");
            }
        }
    }
}

#[test]
fn every_dependency_names_its_reason_or_its_section() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = text.split("[workspace.dependencies]").nth(1).expect("the section");
    let section = section.split("\n[").next().expect("its end");
    let mut reason = false;
    for line in section.lines() {
        match line.trim() {
            "" => reason = false,
            comment if comment.starts_with('#') => reason = true,
            dependency => assert!(reason || dependency.contains(" # "), "no reason: {dependency}"),
        }
    }
}

#[test]
fn unsafe_code_is_in_wasm_and_runc_only() {
    for (path, text) in sources() {
        if path.starts_with("runtime/wasm") || path.starts_with("runtime/runc") || path.ends_with("tests/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let found = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("allow(unsafe_code");
            assert!(!found, "{}:{}: unsafe", path.display(), number + 1);
        }
    }
}

/// Whether a source is a test and nothing else.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = |folder: &str| path.iter().any(|part| part == folder);
    name.ends_with("_tests") || name == "tests" || folder("tests") || folder("framework_tests")
}

#[test]
fn modules_say_what_they_are_and_stay_small() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines; split it at a border", path.display());
        let documented = text.lines().take(3).any(|line| line.starts_with("//!"));
        assert!(documented || is_test(&path), "{} does not say what it is", path.display());
    }
}

/// Tests of a module stand in it, in `tests.rs` of its folder, or in `NAME_tests.rs` beside it.
#[test]
fn tests_are_where_one_looks_for_them() {
    for (path, text) in sources().iter().filter(|(path, _)| path.iter().any(|part| part == "src")) {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let odd = name.starts_with("test_") || name.ends_with("_test") || name == "test";
        assert!(!odd, "{}: tests are in tests.rs or NAME_tests.rs", path.display());
        assert!(!text.contains("mod test {"), "{}: the module of tests is called tests", path.display());
    }
}

/// The lints that concern shipped code only stand in the root of each crate of the workspace, since the workspace's lints hold for tests too.
#[test]
fn every_crate_asks_for_the_same_lints() {
    let lints = [
        "#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]",
        "#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]",
    ];
    let root = |path: &Path| path.ends_with("src/lib.rs") && !path.starts_with("samples");
    for (path, text) in sources().iter().filter(|(path, _)| root(path)) {
        assert!(lints.iter().all(|lint| text.contains(lint)), "{} lacks one of {lints:#?}", path.display());
    }
}

/// Where names may come by `*` in shipped code: a suite that is one module cut in two.
const WILDCARDS: &[&str] = &["control/store/src/contract"];

#[test]
fn imports_name_what_they_bring() {
    let shipped = |path: &Path| path.iter().any(|part| part == "src") && !is_test(path);
    for (path, text) in sources().iter().filter(|(path, _)| shipped(path)) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| line.trim_start().trim_start_matches("pub ").starts_with("use ")) {
            let known = WILDCARDS.iter().any(|folder| path.starts_with(folder));
            assert!(known || !line.contains("::*"), "{}: {line}", path.display());
        }
    }
}

/// Imports are one block that rustfmt sorts: one `use` for each crate, and no empty line between two of them.
#[test]
fn imports_are_one_block_with_one_use_for_each_crate() {
    for (path, text) in sources() {
        // Where the last import ended, how far it is indented, and the crates of its block.
        let (mut end, mut indent, mut block) = (0, 0, BTreeSet::new());
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let code = line.trim_start();
            let Some(imported) = code.strip_prefix("use ") else { continue };
            let place = format!("{}:{}", path.display(), number + 1);
            let between: Vec<&str> = text.lines().take(number).skip(end).collect();
            if between.iter().any(|line| !line.is_empty()) || line.len() - code.len() != indent {
                block.clear();
            } else {
                assert!(between.is_empty() || block.is_empty(), "{place}: an empty line between imports");
            }
            let name = imported.split([':', ';', ' ']).next().unwrap_or_default().to_owned();
            assert!(block.insert(name), "{place}: a second `use` of the same crate");
            indent = line.len() - code.len();
            let mut last = (number, line);
            while !last.1.ends_with(';') {
                last = lines.next().expect("an import ends with a semicolon");
            }
            end = last.0 + 1;
        }
    }
}

#[test]
fn no_files_of_a_crate_use_one_another_in_a_circle() {
    let all = sources();
    let mut crates: BTreeMap<PathBuf, Vec<(&Path, &str)>> = BTreeMap::new();
    for (path, text) in &all {
        let mut parts = path.iter();
        let krate: PathBuf = parts.by_ref().take(2).collect();
        if parts.next().is_some_and(|src| src == "src") {
            crates.entry(krate).or_default().push((parts.as_path(), text));
        }
    }
    assert!(crates.len() > 10, "the crates are found: {crates:?}");
    for (krate, files) in crates {
        let found = circles::circles(files.into_iter());
        assert!(found.is_empty(), "{}: {found:?}", krate.display());
    }
}

#[test]
fn the_vocabulary_is_pure() {
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("control/api/src") && !is_test(path)) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let found = ["async fn", ".await", "tokio::", "Instant::now"].iter().find(|word| code.contains(*word));
        assert_eq!(found, None, "{}", path.display());
    }
}

/// Sources and pages point nowhere outside the repository: to no document that it does not hold, and to no section of one.
#[test]
fn nothing_points_outside_the_repository() {
    let mut texts = sources();
    for page in ["README.md", "control/README.md", "runtime/README.md", "tests/README.md", "Cargo.toml", ".clippy.toml"]
    {
        texts.push((page.into(), fs::read_to_string(root().join(page)).expect(page)));
    }
    for (path, text) in texts.iter().filter(|(path, _)| !path.ends_with("tests/tidy.rs")) {
        for (number, line) in text.lines().enumerate() {
            let section = line.split('§').nth(1).is_some_and(|_| !line.contains("RFC"));
            let outside = line.contains("DESIGN") || section;
            assert!(!outside, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// What `control/README.md` shows as Rust is a file of `tests/examples`, which is compiled and run.
#[test]
fn the_page_shows_examples_that_run() {
    let page = fs::read_to_string(root().join("control/README.md")).expect("control/README.md");
    let mut shown = BTreeSet::new();
    for block in page.split("```rust\n").skip(1) {
        let before = &page[..page.find(block).expect("of the page")];
        let name = before
            .split('`')
            .rev()
            .find(|word| word.starts_with("tests/examples/"))
            .expect("a file is named before it");
        let code = block.split("```").next().expect("its end");
        let file = fs::read_to_string(root().join(name)).expect(name);
        assert_eq!(code, file, "control/README.md shows another {name}");
        shown.insert(root().join(name));
    }
    let files =
        fs::read_dir(root().join("tests/examples")).expect("tests/examples").flatten().map(|entry| entry.path());
    let examples: BTreeSet<PathBuf> = files.filter(|path| !path.ends_with("main.rs")).collect();
    assert_eq!(shown, examples, "each example is shown");
}

#[test]
fn runtimes_know_no_kubernetes_and_the_agent_no_runtime() {
    for (path, text) in sources() {
        let banned: &[&str] = if ["wasm", "isolated", "runc", "netns", "container"]
            .iter()
            .any(|name| path.starts_with(format!("runtime/{name}/src")))
        {
            &["k8s_openapi", "kube::"]
        } else if path.starts_with("runtime/agent/src") {
            &["wasmtime::", "wasm::"]
        } else {
            continue;
        };
        for word in banned {
            let found = text.lines().any(|line| line.split("//").next().unwrap_or_default().contains(word));
            assert!(!found, "{} names {word}", path.display());
        }
    }
}

/// Built-in resources and kinds that `server` may not name: it is the same machine for a custom resource.
const BUILT_IN: &str = "pods services nodes namespaces secrets configmaps endpoints events serviceaccounts deployments replicasets jobs \
    leases bindings priorityclasses runtimeclasses endpointslices podtemplates controllerrevisions poddisruptionbudgets resourcequotas limitranges replicationcontrollers Pod Service Node Namespace Event \
    Endpoints Lease Secret ConfigMap Job Deployment ReplicaSet Binding ServiceAccount EndpointSlice PriorityClass RuntimeClass";

/// Where it does, and why: the grammar of paths and rules of the machine itself are made with these names upstream as well.
const NAMED: &[(&str, &str)] = &[
    ("request.rs", "namespaces"),            // paths have a place for the namespace
    ("impersonation.rs", "serviceaccounts"), // the permission to be an account is one on this resource
    ("metadata.rs", "Event"),                // no object may be owned by one
];

#[test]
fn the_server_names_no_kind() {
    let names: Vec<&str> = BUILT_IN.split_whitespace().collect();
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("control/server/src")) {
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name");
        for (number, line) in shipped.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for name in names.iter().filter(|name| line.contains(&format!("\"{name}\""))) {
                let known = NAMED.contains(&(file, *name));
                assert!(known, "{}:{}: {name}: what belongs to a kind is in `kinds`", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn nothing_unfinished_is_shipped() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX"];
    for (path, text) in sources() {
        if path.ends_with("tests/tidy.rs") {
            continue;
        }
        for word in words {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
}

/// Sources and artefacts of the sample guests are hashed together: one cannot change without the other.
#[test]
fn sample_guests_are_what_their_sources_build() {
    let samples = root().join("samples");
    let sums = fs::read_to_string(samples.join("guests/SHA256SUMS")).expect("samples/guests/SHA256SUMS");
    let listed: BTreeSet<&str> = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    for folder in fs::read_dir(&samples).expect("samples").flatten().filter(|e| e.path().is_dir()) {
        for file in fs::read_dir(folder.path()).expect("a sample").flatten() {
            if file.path().extension().is_some_and(|e| e == "wasm") {
                let path = file.path();
                let name = path.strip_prefix(&samples).expect("inside").to_str().expect("UTF-8");
                assert!(listed.contains(name), "{name} has no hash: run samples/guests/rebuild");
            }
        }
    }
    let check =
        Command::new("sha256sum").args(["--check", "--quiet", "guests/SHA256SUMS"]).current_dir(&samples).output();
    let check = check.expect("sha256sum runs");
    assert!(check.status.success(), "run samples/guests/rebuild: {}", String::from_utf8_lossy(&check.stdout));
}

/// Each line of `tests/PROMISES.md` is a table row: sentence | `test path::name` or `command` | shown or not yet. A shown test must
/// exist: its last segment is the name of a function in the sources; a shown command must begin with an existing file or `cargo`.
#[test]
fn promises_name_tests_that_exist() {
    let text = fs::read_to_string(root().join("tests/PROMISES.md")).expect("tests/PROMISES.md");
    let functions: BTreeSet<String> = sources()
        .iter()
        .flat_map(|(_, text)| text.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).map(str::to_owned))
        .collect();
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, proof, state] = cells.as_slice() else { panic!("not three cells: {line}") };
        if ["proof", "---"].contains(proof) {
            continue;
        }
        rows += 1;
        assert!(["shown", "not yet"].contains(state), "neither shown nor not yet: {line}");
        for quoted in proof.split('`').skip(1).step_by(2).filter(|_| *state == "shown") {
            let first = quoted.split_whitespace().next().unwrap_or_default();
            let exists = match quoted.rsplit_once("::") {
                Some((_, name)) => functions.contains(name),
                None => first == "cargo" || root().join(first).exists(),
            };
            assert!(exists, "the proof `{quoted}` does not exist: {line}");
        }
    }
    assert!(rows > 0, "no promises");
}
