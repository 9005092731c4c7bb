//! The same for a user without any right: one user in a namespace, and no cgroups.

use super::support::{Node, can_run, is_root, shim};
use container::{ExitReason, LinuxContainer, Processes, Runtime, net::Sandbox};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// The suite as uid 65534, which has no right on this machine; without the tests of limits.
#[test]
fn nobody_runs_containers_too() {
    if !can_run() {
        return;
    }
    if !is_root() {
        return eprintln!("SKIPPED: only root can become nobody");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::copy(shim(), folder.path().join("runc-shim")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&program);
    command.args(["--skip", "memory_above_the_limit", "--skip", "nobody_runs", "--skip", "figures::"]);
    command.current_dir(folder.path()).env("TMPDIR", folder.path()).env_remove("SAMPAN_TEST_REQUIRE");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("as nobody: {}", text.lines().rfind(|line| line.starts_with("test result")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_is_user_0_and_no_other() {
    if !can_run() || is_root() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let (exit, said) = node.run("one", node.sh("id -u; echo x >/tmp/x && ls /dev/null /sys/class/net; hostname")).await;
    assert_eq!(
        (exit.code, exit.reason, &*said),
        (0, ExitReason::Completed, "0\n/dev/null\n\n/sys/class/net:\nlo\none\n")
    );
    let mut spec = node.sh("true");
    let mut linux = LinuxContainer::default();
    linux.user.of_image = "web".into();
    spec.linux = Some(Box::new(linux));
    let error = node.runtime.create(&"one".into(), spec).await.unwrap_err().to_string();
    assert!(error.contains("user 33 and group 33") && error.contains("install the package uidmap"), "{error}");
    let id = node.start("one", node.sh("sleep 1000")).await;
    let limits = container::Limits { memory_bytes: Some(1 << 20), ..Default::default() };
    let error = node.runtime.update_limits(&id, limits).await.unwrap_err();
    assert!(matches!(error, container::Error::Unsupported(_)), "{error}");
    let mut host = node.sandbox_spec("host");
    host.linux.processes = Processes::Host;
    let error = node.runtime.sandbox(host, node.unused.sockets.clone()).await.unwrap_err().to_string();
    assert!(error.contains("needs root"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_namespace_comes_with_the_user_namespace_that_owns_it() {
    if !can_run() || is_root() {
        return;
    }
    let node = Node::new().await;
    let mut command = Command::new("unshare");
    command.args([
        "-Urn",
        "sh",
        "-c",
        "ip link set lo up; echo 7 >/proc/sys/net/ipv4/ip_unprivileged_port_start; echo; exec sleep 1000",
    ]);
    let mut holder = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let mut spec = node.sandbox_spec("one");
    spec.network = Sandbox::Namespace(format!("/proc/{}/ns/net", holder.id()).into());
    node.runtime.sandbox(spec, node.unused.sockets.clone()).await.unwrap();
    let (_, said) = node.run("one", node.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")).await;
    assert_eq!(said, "7\n");
    holder.kill().unwrap();
    holder.wait().unwrap();
}
