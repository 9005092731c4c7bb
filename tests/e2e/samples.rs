//! The samples that clients of other protocols than HTTP/1.1 ask: gRPC, by its own client. `tests/run` installs it, by the
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
            text(&python().arg(client).arg(address).args(names).output().expect("python runs"))
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
