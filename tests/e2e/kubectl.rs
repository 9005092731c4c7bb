//! Every verb of an unmodified kubectl that the issue names, against a real cluster.

mod certificates;
mod claims;
mod edges;
mod profiles;
mod quotas;
mod roles;
mod sets;
mod streams;

use crate::harness::*;
use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

/// A cluster with the hello image loaded.
fn machine() -> Option<Machine> {
    kubectl()?;
    let machine = Machine::new();
    let folder = sample("hello", &machine.path("work"));
    let load = machine.run(&["image", "load", &folder.join("hello.wasm").display().to_string(), "-t", "hello:1"]);
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    Some(machine)
}

#[test]
fn discovery_verbs() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    assert!(c.kubectl(&["version", "-o", "json"]).contains("\"minor\": \"36\""));
    let resources = c.kubectl(&["api-resources"]);
    for word in ["deployments", "deploy", "configmaps", "cm", "selfsubjectreviews", "runtimeclasses"] {
        assert!(resources.contains(word), "{word} in {resources}");
    }
    let versions = c.kubectl(&["api-versions"]);
    assert!(versions.lines().any(|l| l == "apps/v1") && versions.lines().any(|l| l == "v1"));
    let explain = c.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"]);
    assert!(explain.contains("maxSurge") && explain.contains("maxUnavailable"), "{explain}");
    assert!(c.kubectl(&["explain", "pods", "--recursive"]).contains("livenessProbe"));
    assert!(c.kubectl(&["cluster-info"]).contains("control plane"));
    assert!(c.kubectl(&["auth", "whoami"]).contains("system:masters"));
    assert!(c.kubectl(&["auth", "can-i", "create", "pods"]).contains("yes"));
    assert!(c.kubectl(&["get", "--raw", "/readyz?verbose"]).contains("readyz check passed"));
    let anonymous = c.kubectl_fails(
        &[
            "get",
            "pods",
            "--kubeconfig=/dev/null",
            "--insecure-skip-tls-verify",
            &format!("--server={}", c.endpoint),
            "--token=nonsense",
        ],
        "",
    );
    assert!(anonymous.contains("Unauthorized") || anonymous.contains("must be logged in"), "{anonymous}");
}

#[test]
fn create_get_edit_and_delete() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "namespace", "n"]);
    c.kubectl(&["create", "configmap", "cm", "-n", "n", "--from-literal=a=1"]);
    c.kubectl(&["create", "secret", "generic", "s", "-n", "n", "--from-literal=p=w"]);
    c.kubectl(&["create", "deployment", "d", "-n", "n", "--image=hello:1", "--replicas=2", "--port=8080"]);
    c.kubectl(&["create", "job", "j", "-n", "n", "--image=hello:1", "--dry-run=server"]);
    assert!(c.kubectl_fails(&["get", "job", "j", "-n", "n"], "").contains("not found"));
    assert!(c.kubectl_fails(&["create", "configmap", "cm", "-n", "n"], "").contains("already exists"));
    c.kubectl(&["rollout", "status", "deployment/d", "-n", "n", "--timeout=60s"]);
    let wide = c.kubectl(&["get", "pods", "-n", "n", "-o", "wide"]);
    assert!(wide.contains("NOMINATED NODE") && wide.contains("Running"), "{wide}");
    assert!(c.kubectl(&["get", "deploy,rs,pods", "-A"]).contains("NAMESPACE"));
    assert_eq!(c.kubectl(&["get", "pods", "-n", "n", "-l", "app=d", "-o", "name"]).lines().count(), 2);
    assert_eq!(c.kubectl(&["get", "pods", "-n", "n", "--field-selector=status.phase=Pending", "-o", "name"]), "");
    assert!(c.kubectl(&["get", "deploy", "d", "-n", "n", "-o", "yaml"]).contains("progressDeadlineSeconds: 600"));
    assert_eq!(c.kubectl(&["get", "cm", "cm", "-n", "n", "-o", "jsonpath={.data.a}"]), "1");
    assert!(c.kubectl(&["describe", "deployment", "d", "-n", "n"]).contains("ScalingReplicaSet"));
    // of several objects kubectl 1.36 shows events only if it is asked
    assert!(c.kubectl(&["describe", "pod", "-n", "n", "--show-events=true"]).contains("Successfully assigned"));
    assert!(c.kubectl(&["describe", "node"]).contains("Allocatable"));
    c.kubectl(&["label", "cm", "cm", "-n", "n", "x=y"]);
    c.kubectl(&["annotate", "cm", "cm", "-n", "n", "note=hello"]);
    c.kubectl(&["patch", "cm", "cm", "-n", "n", "--type=merge", "-p", r#"{"data":{"b":"2"}}"#]);
    c.kubectl(&["patch", "cm", "cm", "-n", "n", "--type=json", "-p", r#"[{"op":"add","path":"/data/c","value":"3"}]"#]);
    c.kubectl(&[
        "patch",
        "deploy",
        "d",
        "-n",
        "n",
        "-p",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"hello","env":[{"name":"E","value":"1"}]}]}}}}"#,
    ]);
    assert_eq!(
        c.kubectl(&["get", "cm", "cm", "-n", "n", "-o", "jsonpath={.data}{.metadata.labels.x}"]),
        r#"{"a":"1","b":"2","c":"3"}y"#
    );
    let edit = c.kubectl_command(&["edit", "cm", "cm", "-n", "n"]).env("KUBE_EDITOR", "sed -i s/hello/bye/").bounded();
    assert!(edit.status.success(), "{}", String::from_utf8_lossy(&edit.stderr));
    assert_eq!(c.kubectl(&["get", "cm", "cm", "-n", "n", "-o", "jsonpath={.metadata.annotations.note}"]), "bye");
    let manifest = c.kubectl(&["get", "cm", "cm", "-n", "n", "-o", "json"]);
    c.kubectl_with(&["replace", "-f", "-"], &manifest.replace("\"1\"", "\"9\""));
    assert!(c.kubectl_fails(&["replace", "-f", "-"], &manifest).contains("the object has been modified"));
    c.kubectl(&["expose", "deployment", "d", "-n", "n", "--port=80", "--target-port=8080"]);
    assert!(c.kubectl(&["get", "endpointslices,endpoints", "-n", "n"]).contains("8080"));
    c.kubectl(&["delete", "deployment", "d", "-n", "n", "--cascade=orphan"]);
    assert!(c.kubectl(&["get", "rs", "-n", "n", "-o", "name"]).contains("/d-"), "orphans stay");
    c.kubectl(&["delete", "rs", "-n", "n", "--all", "--cascade=foreground"]);
    c.eventually("the pods are gone", || {
        Some(()).filter(|()| c.kubectl(&["get", "pods", "-n", "n", "-o", "name"]).is_empty())
    });
    c.kubectl(&["patch", "cm", "cm", "-n", "n", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#]);
    c.kubectl(&["delete", "cm", "cm", "-n", "n", "--wait=false"]);
    assert!(!c.kubectl(&["get", "cm", "cm", "-n", "n", "-o", "jsonpath={.metadata.deletionTimestamp}"]).is_empty());
    c.kubectl(&["patch", "cm", "cm", "-n", "n", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    c.kubectl(&["wait", "--for=delete", "cm/cm", "-n", "n", "--timeout=30s"]);
    c.kubectl(&["delete", "namespace", "n", "--timeout=60s"]);
    assert!(c.kubectl_fails(&["get", "namespace", "n"], "").contains("not found"));
}

#[test]
fn apply_diff_and_server_side() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    let manifest = |replicas: u32| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: a}}}}\n  \
             template:\n    metadata: {{labels: {{app: a}}}}\n    spec: {{containers: [{{name: c, image: \"hello:1\"}}]}}\n"
        )
    };
    assert!(c.kubectl_with(&["apply", "-f", "-"], &manifest(1)).contains("created"));
    assert!(c.kubectl_with(&["apply", "-f", "-"], &manifest(1)).contains("unchanged"));
    let diff = c.kubectl_output(&["diff", "-f", "-"], &manifest(2));
    assert_eq!(diff.status.code(), Some(1));
    let text = String::from_utf8_lossy(&diff.stdout);
    assert!(text.contains("-  replicas: 1") && text.contains("+  replicas: 2"), "{text}");
    assert!(c.kubectl_with(&["apply", "-f", "-"], &manifest(2)).contains("configured"));
    let conflict = c.kubectl_fails(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &manifest(3));
    assert!(conflict.contains("conflict") && conflict.contains(".spec.replicas"), "{conflict}");
    c.kubectl_with(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"], &manifest(3));
    assert_eq!(c.field("deploy/a", "{.spec.replicas}"), "3");
    let strict = c.kubectl_fails(&["apply", "-f", "-"], &manifest(1).replace("replicas", "replicaz"));
    assert!(strict.contains("unknown field \"spec.replicaz\""), "{strict}");
    let invalid = c.kubectl_fails(
        &["create", "-f", "-"],
        &manifest(1).replace("name: a}", "name: A_B}").replace("replicas: 1", "replicas: -1"),
    );
    assert!(invalid.contains("is invalid") && invalid.contains("must be greater than or equal to 0"), "{invalid}");
    assert!(
        c.kubectl_fails(
            &["apply", "-f", "-"],
            "apiVersion: networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}\n"
        )
        .contains("no matches for kind")
    );
}

#[test]
fn scale_rollout_and_undo() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--replicas=3"]);
    let done = |c: &Cluster<'_>| c.kubectl(&["rollout", "status", "deployment/d", "--timeout=90s"]);
    done(&c);
    c.kubectl(&["scale", "deployment/d", "--replicas=5"]);
    done(&c);
    assert_eq!(c.field("deploy/d", "{.status.readyReplicas}"), "5");
    c.kubectl(&["set", "env", "deployment/d", "COLOUR=blue"]);
    done(&c);
    let output = machine.run(&[
        "image",
        "load",
        &machine.path("work").join("hello/hello.wasm").display().to_string(),
        "-t",
        "hello:2",
    ]);
    assert!(output.status.success());
    c.kubectl(&["set", "image", "deployment/d", "hello=hello:2"]);
    done(&c);
    let history = c.kubectl(&["rollout", "history", "deployment/d"]);
    assert!(history.lines().any(|l| l.starts_with('3')), "{history}");
    c.kubectl(&["rollout", "undo", "deployment/d"]);
    done(&c);
    assert_eq!(c.field("deploy/d", "{.spec.template.spec.containers[0].image}"), "hello:1");
    c.kubectl(&["rollout", "restart", "deployment/d"]);
    done(&c);
    c.kubectl(&["rollout", "pause", "deployment/d"]);
    c.kubectl(&["set", "env", "deployment/d", "COLOUR=red"]);
    assert!(c.kubectl(&["describe", "deployment", "d"]).contains("DeploymentPaused"));
    c.kubectl(&["rollout", "resume", "deployment/d"]);
    done(&c);
    c.kubectl(&["delete", "pod", "-l", "app=d", "--wait=false"]);
    done(&c);
    c.kubectl(&["wait", "--for=condition=Available", "deployment/d", "--timeout=60s"]);
}

#[test]
fn logs_events_watches_and_the_proxy() {
    let Some(machine) = machine() else { return };
    let folder = sample("count", &machine.path("work"));
    machine.run(&["image", "load", &folder.join("count.wasm").display().to_string(), "-t", "count:1"]);
    let c = machine.up(&[]);
    let mut watch =
        c.kubectl_command(&["get", "pods", "-w", "--no-headers"]).stdout(Stdio::piped()).spawn().expect("runs");
    c.kubectl(&["run", "w", "--image=count:1", "--restart=OnFailure"]);
    let mut seen = String::new();
    for line in BufReader::new(watch.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        seen.push_str(&line);
        if line.contains("Error") || line.contains("CrashLoopBackOff") {
            break;
        }
    }
    watch.kill().expect("killed");
    watch.wait().expect("reaped");
    assert!(seen.contains("Pending") || seen.contains("ContainerCreating"), "{seen}");
    c.eventually("it was restarted", || {
        c.field("pod/w", "{.status.containerStatuses[0].restartCount}").parse::<u32>().ok().filter(|n| *n > 0)
    });
    assert!(c.kubectl(&["logs", "w", "--previous"]).contains("usage: count"));
    assert!(c.kubectl(&["logs", "w", "--tail=1", "--timestamps"]).starts_with("20"));
    assert!(c.kubectl(&["logs", "-l", "run=w", "--since=1h"]).contains("usage"));
    assert!(c.kubectl(&["events", "--for", "pod/w"]).contains("BackOff"));
    assert!(c.kubectl(&["get", "events", "--field-selector=involvedObject.name=w"]).contains("Pulled"));
    let wrong = c.kubectl_fails(&["logs", "w", "-c", "nope"], "");
    assert!(wrong.contains("container nope is not valid for pod w"), "{wrong}");

    // kubectl itself refuses names of hosts that it has not been told of
    let address = format!("--address={}", machine.address);
    let mut proxy = c
        .kubectl_command(&["proxy", "--port=0", &address, "--accept-hosts=.*"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut line = String::new();
    let mut out = BufReader::new(proxy.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("a line");
    let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
    let (code, body) = get(&format!("http://{address}/api/v1/namespaces/default/pods/w")).expect("answered");
    proxy.kill().expect("killed");
    proxy.wait().expect("reaped");
    let mut rest = String::new();
    let _ = out.read_to_string(&mut rest);
    assert_eq!(code, 200);
    assert!(body.contains("\"kind\""), "{body}");
}

#[test]
fn logs_follow_until_the_end() {
    let Some(machine) = machine() else { return };
    let folder = sample("fetch", &machine.path("work"));
    machine.run(&["image", "load", &folder.join("fetch.wasm").display().to_string(), "-t", "fetch:1"]);
    let c = machine.up(&[]);
    // It asks a Service that does not exist yet, again and again, until it does.
    c.kubectl(&["run", "f", "--image=fetch:1", "--restart=Never", "--", "http://late/"]);
    c.eventually("it runs", || Some(()).filter(|()| c.field("pod/f", "{.status.phase}") == "Running"));
    let follow = c.kubectl_command(&["logs", "-f", "f"]).stdout(Stdio::piped()).spawn().expect("runs");
    c.kubectl(&["create", "deployment", "late", "--image=hello:1", "--port=8080"]);
    c.kubectl(&["expose", "deployment", "late", "--port=80", "--target-port=8080"]);
    let output = ended(follow, "logs -f", TIMEOUT);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("no such host") || text.contains("DNS") || text.contains("http://late/:"), "{text}");
    assert!(
        text.trim_end().ends_with(|c: char| c.is_ascii_alphanumeric()) && text.contains("Hello from late-"),
        "{text}"
    );
    assert_eq!(c.field("pod/f", "{.status.phase}"), "Succeeded");
}
