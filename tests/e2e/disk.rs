//! What a cluster does where nothing can be written: a standard error that takes nothing, a full disk.

use crate::{
    cli::{fails, succeeds},
    harness::{Bounded, Cluster, Machine, SmallDisk, TIMEOUT, alone, kubectl},
};
use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

#[test]
fn a_standard_error_that_takes_nothing_ends_no_task() {
    let Some(_) = kubectl() else { return };
    let machine = Machine::new();
    let listen = format!("{}:0", machine.address);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = machine.sampan(&["up", "-vv", "--listen", &listen, "--node-address", &machine.address]);
    let mut child = command.stdout(Stdio::null()).stderr(full).spawn().expect("the binary starts");
    let run = |args: &[&str]| {
        let mut command = Command::new(kubectl().expect("checked"));
        command.args(args).env("KUBECONFIG", machine.kubeconfig()).env("HOME", machine.path("work"));
        command.bounded()
    };
    let until = |what: &str, args: &[&str], holds: &dyn Fn(&str) -> bool| {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let output = run(args);
            if output.status.success() && holds(&String::from_utf8_lossy(&output.stdout)) {
                return;
            }
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    until("ready", &["get", "--raw", "/readyz"], &|text| text == "ok");
    until("made", &["create", "deployment", "w", "--image=127.0.0.1:1/none:1"], &|_| true);
    // Controllers, scheduler and agent log each of these.
    let waiting = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
    until("the agent works", &["get", "pods", "-o", waiting], &|text| text.contains("Err") || text.contains("BackOff"));
    until("the lease is kept", &["get", "leases", "-A", "-o", "name"], &|text| !text.is_empty());
    assert!(child.try_wait().expect("a child").is_none(), "it ended");
    let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
    child.wait().expect("reaped");
}

/// Writes 40 MiB to its volume, which is listed after the root, or as much as it is granted, and stays.
const EATER: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 32)
  (data (i32.const 0) "f")
  (data (i32.const 16) "\00\00\01\00\00\00\10\00")
  (func (export "_start") (local $i i32)
    (if (call $open (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 64)) (then (unreachable)))
    (loop $more
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.and (i32.eqz (call $write (i32.load (i32.const 64)) (i32.const 16) (i32.const 1) (i32.const 68))) (i32.lt_u (local.get $i) (i32.const 40)))))
    ;; a clock, for 10 s
    (i64.store (i32.const 152) (i64.const 10000000000))
    (loop $stay (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 64))) (br $stay))))"#;

const EATS: &str = "apiVersion: v1
kind: Pod
metadata: {name: eater}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'eater:1', volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, emptyDir: {}}]
";

/// A ConfigMap of 200 KB.
fn large(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{x: \"{}\"}}\n", "x".repeat(200_000))
}

/// Makes ConfigMaps until one is refused: how many there are, and the words of the refusal. The store has free pages in its file, and what
/// is kept back for deletions is taken too, so that it may take as many as its disk holds.
fn until_refused(cluster: &Cluster<'_>, name: &str) -> (usize, String) {
    const MOST: usize = 128 * 1024 * 1024 / 200_000;
    for n in 0..MOST {
        let output = cluster.kubectl_output(&["create", "-f", "-"], &large(&format!("{name}-{n}")));
        if !output.status.success() {
            return (n, String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    panic!("a full disk took {MOST} of 200 KB");
}

fn disk_pressure(cluster: &Cluster<'_>, status: &str) {
    let path = r#"{.items[0].status.conditions[?(@.type=="DiskPressure")].status} {.items[0].status.conditions[?(@.type=="DiskPressure")].reason}"#;
    let reason = if status == "True" { "KubeletHasDiskPressure" } else { "KubeletHasNoDiskPressure" };
    cluster.eventually(&format!("DiskPressure {status}"), || {
        (cluster.field("nodes", path) == format!("{status} {reason}")).then_some(())
    });
}

fn writes_again(cluster: &Cluster<'_>, name: &str) {
    cluster.eventually("it takes writes again", || {
        cluster.kubectl_output(&["create", "-f", "-"], &large(name)).status.success().then_some(())
    });
    cluster.eventually("ready", || {
        cluster.kubectl_output(&["get", "--raw", "/readyz"], "").status.success().then_some(())
    });
}

#[test]
fn a_full_disk_is_told_takes_deletions_and_is_over_when_there_is_room() {
    let Some(_) = kubectl() else { return };
    if !alone("disk::a_full_disk_is_told_takes_deletions_and_is_over_when_there_is_room") {
        return;
    }
    let machine = Machine::new();
    let disk = SmallDisk::mount(machine.data(), 128);
    fs::write(machine.path("work").join("eater.wat"), EATER).expect("written");
    succeeds(&machine, &["image", "load", "eater.wat", "-t", "eater:1"]);
    let cluster = machine.up(&[]);
    writes_again(&cluster, "before");

    // Somebody else fills it.
    let filled = disk.fill();
    let (count, refusal) = until_refused(&cluster, "a");
    let (begun, spent) = (Instant::now(), cluster.cpu());
    assert!(refusal.contains("nothing was stored: the disk of the store is full; free some space on it"), "{refusal}");
    assert_eq!(cluster.field("cm/before", "{.metadata.name}"), "before", "it is read");
    let ready =
        String::from_utf8_lossy(&cluster.kubectl_output(&["get", "--raw", "/readyz?verbose"], "").stderr).into_owned();
    assert!(ready.contains("[-]store failed"), "{ready}");
    disk_pressure(&cluster, "True");
    for n in 0..count {
        cluster.kubectl(&["delete", "cm", &format!("a-{n}")]);
    }
    cluster.kubectl(&["delete", "cm", "before"]);
    let (took, spent) = (begun.elapsed().as_secs_f64(), cluster.cpu() - spent);
    assert!(spent < 1.0 + took / 4.0, "{spent} s of processor time in {took} s");
    drop(filled);
    writes_again(&cluster, "after");
    let events = |reason: &str| {
        cluster.eventually(reason, || {
            let selector = format!("reason={reason},involvedObject.kind=Node");
            let found = cluster.kubectl(&[
                "get",
                "events",
                "-A",
                "--field-selector",
                &selector,
                "-o",
                "jsonpath={.items[*].message}",
            ]);
            Some(found).filter(|found| !found.is_empty())
        })
    };
    assert!(events("StoreRecovered").contains("it did not: "));
    disk_pressure(&cluster, "False");

    // A pod has taken much of it: it is evicted, and that is enough.
    cluster.kubectl_with(&["apply", "-f", "-"], EATS);
    let uid = cluster.field("pod/eater", "{.metadata.uid}");
    let file = machine.data().join("pods/volumes").join(uid).join("v/f");
    cluster.eventually("it has eaten", || fs::metadata(&file).is_ok_and(|file| file.len() == 40 << 20).then_some(()));
    let filled = disk.fill();
    cluster.eventually("it is evicted", || {
        let status = cluster.field("pod/eater", "{.status.phase} {.status.reason} {.status.message}");
        status.starts_with("Failed Evicted The node was low on resource: ephemeral-storage. ").then_some(())
    });
    writes_again(&cluster, "evicted");
    assert!(!file.exists());
    events("EvictionThresholdMet");
    disk_pressure(&cluster, "False");
    cluster.kubectl(&["delete", "pod", "eater"]);
    drop(filled);
    assert_eq!(cluster.interrupt(), 0);
}

#[test]
fn a_cluster_that_was_stopped_starts_though_its_disk_was_filled_meanwhile() {
    let Some(_) = kubectl() else { return };
    if !alone("disk::a_cluster_that_was_stopped_starts_though_its_disk_was_filled_meanwhile") {
        return;
    }
    let machine = Machine::new();
    let disk = SmallDisk::mount(machine.data(), 64);
    let all: Vec<String> = (0..25).map(|n| large(&format!("before-{n}"))).collect();
    let names: Vec<String> = (0..25).map(|n| format!("before-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Each start has the same address: a kubeconfig that need not be written again needs no space.
    let free = std::net::TcpListener::bind(format!("{}:0", machine.address)).expect("free");
    let at = free.local_addr().expect("bound").to_string();
    drop(free);
    let cluster = machine.up_at(&at, &[]);
    cluster.kubectl_with(&["create", "-f", "-"], &all.join("---\n"));
    assert_eq!(cluster.interrupt(), 0);

    let filled = disk.fill();
    // A start that fails says why, although its log takes nothing.
    let taken = std::net::TcpListener::bind(format!("{}:0", machine.address)).expect("free");
    let listen = taken.local_addr().expect("bound").to_string();
    let told = fails(&machine, &["up", "--detach", "--listen", &listen, "--node-address", &machine.address]);
    let why = told.lines().filter(|line| line.starts_with("error: ") && line.contains(&listen)).count();
    assert_eq!(why, 1, "{told}");

    let cluster = machine.up_at(&at, &[]);
    assert_eq!(cluster.field("cm/before-7", "{.metadata.name}"), "before-7");
    let (_, refusal) = until_refused(&cluster, "a");
    assert!(refusal.contains("nothing was stored: the disk of the store is full"), "{refusal}");
    cluster.kubectl(&[&["delete", "cm"], &names[..10]].concat());
    assert_eq!(cluster.interrupt(), 0);
    let cluster = machine.up_at(&at, &[]);
    assert_eq!(cluster.field("cm/before-17", "{.metadata.name}"), "before-17");
    drop(filled);
    writes_again(&cluster, "after");
}
