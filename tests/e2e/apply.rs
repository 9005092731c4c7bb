//! Applying and waiting: what is replaced, what is told, and whose trouble it is.

use crate::{
    cli::{error, fails, succeeds},
    harness::*,
};
use std::{fs, time::Duration};

const TRAP: &str = "(module (func (export \"_start\") unreachable))";
const SPIN: &str = "(module (func (export \"_start\") (loop $l (br $l))))";

fn write(machine: &Machine, name: &str, text: &str) {
    fs::write(machine.path("work").join(name), text).expect("written");
}

/// A Job that traps, or one that runs for ever.
fn job(image: &str, annotation: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec:\n  backoffLimit: 0\n  template:\n    metadata: {{annotations: {{a: \"{annotation}\"}}}}\n    \
         spec: {{restartPolicy: Never, containers: [{{name: c, image: {image}, resources: {{limits: {{cpu: 10m}}}}}}]}}\n"
    )
}

#[test]
fn a_job_that_is_over_is_replaced_and_one_that_runs_is_told_about_in_one_line() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    write(&machine, "trap.wat", TRAP);
    write(&machine, "spin.wat", SPIN);
    write(&machine, "j.yaml", &job("./trap.wat", "1"));
    let failed = fails(&machine, &["apply", "-f", "j.yaml", "--wait"]);
    assert!(failed.contains("job.batch/j: Failed"), "{failed}");
    write(&machine, "j.yaml", &job("./spin.wat", "2"));
    assert_eq!(succeeds(&machine, &["apply", "-f", "j.yaml"]), "job.batch/j replaced\n");
    write(&machine, "j.yaml", &job("./spin.wat", "3"));
    let running = fails(&machine, &["apply", "-f", "j.yaml"]);
    assert!(
        running.contains("job.batch/j is still running") && running.contains("sampan delete -n default job j"),
        "{running}"
    );
    assert!(running.len() < 300 && running.lines().count() == 1, "{running}");
}

/// A Deployment of one pod with the label that the other one has too.
fn deployment(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: same}}}}\n  template:\n    \
         metadata: {{labels: {{app: same}}}}\n    spec: {{containers: [{{name: c, image: {image}{more}}}]}}\n"
    )
}

#[test]
fn a_failing_probe_is_told_and_another_deployment_with_the_same_labels_is_not_blamed() {
    let machine = Machine::new();
    sample("hello", &machine.path("work"));
    let _cluster = machine.up(&[]);
    write(&machine, "trap.wat", TRAP);
    write(&machine, "trap.yaml", &deployment("trap", "./trap.wat", ""));
    let crashing = fails(&machine, &["apply", "-f", "trap.yaml", "--wait"]);
    assert!(crashing.contains("CrashLoopBackOff") && crashing.contains("logs -n default trap-"), "{crashing}");
    let probe = ", ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}";
    write(&machine, "slow.yaml", &deployment("slow", "./hello/hello.wasm", probe));
    let slow = fails(&machine, &["apply", "-f", "slow.yaml", "--wait", "--timeout", "30s"]);
    assert!(slow.contains("Unhealthy: Readiness probe failed"), "{slow}");
    assert!(slow.contains("not ready after 30 s: deployment.apps/slow: pod/slow-"), "{slow}");
    assert!(!slow.contains("CrashLoopBackOff") && !slow.contains("pod/trap-"), "{slow}");
}

#[test]
fn what_no_node_has_is_told_at_once() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    write(&machine, "spin.wat", SPIN);
    write(&machine, "big.yaml", &deployment("big", "./spin.wat", ", resources: {requests: {cpu: 6400}}"));
    let start = std::time::Instant::now();
    let big = fails(&machine, &["apply", "-f", "big.yaml", "--wait", "--timeout", "10m"]);
    assert!(start.elapsed() < Duration::from_secs(120), "not after the whole patience: {big}");
    assert!(big.contains("it requests 6400000m of cpu, and no node has more than "), "{big}");
    assert!(big.contains("it will not recover"), "{big}");
}

#[test]
fn a_changed_config_map_names_who_has_its_old_values() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let _cluster = machine.up(&[]);
    succeeds(&machine, &["apply", "-f", "hello"]);
    write(&machine, "c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hello}\ndata: {GREETING: Ahoy}\n");
    let changed = machine.run(&["apply", "-f", "c.yaml"]);
    let said = error(&changed);
    assert!(
        changed.status.success() && said.contains("/kubeconfig rollout restart -n default deployment/hello"),
        "{said}"
    );
    assert!(!error(&machine.run(&["apply", "-f", "c.yaml"])).contains("rollout restart"), "unchanged");
}

#[test]
fn what_can_never_run_is_told_when_it_is_loaded_and_in_the_log() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    write(&machine, "lib.wat", "(module (import \"env\" \"foo\" (func)) (func (export \"_start\")))");
    let loaded = machine.run(&["image", "load", "lib.wat", "-t", "lib:1"]);
    assert!(
        loaded.status.success() && error(&loaded).contains("lib.wat cannot run on this node"),
        "{}",
        error(&loaded)
    );
    assert!(error(&loaded).contains("env::foo"), "{}", error(&loaded));
    write(
        &machine,
        "p.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: 'lib:1'}]}\n",
    );
    fails(&machine, &["apply", "-f", "p.yaml", "--wait"]);
    let log = fails(&machine, &["logs", "p"]);
    assert!(log.contains("is waiting to start") && log.contains("env::foo"), "the reason too: {log}");
    let capitals = fails(&machine, &["image", "load", "lib.wat", "-t", "Lib:1"]);
    assert!(capitals.contains("names are in lower case, such as lib:1"), "{capitals}");
    write(&machine, "d.yaml", &deployment("d", "Lib:1", ""));
    let capitals = fails(&machine, &["apply", "-f", "d.yaml"]);
    assert!(capitals.contains("d.yaml: ") && capitals.contains("in lower case, such as lib:1"), "{capitals}");
}

#[test]
fn an_image_that_was_loaded_since_is_waited_for() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    write(&machine, "spin.wat", SPIN);
    // Nobody listens on port 1.
    write(&machine, "d.yaml", &deployment("d", "'127.0.0.1:1/late:1'", ", resources: {limits: {cpu: 10m}}"));
    let absent = fails(&machine, &["apply", "-f", "d.yaml", "--wait"]);
    assert!(absent.contains("ErrImagePull") && absent.contains("it will not recover"), "{absent}");
    let pods = || succeeds(&machine, &["get", "pods", "--no-headers"]);
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !pods().contains("ImagePullBackOff") {
        assert!(std::time::Instant::now() < deadline, "{}", pods());
        std::thread::sleep(Duration::from_millis(100));
    }
    succeeds(&machine, &["image", "load", "spin.wat", "-t", "127.0.0.1:1/late:1"]);
    let applied = succeeds(&machine, &["apply", "-f", "d.yaml", "--wait"]);
    assert!(applied.contains("deployment.apps/d unchanged") && applied.contains("ready: 1 object"), "{applied}");
}

#[test]
fn images_are_tagged_and_pruned_but_not_what_a_rollback_needs() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    write(&machine, "spin.wat", SPIN);
    write(&machine, "trap.wat", TRAP);
    succeeds(&machine, &["image", "load", "trap.wat", "-t", "free:1"]);
    succeeds(&machine, &["image", "tag", "free:1", "free:2"]);
    assert!(succeeds(&machine, &["image", "ls"]).contains("free:2"));
    write(&machine, "d.yaml", &deployment("d", "./spin.wat", ", resources: {limits: {cpu: 10m}}"));
    succeeds(&machine, &["apply", "-f", "d.yaml", "--wait"]);
    succeeds(&machine, &["image", "tag", "spin:latest", "kept:1"]);
    succeeds(&machine, &["image", "rm", "kept:1"]);
    let replicas = fs::read_to_string(machine.path("work").join("d.yaml"))
        .expect("read")
        .replace("spec:\n  selector", "spec:\n  replicas: 0\n  selector");
    write(&machine, "d.yaml", &replicas);
    succeeds(&machine, &["apply", "-f", "d.yaml", "--wait"]);
    let unnamed = succeeds(&machine, &["image", "prune"]);
    assert!(unnamed.contains("removed 0 images"), "what has a name stays: {unnamed}");
    let pruned = succeeds(&machine, &["image", "prune", "--all"]);
    assert!(pruned.contains("removed 1 image,"), "{pruned}");
    let left = succeeds(&machine, &["image", "ls"]);
    assert!(left.contains("spin") && !left.contains("free"), "{left}");
    succeeds(&machine, &["down"]);
    let stopped = fails(&machine, &["image", "prune"]);
    assert!(stopped.contains("does not run"), "{stopped}");
}

#[test]
fn images_are_compiled_ahead_with_the_cluster_down_or_up() {
    let machine = Machine::new();
    write(&machine, "trap.wat", TRAP);
    write(&machine, "spin.wat", SPIN);
    assert!(fails(&machine, &["image", "precompile", "spin:1"]).contains("there is no data directory"));
    succeeds(&machine, &["image", "load", "spin.wat", "-t", "spin:1"]);
    assert_eq!(succeeds(&machine, &["image", "precompile", "spin:1"]), "compiled spin:1\n");
    let cluster = machine.up(&[]);
    succeeds(&machine, &["image", "load", "trap.wat", "-t", "trap:1"]);
    let both = succeeds(&machine, &["image", "precompile", "spin:1", "trap:1"]);
    assert_eq!(both, "spin:1 is compiled already\ncompiled trap:1\n");
    let absent = fails(&machine, &["image", "precompile", "absent:1"]);
    assert!(absent.contains("absent:1: no such image in the store"), "{absent}");
    write(&machine, "d.yaml", &deployment("d", "spin:1", ", resources: {limits: {cpu: 10m}}"));
    succeeds(&machine, &["apply", "-f", "d.yaml", "--wait"]);
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
    assert!(metrics.contains("sampan_wasm_images_prepared_total{result=\"cached\"} 1"), "{metrics}");
    assert!(metrics.contains("sampan_wasm_images_prepared_total{result=\"compiled\"} 0"), "{metrics}");
}

#[test]
fn deleting_by_selector_and_what_apply_needs_are_as_kubectl_says() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    let config = |name: &str, label: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n---\n")
    };
    write(&machine, "c.yaml", &[config("one", "x"), config("two", "x"), config("three", "v")].concat());
    succeeds(&machine, &["apply", "-f", "c.yaml", "-q"]);
    assert_eq!(succeeds(&machine, &["delete", "cm", "-l", "a=x"]), "configmap/one deleted\nconfigmap/two deleted\n");
    assert!(succeeds(&machine, &["get", "cm", "--no-headers", "--show-labels"]).contains("a=v"));
    write(&machine, "g.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: g-}\n");
    assert!(fails(&machine, &["apply", "-f", "g.yaml"]).contains("kubectl create takes a generateName"));
    let verb = machine.run(&["describe", "pod/x"]);
    assert_eq!(verb.status.code(), Some(2));
    assert!(error(&verb).contains("use `kubectl describe`"), "{}", error(&verb));
    let events = succeeds(&machine, &["get", "events", "-A"]);
    assert!(events.contains("node/") || events.is_empty(), "{events}");
}
