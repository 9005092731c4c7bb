//! Probes, and what ends containers: liveness, deadlines, deletion, limits.

use crate::{guests, harness::*};
use std::thread;

/// A pod of the hello guest with more in its container.
fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  containers:\n  - name: c\n    image: hello:1\n    \
         ports: [{{name: web, containerPort: 8080}}]\n{container}---\n"
    )
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, selector: {{app: {name}}}, ports: \
         [{{port: 80, targetPort: web, nodePort: {port}}}]}}\n---\n"
    )
}

fn status(cluster: &Cluster<'_>, pod: &str, path: &str) -> String {
    cluster.field(&format!("pod/{pod}"), &format!("{{.status.containerStatuses[0].{path}}}"))
}

#[test]
fn probes_decide_on_ready_started_and_restarts() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let good = "    startupProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}\n    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n    \
                readinessProbe: {httpGet: {path: /env/HOSTNAME, port: web}, periodSeconds: 1}\n";
    let unready = "    readinessProbe: {httpGet: {path: /env/NOTHING, port: web}, periodSeconds: 1}\n";
    let dead = "    livenessProbe: {httpGet: {path: /env/NOTHING, port: web}, periodSeconds: 1, failureThreshold: 1}\n";
    let late = "    startupProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 2}\n";
    let manifest = [
        pod("good", good),
        service("good", 30091),
        pod("unready", unready),
        service("unready", 30092),
        pod("dead", dead),
        pod("late", late),
    ];
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest.concat());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/good", "--timeout=100s"]);
    assert_eq!(status(&cluster, "good", "started"), "true");
    cluster.eventually("served", || {
        get(&format!("http://{}:30091/", machine.address)).ok().filter(|(code, _)| *code == 200)
    });

    for name in ["dead", "late"] {
        cluster.eventually("a restart", || {
            Some(()).filter(|()| status(&cluster, name, "restartCount").parse::<u32>().is_ok_and(|n| n > 0))
        });
    }
    assert_eq!(status(&cluster, "late", "started"), "false");
    let events = cluster.eventually("the events", || {
        let events = cluster.kubectl(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}{\"\\n\"}{end}",
        ]);
        let told = events.contains("dead Killing Container c failed liveness probe, will be restarted")
            && events.contains("late Killing Container c failed startup probe, will be restarted")
            && events.contains("unready Unhealthy");
        Some(events).filter(|_| told)
    });
    assert!(
        events.contains("dead Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 404"),
        "{events}"
    );
    assert!(events.contains("late Unhealthy Startup probe failed: dial tcp"), "{events}");
    assert!(
        events.contains("unready Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404"),
        "{events}"
    );

    assert_eq!(status(&cluster, "unready", "ready"), "false");
    assert_eq!(status(&cluster, "unready", "restartCount"), "0");
    assert!(
        get(&format!("http://{}:30092/", machine.address)).is_err(),
        "a pod that is not ready is not behind its Service"
    );
    assert_eq!(status(&cluster, "good", "restartCount"), "0");
}

/// Requests that guests have answered.
fn answered(cluster: &Cluster<'_>) -> u64 {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
    let counts =
        metrics.lines().filter_map(|line| line.strip_prefix("sampan_wasm_http_request_duration_seconds_count{"));
    let counts: Vec<u64> =
        counts.map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number")).collect();
    assert!(!counts.is_empty(), "no such metric:\n{metrics}");
    counts.into_iter().sum()
}

#[test]
fn a_tcp_probe_of_an_http_component_runs_no_guest() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let probes = "    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1}\n    readinessProbe: {tcpSocket: {port: web}, periodSeconds: 1}\n";
    cluster.kubectl_with(&["apply", "-f", "-"], &(pod("quiet", probes) + &service("quiet", 30093)));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/quiet", "--timeout=100s"]);
    assert_eq!(answered(&cluster), 0, "two probes have succeeded by now");
    cluster.eventually("served", || {
        get(&format!("http://{}:30093/", machine.address)).ok().filter(|(code, _)| *code == 200)
    });
    assert_eq!(answered(&cluster), 1);
}

#[test]
fn a_deadline_fails_the_pod_and_a_cpu_limit_slows_it() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    for name in ["spin", "work"] {
        guests::load(&machine, name);
    }
    let cluster = machine.up(&[]);
    let work = |name: &str, limit: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    image: work:1\n    \
             resources: {{limits: {{cpu: {limit}}}, requests: {{cpu: 10m}}}}\n---\n"
        )
    };
    cluster.kubectl_with(&["apply", "-f", "-"], &(work("slow", "50m") + &work("fast", "1")));
    let pieces = |name: &str| {
        cluster.eventually("its end", || status(&cluster, name, "state.terminated.exitCode").parse::<u32>().ok())
    };
    let (slow, fast) = (pieces("slow"), pieces("fast"));
    assert!(slow * 3 < fast, "50m did {slow} pieces of work while 1 did {fast}");

    let spin = "apiVersion: v1\nkind: Pod\nmetadata: {name: spin}\nspec:\n  activeDeadlineSeconds: 2\n  containers:\n  - name: c\n    image: spin:1\n    \
                resources: {limits: {cpu: 100m}}\n";
    cluster.kubectl_with(&["apply", "-f", "-"], spin);
    cluster.eventually("the deadline", || {
        Some(()).filter(|()| cluster.field("pod/spin", "{.status.phase} {.status.reason}") == "Failed DeadlineExceeded")
    });
    let message = cluster.field("pod/spin", "{.status.message}");
    assert_eq!(message, "Pod was active on the node longer than the specified deadline");
}

#[test]
fn deletion_waits_for_requests_as_long_as_the_grace_period() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    guests::load(&machine, "spin");
    let cluster = machine.up(&[]);
    let limited = "    resources: {limits: {cpu: 200m}}\n";
    cluster.kubectl_with(&["apply", "-f", "-"], &(pod("busy", limited) + &service("busy", 30093)));
    cluster.kubectl(&[
        "run",
        "spin",
        "--image=spin:1",
        "--restart=Never",
        "--overrides={\"spec\": {\"terminationGracePeriodSeconds\": 1}}",
    ]);
    let url = format!("http://{}:30093", machine.address);
    cluster.eventually("served", || get(&url).ok().filter(|(code, _)| *code == 200));
    let spinning = thread::spawn({
        let url = format!("{url}/spin");
        move || get(&url)
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/spin", "--timeout=100s"]);
    cluster.kubectl(&["delete", "pod", "busy", "--grace-period=2", "--wait=false"]);
    assert!(!cluster.field("pod/busy", "{.metadata.deletionTimestamp}").is_empty(), "it is still there, and ending");
    assert_eq!(cluster.field("pod/busy", "{.metadata.deletionGracePeriodSeconds}"), "2");
    cluster.kubectl(&["wait", "--for=delete", "pod/busy", "--timeout=100s"]);
    let answer = spinning.join().expect("asked");
    assert!(answer.as_ref().map_or(true, |(code, _)| *code == 503), "the request was cut: {answer:?}");
    // A command has no way to hear that it should end: it is ended.
    cluster.kubectl(&["delete", "pod", "spin", "--timeout=100s"]);
    assert!(cluster.kubectl_fails(&["get", "pod", "spin"], "").contains("NotFound"));
}

#[test]
fn exec_probes_and_hooks_run_commands_in_the_container() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let good = "    readinessProbe: {exec: {command: [ls, /dev]}, periodSeconds: 1}\n    livenessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}\n    \
                lifecycle: {postStart: {exec: {command: [echo, hi]}}, preStop: {exec: {command: [cat, /nothing]}}}\n";
    let bad = "    livenessProbe: {exec: {command: [cat, /nothing]}, periodSeconds: 1, failureThreshold: 2}\n    \
               readinessProbe: {exec: {command: [nothing]}, periodSeconds: 1}\n";
    let hooked = "    lifecycle: {postStart: {exec: {command: [cat, /nothing]}}}\n";
    let manifest = [pod("good", good), pod("bad", bad), pod("hooked", hooked)].concat();
    let said = cluster.kubectl_with(&["apply", "-f", "-"], &manifest);
    assert!(!said.contains("Warning"), "{said}");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/good", "--timeout=100s"]);
    for name in ["bad", "hooked"] {
        cluster.eventually("a restart", || {
            Some(()).filter(|()| status(&cluster, name, "restartCount").parse::<u32>().is_ok_and(|n| n > 0))
        });
    }
    cluster.kubectl(&["delete", "pod", "good", "--wait"]);
    let columns = "custom-columns=O:.involvedObject.name,R:.reason,M:.message";
    let wanted = [
        ("bad", "Unhealthy", "Liveness probe failed: cat: /nothing: No such file or directory"),
        ("bad", "Unhealthy", "Readiness probe errored and resulted in unknown state: exec: \"nothing\": "),
        ("bad", "Killing", "Container c failed liveness probe, will be restarted"),
        ("hooked", "FailedPostStartHook", "PostStartHook failed"),
        ("hooked", "Killing", "FailedPostStartHook"),
        ("good", "FailedPreStopHook", "PreStopHook failed"),
    ];
    cluster.eventually("the events", || {
        let events = cluster.kubectl(&["get", "events", "-o", columns]);
        let told = |(object, reason, message): &(&str, &str, &str)| {
            events.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(*object) && words.next() == Some(*reason) && line.contains(message)
            })
        };
        Some(()).filter(|()| wanted.iter().all(told))
    });
}
