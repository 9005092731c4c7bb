//! What a cluster does where nothing can be written: a standard error that takes nothing.

use crate::harness::{Machine, PATIENCE, kubectl};
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
