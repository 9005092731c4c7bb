//! What a cluster does where nothing can be written: a full disk, and a standard error that takes nothing.

use crate::harness::{Cluster, Machine, PATIENCE, kubectl, tool};
use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

/// Limits the files of the process, which is a disk that is full as far as it can tell.
fn limit(cluster: &Cluster<'_>, bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &cluster.pid().to_string(), &format!("--fsize={bytes}:unlimited")])
        .status()
        .expect("prlimit runs");
    assert!(status.success(), "prlimit");
}

fn large(name: &str) -> String {
    let text = "x".repeat(200_000);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"x":"{text}"}}}}"#)
}

#[test]
fn a_full_disk_is_told_takes_deletions_and_mends_itself() {
    let (Some(_), Some(_)) = (kubectl(), tool("PRLIMIT", "prlimit")) else { return };
    let machine = Machine::new();
    let cluster = machine.up(&[]);
    limit(&cluster, &(5 << 20).to_string());
    let mut made = Vec::new();
    let refused = loop {
        let name = format!("m{}", made.len());
        let output = cluster.kubectl_output(&["create", "-f", "-"], &large(&name));
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        made.push(name);
        assert!(made.len() < 100, "the limit is not felt");
    };
    assert!(refused.contains("nothing was stored: the disk of the store is full"), "{refused}");
    let ready = String::from_utf8_lossy(&cluster.kubectl_output(&["get", "--raw", "/readyz"], "").stderr).into_owned();
    assert!(ready.contains("[-]store failed: not every write can be stored: "), "{ready}");
    cluster.eventually("the node says so", || {
        let path = "{.items[0].status.conditions[?(@.type=='DiskPressure')].status}";
        (cluster.field("nodes", path) == "True").then_some(())
    });
    // What makes the store no larger is taken, and the process does not spin meanwhile.
    let busy = cpu(&cluster);
    let began = Instant::now();
    cluster.kubectl(&["delete", "configmap", &made[0]]);
    cluster.kubectl(&["annotate", "configmap", &made[1], "a=b"]);
    std::thread::sleep(std::time::Duration::from_secs(3)); // the time over which its CPU is counted
    let share = (cpu(&cluster) - busy) / began.elapsed().as_secs_f64();
    assert!(share < 0.7, "{share} CPUs while nothing can be written");
    limit(&cluster, "unlimited");
    cluster.eventually("writes work again", || {
        cluster.kubectl_output(&["create", "-f", "-"], &large("again")).status.success().then_some(())
    });
    cluster.eventually("an event tells of it", || {
        let events = cluster.kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"]);
        events.contains("StoreRecovered").then_some(())
    });
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]).trim(), "ok");
    // What was acknowledged is there, also after a kill.
    cluster.kill();
    let cluster = machine.up(&[]);
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in made[1..].iter().map(String::as_str).chain(["again"]) {
        assert!(names.lines().any(|line| line == format!("configmap/{name}")), "{name}: {names}");
    }
    assert!(!names.lines().any(|line| line == format!("configmap/{}", made[0])), "{names}");
    assert_eq!(cluster.interrupt(), 0);
}

/// Seconds of CPU that the process has used.
fn cpu(cluster: &Cluster<'_>) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", cluster.pid())).expect("it runs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("the fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

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
        command.output().expect("kubectl runs")
    };
    let until = |what: &str, args: &[&str], holds: &dyn Fn(&str) -> bool| {
        let deadline = Instant::now() + PATIENCE;
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
