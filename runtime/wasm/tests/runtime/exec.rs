//! Commands beside a container's program: the guest anew, its other functions, and the built-in tools.

use crate::support::{Node, core_guest, files_guest};
use container::{ContainerId, ContainerState, Error, Exec, Limits, Mount, Result, Runtime, Stdin, Streams};
use std::{
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const ALIVE: Duration = Duration::from_secs(60);

/// What a command said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn text(&self) -> (i32, &str, &str) {
        (self.code, std::str::from_utf8(&self.out).unwrap(), &self.err)
    }
}

fn exec(command: &[&str], tty: bool) -> Exec {
    Exec { command: command.iter().map(|word| word.to_string()).collect(), tty }
}

pub(crate) async fn run(node: &Node, id: &ContainerId, command: &[&str], input: &[u8]) -> Result<Said> {
    let ((stdin, mut write), (mut out, stdout), (mut err, stderr)) = (duplex(64), duplex(64), duplex(64));
    let streams = Streams {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: Some(Box::new(stderr)),
        resize: None,
    };
    let (mut said, mut errors) = (Vec::new(), String::new());
    let ran = async {
        tokio::join!(
            node.runtime.exec(id, exec(command, false), streams),
            async {
                // some commands read nothing
                let _ = write.write_all(input).await;
                drop(write);
            },
            async { out.read_to_end(&mut said).await.unwrap() },
            async { err.read_to_string(&mut errors).await.unwrap() },
        )
    };
    let (code, ..) = tokio::time::timeout(ALIVE, ran).await.expect("it does not end");
    code.map(|code| Said { code, out: said, err: errors })
}

/// A container that waits, with a volume at /data that can be written and the same at /seen that cannot.
async fn waiting(node: &Node, limits: Limits) -> (ContainerId, PathBuf) {
    let volume = node.folder.path().join("volume");
    if !volume.exists() {
        std::fs::create_dir_all(volume.join("sub/deep")).unwrap();
        std::fs::write(volume.join("greeting"), "from a file\n").unwrap();
        std::fs::write(volume.join("sub/one"), "1").unwrap();
        std::fs::write(node.folder.path().join("secret"), "of the host").unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        symlink("sub/one", volume.join("link")).unwrap();
    }
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "wait".into()];
    spec.env = vec![("A".into(), "1".into())];
    spec.limits = limits;
    spec.mounts = [("/data", false), ("/seen/it", true)]
        .map(|(target, read_only)| Mount::new(&volume, "", target, read_only).unwrap())
        .into();
    (node.start(spec).await, volume)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_runs_anew_with_the_same_volumes_and_environment() {
    let node = Node::new().await;
    let (id, _) = waiting(&node, Limits::default()).await;
    let said = run(&node, &id, &["other", "print"], b"").await.unwrap();
    assert_eq!(said.text(), (0, "other\nprint\nA=1\nPWD=/\n", "from a file\n"));
    assert_eq!(run(&node, &id, &["main", "e7"], b"").await.unwrap().code, 7);
    let long = vec![b'x'; 300_000];
    let said = run(&node, &id, &["main", "c4"], &long).await.unwrap();
    assert_eq!((said.code, said.out.len()), (4, long.len()), "all is written when it is over");
    let trapped = run(&node, &id, &["main", "trap"], b"").await.unwrap();
    assert_eq!(trapped.code, 134);
    assert!(trapped.err.starts_with("sampan: main failed: wasm trap: wasm `unreachable`"), "{}", trapped.err);
    assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
    assert_eq!(node.log(&id, |_| true).await, "", "none of it is the container's own output");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_functions_run_by_their_names() {
    let node = Node::new().await;
    let text = r#"(module
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (loop $again (br $again)))
      (func (export "migrate") (call $exit (i32.const 9)))
      (func (export "add") (param i32 i32) (result i32) (i32.const 1)))"#;
    let id = node.start(node.spec(&wat::parse_str(text).unwrap())).await;
    assert_eq!(run(&node, &id, &["@migrate"], b"").await.unwrap().code, 9);
    for (name, why) in [
        ("@nothing", "exec: \"@nothing\": there is no function nothing; it exports _start, migrate, add"),
        ("@add", "exec: \"@add\": the function add takes parameters or gives results"),
    ] {
        let error = run(&node, &id, &[name], b"").await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text == why), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_counts_on_its_container_and_ends_with_it() {
    let node = Node::new().await;
    let (id, _) =
        waiting(&node, Limits { memory_bytes: Some(8 << 20), cpu_millis: Some(50), ..Limits::default() }).await;
    let grown = run(&node, &id, &["main", "grow"], b"").await.unwrap();
    assert_eq!(grown.code, 137);
    assert!(grown.err.contains("of 8388608 bytes are in use by the container"), "{}", grown.err);
    let instances = async |count: u64| {
        let wait = async {
            while node.runtime.stats(&id).await.unwrap().instances != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(ALIVE, wait).await.expect("not as many");
    };
    instances(1).await;
    // who gives up a command ends it
    let spin = |node: &Node| {
        let (runtime, id) = (node.runtime.clone(), id.clone());
        tokio::spawn(async move { runtime.exec(&id, exec(&["main", "spin"], false), Streams::default()).await })
    };
    let given_up = spin(&node);
    instances(2).await;
    given_up.abort();
    instances(1).await;
    let many: Vec<_> = (0..8).map(|_| spin(&node)).collect();
    instances(9).await;
    let error = run(&node, &id, &["true"], b"").await.unwrap_err();
    assert!(matches!(&error, Error::Exhausted(text) if text == "this container runs 8 commands already"), "{error:?}");
    let throttled = async {
        while node.runtime.stats(&id).await.unwrap().throttled == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(ALIVE, throttled).await.expect("its limit of CPU does not hold");
    node.runtime.stop(&id, Duration::ZERO).await.unwrap();
    for command in many {
        assert_eq!(tokio::time::timeout(ALIVE, command).await.expect("it runs on").unwrap().unwrap(), 137);
    }
    assert!(matches!(run(&node, &id, &["true"], b"").await, Err(Error::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_show_what_the_program_sees() {
    let node = Node::new().await;
    let (id, volume) = waiting(&node, Limits::default()).await;
    let is = async |command: &str, expected: (i32, &str, &str)| {
        let words: Vec<&str> = command.split(' ').collect();
        let said = run(&node, &id, &words, b"typed\n").await.unwrap();
        assert_eq!(said.text(), expected, "{command}");
    };
    is("ls /", (0, "data\nseen\n", "")).await;
    is("ls /seen", (0, "it\n", "")).await;
    is("/bin/ls -R /data", (0, "/data:\ngreeting\nlink\nout\nsub\n\n/data/sub:\ndeep\none\n\n/data/sub/deep:\n", ""))
        .await;
    is("ls /nope", (2, "", "ls: cannot access '/nope': No such file or directory\n")).await;
    is("cat /data/greeting /seen/it/link", (0, "from a file\n1", "")).await;
    is("cat - /data/sub/../sub/one", (0, "typed\n1", "")).await;
    is("cat /data/sub", (1, "", "cat: /data/sub: Is a directory\n")).await;
    is("cat /data/out", (1, "", "cat: /data/out: Invalid cross-device link\n")).await;
    is("cat /etc/hostname", (1, "", "cat: /etc/hostname: No such file or directory\n")).await;
    is("cat /data/../../secret", (1, "", "cat: /data/../../secret: No such file or directory\n")).await;
    is(
        "stat -c %n_%s_%F /data/greeting /data/link",
        (0, "/data/greeting_12_regular file\n/data/link_7_symbolic link\n", ""),
    )
    .await;
    is("env", (0, "A=1\nPWD=/\n", "")).await;
    is("echo a b", (0, "a b\n", "")).await;
    is("true", (0, "", "")).await;
    is("test -d /data/sub", (0, "", "")).await;
    is("test -d /data/greeting", (1, "", "")).await;
    let long = run(&node, &id, &["ls", "-la", "/data/"], b"").await.unwrap();
    let lines: Vec<_> = long.text().1.lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(lines[2].starts_with("-rw-") && lines[2].ends_with(" greeting"), "{lines:?}");
    assert!(lines[3].starts_with('l') && lines[3].ends_with(" link -> sub/one"), "{lines:?}");
    assert!(run(&node, &id, &["ps"], b"").await.unwrap().text().1.contains("main wait"));
    // a folder that is no longer the one that was mounted is not looked into
    std::fs::rename(&volume, volume.with_extension("old")).unwrap();
    std::fs::create_dir(&volume).unwrap();
    is("ls /data", (2, "", "ls: cannot access '/data': the volume: it was replaced since the container was made\n"))
        .await;
}

/// By the tar of this machine, which is another's work.
pub(crate) fn tar(args: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = tar.spawn().expect("there is a tar");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_out_and_in_by_tar() {
    let node = Node::new().await;
    let (id, volume) = waiting(&node, Limits::default()).await;
    let long = format!("sub/{}", "long".repeat(40));
    std::fs::write(volume.join(&long), vec![b'y'; 70_000]).unwrap();
    let out = run(&node, &id, &["tar", "cf", "-", "/data"], b"").await.unwrap();
    assert_eq!((out.code, out.err.as_str()), (0, "tar: Removing leading `/' from member names\n"));
    let target = node.folder.path().join("target");
    std::fs::create_dir(&target).unwrap();
    tar(&["xf", "-"], &target, &out.out);
    assert_eq!(std::fs::read(target.join("data").join(&long)).unwrap().len(), 70_000);
    assert_eq!(std::fs::read_to_string(target.join("data/greeting")).unwrap(), "from a file\n");
    assert_eq!(std::fs::read_link(target.join("data/link")).unwrap(), Path::new("sub/one"));
    assert!(target.join("data/sub/deep").is_dir());

    // and in again, as `kubectl cp` does, from an archive of this machine's tar with headers of either kind
    std::fs::create_dir(volume.join("copy")).unwrap();
    for format in ["--format=pax", "--format=gnu"] {
        let archive = tar(&[format, "-cf", "-", "data"], &target, b"");
        let into = ["tar", "-xmf", "-", "-C", "/data/copy"];
        let said = run(&node, &id, &into, &archive).await.unwrap();
        assert_eq!(said.text(), (0, "", ""), "{format}");
        let copy = volume.join("copy/data");
        assert_eq!(std::fs::read(copy.join(&long)).unwrap(), vec![b'y'; 70_000]);
        assert_eq!(std::fs::read_link(copy.join("link")).unwrap(), Path::new("sub/one"));
        std::fs::remove_dir_all(copy).unwrap();
        let refused = run(&node, &id, &["tar", "-xmf", "-", "-C", "/seen/it"], &archive).await.unwrap();
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("tar: data/greeting: Cannot open: Read-only file system"), "{}", refused.err);
        assert!(!volume.join("data").exists());
    }
    // a name that leads out, and a link in the way that does
    let archive = tar(&["-cPf", "-", "../target/data/greeting", "--transform=s,^data,out/data,"], &target, b"");
    let said = run(&node, &id, &["tar", "-xf", "-", "-C", "/data"], &archive).await.unwrap();
    assert_eq!(said.code, 2);
    assert!(said.err.contains("Member name contains '..'"), "{}", said.err);
    assert!(!node.folder.path().join("secret/data").exists());
    assert_eq!(std::fs::read_to_string(node.folder.path().join("secret")).unwrap(), "of the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_http_has_tools_and_no_program() {
    let node = Node::new().await;
    let mut spec = node.spec(&files_guest());
    spec.args = vec!["server".into()];
    let id = node.start(spec).await;
    assert_eq!(run(&node, &id, &["echo", "hi"], b"").await.unwrap().text(), (0, "hi\n", ""));
    let error = run(&node, &id, &["sh"], b"").await.unwrap_err();
    let told = "exec: \"sh\": executable file not found: a handler of HTTP is no command; there are cat, echo, env, ls, ps, stat, \
                tar, test, true";
    assert!(matches!(&error, Error::Invalid(text) if text == told), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_what_is_typed_and_interrupts() {
    let node = Node::new().await;
    let (id, _) = waiting(&node, Limits::default()).await;
    let ((stdin, mut keys), (mut screen, stdout)) = (duplex(64), duplex(64));
    let streams = Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), ..Streams::default() };
    let (runtime, command) = (node.runtime.clone(), exec(&["main", "c0"], true));
    let running = tokio::spawn({
        let id = id.clone();
        async move { runtime.exec(&id, command, streams).await }
    });
    keys.write_all(b"hi\r").await.unwrap();
    let mut shown = vec![0; 8];
    tokio::time::timeout(ALIVE, screen.read_exact(&mut shown)).await.unwrap().unwrap();
    assert_eq!(shown, b"hi\r\nhi\r\n");
    keys.write_all(b"\x03").await.unwrap();
    let code = tokio::time::timeout(ALIVE, running).await.expect("it runs on").unwrap().unwrap();
    assert_eq!(code, 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_sees_output_from_then_on_and_its_end() {
    let node = Node::new().await;
    let mut spec = node.spec(&core_guest());
    spec.args = vec!["main".into(), "c5".into()];
    spec.stdin = Stdin::Once;
    let id = node.start(spec).await;
    let ((stdin, mut write), (mut out, stdout)) = (duplex(64), duplex(64));
    let streams = Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), ..Streams::default() };
    let attached = tokio::spawn({
        let (runtime, id) = (node.runtime.clone(), id.clone());
        async move { runtime.attach(&id, streams).await }
    });
    write.write_all(b"one\ntwo\n").await.unwrap();
    drop(write);
    let mut said = String::new();
    tokio::time::timeout(ALIVE, out.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "one\ntwo\n");
    tokio::time::timeout(ALIVE, attached).await.expect("it goes on").unwrap().unwrap();
    assert_eq!(node.exit(&id).await.code, 5, "its input ended with who wrote it first");
    assert_eq!(node.log(&id, |_| true).await, "stdout F one\nstdout F two\n", "the log has it too");
}
