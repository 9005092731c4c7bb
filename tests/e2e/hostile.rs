//! A hundred hostile pods at once: what stays as it is beside them, and how they end. The bench `hostile` measures thousands. Bounds on time
//! only tell alive from dead.

use crate::{
    harness::*,
    hostile_guests::{Kind, TIMER, kinds, services},
};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// How many hostile pods there are, or some more: there is one of each kind at least.
const PODS: usize = 100;

/// How long an answer may take on a machine that is busy.
const ALIVE: Duration = Duration::from_secs(20);

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
}

fn count(pid: u32, folder: &str) -> usize {
    Path::new(&format!("/proc/{pid}/{folder}")).read_dir().expect("it runs").count()
}

/// The pods of a kind, as a ReplicaSet.
fn replicas(kind: &Kind) -> Value {
    let pod = kind.pod(0);
    let template = json!({"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]});
    let meta = json!({"name": kind.name, "labels": {"hostile": "true"}});
    let selector = json!({"matchLabels": {"app": kind.name}});
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta,
        "spec": {"replicas": kind.of(PODS), "selector": selector, "template": template}})
}

#[test]
fn a_hundred_hostile_pods_end_as_upstreams_do_and_no_answer_is_lost() {
    if kubectl().is_none() {
        return;
    }
    let (machine, kinds) = (Machine::new(), kinds());
    let load = |name: &str, file: &str| {
        let loaded = machine.run(&["image", "load", file, "-t", &format!("{name}:1")]);
        assert!(loaded.status.success(), "{name}: {}", String::from_utf8_lossy(&loaded.stderr));
    };
    let hello = sample("hello", &machine.path("work")).join("hello.wasm");
    load("hello", &hello.display().to_string());
    let texts = kinds.iter().map(|kind| (kind.name, &*kind.text)).chain([("timer", TIMER)]);
    for (name, text) in texts {
        fs::write(machine.path("work").join(format!("{name}.wat")), text).expect("written");
        load(name, &format!("{name}.wat"));
    }
    let cluster = machine.up(&["--cpu", "4"]);
    let good = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "good", "labels": {"app": "good"}}, "spec": {"containers": [
        {"name": "c", "image": "hello:1", "ports": [{"containerPort": 8080}], "resources": {"requests": {"cpu": "100m"}}}]}});
    let port = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "good"}, "spec": {"type": "NodePort",
        "selector": {"app": "good"}, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30081}]}});
    let timer = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "timer"}, "spec": {"containers": [
        {"name": "c", "image": "timer:1", "resources": {"requests": {"cpu": "100m"}}}]}});
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let others = services().into_iter().chain([good, port, timer]).collect();
    cluster.kubectl_with(&["create", "-f", "-"], &list(others));
    let url = format!("http://{}:30081/", machine.address);
    cluster.eventually("the good guest answers", || get(&url).ok().filter(|(code, _)| *code == 200));
    let before = resident(cluster.pid());
    let most: u64 = kinds.iter().map(|kind| kind.of(PODS) as u64 * u64::from(kind.memory)).sum();
    cluster.kubectl_with(&["create", "-f", "-"], &list(kinds.iter().map(replicas).collect()));

    // Answers come, and are right, until each kind has ended as it should.
    let (begin, answers) = (Instant::now(), Cell::new(0));
    let ask = || {
        let start = Instant::now();
        let (code, body) = get(&url).expect("an answer of the good guest");
        assert!(code == 200 && body.starts_with("Hello from good"), "{code} {body}");
        assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
        assert!(start.elapsed() < ALIVE, "{:?} for two answers", start.elapsed());
        answers.set(answers.get() + 1);
    };
    let wrong = |kind: &Kind, all: &[Value]| {
        let mine: Vec<_> = all.iter().filter(|pod| pod["metadata"]["labels"]["app"] == kind.name).collect();
        let so = mine.iter().filter(|pod| kind.is_right(pod)).count();
        // an evicted pod is replaced
        (so < kind.of(PODS)).then(|| format!("{}: {so} of {} {:?}", kind.name, mine.len(), kind.end))
    };
    loop {
        ask();
        let text = cluster.kubectl(&["get", "pods", "-l", "hostile=true", "-o", "json"]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let all = all["items"].as_array().cloned().expect("a list");
        let missing: Vec<_> = kinds.iter().filter_map(|kind| wrong(kind, &all)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(begin.elapsed() < 2 * TIMEOUT, "after {:?}: {missing:#?}", begin.elapsed());
    }
    (0..20).for_each(|_| ask());
    let ready = cluster.field("nodes", "{.items[0].status.conditions[?(@.type==\"Ready\")].status}");
    assert_eq!(ready, "True");
    assert_eq!(cluster.field("pod/good", "{.status.containerStatuses[0].restartCount}"), "0");
    let late = cluster.kubectl(&["logs", "timer", "--tail=20"]);
    assert!(late.lines().filter_map(|line| line.parse::<u64>().ok()).count() >= 19, "{late}");
    let (during, threads, files) = (resident(cluster.pid()), count(cluster.pid(), "task"), count(cluster.pid(), "fd"));
    eprintln!("{} answers; {before} MiB before, {during} beside; {threads} threads, {files} files", answers.get());
    assert!(during < before + most + 300, "{during} MiB, where guests may have {most}");
    assert!(threads < 600, "{threads} threads");

    let deleted = Instant::now();
    cluster.kubectl(&["delete", "replicasets", "-l", "hostile=true"]);
    cluster.eventually("they are gone", || {
        Some(()).filter(|()| cluster.kubectl(&["get", "pods", "-l", "hostile=true", "-o", "name"]).is_empty())
    });
    ask();
    eprintln!("gone after {:?}", deleted.elapsed());
    cluster.eventually("what they had is given back", || {
        Some(()).filter(|()| resident(cluster.pid()) < before + 200 && count(cluster.pid(), "fd") < 200)
    });
}
