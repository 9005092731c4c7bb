//! Guests of every target, good and hostile, as pods.

use crate::harness::*;
use std::{thread, time::Duration};

fn loaded(machine: &Machine) {
    for (name, tag) in [("hello", "hello:1"), ("fetch", "fetch:1"), ("count", "count:1")] {
        let folder = sample(name, &machine.path("work"));
        let file = folder.join(format!("{name}.wasm")).display().to_string();
        let load = machine.run(&["image", "load", &file, "-t", tag]);
        assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    }
}

/// A pod of the hello guest behind a NodePort; `extra` goes into its container.
fn server(name: &str, port: u16, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  containers:\n  - name: c\n    image: hello:1\n    \
         ports: [{{containerPort: 8080}}]\n{extra}---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  \
         selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]\n"
    )
}

#[test]
fn a_handler_of_wasi_0_3_answers_request_after_request_in_one_instance() {
    let machine = Machine::new();
    let folder = sample("async-hello", &machine.path("work")).display().to_string();
    let cluster = machine.up(&[]);
    let applied = machine.run(&["apply", "-f", &folder, "--wait"]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let url = format!("http://{}:30081/", machine.address);
    let first = cluster.eventually("it answers", || get(&url).ok().filter(|(code, _)| *code == 200));
    assert!(first.1.starts_with("Hello from async-hello-") && first.1.ends_with(", request 1\n"), "{first:?}");
    let second = get(&url).expect("it answers");
    assert!(second.0 == 200 && second.1.ends_with(", request 2\n"), "{second:?}");
}

#[test]
fn every_target_runs_and_its_output_is_in_the_log() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    loaded(&machine);
    let cluster = machine.up(&[]);
    let folder = machine.path("work");
    let apply =
        |name: &str| machine.run(&["apply", "-f", &folder.join(format!("{name}/{name}.yaml")).display().to_string()]);
    for name in ["hello", "fetch", "count"] {
        let output = apply(name);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for job in ["hello-check", "fetch", "count"] {
        cluster.kubectl(&["wait", "--for=condition=Complete", &format!("job/{job}"), "--timeout=100s"]);
    }
    assert!(cluster.kubectl(&["logs", "job/count"]).contains("2 13 68 /poems/poem.txt"));
    assert!(
        cluster.kubectl(&["logs", "job/fetch", "--tail=1"]).contains("Hello from hello-"),
        "DNS names and the pod network"
    );
    let exit = cluster.field(
        "pods",
        "{.items[?(@.metadata.labels.job-name==\"count\")].status.containerStatuses[0].state.terminated.reason}",
    );
    assert_eq!(exit, "Completed");
}

#[test]
fn exit_codes_and_traps_are_told() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    loaded(&machine);
    let cluster = machine.up(&[]);
    cluster.kubectl(&["run", "usage", "--image=count:1", "--restart=Never"]);
    cluster.eventually("the pod failed", || {
        Some(()).filter(|()| cluster.field("pod/usage", "{.status.phase}") == "Failed")
    });
    assert_eq!(cluster.field("pod/usage", "{.status.containerStatuses[0].state.terminated.exitCode}"), "2");
    assert!(cluster.kubectl(&["logs", "usage"]).contains("usage: count FILE"));
    let trap =
        "(module (memory (export \"memory\") 1) (func $inner unreachable) (func (export \"_start\") (call $inner)))";
    std::fs::write(machine.path("work").join("trap.wat"), trap).expect("written");
    let load = machine.run(&["image", "load", "trap.wat", "-t", "trap:1"]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    cluster.kubectl(&["run", "trap", "--image=trap:1", "--annotations=sampan.dev/coredump=true"]);
    let message = cluster.eventually("the trap is told", || {
        let text = cluster.field("pod/trap", "{.status.containerStatuses[0].lastState.terminated.message}");
        Some(text).filter(|t| !t.is_empty())
    });
    assert!(message.contains("inner"), "a symbolised backtrace: {message}");
    let dump = message.lines().nth(1).and_then(|line| line.strip_prefix("a core dump of ")?.split_once(" is in "));
    let dump = std::path::PathBuf::from(dump.expect("the core dump is told").1);
    assert!(std::fs::read(&dump).expect("a core dump").starts_with(b"\0asm"));
    let log = cluster.kubectl(&["logs", "trap", "--previous"]);
    assert!(log.contains("sampan: trap failed: wasm trap: wasm `unreachable`") && log.contains("inner"), "{log}");
    cluster.eventually("it backs off", || {
        let reason = cluster.field("pod/trap", "{.status.containerStatuses[0].state.waiting.reason}");
        Some(()).filter(|()| reason == "CrashLoopBackOff")
    });
    cluster.kubectl(&["delete", "pod", "trap", "--grace-period=1"]);
    cluster.eventually("the core dump goes with its pod", || Some(()).filter(|()| !dump.exists()));
}

#[test]
fn hostile_guests_leave_the_api_and_other_pods_alive() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    loaded(&machine);
    let cluster = machine.up(&[]);
    let flood = "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func $w (param i32 i32 i32 i32) (result i32))) \
        (memory (export \"memory\") 1) (data (i32.const 16) \"flood flood flood flood flood flood\\n\") \
        (func (export \"_start\") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 36)) \
        (loop $l (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))))";
    std::fs::write(machine.path("work").join("flood.wat"), flood).expect("written");
    assert!(machine.run(&["image", "load", "flood.wat", "-t", "flood:1"]).status.success());
    cluster.kubectl_with(&["apply", "-f", "-"], &server("good", 30081, ""));
    cluster.kubectl_with(
        &["apply", "-f", "-"],
        &server("bad", 30082, "    resources: {limits: {memory: 32Mi, cpu: 500m}}\n"),
    );
    cluster.kubectl(&["run", "flood", "--image=flood:1"]);
    // each instruction of them takes a tenth of a second and more
    let fill = "(module (memory (export \"memory\") 8200) (func (export \"_start\") \
        (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 536870912)) (br $l))))";
    std::fs::write(machine.path("work").join("fill.wat"), fill).expect("written");
    assert!(machine.run(&["image", "load", "fill.wat", "-t", "fill:1"]).status.success());
    for name in ["fill-1", "fill-2"] {
        cluster.kubectl(&["run", name, "--image=fill:1"]);
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=100s"]);
    }
    let url = |port: u16, path: &str| format!("http://{}:{port}{path}", machine.address);
    for port in [30081, 30082] {
        cluster.eventually("served", || get(&url(port, "/")).ok().filter(|(code, _)| *code == 200));
    }
    // An endless loop in several requests at a time, an instance storm, and then memory growth.
    let attacks: Vec<_> = (0..8)
        .map(|n| {
            let target = url(30082, if n % 2 == 0 { "/spin" } else { "/" });
            thread::spawn(move || (0..20).for_each(|_| drop(get(&target))))
        })
        .collect();
    for _ in 0..40 {
        assert_eq!(get(&url(30081, "/")).expect("the other pod answers").0, 200);
        cluster.kubectl(&["get", "--raw", "/readyz"]);
        thread::sleep(Duration::from_millis(20));
    }
    drop(attacks);
    let _ = get(&url(30082, "/grow"));
    cluster.eventually("the hoarder is told as OOMKilled", || {
        let reason = cluster.field("pod/bad", "{.status.containerStatuses[0].lastState.terminated.reason}");
        Some(()).filter(|()| reason == "OOMKilled")
    });
    assert_eq!(get(&url(30081, "/")).expect("the other pod answers").0, 200);
    assert_eq!(cluster.field("pod/good", "{.status.containerStatuses[0].restartCount}"), "0");
    // The flood is readable, and bounded on the disk: five files of 10 MiB at most.
    // In the moment of a rotation the newest file has no line yet.
    cluster.eventually("the flood is read", || {
        Some(()).filter(|()| cluster.kubectl(&["logs", "flood", "--tail=1"]).contains("flood"))
    });
    let size = std::process::Command::new("du").arg("-sm").arg(machine.data().join("pods")).output().expect("du runs");
    let size: u32 =
        String::from_utf8_lossy(&size.stdout).split_whitespace().next().and_then(|n| n.parse().ok()).expect("a size");
    assert!(size <= 60, "{size} MiB of logs");
}

#[test]
fn a_linux_image_waits_where_there_is_no_oci_runtime_and_says_what_to_install() {
    if kubectl().is_none() || tool("SKOPEO", "skopeo").is_none() {
        return;
    }
    let machine = Machine::new();
    let layout = machine.path("work").join("linux");
    crate::linux::write_layout(&layout, &[0; 1024]);
    let load = machine.run(&["image", "load", &layout.display().to_string(), "-t", "linux:1"]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    let cluster = machine.up(&["--oci-runtime", "no-such-runtime"]);
    let run = cluster.kubectl_output(&["run", "linux", "--image=linux:1"], "");
    let warning = String::from_utf8_lossy(&run.stderr);
    assert!(warning.contains("Warning: ") && warning.contains("Linux image (linux/amd64)"), "{warning}");
    let message = cluster.eventually("a reason", || {
        let text = cluster.field("pod/linux", "{.status.containerStatuses[0].state.waiting.message}");
        Some(text).filter(|t| t.contains("no-such-runtime"))
    });
    assert!(message.contains("install the package runc"), "{message}");
    assert_eq!(cluster.field("pod/linux", "{.status.phase}"), "Pending");
}

#[test]
fn what_cannot_be_as_it_is_written_is_warned_of_at_apply() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    let text = "(component (import \"wasi:nn/graph@0.2.0\" (instance)) (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))";
    std::fs::write(machine.path("work").join("nn.wat"), text).expect("written");
    let load = machine.run(&["image", "load", "nn.wat", "-t", "nn:1"]);
    let told = String::from_utf8_lossy(&load.stderr);
    assert!(load.status.success() && told.contains("wasi:nn/graph@0.2.0"), "{told}");
    let cluster = machine.up(&[]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: nn\n  annotations: {sampan.dev/instance: reuse}\n\
               spec:\n  containers: [{name: c, image: 'nn:1'}]\n";
    let applied = cluster.kubectl_output(&["apply", "-f", "-"], pod);
    let told = String::from_utf8_lossy(&applied.stderr);
    assert!(applied.status.success(), "{told}");
    let warnings: Vec<&str> = told.lines().collect();
    let [annotation, image] = warnings[..] else { panic!("two warnings: {told}") };
    let near = "unknown annotation; did you mean sampan.dev/instances?";
    assert_eq!(annotation, format!("Warning: metadata.annotations[sampan.dev/instance]: {near}"));
    let start =
        "Warning: spec.containers[0].image: \"nn:1\", as this node has it, cannot run: it imports what this node";
    assert!(image.starts_with(start) && image.ends_with(": wasi:nn/graph@0.2.0"), "{image}");
    // The pod says the same, before it starts.
    let message = cluster.eventually("a reason", || {
        let text = cluster.field("pod/nn", "{.status.containerStatuses[0].state.waiting.message}");
        Some(text).filter(|text| text.contains("wasi:nn/graph@0.2.0"))
    });
    assert!(message.contains("imports what this node does not offer"), "{message}");
    let patched = cluster.kubectl_output(&["annotate", "pod", "nn", "sampan.dev/coredump=yes"], "");
    let told = String::from_utf8_lossy(&patched.stderr);
    assert!(patched.status.success() && told.contains("must be true or false"), "{told}");
}
