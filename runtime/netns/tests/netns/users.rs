//! The same for a user without any right, and where namespaces are forbidden.

use crate::support::{can, helper, options};
use netns::{Error, Node};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// The whole suite as uid 65534, which has no right on this machine.
#[test]
fn everything_works_for_nobody() {
    if !rustix_is_root() {
        return eprintln!("SKIPPED: only root can become nobody");
    }
    if !can(&["setpriv"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::copy(helper(), folder.path().join("netns-helper")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&program);
    command.args(["--skip", "everything_works_for_nobody", "--skip", "figures::"]);
    let output = command.current_dir(folder.path()).env("TMPDIR", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("as nobody: {}", text.lines().rfind(|line| line.starts_with("test result")).unwrap());
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// Not a test: run where no network namespace may be made.
#[tokio::test]
#[ignore = "started by another test in a user namespace without network namespaces"]
async fn without_namespaces() {
    match Node::open(options(None)).await.map(drop) {
        Err(Error::Unsupported(text)) => assert!(text.contains("user.max_net_namespaces"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn where_namespaces_are_forbidden_it_says_what_to_change() {
    if !can(&["unshare"]) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    // the limit is of this user namespace only
    let script =
        "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" --exact --ignored users::without_namespaces";
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", script]).arg(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
