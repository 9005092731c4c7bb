//! Streams into pods as unmodified kubectls open them: by WebSocket, which is their default, and by SPDY, which older ones speak.

use super::machine;
use crate::{guests, harness::*};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
};

/// Both ways in which kubectl opens streams.
const WAYS: [&str; 2] = ["true", "false"];

/// A `kubectl port-forward` that runs, and what it says.
struct Forward {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Forward {
    fn start(c: &Cluster<'_>, websockets: &str, port: u16) -> (Self, String) {
        let mut command = c.kubectl_command(&["port-forward", "deploy/d", &format!(":{port}"), "--address=127.0.0.1"]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
        let (told, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for stream in streams {
            let told = told.clone();
            thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|l| told.send(l)));
        }
        let forward = Self { child, lines };
        let line = forward.wait_for("Forwarding from ");
        let address = line.trim_start_matches("Forwarding from ").split(' ').next().expect("an address").to_owned();
        (forward, address)
    }

    /// The next line that holds a text.
    fn wait_for(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(TIMEOUT) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {text:?}: {error} {seen:?}"),
            }
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ports_are_forwarded_by_websocket_and_by_spdy() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--port=8080"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    for websockets in WAYS {
        let (forward, address) = Forward::start(&c, websockets, 8080);
        let url = format!("http://{address}/");
        // One after the other, many at a time, and one that stays open meanwhile.
        let mut idle = TcpStream::connect(&address).expect("connected");
        for _ in 0..20 {
            assert_eq!(get(&url).expect("an answer").0, 200);
        }
        let threads: Vec<_> = (0..20)
            .map(|_| {
                thread::spawn({
                    let url = url.clone();
                    move || get(&url)
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic").expect("an answer").0, 200);
        }
        write!(idle, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        idle.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        drop(forward);

        let (forward, address) = Forward::start(&c, websockets, 81);
        let mut refused = TcpStream::connect(&address).expect("kubectl listens");
        let line = forward.wait_for("error forwarding port 81 to pod");
        assert!(line.contains("connect: connection refused"), "{line}");
        let _ = refused.read(&mut [0]);
    }
}

/// kubectl with a way of opening streams: its exit code, and what it said.
fn run(c: &Cluster<'_>, websockets: &str, args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = c.kubectl_command(args);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
    let output = command.bounded_with(input, CLIENT_TIMEOUT);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn commands_have_input_output_and_exit_codes() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--port=8080"]);
    c.kubectl(&["set", "env", "deployment/d", "COLOUR=blue"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    let long = "0123456789abcdef\n".repeat(20_000);
    for websockets in WAYS {
        let said = run(&c, websockets, &["exec", "deploy/d", "--", "env"], "");
        assert!(said.0 == Some(0) && said.1.lines().any(|line| line == "COLOUR=blue"), "{said:?}");
        let (code, _, errors) = run(&c, websockets, &["exec", "deploy/d", "--", "cat", "/nothing"], "");
        assert!(code == Some(1) && errors.contains("command terminated with exit code 1"), "{code:?} {errors}");
        let (code, output, errors) = run(&c, websockets, &["exec", "-i", "deploy/d", "--", "cat"], &long);
        assert!(code == Some(0) && output == long, "{code:?} {} {errors}", output.len());
        let (_, _, errors) = run(&c, websockets, &["exec", "deploy/d", "-c", "other", "--", "env"], "");
        assert!(errors.contains("container other is not valid for pod d-"), "{errors}");
    }
}

#[test]
fn files_are_copied_both_ways() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: hello:1\n    ports: [{containerPort: 8080}]\n    \
               volumeMounts: [{name: v, mountPath: /data}]\n  volumes: [{name: v, emptyDir: {}}]\n";
    c.kubectl_with(&["apply", "-f", "-"], pod);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    let (there, back) = (machine.path("there"), machine.path("back"));
    std::fs::create_dir_all(there.join("a/b")).expect("made");
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(there.join("large"), &large).expect("written");
    std::fs::write(there.join("a/b/small"), "x").expect("written");
    c.kubectl(&["cp", &there.display().to_string(), "p:/data/tree"]);
    let listed = c.kubectl(&["exec", "p", "--", "ls", "-lR", "/data/tree"]);
    assert!(listed.contains("/data/tree/a/b:") && listed.contains(" 12000000 "), "{listed}");
    c.kubectl(&["cp", "p:/data/tree", &back.display().to_string()]);
    assert!(std::fs::read(back.join("large")).expect("copied") == large, "byte for byte");
    assert_eq!(std::fs::read_to_string(back.join("a/b/small")).expect("copied"), "x");
    // Nothing beside the container's own folders can be seen or written.
    for path in ["/etc/passwd", "/data/../../etc/passwd"] {
        let (code, output, errors) = run(&c, "true", &["exec", "p", "--", "cat", path], "");
        assert!(code == Some(1) && output.is_empty() && errors.contains("No such file"), "{path}: {output} {errors}");
    }
    // Beside the volume is the container's own root.
    c.kubectl(&["cp", &there.join("a").display().to_string(), "p:/elsewhere"]);
    assert_eq!(c.kubectl(&["exec", "p", "--", "cat", "/elsewhere/b/small"]), "x");
}

#[test]
fn top_shows_what_pods_and_nodes_use() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["run", "p", "--image=hello:1", "--port=8080", "--labels=app=p"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    let top = |args: &[&str]| {
        let output = c.kubectl_command(&[&["top"], args].concat()).bounded();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(shown).filter(|_| output.status.success())
    };
    // a container is told of when it has run for ten seconds
    let pods = c.eventually("metrics of the pod", || top(&["pod"]).filter(|shown| shown.contains("\np ")));
    assert!(pods.starts_with("NAME   CPU(cores)   MEMORY(bytes)"), "{pods}");
    let containers = top(&["pod", "p", "--containers"]).expect("known by now");
    assert!(containers.lines().any(|line| line.starts_with("p     p      ")), "{containers}");
    assert_eq!(top(&["pod", "-l", "app=other"]).as_deref(), Some(""));
    let nodes = top(&["node"]).expect("known by now");
    let used: Vec<&str> = nodes.lines().nth(1).expect("the node").split_whitespace().collect();
    // the node's memory is its process's, which is never less than this
    let memory = used[3].trim_end_matches("Mi").parse::<u32>().expect("a number");
    assert!(used[1].ends_with('m') && (10..10_000).contains(&memory), "{nodes}");
}

#[test]
fn debug_adds_a_container_to_a_pod_that_runs() {
    let Some(machine) = machine() else { return };
    guests::load(&machine, "talk");
    let c = machine.up(&[]);
    c.kubectl(&["run", "p", "--image=hello:1", "--port=8080"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    // Its input is empty, so that it ends at once.
    c.kubectl(&["debug", "p", "--image=talk:1", "--target=p", "-c", "silent"]);
    let state = "{.status.ephemeralContainerStatuses[?(@.name==\"silent\")].state.terminated.exitCode}";
    c.eventually("its end", || Some(()).filter(|()| c.field("pod/p", state) == "0"));
    for websockets in WAYS {
        let name = format!("talker-{websockets}");
        let mut debug = c.kubectl_command(&["debug", "-i", "p", "--image=talk:1", "--target=p", "-c", &name]);
        debug.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut debug = debug.spawn().expect("kubectl starts");
        let mut input = debug.stdin.take().expect("piped");
        input.write_all(b"through the debugger\n").expect("taken");
        let line = BufReader::new(debug.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(line.take(20).any(|line| line == "through the debugger"));
        // The container's input stays open for the next who attaches.
        debug.kill().expect("killed");
        debug.wait().expect("ended");
        assert_eq!(c.kubectl(&["logs", "p", "-c", &name]), "through the debugger\n");
    }
    assert_eq!(c.field("pod/p", "{.status.phase} {.status.containerStatuses[0].restartCount}"), "Running 0");
    c.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
}
