//! The ends of children: what they leave behind, and what the node tells.

use crate::support::{Node, core_guest, sample};
use container::{ContainerState, ExitReason, Runtime};
use std::{process::Command, time::Duration};

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Waits until so many children of this program exist that were not there before.
async fn wait_for(new: usize, before: &[u32]) -> Vec<u32> {
    for _ in 0..1000 {
        let found: Vec<u32> = Node::children().into_iter().filter(|pid| !before.contains(pid)).collect();
        if found.len() == new {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there are not {new} children");
}

// One test, since it counts processes of the whole program; run alone by its name, it sees only its own.
#[test]
fn children_are_killed_and_leave_nothing() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "ends::alone", "--nocapture"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test in a process of its own"]
async fn alone() {
    let node = Node::new().await;
    assert_eq!(Node::children(), [0; 0]);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    node.pod("warm", &[]).await;
    let warm = node.start("warm", node.spec(&core_guest(), &["main", "e0"])).await;
    node.exit(&warm).await;
    node.runtime.remove_sandbox(&"warm".into()).await.unwrap();
    let before = descriptors();

    // A child that is killed ends its containers, and only those.
    let address = node.pod("one", &[]).await;
    let [child] = wait_for(1, &[]).await[..] else { panic!("one child") };
    node.pod("two", &[]).await;
    let mut waiting = node.spec(&core_guest(), &["main", "w"]);
    waiting.stdin = container::Stdin::Open;
    let mut other = waiting.clone();
    other.id = "other".into();
    let (id, other) = (node.start("one", waiting).await, node.start("two", other).await);
    let server = node.start("one", node.spec(&sample("hello/hello.wasm"), &[])).await;
    let ended = node.start("one", node.spec(&core_guest(), &["main", "e3"])).await;
    assert_eq!(node.exit(&ended).await.code, 3);
    kill(child);
    for id in [&id, &server] {
        let exit = node.exit(id).await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
        assert!(exit.message.contains("the process of the pod ended by signal 9"), "{}", exit.message);
        assert!(exit.started_at.is_some());
    }
    assert_eq!(node.exit(&ended).await.code, 3, "what had ended has ended as it did");
    assert!(matches!(node.state(&other).await, ContainerState::Running { .. }));
    let refused = container::net::Dialer::reachable(&node.network, (address, 80).into()).await;
    assert!(refused.is_err(), "its port is free");

    // The next attempt gets a new child, by the same calls.
    node.pod("one", &[]).await;
    let again = node.start("one", node.spec(&sample("hello/hello.wasm"), &[])).await;
    assert!(matches!(node.state(&again).await, ContainerState::Running { .. }));
    assert!(container::net::Dialer::reachable(&node.network, (address, 80).into()).await.is_ok());

    for pod in ["one", "two"] {
        node.runtime.remove_sandbox(&pod.into()).await.unwrap();
    }
    assert!(node.runtime.list().await.unwrap().is_empty());
    wait_for(0, &[]).await;
    for _ in 0..500 {
        if descriptors() <= before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors are left, {before} were there", descriptors());
}
