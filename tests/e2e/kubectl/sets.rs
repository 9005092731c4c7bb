//! StatefulSets, DaemonSets, CronJobs and HorizontalPodAutoscalers with kubectl: the samples, their rollouts and their history.

use crate::harness::*;
use std::{path::Path, time::Duration};

/// Applies a sample and waits until it is there.
fn apply(machine: &Machine, folder: &Path) {
    let output = machine.run(&["apply", "--wait", "-f", &folder.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_stateful_set_has_names_in_order_and_its_updates_can_be_undone() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    for name in ["hello", "fetch"] {
        sample(name, &machine.path("work"));
    }
    let folder = sample("statefulset", &machine.path("work"));
    apply(&machine, &folder);
    let pods = c.kubectl(&["get", "pods", "-l", "app=ordered", "-o", "name", "--sort-by=.metadata.creationTimestamp"]);
    assert_eq!(pods.lines().collect::<Vec<_>>(), ["pod/ordered-0", "pod/ordered-1", "pod/ordered-2"]);
    assert!(c.kubectl(&["logs", "job/ask-first"]).contains("ordered-0"), "the first pod by its name");
    assert!(c.kubectl(&["get", "sts", "ordered"]).contains("3/3"));

    c.kubectl(&["set", "env", "sts/ordered", "COLOUR=blue"]);
    c.kubectl(&["rollout", "status", "sts/ordered", "--timeout=90s"]);
    let history = c.kubectl(&["rollout", "history", "sts/ordered"]);
    assert!(history.lines().any(|line| line.starts_with('2')), "{history}");
    c.kubectl(&["rollout", "undo", "sts/ordered"]);
    c.kubectl(&["rollout", "status", "sts/ordered", "--timeout=90s"]);
    assert!(!c.kubectl(&["get", "pod", "ordered-0", "-o", "yaml"]).contains("COLOUR"));
    c.kubectl(&["scale", "sts/ordered", "--replicas=1"]);
    c.kubectl(&["wait", "--for=delete", "pod/ordered-1", "pod/ordered-2", "--timeout=60s"]);
    let described = c.kubectl(&["describe", "sts", "ordered"]);
    assert!(described.contains("Delete Pod ordered-2 in StatefulSet ordered successful"), "{described}");
    c.kubectl(&["delete", "sts", "ordered", "--cascade=orphan"]);
    assert!(c.kubectl(&["get", "pod", "ordered-0"]).contains("Running"));
}

/// kubectl looks for the pod by name, then lists and watches. Before 1.36 it takes a pod of that name in its list for the old one, and waits for
/// its end; since then it compares uids.
#[test]
fn to_delete_a_pod_of_a_stateful_set_returns_although_its_name_comes_back() {
    const SET: &str = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {selector: {matchLabels: {app: s}}, template: {
        metadata: {labels: {app: s}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}]}]}}}}";
    let Some(machine) = super::machine() else { return };
    if !kubectl_is(36) {
        return skipped("kubectl before 1.36 waits for ever where the next pod is there before it lists");
    }
    let c = machine.up(&[]);
    c.kubectl_with(&["apply", "-f", "-"], SET);
    for _ in 0..12 {
        c.kubectl(&["rollout", "status", "sts/s", "--timeout=60s"]);
        let uid = c.field("pod/s-0", "{.metadata.uid}");
        let output = c.kubectl_command(&["delete", "pod", "s-0"]).bounded_with("", Duration::from_secs(60));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        c.eventually("the next pod", || {
            let next = c.kubectl_output(&["get", "pod", "s-0", "-o", "jsonpath={.metadata.uid}"], "").stdout;
            (!next.is_empty() && next != uid.as_bytes()).then_some(())
        });
    }
}

#[test]
fn a_daemon_set_has_a_pod_on_each_node_and_its_updates_can_be_undone() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    sample("hello", &machine.path("work"));
    let folder = sample("daemonset", &machine.path("work"));
    apply(&machine, &folder);
    let shown = c.kubectl(&["get", "ds", "everywhere", "--no-headers"]);
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(cells[..7], ["everywhere", "1", "1", "1", "1", "1", "<none>"]);
    c.kubectl(&["set", "env", "ds/everywhere", "COLOUR=blue"]);
    c.kubectl(&["rollout", "status", "ds/everywhere", "--timeout=60s"]);
    c.kubectl(&["rollout", "undo", "ds/everywhere"]);
    c.kubectl(&["rollout", "status", "ds/everywhere", "--timeout=60s"]);
    assert!(!c.kubectl(&["get", "pods", "-l", "app=everywhere", "-o", "yaml"]).contains("COLOUR"));
    c.kubectl(&["rollout", "restart", "ds/everywhere"]);
    c.kubectl(&["rollout", "status", "ds/everywhere", "--timeout=60s"]);
    let refused =
        c.kubectl_fails(&["patch", "ds", "everywhere", "-p", r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#], "");
    assert!(refused.contains("field is immutable"), "{refused}");
    c.kubectl(&["delete", "ds", "everywhere"]);
    c.kubectl(&["wait", "--for=delete", "pod", "-l", "app=everywhere", "--timeout=60s"]);
}

#[test]
fn a_cron_job_is_run_by_hand_and_by_the_clock() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    sample("count", &machine.path("work"));
    let folder = sample("cronjob", &machine.path("work"));
    apply(&machine, &folder);
    let shown = c.kubectl(&["get", "cj", "minutely", "--no-headers"]);
    assert!(shown.contains("* * * * *") && shown.contains("Europe/Berlin") && shown.contains("False"), "{shown}");
    c.kubectl(&["create", "job", "now", "--from=cronjob/minutely"]);
    c.kubectl(&["wait", "--for=condition=Complete", "job/now", "--timeout=60s"]);
    assert!(c.kubectl(&["logs", "job/now"]).contains('7'), "the words of the proverb");
    let patience = std::time::Instant::now();
    loop {
        let described = c.kubectl(&["describe", "cj", "minutely"]);
        if described.contains("Created job minutely-") {
            break;
        }
        assert!(patience.elapsed().as_secs() < 90, "no minute has passed: {described}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let refused = c.kubectl_fails(&["create", "cronjob", "wrong", "--image=count:1", "--schedule=61 * * * *"], "");
    assert!(refused.contains("end of range (61) above maximum (59): 61"), "{refused}");
}

#[test]
fn more_pods_come_while_there_is_work() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    sample("hello", &machine.path("work"));
    let folder = sample("hpa", &machine.path("work"));
    apply(&machine, &folder);
    let shown = c.kubectl(&["get", "hpa", "busy", "--no-headers"]);
    assert!(shown.contains("Deployment/busy") && shown.contains("/50%"), "{shown}");
    let url = String::from_utf8_lossy(&machine.run(&["url", "busy"]).stdout).trim().to_owned();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let more = || c.kubectl(&["get", "deploy", "busy", "-o", "jsonpath={.spec.replicas}"]) != "1";
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_over = || done.load(std::sync::atomic::Ordering::SeqCst) || std::time::Instant::now() > until;
    let found = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over() {
                    drop(get(&url));
                }
            });
        }
        let look = || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            more()
        };
        let found = std::iter::repeat_with(look).take_while(|found| *found || !is_over()).any(|found| found);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        found
    });
    let described = c.kubectl(&["describe", "hpa", "busy"]);
    assert!(found, "{described}");
    assert!(described.contains("reason: cpu resource utilization (percentage of request) above target"), "{described}");

    c.kubectl(&["delete", "hpa", "busy"]);
    c.kubectl(&["autoscale", "deployment", "busy", "--min=2", "--max=3", "--cpu-percent=70"]);
    let [old, new] = ["v1", "v2"].map(|version| {
        c.kubectl(&["get", &format!("horizontalpodautoscalers.{version}.autoscaling"), "busy", "-o", "yaml"])
    });
    assert!(old.contains("targetCPUUtilizationPercentage: 70"), "{old}");
    assert!(new.contains("averageUtilization: 70"), "{new}");
}
