//! "Your first guest" of `samples/README.md`: what the page shows is built by its toolchain and run in a pod, word for word. `tests/run`
//! installs the toolchains, by the page's own commands, and names their folder by `SAMPAN_TOOLCHAINS`.

use crate::harness::*;
use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The longest that a toolchain may take on a busy machine: some compile a compiler's worth of code.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);

/// What the page shows of one language.
struct Section {
    /// Names and texts of files.
    files: Vec<(String, String)>,
    /// Lines for the shell.
    commands: Vec<String>,
    /// What the last of them prints, up to the pod's name.
    answer: String,
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The section of the page for a language: each block is a file, named by the last code word before it, or `sh`.
fn section(language: &str) -> Section {
    let page = fs::read_to_string(checkout().join("samples/README.md")).expect("samples/README.md");
    let text = page.split("\n### ").find(|part| part.starts_with(&format!("{language},"))).expect("its section");
    let text = text.split("\n## ").next().unwrap_or_default();
    let mut section = Section { files: Vec::new(), commands: Vec::new(), answer: String::new() };
    let mut parts = text.split("\n```");
    let mut words = parts.next().unwrap_or_default();
    // Blocks and the words between them take turns.
    while let (Some(block), after) = (parts.next(), parts.next()) {
        let (kind, body) = block.split_once('\n').expect("a block has lines");
        if kind == "sh" {
            section.commands.extend(body.lines().map(str::to_owned));
        } else {
            let name = words.split('`').rev().find(|word| word.contains('.')).expect("a file is named before its text");
            section.files.push((name.to_owned(), format!("{body}\n")));
        }
        words = after.unwrap_or_default();
    }
    let last = section.commands.last().expect("commands");
    section.answer = last.rsplit_once(" # ").expect("the last command says what it prints").1.to_owned();
    section
}

/// Whether a line installs a toolchain, which `tests/run` did.
fn installs(line: &str) -> bool {
    ["pip install ", "npm install ", "rustup target add "].iter().any(|start| line.starts_with(start))
}

/// A folder for the guest, with the interface definitions, the toolchains and the programs of the page; and a shell in it.
struct Workshop<'c, 'm> {
    cluster: &'c Cluster<'m>,
    tools: PathBuf,
    folder: PathBuf,
}

impl<'c, 'm> Workshop<'c, 'm> {
    fn new(cluster: &'c Cluster<'m>) -> Self {
        let tools = env::var_os("SAMPAN_TOOLCHAINS").map_or_else(|| checkout().join("target/tools"), PathBuf::from);
        let folder = cluster.machine.path("work");
        let bin = folder.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        symlink(kubectl().expect("checked by the test"), bin.join("kubectl")).expect("a link");
        let mut command = cluster.machine.sampan(&[]);
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let script = bin.join("sampan");
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("runnable");
        symlink(tools.join("npm/node_modules"), folder.join("node_modules")).expect("a link");
        let copied = Command::new("cp").arg("-r").arg(checkout().join("samples/wit")).arg(&folder).status();
        assert!(copied.is_ok_and(|status| status.success()), "samples/wit is copied");
        Self { cluster, tools, folder }
    }

    fn shell(&self, script: &str) -> Command {
        let mut path = std::ffi::OsString::from(self.folder.join("bin"));
        for folder in [self.tools.join("python/bin"), self.tools.join("npm/node_modules/.bin")] {
            path.push(":");
            path.push(folder);
        }
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(&self.folder).env("PATH", path);
        command.env("PYTHONPATH", self.tools.join("python")).env("XDG_CACHE_HOME", self.tools.join("cache"));
        command.env("HOME", &self.folder).env("KUBECONFIG", self.cluster.machine.kubeconfig());
        command.env("SAMPAN_DATA_DIR", self.cluster.machine.data()).env_remove("CARGO_TARGET_DIR");
        // rustup's programs are found by the HOME that they were installed for.
        for (name, default) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if let (None, Some(home)) = (env::var_os(name), env::var_os("HOME")) {
                command.env(name, Path::new(&home).join(default));
            }
        }
        command
    }

    /// Whether a program of a toolchain runs here.
    fn has(&self, check: &str) -> bool {
        self.shell(check).bounded().status.success()
    }

    /// Writes the files, runs the commands, and compares what the last one prints.
    fn follow(&self, section: &Section, skip: impl Fn(&str) -> bool) {
        for (name, text) in &section.files {
            fs::write(self.folder.join(name), text).expect("written");
        }
        let lines: Vec<&str> = section.commands.iter().map(String::as_str).filter(|line| !skip(line)).collect();
        let output = self.shell(&lines.join("\n")).bounded_with("", BUILD_TIMEOUT);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{lines:#?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let answer = text.lines().last().unwrap_or_default();
        match section.answer.strip_suffix('…') {
            None => assert_eq!(answer, section.answer),
            Some(start) => {
                assert!(answer.starts_with(start), "{answer:?} is not {:?}", section.answer);
                let pod = answer.rsplit(' ').next().expect("the pod's name");
                assert_eq!(self.cluster.field(&format!("pod/{pod}"), "{.metadata.name}"), pod);
            }
        }
    }
}

/// Follows a section of the page whose toolchain is there if a check succeeds.
fn follow(language: &str, check: &str) {
    if kubectl().is_none() || tool("CURL", "curl").is_none() {
        return;
    }
    let machine = Machine::new();
    let cluster = machine.up(&[]);
    let workshop = Workshop::new(&cluster);
    if !workshop.has(check) {
        return skipped(&format!("the toolchain for {language} is missing: tests/run installs it ({check} failed)"));
    }
    workshop.follow(&section(language), installs);
}

#[test]
fn javascript_becomes_an_http_server() {
    follow("JavaScript", "test -x node_modules/.bin/jco && node --version");
}

#[test]
fn python_becomes_an_http_server() {
    follow("Python", "componentize-py --version");
}

#[test]
fn go_becomes_a_command() {
    follow("Go", "go version");
}

#[test]
fn c_becomes_a_command() {
    follow("C", "python3 -m ziglang version");
}

#[test]
fn zig_becomes_a_command() {
    follow("Zig", "python3 -m ziglang version");
}

#[test]
fn assemblyscript_becomes_a_command() {
    follow("AssemblyScript", "test -x node_modules/.bin/asc && node --version");
}

/// rustup's targets are in no registry of packages. Where the target is missing, the committed guest stands in for what cargo builds: its
/// source must be the page's, and its hash is checked together with its source's (`tidy`).
#[test]
fn rust_becomes_an_http_server() {
    let section = section("Rust");
    let source = fs::read_to_string(checkout().join("samples/guests/first/src/lib.rs")).expect("the source");
    assert_eq!(section.files, [("hello.rs".to_owned(), source)], "the page shows samples/guests/first");
    if kubectl().is_none() || tool("CURL", "curl").is_none() {
        return;
    }
    let machine = Machine::new();
    let cluster = machine.up(&[]);
    let workshop = Workshop::new(&cluster);
    if workshop.has("test -e $(rustc --print target-libdir --target wasm32-wasip2)/libstd-*.rlib") {
        return workshop.follow(&section, installs);
    }
    let built = workshop.folder.join("rust/target/wasm32-wasip2/release");
    fs::create_dir_all(&built).expect("a folder");
    fs::copy(checkout().join("samples/first/first.wasm"), built.join("rust.wasm")).expect("the committed guest");
    workshop.follow(&section, |line| installs(line) || line.starts_with("cargo ") || line.starts_with("cp "));
}
