//! Pods in processes of their own, chosen by a RuntimeClass.

use crate::{
    guests,
    harness::*,
    volumes::{CONFIGURATION, ended},
};
use std::fs;

/// The processes of pods below a cluster's process.
fn children(of: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        exists(*pid) && fields.get(1) == Some(&of.to_string().as_str())
    };
    pids.filter(is_child).collect()
}

fn exists(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|command| command.contains("isolated-child"))
}

/// A jsonpath of the pods.
fn of_pods(cluster: &Cluster<'_>, path: &str) -> String {
    cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", &format!("jsonpath={path}")])
}

#[test]
fn a_runtime_class_puts_each_pod_into_a_confined_process_of_its_own() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    sample("fetch", &machine.path("work"));
    let folder = sample("hello", &machine.path("work"));
    let manifest = folder.join("hello.yaml");
    let text = fs::read_to_string(&manifest).expect("the sample");
    let isolated = text.replacen(
        "    spec:\n      containers:",
        "    spec:\n      runtimeClassName: wasmtime-isolated\n      containers:",
        1,
    );
    assert_ne!(text, isolated);
    fs::write(&manifest, isolated).expect("written");
    let cluster = machine.up(&[]);
    assert_eq!(children(cluster.pid()), [0; 0], "nothing is made before the first such pod");
    let handlers = cluster.field("runtimeclasses", "{.items[*].handler}");
    assert_eq!(handlers, "runc wasmtime wasmtime-isolated", "they are there from the start");
    let applied = machine.run(&["apply", "-f", &folder.display().to_string(), "--wait"]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));

    // By the Service, from outside and from another pod.
    let url = format!("http://{}:30080/", machine.address);
    let answer = cluster.eventually("it answers", || get(&url).ok().filter(|(code, _)| *code == 200));
    assert!(answer.1.starts_with("Hello from hello-"), "{answer:?}");
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/hello-check", "--timeout=100s"]);
    assert!(cluster.kubectl(&["logs", "job/hello-check"]).contains("Hello from hello-"));
    let id = of_pods(&cluster, "{.items[0].status.containerStatuses[0].containerID}");
    assert!(id.starts_with("wasmtime-isolated://"), "{id}");

    // What runs is confined.
    let pods = children(cluster.pid());
    assert_eq!(pods.len(), 3);
    for pid in &pods {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    }

    // Streams.
    let name = of_pods(&cluster, "{.items[0].metadata.name}");
    assert!(cluster.kubectl(&["exec", &name, "--", "env"]).contains("GREETING=Hello"));
    assert_eq!(cluster.kubectl(&["exec", &name, "--", "echo", "a", "boat"]), "a boat\n");
    assert!(cluster.kubectl(&["logs", &name]).is_empty());

    // The end of its process is the end of a container, and it is restarted as its policy says.
    let killed = std::process::Command::new("kill").args(["-9", &pods[0].to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let restarts = "{.items[*].status.containerStatuses[0].restartCount}";
    cluster.eventually("one is restarted", || {
        let counts = of_pods(&cluster, restarts);
        Some(()).filter(|()| counts.split(' ').any(|count| count == "1"))
    });
    let last = "{.items[*].status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(of_pods(&cluster, last), "137");
    cluster.kubectl(&["wait", "--for=condition=Available", "deploy/hello", "--timeout=100s"]);
    cluster.eventually("there are three again", || Some(()).filter(|()| children(cluster.pid()).len() == 3));

    // No process outlives the node.
    let all = children(cluster.pid());
    cluster.kill();
    let begin = std::time::Instant::now();
    while all.iter().any(|pid| exists(*pid)) {
        assert!(begin.elapsed() < TIMEOUT, "{all:?} are still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn isolated_pods_read_and_write_volumes_of_every_kind() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    for name in ["cat", "put"] {
        guests::load(&machine, name);
    }
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], CONFIGURATION);
    let claim = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
";
    cluster.kubectl_with(&["apply", "-f", "-"], claim);
    // Each container is a program of its own in the process of the pod.
    let pod = |name: &str, init: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  runtimeClassName: wasmtime-isolated
  restartPolicy: Never
  initContainers: [{init}]
  containers:
  - name: c
    image: cat:1
    args: [claimed, handed, color, password, labels, both/color, both/password, both/name, token, namespace]
    volumeMounts:
    - {{name: claim, mountPath: /claim, readOnly: true}}
    - {{name: empty, mountPath: /empty}}
    - {{name: cm, mountPath: /cm}}
    - {{name: secret, mountPath: /secret}}
    - {{name: down, mountPath: /down}}
    - {{name: all, mountPath: /all}}
  volumes:
  - {{name: claim, persistentVolumeClaim: {{claimName: kept}}}}
  - {{name: empty, emptyDir: {{}}}}
  - {{name: cm, configMap: {{name: settings}}}}
  - {{name: secret, secret: {{secretName: hidden}}}}
  - {{name: down, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - name: all
    projected:
      sources:
      - configMap: {{name: settings, items: [{{key: color, path: both/color}}]}}
      - secret: {{name: hidden, items: [{{key: password, path: both/password}}]}}
      - downwardAPI: {{items: [{{path: both/name, fieldRef: {{fieldPath: metadata.name}}}}]}}
"
        )
    };
    let put = |name: &str, volume: &str, file: &str, text: &str, mount: &str| {
        format!(
            "{{name: {name}, image: 'put:1', args: [{file}, {text}], volumeMounts: [{{name: {volume}, mountPath: /v{mount}}}]}}"
        )
    };
    let handed = put("hand", "empty", "handed", "'over '", "");
    let both = format!("{}, {handed}", put("claim", "claim", "claimed", "'kept '", ""));
    cluster.kubectl_with(&["apply", "-f", "-"], &pod("first", &both));
    ended(&cluster, "first", "Succeeded");
    let read = |name: &str| {
        let log = cluster.kubectl(&["logs", name]);
        let begin = format!("kept over blueswordfishapp=\"{name}\"blueswordfish{name}eyJ");
        assert!(log.starts_with(&begin) && log.ends_with("default"), "{log}");
    };
    read("first");
    // The claim outlives the pod; the emptyDir does not.
    cluster.kubectl(&["delete", "pod", "first"]);
    cluster.kubectl_with(&["apply", "-f", "-"], &pod("second", &handed));
    ended(&cluster, "second", "Succeeded");
    read("second");
    // What is mounted to be read is not written.
    for (name, volume, mount) in
        [("reads", "claim", ", readOnly: true"), ("settings", "cm", ""), ("secrets", "secret", "")]
    {
        cluster.kubectl_with(&["apply", "-f", "-"], &pod(name, &put("p", volume, "new", "text", mount)));
        ended(&cluster, name, "Failed");
        let state = cluster.field(&format!("pod/{name}"), "{.status.initContainerStatuses[0].state}");
        assert!(state.contains("\"exitCode\":134"), "{name}: {state}");
    }
}
