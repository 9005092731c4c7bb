//! Processes that end when nobody expects it: of the node, of a shim, of the OCI runtime; and programs that do not want to end.

use super::{
    counts::{is_gone, kill},
    support::{Node, can_run, can_run_as_root, exit, state, wait},
};
use container::{ContainerState, ExitReason, Limits, LinuxContainer, LinuxResources, Runtime, Stdin};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

fn started_at(state: &ContainerState) -> std::time::SystemTime {
    let ContainerState::Running { started_at } = state else { panic!("{state:?}") };
    *started_at
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_go_on_without_the_node_and_are_found_again() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let going = node.start("one", node.sh("n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done")).await;
    let ending = node.start("one", node.sh("while [ ! -e /tmp/end ]; do sleep 0.01; done; exit 7")).await;
    let spec = node.sh("true");
    let created = spec.id.clone();
    node.runtime.create(&"one".into(), spec).await.unwrap();
    node.said(&going, "3").await;
    let (before, shim) = (node.state(&going).await, node.shim("one"));
    // a process that was killed does nothing more: neither does this value
    let again = node.again();
    assert_eq!(again.list().await.unwrap().len(), 3);
    assert_eq!(state(&again, &going).await.unwrap(), before, "the same start");
    assert_eq!(state(&again, &created).await, Some(ContainerState::Created));
    let said = node.log(&going).lines().count();
    wait("it says more", || (node.log(&going).lines().count() > said + 3).then_some(())).await;
    let touch = container::Exec { command: vec!["touch".into(), "/tmp/end".into()], tty: false };
    // the end of the program may come before that of the command, which is then killed
    assert!([0, 137].contains(&again.exec(&ending, touch, Default::default()).await.unwrap()));
    assert_eq!(exit(&again, &ending).await.code, 7);
    again.start(&created).await.unwrap();
    assert_eq!(exit(&again, &created).await.code, 0);
    assert_eq!(node.shim("one"), shim);
    again.sandbox(node.sandbox_spec("one"), node.unused.sockets.clone()).await.unwrap();
    assert_eq!(node.shim("one"), shim, "no second shim");
    again.remove_sandbox(&"one".into()).await.unwrap();
    node.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_while_no_node_was_there_are_told_later() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let id = node.start("one", node.sh("sleep 0.3; exit 5")).await;
    let started = started_at(&node.state(&id).await);
    let file = node.options.folder.join("one/containers").join(&*id).join("state.json");
    wait("it ends", || fs::read_to_string(&file).ok().filter(|text| text.contains("Exited"))).await;
    let exit = exit(&node.again(), &id).await;
    assert_eq!((exit.code, exit.reason, exit.started_at), (5, ExitReason::Error, Some(started)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_shim_leaves_is_killed_and_never_doubled() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let id = node.start("one", node.sh("sleep 1000 & sleep 1000 & while :; do sleep 1000; done")).await;
    let ended = node.start("one", node.sh("exit 4")).await;
    node.exit(&ended).await;
    kill(node.shim("one"));
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
    assert!(exit.message.contains("the process of the pod has ended") && exit.started_at.is_some(), "{exit:?}");
    wait("all of it ends", || node.processes().is_empty().then_some(())).await;
    assert_eq!(node.exit(&ended).await.code, 4, "what had ended before keeps its end");
    // the pod goes on with a new shim, which knows the former containers
    node.pod("one").await;
    let (exit, said) = node.run("one", node.sh("echo again; hostname")).await;
    assert_eq!((exit.code, &*said), (0, "again\none\n"));
    assert_eq!(node.exit(&id).await.code, 137);
    node.runtime.remove(&id).await.unwrap();
    assert!(!node.options.folder.join("one/containers").join(&*id).exists());
    node.runtime.remove_sandbox(&"one".into()).await.unwrap();
    node.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_shim_may_both_be_killed() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let id = node.start("one", node.sh("sleep 1000")).await;
    node.pod("two").await;
    let other = node.start("two", node.sh("sleep 1000")).await;
    kill(node.shim("one"));
    let again = node.again();
    assert_eq!(exit(&again, &id).await.code, 137);
    assert!(matches!(state(&again, &other).await, Some(ContainerState::Running { .. })), "another pod's");
    for pod in ["one", "two"] {
        again.remove_sandbox(&pod.into()).await.unwrap();
    }
    node.nothing_is_left().await;
}

/// An OCI runtime that does something else at one of its commands.
fn broken(node_folder: &std::path::Path, at: &str, instead: &str) -> PathBuf {
    let path = node_folder.join(format!("broken-{at}"));
    let script = format!(
        "#!/bin/bash\nfor it in \"$@\"; do if [ \"$it\" = {at} ] && [ -e {0}.on ]; then {instead}; fi; done\nexec runc \"$@\"\n",
        path.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path.with_extension("on"), "").unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_runtime_that_fails_hangs_or_is_killed_is_told() {
    if !can_run() {
        return;
    }
    let scripts = tempfile::tempdir().unwrap();
    let killed = "{ runc \"$@\" & p=$!; sleep 0.01; kill -9 $p; kill -9 $$; }";
    let table = [
        ("create", "exit 1", "OCI runtime create failed: ", "ended with exit code 1"),
        ("create", "sleep 1000", "OCI runtime create failed: ", "did not end within"),
        ("create", killed, "OCI runtime create failed: ", "killed by signal 9"),
        ("create", "exit 0", "OCI runtime create failed: ", "no process was made"),
        ("start", "exit 1", "OCI runtime start failed: ", "ended with exit code 1"),
        ("start", "sleep 1000", "OCI runtime start failed: ", "did not end within"),
        ("start", "kill -9 $$", "OCI runtime start failed: ", "killed by signal 9"),
    ];
    for (at, instead, first, then) in table {
        let tool = broken(scripts.path(), at, instead);
        let node = Node::with(|options| {
            options.oci_runtime = tool.clone();
            options.call_timeout = Duration::from_secs(2);
        })
        .await;
        node.pod("one").await;
        let spec = node.sh("sleep 1000");
        let id = spec.id.clone();
        node.runtime.create(&"one".into(), spec).await.unwrap();
        let error = node.runtime.start(&id).await.unwrap_err().to_string();
        assert!(error.starts_with(first) && error.contains(then), "{at} {instead}: {error}");
        let exit = node.exit(&id).await;
        assert_eq!((exit.code, exit.reason, exit.started_at), (128, ExitReason::StartError, None), "{at} {instead}");
        assert_eq!(exit.message, error);
        node.only_the_shim("one").await;
        // it works again
        fs::remove_file(tool.with_extension("on")).unwrap();
        assert_eq!(node.run("one", node.sh("exit 3")).await.0.code, 3, "{at} {instead}");
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        node.nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_ends_and_is_removed_also_when_it_cannot_be_deleted() {
    if !can_run() {
        return;
    }
    let scripts = tempfile::tempdir().unwrap();
    for instead in ["exit 1", "sleep 1000", "kill -9 $$"] {
        let tool = broken(scripts.path(), "delete", instead);
        let node = Node::with(|options| {
            options.oci_runtime = tool;
            options.call_timeout = Duration::from_secs(1);
        })
        .await;
        node.pod("one").await;
        let id = node.start("one", node.sh("exit 6")).await;
        assert_eq!(node.exit(&id).await.code, 6, "{instead}");
        node.runtime.remove(&id).await.unwrap();
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        node.nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_oci_runtime_it_is_said_what_to_install() {
    if !can_run() {
        return;
    }
    let node = Node::with(|options| options.oci_runtime = "no-such-runtime".into()).await;
    let error = node.runtime.sandbox(node.sandbox_spec("one"), node.unused.sockets.clone()).await.unwrap_err();
    assert!(matches!(error, container::Error::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("install the package runc or crun"), "{error}");
    assert_eq!(node.runtime.health(), Some(error.to_string()));
    let prepared = node.runtime.prepare(&node.artifact(), "", &|_| ()).await.unwrap_err();
    assert_eq!(prepared.to_string(), error.to_string());
    assert!(node.runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_a_stop_is_killed_after_the_grace_period() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let deaf = node.start("one", node.sh("trap '' TERM INT; echo ready; while :; do sleep 0.1; done")).await;
    let polite = node.start("one", node.sh("trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done"));
    let polite = polite.await;
    let mut spec = node.sh("trap 'exit 8' QUIT; trap '' TERM; echo ready; while :; do sleep 0.01; done");
    spec.linux = Some(Box::new(LinuxContainer { stop_signal: "SIGQUIT".into(), ..LinuxContainer::default() }));
    let asked = node.start("one", spec).await;
    for id in [&deaf, &polite, &asked] {
        node.said(id, "ready").await;
    }
    let before = tokio::time::Instant::now();
    let grace = Duration::from_millis(400);
    let stop = |id| node.runtime.stop(id, grace);
    let (one, two, three) = tokio::join!(stop(&deaf), stop(&polite), stop(&asked));
    for stopped in [one, two, three] {
        stopped.unwrap();
    }
    assert!(before.elapsed() >= grace);
    assert_eq!(node.exit(&deaf).await.code, 137);
    assert_eq!((node.exit(&polite).await.code, &*node.log(&polite)), (9, "ready\nbye\n"));
    assert_eq!(node.exit(&asked).await.code, 8);
    // a second stop with less patience counts
    let patient = node.start("one", node.sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")).await;
    node.said(&patient, "ready").await;
    let hour = node.runtime.stop(&patient, Duration::from_secs(3600));
    let sooner = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.runtime.stop(&patient, Duration::ZERO).await
    };
    let (long, short) = tokio::join!(hour, sooner);
    long.unwrap();
    short.unwrap();
    assert_eq!(node.exit(&patient).await.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_forks_without_end_is_bounded_and_ended() {
    if !can_run_as_root() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let mut spec = node.sh("(while :; do sleep 1000 & done) & (while :; do sleep 1000 & done) & exec sleep 1000");
    let resources = LinuxResources { pids: Some(48), ..LinuxResources::default() };
    spec.linux = Some(Box::new(LinuxContainer { resources, ..LinuxContainer::default() }));
    spec.limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let id = node.start("one", spec).await;
    wait("it forks", || (node.processes().len() > 30).then_some(())).await;
    assert!(node.processes().len() <= 48 + 1, "its limit and the shim");
    node.runtime.stop(&id, Duration::ZERO).await.unwrap();
    assert_eq!(node.exit(&id).await.code, 137);
    node.only_the_shim("one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_its_output_goes_on() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let mut spec = node.sh("echo before; exec >&- 2>&- <&-; sleep 0.3; exit 2");
    spec.stdin = Stdin::Open;
    let (exit, said) = node.run("one", spec).await;
    assert_eq!((exit.code, &*said), (2, "before\n"));
    // and a process that keeps the output of a program that has ended does not keep it from ending
    let mut spec = node.sh("sleep 1000 & exit 3");
    spec.linux = Some(Box::default());
    assert_eq!(node.run("one", spec).await.0.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_without_end_fills_no_memory_and_at_most_its_files() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    node.pod("one").await;
    let line = "x".repeat(1000);
    let id = node.start("one", node.sh(&format!("while :; do echo {line}; done"))).await;
    let folder = node.folder.path().join(format!("logs/{id}"));
    let size = || {
        fs::read_dir(&folder)
            .map_or(0, |all| all.flatten().filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum::<u64>())
    };
    wait("it writes much", || (size() > 40 << 20).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(size() <= 51 << 20, "{} bytes in its files", size());
    let memory = fs::read_to_string(format!("/proc/{}/status", node.shim("one"))).unwrap();
    let high =
        memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(high.unwrap() < 40 << 10, "{high:?} KiB");
    // it is still in control
    node.runtime.stop(&id, Duration::ZERO).await.unwrap();
}

/// Not a test: a node in a process of its own, whose folder is this process's. It starts two containers and goes on to make others.
pub async fn node_of_its_own() {
    let folder = std::env::current_dir().unwrap();
    let node = Node::at(&folder).await;
    node.pod("one").await;
    node.start("one", node.sh("n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done")).await;
    node.start("one", node.sh("exit 6")).await;
    fs::write(folder.join("ready"), "").unwrap();
    loop {
        let (_, _) = node.run("one", node.sh("true")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_at_any_time_loses_nothing() {
    if !can_run() {
        return;
    }
    for round in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "node", "--nocapture"])
            .current_dir(folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait("it is ready", || folder.path().join("ready").exists().then_some(())).await;
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let node = Node::at(folder.path()).await;
        let found = node.runtime.list().await.unwrap();
        let of = |id: &str| found.iter().find(|status| *status.id == *id).map(|status| status.state.clone());
        assert!(matches!(of("container-0"), Some(ContainerState::Running { .. })), "{found:?}");
        assert_eq!(node.exit(&"container-1".into()).await.code, 6);
        let said = node.log(&"container-0".into()).lines().count();
        wait("it goes on", || (node.log(&"container-0".into()).lines().count() > said + 2).then_some(())).await;
        // what was about to be made or started is in one state or another, and ends as any other
        for status in &found {
            if matches!(status.state, ContainerState::Created) {
                node.runtime.start(&status.id).await.unwrap();
            }
            if &*status.id != "container-0" {
                assert!([0, 6].contains(&node.exit(&status.id).await.code), "{status:?}");
            }
        }
        node.runtime.remove_sandbox(&"one".into()).await.unwrap();
        node.nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_killed_at_any_time_leaves_nothing() {
    if !can_run() {
        return;
    }
    let node = Node::new().await;
    for round in 0..12 {
        node.pod("one").await;
        let shim = node.shim("one");
        let spec = node.sh("sleep 1000 & sleep 1000");
        let id = spec.id.clone();
        let make = async {
            node.runtime.create(&"one".into(), spec).await?;
            node.runtime.start(&id).await
        };
        let end = async {
            tokio::time::sleep(Duration::from_millis(4 * round)).await;
            kill(shim);
        };
        let _ = tokio::join!(make, end);
        // known or not: it does not run
        wait("the shim has ended", || is_gone(shim).then_some(())).await;
        wait("all of it ends", || node.processes().is_empty().then_some(())).await;
        if let Some(found) = state(&node.runtime, &id).await {
            let exit = match found {
                ContainerState::Exited(exit) => exit,
                _ => node.exit(&id).await,
            };
            assert!([128, 137].contains(&exit.code), "{exit:?}");
        }
        node.pod("one").await;
        assert_eq!(node.run("one", node.sh("exit 3")).await.0.code, 3);
    }
    node.runtime.remove_sandbox(&"one".into()).await.unwrap();
    node.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_is_killed_with_its_pod() {
    if !can_run() {
        return;
    }
    let node = Node::with(|options| options.call_timeout = Duration::from_secs(1)).await;
    node.pod("one").await;
    node.start("one", node.sh("sleep 1000")).await;
    let shim = rustix::process::Pid::from_raw(node.shim("one").cast_signed()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    node.runtime.remove_sandbox(&"one".into()).await.unwrap();
    node.nothing_is_left().await;
}
