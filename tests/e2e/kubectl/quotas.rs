//! Disruption budgets and quotas with kubectl.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

#[test]
fn a_drain_waits_until_the_budget_allows_it() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    c.kubectl(&["create", "pdb", "d", "--selector=app=d", "--min-available=1"]);
    c.kubectl(&["wait", "pdb/d", "--for=jsonpath={.status.observedGeneration}=1", "--timeout=60s"]);
    let shown = c.kubectl(&["get", "pdb", "d", "--no-headers"]);
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(cells[..4], ["d", "1", "N/A", "0"], "{shown}");
    let pod = c.kubectl(&["get", "pods", "-l", "app=d", "-o", "name"]);
    let node = "kubernetes.io/os=linux";
    let refused = c.kubectl_fails(&["drain", "-l", node, "--timeout=8s"], "");
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");
    assert!(c.kubectl(&["get", pod.trim()]).contains("Running"));
    // A drain that waits goes on as soon as it may.
    let mut command = c.kubectl_command(&["drain", "-l", node, "--timeout=90s"]);
    let mut drain = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
    let mut told = BufReader::new(drain.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("will retry after 5s")), "it was refused once");
    c.kubectl(&["delete", "pdb", "d"]);
    let rest: Vec<String> = told.collect();
    assert!(drain.wait().expect("it ends").success(), "{rest:?}");
    c.kubectl(&["wait", "--for=delete", pod.trim(), "--timeout=60s"]);
}

#[test]
fn a_quota_refuses_describes_and_makes_room() {
    let Some(machine) = super::machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "quota", "q", "--hard=pods=1,requests.cpu=100m,count/deployments.apps=1"]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--replicas=2"]);
    let second = c.kubectl_fails(&["create", "deployment", "e", "--image=hello:1"], "");
    let text = "exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1";
    assert!(second.contains(text), "{second}");
    c.eventually("the ReplicaSet says why it has no pods", || {
        let events =
            c.kubectl(&["get", "events", "--field-selector=reason=FailedCreate", "-o", "jsonpath={.items[*].message}"]);
        events.contains("failed quota: q: must specify requests.cpu for: hello").then_some(())
    });
    c.kubectl(&["set", "resources", "deployment/d", "--requests=cpu=60m"]);
    c.eventually("one pod, and the quota is shown as used", || {
        let described = c.kubectl(&["describe", "quota", "q"]);
        let has = |row: [&str; 3]| described.lines().any(|line| line.split_whitespace().eq(row));
        (has(["pods", "1", "1"]) && has(["requests.cpu", "60m", "100m"])).then_some(())
    });
    c.kubectl(&["delete", "deployment", "d"]);
    c.eventually("room", || c.kubectl(&["get", "quota", "q"]).contains("pods: 0/1").then_some(()));
}
