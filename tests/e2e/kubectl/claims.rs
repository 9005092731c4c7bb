//! PersistentVolumeClaims with kubectl: the data outlives pods and the cluster, grows, and goes with its claim.

use crate::harness::*;

const KEEPER: &str = "apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper}
spec:
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: hello:1
        ports: [{containerPort: 8080}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
";

fn until_ready(c: &Cluster<'_>) {
    c.kubectl(&["rollout", "status", "sts/keeper", "--timeout=60s"]);
}

#[test]
fn the_data_of_a_claim_outlives_pods_and_the_cluster_and_goes_with_the_claim() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    let classes = c.kubectl(&["get", "sc", "--no-headers"]);
    assert!(classes.starts_with("local (default)") && classes.contains("WaitForFirstConsumer"), "{classes}");
    c.kubectl_with(&["apply", "-f", "-"], KEEPER);
    until_ready(&c);
    let claims = c.kubectl(&["get", "pvc", "--no-headers"]);
    let cells: Vec<&str> = claims.split_whitespace().collect();
    assert_eq!(
        (cells[0], cells[1], &cells[3..6]),
        ("data-keeper-0", "Bound", &["64Mi", "RWO", "local"][..]),
        "{claims}"
    );
    let volume = cells[2].to_owned();
    let file = machine.path("words");
    std::fs::write(&file, "kept").expect("written");
    c.kubectl(&["cp", &file.display().to_string(), "keeper-0:/data/words"]);

    let read = |c: &Cluster<'_>| c.kubectl(&["exec", "keeper-0", "--", "cat", "/data/words"]);
    let uid = c.field("pod/keeper-0", "{.metadata.uid}");
    // An older kubectl may wait for the next pod of that name.
    c.kubectl(&["delete", "pod", "keeper-0", if kubectl_is(36) { "--wait" } else { "--wait=false" }]);
    c.eventually("another pod", || {
        let ready = "{.metadata.uid} {.status.conditions[?(@.type==\"Ready\")].status}";
        let output = c.kubectl_output(&["get", "pod", "keeper-0", "-o", &format!("jsonpath={ready}")], "");
        let now = String::from_utf8_lossy(&output.stdout).into_owned();
        (now.ends_with(" True") && !now.starts_with(&uid)).then_some(())
    });
    assert_eq!(read(&c), "kept");
    assert_eq!(c.interrupt(), 0);
    let c = machine.up(&[]);
    until_ready(&c);
    assert_eq!(read(&c), "kept", "after a restart of the cluster");

    let larger = r#"{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}"#;
    c.kubectl(&["patch", "pvc", "data-keeper-0", "-p", larger]);
    c.kubectl(&["wait", "pvc/data-keeper-0", "--for=jsonpath={.status.capacity.storage}=128Mi", "--timeout=30s"]);
    let smaller = r#"{"spec":{"resources":{"requests":{"storage":"1Mi"}}}}"#;
    let refused = c.kubectl_fails(&["patch", "pvc", "data-keeper-0", "-p", smaller], "");
    assert!(refused.contains("field can not be less than status.capacity"), "{refused}");
    assert!(c.kubectl(&["describe", "pvc", "data-keeper-0"]).contains("keeper-0"), "who uses it");

    c.kubectl(&["delete", "sts", "keeper"]);
    c.kubectl(&["wait", "--for=delete", "pod/keeper-0", "--timeout=60s"]);
    let folder = machine.data().join("pods/persistent").join(&volume);
    assert!(folder.join("words").exists(), "{folder:?}");
    c.kubectl(&["delete", "pvc", "data-keeper-0"]);
    c.kubectl(&["wait", "--for=delete", &format!("pv/{volume}"), "--timeout=60s"]);
    assert!(!folder.exists());
}
