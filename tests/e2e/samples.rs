//! The samples that clients of other protocols than HTTP/1.1 ask: gRPC and WebSockets, by Python's own clients. `tests/run` installs them, by the
//! command of `samples/README.md`, into the folder that `SAMPAN_TOOLCHAINS` names.

use crate::harness::*;
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Python with the packages of `tests/run`.
fn python() -> Command {
    let tools = env::var_os("SAMPAN_TOOLCHAINS").map_or_else(|| checkout().join("target/tools"), PathBuf::from);
    let mut command = Command::new("timeout");
    command.args(["100", "python3"]).env("PYTHONPATH", tools.join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn text(output: &Output) -> (bool, String) {
    let both = [&output.stdout[..], &output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&both).into_owned())
}

/// Runs a sample; `then` gets the `HOST:PORT` of its Service. Skipped where Python lacks these modules.
fn with_sample(name: &str, modules: &str, then: impl FnOnce(&Cluster<'_>, &str)) {
    if !python().args(["-c", &format!("import {modules}")]).output().is_ok_and(|output| output.status.success()) {
        return skipped(&format!("Python's {modules} are missing: tests/run installs them"));
    }
    let machine = Machine::new();
    let folder = sample(name, &machine.path("work"));
    let cluster = machine.up(&[]);
    let applied = text(&machine.run(&["apply", "-f", &folder.display().to_string(), "--wait"]));
    assert!(applied.0, "{}", applied.1);
    let url = machine.run(&["url", name]);
    let url = String::from_utf8_lossy(&url.stdout).trim().to_owned();
    then(&cluster, url.strip_prefix("http://").unwrap_or_else(|| panic!("no URL: {url}")));
}

#[test]
fn a_grpc_server_answers_grpcs_own_client() {
    with_sample("grpc", "grpc, grpc_tools, google.protobuf", |cluster, address| {
        let call = |names: &[&str]| {
            let client = checkout().join("samples/grpc/client.py");
            text(&python().arg(client).arg(address).args(names).bounded())
        };
        let pod = cluster.machine.run(&["get", "pods", "-o", "name"]);
        let pod = String::from_utf8_lossy(&pod.stdout).trim().trim_start_matches("pod/").to_owned();
        let hello = |name: &str| format!("Hello {name} from {pod}\n");
        let expected = format!(
            "{}stream: {}stream: {}both ways: {}both ways: {}",
            hello("Ada"),
            hello("Ada"),
            hello("Grace"),
            hello("Ada"),
            hello("Grace")
        );
        for _ in 0..3 {
            assert_eq!(call(&["Ada", "Grace"]), (true, expected.clone()));
        }
        assert_eq!(call(&[""]), (false, "INVALID_ARGUMENT: the name is empty\n".to_owned()));
    });
}

const WEBSOCKETS: &str = r#"
import sys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
url = "ws://" + sys.argv[1]
with connect(url) as one, connect(url) as other:
    one.send("a boat")
    assert one.recv(30) == "a boat"
    other.send(bytes(900_000))
    one.send("drifts")
    assert one.recv(30) == "drifts"
    assert other.recv(30) == bytes(900_000)
    assert one.ping().wait(30)
    other.send("x" * 1_100_000)
    try:
        other.recv(30)
        sys.exit("a message that is too long was answered")
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1009 and closed.rcvd.reason == "at most 1048576 bytes", closed
    one.close()
    assert one.close_code == 1000, one.close_code
"#;

#[test]
fn a_websocket_server_answers_many_clients_at_the_same_time() {
    with_sample("websocket", "websockets", |cluster, address| {
        let asked = python().args(["-c", WEBSOCKETS, address]).bounded();
        assert_eq!(text(&asked), (true, String::new()));
        let (code, said) = get(&format!("http://{address}/")).expect("an answer");
        assert_eq!((code, said.as_str()), (400, "This is a WebSocket.\n"));
        cluster.eventually("the log tells of each", || {
            let log = text(&cluster.machine.run(&["logs", "deploy/websocket"])).1;
            let ends = ["it went after 2 messages", "Message too long", "WebSocket protocol error"];
            Some(()).filter(|()| ends.iter().all(|end| log.contains(end)))
        });
    });
}
