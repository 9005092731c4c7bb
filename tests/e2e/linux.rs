//! Containers of Linux images, by the OCI runtime that is installed.

use crate::harness::{Cluster, Machine, kubectl, tool};
use serde_json::json;
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Whether Linux containers can run here: without root, as everything here, in a user namespace.
pub(crate) fn can_run() -> bool {
    kubectl().is_some() && tool("RUNC", "runc").is_some() && tool("BUSYBOX", "busybox").is_some()
}

/// Writes an OCI layout of a linux/amd64 image with busybox, whose program is its shell.
pub(crate) fn write_image(folder: &Path) {
    let busybox = tool("BUSYBOX", "busybox").expect("busybox");
    let found = Command::new("sh").args(["-c", "command -v \"$0\""]).arg(busybox).output().expect("sh runs");
    let busybox = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let root = folder.join("root");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::create_dir_all(root.join("tmp")).expect("a folder");
    fs::copy(busybox, root.join("bin/busybox")).expect("copied");
    for name in ["sh", "cat", "echo", "sleep", "hostname", "id", "dd", "ls", "nc", "wget", "httpd", "mkdir", "tail"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    let archive = folder.join("layer.tar");
    let mut made = Command::new("tar");
    made.arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf"]).arg(&archive).arg(".");
    assert!(made.status().expect("tar runs").success());
    write_layout(folder, &fs::read(&archive).expect("an archive"));
}

/// Writes an OCI layout of an image with one layer.
pub(crate) fn write_layout(folder: &Path, layer: &[u8]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let put = |bytes: &[u8]| {
        let file = folder.join("blob");
        fs::write(&file, bytes).expect("written");
        let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
        let hex = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().expect("a sum").to_owned();
        fs::rename(&file, blobs.join(&hex)).expect("renamed");
        (format!("sha256:{hex}"), bytes.len())
    };
    let layer = put(layer);
    let config = json!({"architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.0]}});
    let config = put(config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.0, "size": layer.1}]});
    let manifest = put(manifest.to_string().as_bytes());
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("written");
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.0, "size": manifest.1}]});
    fs::write(folder.join("index.json"), index.to_string()).expect("written");
}

/// A machine that has the image `busybox:1`.
fn machine() -> Machine {
    let machine = Machine::new();
    load_image(&machine);
    machine
}

/// Loads the image `busybox:1`.
pub(crate) fn load_image(machine: &Machine) {
    let layout = machine.path("work").join("busybox");
    write_image(&layout);
    let load = machine.run(&["image", "load", &layout.display().to_string(), "-t", "busybox:1"]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
}

/// A pod of one container that runs a script.
fn pod(name: &str, script: &str) -> String {
    let command = json!(["/bin/sh", "-c", script]);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 2\n  \
         containers: [{{name: c, image: 'busybox:1', command: {command}}}]\n"
    )
}

fn ended(cluster: &Cluster<'_>, pod: &str) -> (String, String) {
    let state = "{.status.containerStatuses[0].state.terminated";
    cluster.eventually("its end", || {
        let code = cluster.field(&format!("pod/{pod}"), &format!("{state}.exitCode}}"));
        let reason = cluster.field(&format!("pod/{pod}"), &format!("{state}.reason}}"));
        (!code.is_empty()).then_some((code, reason))
    })
}

/// Deletes all pods, so that nothing outlives the test.
pub(crate) fn clear(cluster: &Cluster<'_>) {
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
}

#[test]
fn a_linux_image_runs_without_a_word_of_configuration() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    let script = "echo hello from $(hostname) $FROM_IMAGE; echo trouble >&2; exec sleep 1000";
    let applied = cluster.kubectl_output(&["apply", "-f", "-"], &pod("linux", script));
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/linux", "--timeout=60s"]);
    let id = cluster.field("pod/linux", "{.status.containerStatuses[0].containerID}");
    assert!(id.starts_with("runc://"), "{id}");
    cluster.eventually("its output", || {
        let logs = cluster.kubectl(&["logs", "linux"]);
        (logs.contains("hello from linux yes") && logs.contains("trouble")).then_some(())
    });
    let told = cluster.kubectl(&["exec", "linux", "--", "sh", "-c", "echo $((6*7)); cat /etc/hosts"]);
    assert!(told.starts_with("42\n") && told.contains("linux"), "{told}");
    let code = cluster.kubectl_output(&["exec", "linux", "--", "sh", "-c", "exit 7"], "").status.code();
    assert_eq!(code, Some(7));
    let echoed = cluster.kubectl_with(&["exec", "-i", "linux", "--", "cat"], "from outside");
    assert_eq!(echoed, "from outside");
    let begin = Instant::now();
    cluster.kubectl(&["delete", "pod", "linux", "--timeout=30s"]);
    assert!(begin.elapsed() < Duration::from_secs(20), "it ends within its grace period");
}

#[test]
fn ends_of_linux_containers_are_told_as_upstream_tells_them() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    for (name, script, expected) in [("good", "exit 0", ("0", "Completed")), ("bad", "exit 3", ("3", "Error"))] {
        cluster.kubectl_with(&["apply", "-f", "-"], &pod(name, script));
        let (code, reason) = ended(&cluster, name);
        assert_eq!((code.as_str(), reason.as_str()), expected, "{name}");
    }
    assert_eq!(cluster.field("pod/good", "{.status.phase}"), "Succeeded");
    assert_eq!(cluster.field("pod/bad", "{.status.phase}"), "Failed");
    let missing = pod("missing", "").replace("/bin/sh", "/nope");
    cluster.kubectl_with(&["apply", "-f", "-"], &missing);
    let (code, reason) = ended(&cluster, "missing");
    assert_eq!((code.as_str(), reason.as_str()), ("128", "StartError"));
    clear(&cluster);
}

#[test]
fn linux_containers_outlive_the_node_and_are_found_again() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], &pod("p", "i=0; while sleep 0.2; do i=$((i+1)); echo $i; done"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    let status = |cluster: &Cluster<'_>| {
        cluster.field(
            "pod/p",
            "{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}",
        )
    };
    let before = status(&cluster);
    let count = |cluster: &Cluster<'_>| cluster.kubectl(&["logs", "p"]).lines().count();
    let lines = count(&cluster);
    cluster.kill();
    std::thread::sleep(Duration::from_secs(1));
    let cluster = machine.up(&[]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    assert_eq!(status(&cluster), before);
    cluster.eventually("it went on", || (count(&cluster) > lines + 5).then_some(()));
    let logs = cluster.kubectl(&["logs", "p"]);
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.iter().enumerate().all(|(i, number)| *number == i + 1), "no line is lost: {logs}");
    clear(&cluster);
}
