//! The life of a cluster: first start, the sample, Ctrl-C, restart, kill, what a second `up` is told.

use crate::harness::*;
use std::{collections::BTreeSet, fs, net::TcpListener};

fn samples(machine: &Machine, name: &str) -> String {
    for each in ["hello", "fetch", "count"] {
        sample(each, &machine.path("work"));
    }
    machine.path("work").join(name).display().to_string()
}

fn url(cluster: &Cluster<'_>) -> String {
    format!("http://{}:30080/", cluster.machine.address)
}

#[test]
fn one_command_runs_the_sample_and_ctrl_c_ends_it() {
    let machine = Machine::new();
    let folder = samples(&machine, "hello");
    let mut cluster = machine.up(&["-f", &folder]);
    cluster.wait_for_line("applied");
    cluster.wait_for_line("export KUBECONFIG=");
    assert!(
        cluster.output.iter().any(|line| line.contains(&format!("http://{}:30080", machine.address))),
        "the URL is printed"
    );
    let mut pods = BTreeSet::new();
    for _ in 0..30 {
        let (code, body) = get(&url(&cluster)).expect("answered");
        assert_eq!(code, 200, "{body}");
        pods.insert(body.strip_prefix("Hello from hello-").expect("the pod's name").to_owned());
    }
    assert_eq!(pods.len(), 3, "the pods answer in turn: {pods:?}");
    assert_eq!(cluster.interrupt(), 0);
    assert!(!machine.path(".kube").exists(), "nobody's kubeconfig is touched");
}

#[test]
fn a_restart_resumes_the_same_pods() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    let folder = samples(&machine, "hello");
    let mut cluster = machine.up(&["-f", &folder]);
    cluster.wait_for_line("applied");
    let names = |cluster: &Cluster<'_>| {
        cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "app=hello",
            "-o",
            "jsonpath={range .items[*]}{.metadata.uid} {.status.podIP}{\"\\n\"}{end}",
        ])
    };
    let before = names(&cluster);
    assert_eq!(cluster.interrupt(), 0);
    let cluster = machine.up(&[]);
    cluster.eventually("the Service answers again", || get(&url(&cluster)).ok().filter(|(code, _)| *code == 200));
    assert_eq!(names(&cluster), before, "uid and address are kept");
    let restarts = cluster.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=hello",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
    ]);
    assert_eq!(restarts, "0 0 0", "a planned stop alarms nobody");
}

#[test]
fn a_url_is_printed_after_a_restart_only_when_it_is_served_again() {
    let machine = Machine::new();
    let folder = samples(&machine, "hello");
    for _ in 0..3 {
        let mut cluster = machine.up(&["-f", &folder]);
        cluster.wait_for_line("hello  http://");
        for _ in 0..6 {
            let answer = get(&url(&cluster));
            assert!(answer.as_ref().is_ok_and(|(code, _)| *code == 200), "{answer:?}: {:#?}", cluster.output);
        }
        assert_eq!(cluster.interrupt(), 0);
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    for round in 0..3 {
        let cluster = machine.up(&[]);
        for earlier in 0..round {
            assert_eq!(cluster.field(&format!("configmap/c{earlier}"), "{.data.k}"), "v");
        }
        cluster.kubectl(&["create", "configmap", &format!("c{round}"), "--from-literal=k=v"]);
        cluster.kill();
    }
}

#[test]
fn a_second_up_says_who_holds_the_data_and_a_taken_port_how_to_choose_another() {
    let machine = Machine::new();
    let cluster = machine.up(&[]);
    let said = [&[][..], &["--detach"]].map(|detach| {
        let second = machine.run(&[&["up", "--listen", &format!("{}:0", machine.address)], detach].concat());
        assert_eq!(second.status.code(), Some(1));
        String::from_utf8_lossy(&second.stderr).into_owned()
    });
    assert!(said[0].contains(&format!("process {}", cluster.pid())) && said[0].contains("sampan down"), "{}", said[0]);
    assert_eq!(said[0], said[1], "in the background as in the foreground");
    drop(cluster);

    let other = Machine::new();
    let taken = TcpListener::bind(format!("{}:0", other.address)).expect("free");
    let address = taken.local_addr().expect("bound").to_string();
    let refused = other.run(&["up", "--listen", &address]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    let machine = Machine::new();
    assert_eq!(machine.run(&["up", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(machine.run(&["get", "pods"]).status.code(), Some(1), "no cluster");
    assert_eq!(machine.run(&["up", "-f", "absent.yaml"]).status.code(), Some(1));
    assert_eq!(machine.run(&["version"]).status.code(), Some(0));
    assert!(!machine.run(&["completions", "bash"]).stdout.is_empty());
}

#[test]
fn detach_returns_when_ready_and_down_when_gone() {
    let machine = Machine::new();
    let up = machine.run(&[
        "up",
        "--detach",
        "--listen",
        &format!("{}:0", machine.address),
        "--node-address",
        &machine.address,
    ]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    assert!(String::from_utf8_lossy(&up.stdout).starts_with("ready https://"));
    let get = machine.run(&["get", "namespaces", "-o", "name"]);
    assert!(
        String::from_utf8_lossy(&get.stdout).contains("namespace/default"),
        "{}",
        String::from_utf8_lossy(&get.stderr)
    );
    assert!(machine.run(&["down"]).status.success());
    assert!(machine.run(&["down"]).status.success(), "down is idempotent");
    let mut cluster = machine.up(&[]);
    cluster.output.clear();
    assert_eq!(cluster.interrupt(), 0, "the lock was free");
}

#[test]
fn keys_are_private_and_readable_ones_refused() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    drop(machine.up(&[]));
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&machine.data()), 0o700);
    for file in fs::read_dir(machine.data().join("pki")).expect("pki") {
        assert_eq!(mode(&file.expect("an entry").path()), 0o600);
    }
    assert_eq!(mode(&machine.kubeconfig()), 0o600);
    fs::set_permissions(machine.data(), fs::Permissions::from_mode(0o755)).expect("opened");
    let refused = machine.run(&["up", "--listen", &format!("{}:0", machine.address)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chmod 700"));
}

#[test]
fn images_are_loaded_with_the_cluster_down_and_up() {
    let machine = Machine::new();
    let folder = samples(&machine, "hello");
    let load = |tag: &str| machine.run(&["image", "load", &format!("{folder}/hello.wasm"), "-t", tag]);
    assert!(load("early:1").status.success(), "{}", String::from_utf8_lossy(&load("early:1").stderr));
    let cluster = machine.up(&[]);
    assert!(load("late:1").status.success());
    let list = String::from_utf8_lossy(&machine.run(&["image", "ls"]).stdout).into_owned();
    assert!(list.contains("early") && list.contains("late"), "{list}");
    if kubectl().is_some() {
        cluster.kubectl(&["run", "late", "--image=late:1"]);
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=60s"]);
        cluster.kubectl(&["run", "gone", "--image=gone"]);
        let message = cluster.eventually("a failed pull names image load", || {
            let text = cluster.field("pod/gone", "{.status.containerStatuses[0].state.waiting.message}");
            Some(text).filter(|t| t.contains("sampan image load"))
        });
        assert!(message.contains("gone"), "{message}");
    }
    assert!(machine.run(&["image", "rm", "early:1"]).status.success());
    assert_eq!(machine.run(&["image", "rm", "early:1"]).status.code(), Some(1), "it is gone");
}
