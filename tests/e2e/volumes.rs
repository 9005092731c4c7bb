//! What a container is given: environment, volumes, init containers before it.

use crate::{guests, harness::*};

/// A ConfigMap and a Secret.
pub const CONFIGURATION: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: swordfish}
---
";

/// Waits for the phase of a pod.
pub fn ended(cluster: &Cluster<'_>, pod: &str, phase: &str) {
    cluster.eventually(&format!("{pod} is {phase}"), || {
        Some(()).filter(|()| cluster.field(&format!("pod/{pod}"), "{.status.phase}") == phase)
    });
}

#[test]
fn environment_comes_from_config_maps_secrets_and_the_pod_itself() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {app: env}, annotations: {team: blue}}
spec:
  containers:
  - name: c
    image: hello:1
    ports: [{containerPort: 8080}]
    resources: {limits: {memory: 32Mi}}
    envFrom: [{configMapRef: {name: settings}, prefix: CM_}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: TEAM, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['team']\"}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: SENTENCE, value: $(POD) is $(CM_color) and $$(escaped)}
---
apiVersion: v1
kind: Service
metadata: {name: env}
spec: {type: NodePort, selector: {app: env}, ports: [{port: 80, targetPort: 8080, nodePort: 30090}]}
";
    cluster.kubectl_with(&["apply", "-f", "-"], pod);
    // The ConfigMap and the Secret are missing: it waits and says what for, and starts once they are there.
    let message = cluster.eventually("a reason", || {
        assert_ne!(cluster.field("pod/env", "{.status.phase}"), "Running");
        let text = cluster.field(
            "pod/env",
            "{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}",
        );
        Some(text).filter(|t| t.starts_with("CreateContainerConfigError"))
    });
    assert!(message.contains("configmap \"settings\" not found"), "{message}");
    cluster.kubectl_with(&["apply", "-f", "-"], CONFIGURATION);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/env", "--timeout=100s"]);
    let variable = |name: &str| {
        let url = format!("http://{}:30090/env/{name}", machine.address);
        cluster.eventually("an answer", || get(&url).ok()).1.trim().to_owned()
    };
    for (name, value) in [
        ("CM_color", "blue"),
        ("CM_size", "large"),
        ("PASSWORD", "swordfish"),
        ("POD", "env"),
        ("TEAM", "blue"),
        ("MEMORY", "33554432"),
        ("SENTENCE", "env is blue and $(escaped)"),
        ("HOSTNAME", "env"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ] {
        assert_eq!(variable(name), value, "{name}");
    }
    assert_eq!(variable("ADDRESS"), cluster.field("pod/env", "{.status.podIP}"));
}

#[test]
fn volumes_of_every_kind_are_read_by_a_guest() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load(&machine, "cat");
    let folder = machine.path("work").join("host");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("from-host"), "host file\n").expect("written");
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], CONFIGURATION);
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: reader, labels: {{app: reader}}}}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: cat:1
    args: [color, renamed, password, labels, both/color, both/password, both/name, from-host, token, ca.crt, namespace]
    volumeMounts:
    - {{name: cm, mountPath: /cm}}
    - {{name: some, mountPath: /some}}
    - {{name: secret, mountPath: /secret}}
    - {{name: down, mountPath: /down}}
    - {{name: all, mountPath: /all}}
    - {{name: host, mountPath: /host, readOnly: true}}
  volumes:
  - {{name: cm, configMap: {{name: settings}}}}
  - {{name: some, configMap: {{name: settings, items: [{{key: size, path: renamed}}]}}}}
  - {{name: secret, secret: {{secretName: hidden}}}}
  - {{name: down, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - name: all
    projected:
      sources:
      - configMap: {{name: settings, items: [{{key: color, path: both/color}}]}}
      - secret: {{name: hidden, items: [{{key: password, path: both/password}}]}}
      - downwardAPI: {{items: [{{path: both/name, fieldRef: {{fieldPath: metadata.name}}}}]}}
  - {{name: host, hostPath: {{path: {}, type: Directory}}}}
",
        folder.display()
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod);
    ended(&cluster, "reader", "Succeeded");
    let log = cluster.kubectl(&["logs", "reader"]);
    let (files, token) = log.split_once("host file\n").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(files, "bluelargeswordfishapp=\"reader\"blueswordfishreader");
    assert!(token.starts_with("eyJ"), "the ServiceAccount's token: {token}");
    assert!(token.contains("-----BEGIN CERTIFICATE-----"), "the cluster's authority: {token}");
    assert!(token.ends_with("default"), "the namespace: {token}");
}

#[test]
fn init_containers_hand_over_by_an_empty_dir_and_hold_the_pod_back_when_they_fail() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    for name in ["cat", "put"] {
        guests::load(&machine, name);
    }
    let cluster = machine.up(&[]);
    let pod = |name: &str, argument: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  initContainers:
  - {{name: first, image: 'put:1', args: [one, {argument}], volumeMounts: [{{name: v, mountPath: /v, readOnly: {}}}]}}
  - {{name: second, image: 'put:1', args: [two, ', world'], volumeMounts: [{{name: v, mountPath: /v}}]}}
  containers:
  - {{name: c, image: 'cat:1', args: [one, two], volumeMounts: [{{name: v, mountPath: /else, readOnly: true}}]}}
  volumes: [{{name: v, emptyDir: {{}}}}]
",
            name == "bad"
        )
    };
    cluster.kubectl_with(&["apply", "-f", "-"], &pod("good", "hello"));
    cluster.kubectl_with(&["apply", "-f", "-"], &pod("bad", "hello"));
    ended(&cluster, "good", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "good"]).trim(), "hello, world");
    ended(&cluster, "bad", "Failed");
    let state = |n: usize| cluster.field("pod/bad", &format!("{{.status.initContainerStatuses[{n}].state}}"));
    assert!(state(0).contains("\"exitCode\":134"), "the read-only mount was not written: {}", state(0));
    assert!(state(1).contains("PodInitializing"), "{}", state(1));
    assert!(cluster.kubectl(&["get", "pod", "bad"]).contains("Init:Error"));
}
