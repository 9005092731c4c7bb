//! What a restart of the cluster does to pods, after Ctrl-C and after kill -9.

use crate::{guests, harness::*};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: always, labels: {app: always}}
spec:
  containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  restartPolicy: OnFailure
  containers: [{name: c, image: 'cat:1'}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: always}
spec: {type: NodePort, selector: {app: always}, ports: [{port: 80, targetPort: 8080, nodePort: 30096}]}
";

fn identity(cluster: &Cluster<'_>) -> String {
    cluster.field("pod/always", "{.metadata.uid} {.status.podIP} {.status.startTime}")
}

/// Whether somebody saw the end of the containers.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Seen,
    Unseen,
}

fn check(cluster: &Cluster<'_>, before: &str, job_pod: &str, end: End) {
    let url = format!("http://{}:30096/", cluster.machine.address);
    cluster.eventually("served again", || get(&url).ok().filter(|(code, _)| *code == 200));
    assert_eq!(identity(cluster), before, "uid, address and start time are kept");
    let container = |pod: &str, path: &str| {
        cluster.field(&format!("pod/{pod}"), &format!("{{.status.containerStatuses[0].{path}}}"))
    };
    cluster.eventually("it was restarted", || {
        let runs = !container("always", "state.running").is_empty();
        Some(()).filter(|()| runs && !container("always", "lastState.terminated").is_empty())
    });
    let counted = if end == End::Seen { "0" } else { "1" };
    assert_eq!(container("always", "restartCount"), counted, "only a crash is counted");
    let last = container("always", "lastState.terminated");
    assert!(last.contains("\"startedAt\""), "{last}");
    match end {
        End::Seen => {
            assert!(last.contains("\"exitCode\":0") && last.contains("Completed"), "a truthful end: {last}");
            assert!(last.contains("\"finishedAt\""), "{last}");
        }
        End::Unseen => {
            assert!(last.contains("\"exitCode\":137") && last.contains("ContainerStatusUnknown"), "{last}");
            assert!(last.contains("\"finishedAt\":null"), "nobody saw when it ended, which Go writes so: {last}");
        }
    }
    // What must not be restarted has failed, and its controller made another.
    cluster.eventually("it failed", || Some(()).filter(|()| cluster.field("pod/never", "{.status.phase}") == "Failed"));
    assert_eq!(container("never", "restartCount"), "0");
    cluster.eventually("the Job has another pod", || {
        let pods = cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "job-name=job",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{\"\\n\"}{end}",
        ]);
        let failed = pods.lines().any(|line| line == format!("{job_pod} Failed"));
        Some(()).filter(|()| failed && pods.contains("Running"))
    });
    // What had ended was left alone.
    assert_eq!(container("done", "restartCount"), "0");
}

/// Starts the pods and returns what must not change.
fn begin(cluster: &Cluster<'_>) -> (String, String) {
    cluster.kubectl_with(&["apply", "-f", "-"], PODS);
    for pod in ["always", "never"] {
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=100s"]);
    }
    cluster.eventually("it ends", || {
        Some(()).filter(|()| !cluster.field("pod/done", "{.status.containerStatuses[0].state.terminated}").is_empty())
    });
    let job = cluster.eventually("the Job runs", || {
        let names = cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "job-name=job",
            "--field-selector=status.phase=Running",
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ]);
        Some(names).filter(|n| !n.is_empty())
    });
    (identity(cluster), job)
}

#[test]
fn kill_9_resumes_the_pods_and_fails_those_that_must_not_restart() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    guests::load(&machine, "cat");
    let cluster = machine.up(&[]);
    let (before, job) = begin(&cluster);
    cluster.kill();
    let cluster = machine.up(&[]);
    check(&cluster, &before, &job, End::Unseen);
}

#[test]
fn ctrl_c_changes_no_object_and_the_next_up_resumes() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    guests::load(&machine, "cat");
    let cluster = machine.up(&[]);
    let (before, job) = begin(&cluster);
    assert_eq!(cluster.interrupt(), 0);
    let cluster = machine.up(&[]);
    check(&cluster, &before, &job, End::Seen);
}

#[test]
fn other_ranges_are_refused_and_lose_nothing_and_a_deleted_node_comes_back() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}]}]\n";
    cluster.kubectl_with(&["apply", "-f", "-"], pod);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=100s"]);
    let (name, uid) =
        (cluster.field("nodes", "{.items[0].metadata.name}"), cluster.field("nodes", "{.items[0].metadata.uid}"));
    cluster.kubectl(&["delete", &format!("node/{name}")]);
    cluster.eventually("the Node and its Lease", || {
        let nodes =
            cluster.field("nodes", "{.items[*].metadata.uid} {.items[*].status.conditions[?(@.type=='Ready')].status}");
        let lease = cluster.kubectl(&["get", "lease", "-n", "kube-node-lease", "-o", "name"]);
        Some(()).filter(|()| nodes.ends_with(" True") && !nodes.contains(&uid) && !lease.is_empty())
    });
    cluster.kubectl_with(&["apply", "-f", "-"], &pod.replace("name: p}", "name: q}"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/q", "--timeout=100s"]);
    let address = cluster.field("pod/q", "{.status.podIP}");
    assert_eq!(cluster.interrupt(), 0);

    for (flag, range, before) in
        [("--pod-cidr", "10.128.0.0/11", "10.32.0.0/11"), ("--service-cidr", "10.97.0.0/16", "10.96.0.0/16")]
    {
        let listen = format!("{}:0", machine.address);
        let refused = machine.run(&["up", "--listen", &listen, "--node-address", &machine.address, flag, range]);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("start with {flag} {before}, or with another --data-dir")), "{text}");
    }
    let listen = format!("{}:0", machine.address);
    let refused = machine.run(&["up", "--listen", &listen, "--node-address", &machine.address, "--node-name", "ghost"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains(&format!("start with --node-name {name} or without --node-name")), "{text}");
    let cluster = machine.up(&[]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/q", "--timeout=100s"]);
    assert_eq!(cluster.field("pod/q", "{.status.podIP}"), address);
}

#[test]
fn a_snapshot_becomes_a_cluster_with_keys_of_its_own() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: c, image: 'hello:1', ports: [{containerPort: 8080}], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}}]
";
    cluster.kubectl_with(&["apply", "-f", "-"], pod);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=100s"]);
    cluster.kubectl(&["create", "configmap", "before", "--from-literal=a=b"]);
    let file = machine.path("work/snapshot");
    let name = file.to_str().expect("UTF-8");
    let saved = machine.run(&["snapshot", "save", name]);
    assert!(saved.status.success(), "{saved:?}");
    let refused = machine.run(&["snapshot", "restore", name]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is in use by"), "{refused:?}");
    cluster.kubectl(&["create", "configmap", "after"]);
    let later = cluster.field("cm/after", "{.metadata.resourceVersion}");
    let authority = cluster.field("cm/kube-root-ca.crt", "{.data.ca\\.crt}");
    assert_eq!(cluster.interrupt(), 0);
    let refused = machine.run(&["snapshot", "restore", name]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has a store already"), "{refused:?}");
    assert!(machine.run(&["down", "--purge"]).status.success());
    let restored = machine.run(&["snapshot", "restore", name]);
    assert!(restored.status.success(), "{restored:?}");
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=100s"]);
    assert_eq!(cluster.field("cm/before", "{.data.a}"), "b");
    assert!(cluster.kubectl_fails(&["get", "cm", "after"], "").contains("NotFound"));
    // A client of the old cluster lists anew.
    let watch = format!("/api/v1/configmaps?watch=true&timeoutSeconds=5&resourceVersion={later}");
    let told = cluster.kubectl_output(&["get", "--raw", &watch], "");
    let text = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
    assert!(text.contains("too old resource version"), "{text}");
    cluster.eventually("pods get the new authority", || {
        let now = cluster.field("cm/kube-root-ca.crt", "{.data.ca\\.crt}");
        Some(()).filter(|()| now != authority && now.contains("BEGIN CERTIFICATE"))
    });
}
