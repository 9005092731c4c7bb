//! What kubectl says at the edges: what is not there yet, refusals, histories, and the newer kubectls.

use super::machine;
use crate::harness::*;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// kubectl that must fail, and must not hang: what it said on both streams.
fn refused(c: &Cluster<'_>, args: &[&str]) -> String {
    let output = c.kubectl_command(args).bounded_with("", TIMEOUT);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "kubectl {args:?} succeeded: {said}");
    said
}

/// Another kubectl beside the one under test.
fn sibling(version: &str) -> Option<PathBuf> {
    let found =
        Command::new("sh").arg("-c").arg("readlink -f \"$(command -v \"$0\")\"").arg(kubectl()?).output().ok()?;
    let path = Path::new(String::from_utf8_lossy(&found.stdout).trim()).with_file_name(format!("kubectl.{version}"));
    path.exists().then_some(path)
}

#[test]
fn what_is_not_there_says_so_at_once() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--port=8080"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    for (args, said) in [
        (&["cp", "d:/x", "/tmp/x"][..], "not found"),
        (&["get", "clustertrustbundles"], "the server doesn't have a resource type \"clustertrustbundles\""),
        (&["get", "gateway"], "the server doesn't have a resource type \"gateway\""),
        (&["certificate", "approve", "x"], "certificatesigningrequests.certificates.k8s.io \"x\" not found"),
        (&["explain", "gateway"], "the server doesn't have a resource type \"gateway\""),
        (&["get", "--raw", "/api/v1/namespaces/default/services/d/proxy/"], "endpoints \"d\" not found"),
        (&["get", "pods", "--as=bob"], "Forbidden"),
        (&["logs", "nothing"], "pods \"nothing\" not found"),
        (&["rollout", "status", "deployment/nothing"], "deployments.apps \"nothing\" not found"),
        (&["wait", "--for=condition=Ready", "pod/nothing", "--timeout=60s"], "pods \"nothing\" not found"),
        (&["wait", "--for=condition=Never", "deploy/d", "--timeout=1s"], "timed out waiting for the condition"),
        (&["delete", "namespace", "default"], "this namespace may not be deleted"),
    ] {
        let text = refused(&c, args);
        assert!(text.contains(said), "{args:?}: {text}");
    }
    for kind in ["apiVersion: networking.k8s.io/v1\nkind: Gateway", "apiVersion: example.com/v1\nkind: Foo"] {
        for args in [&["apply", "-f", "-"][..], &["create", "-f", "-"], &["apply", "--server-side", "-f", "-"]] {
            let text = c.kubectl_fails(args, &format!("{kind}\nmetadata: {{name: x}}\n"));
            assert!(text.contains("no matches for kind"), "{args:?}: {text}");
        }
    }
    assert_eq!(c.kubectl(&["get", "crd", "-o", "name"]), "");
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: foos.example.com}\nspec:\n  group: example.com\n  \
         scope: Namespaced\n  names: {plural: foos, singular: foo, kind: Foo}\n  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]\n";
    c.kubectl_with(&["apply", "-f", "-"], definition);
    c.kubectl(&["wait", "--for=condition=Established", "crd/foos.example.com", "--timeout=30s"]);
    let foo = "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: a}\n";
    assert_eq!(c.kubectl_with(&["apply", "-f", "-"], foo), "foo.example.com/a created\n");
    assert_eq!(c.kubectl(&["get", "foos", "-o", "name"]), "foo.example.com/a\n");
    c.kubectl(&["delete", "crd", "foos.example.com", "--timeout=60s"]);
    // kubectl remembers for a while what there was.
    let gone = c.kubectl_fails(&["get", "foos"], "");
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
}

#[test]
fn lists_dry_runs_labels_and_patches() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {k: v}}, data: {x: \"1\"}}\n\
                - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
    assert_eq!(
        c.kubectl_with(&["create", "-f", "-", "--dry-run=server", "-o", "name"], list),
        "configmap/a\nconfigmap/b\n"
    );
    assert!(c.kubectl_fails(&["get", "cm", "a"], "").contains("configmaps \"a\" not found"));
    assert!(c.kubectl_with(&["apply", "-f", "-"], list).contains("configmap/b created"));
    assert!(
        c.kubectl_with(&["apply", "-f", "-", "--dry-run=server"], &list.replace("\"1\"", "\"2\""))
            .contains("configmap/a configured (server dry run)")
    );
    let wrong = c.kubectl_fails(&["apply", "-f", "-"], &list.replace("data:", "dato:"));
    assert!(wrong.contains("unknown field \"dato\""), "{wrong}");

    assert_eq!(c.kubectl(&["get", "cm", "-l", "k in (v,w),!z", "-o", "name"]), "configmap/a\n");
    assert_eq!(c.kubectl(&["get", "cm", "--field-selector=metadata.name=b", "-o", "name"]), "configmap/b\n");
    assert!(
        c.kubectl_fails(&["get", "pods", "--field-selector=spec.foo=1"], "")
            .contains("field label not supported: spec.foo")
    );
    assert!(c.kubectl_fails(&["get", "cm", "-l", "=x"], "").contains("unable to parse requirement: found '='"));
    assert_eq!(c.kubectl(&["get", "cm", "--chunk-size=1", "--no-headers"]).lines().count(), 3);
    assert_eq!(c.kubectl(&["get", "cm", "a", "-o", "go-template={{.data.x}}"]), "1");
    assert_eq!(c.kubectl(&["get", "cm", "a", "-o", "custom-columns=N:.metadata.name", "--no-headers"]), "a\n");
    assert_eq!(c.kubectl(&["get", "cm", "a", "nope", "--ignore-not-found", "-o", "name"]), "configmap/a\n");

    assert!(
        c.kubectl_fails(&["label", "cm", "a", "k=w"], "").contains("already has a value (v), and --overwrite is false")
    );
    c.kubectl(&["label", "cm", "a", "k=w", "--overwrite"]);
    c.kubectl(&["label", "cm", "a", "k-", "more=1"]);
    c.kubectl(&["annotate", "cm", "a", "note=x"]);
    c.kubectl(&["annotate", "cm", "a", "note-"]);
    assert_eq!(c.field("cm/a", "{.metadata.labels}{.metadata.annotations.note}"), r#"{"more":"1"}"#);
    let patch = |kind: &str, patch: &str| refused(&c, &["patch", "cm", "a", &format!("--type={kind}"), "-p", patch]);
    assert!(
        patch("json", r#"[{"op":"test","path":"/data/x","value":"9"}]"#)
            .contains("The request is invalid: the server rejected our request")
    );
    assert!(
        patch("merge", "{bad").contains("error decoding patch") || patch("merge", "{bad").contains("unable to parse")
    );
    c.kubectl(&["patch", "cm", "a", "--type=strategic", "-p", r#"{"data":{"x":null,"y":"2"}}"#]);
    assert_eq!(c.field("cm/a", "{.data}"), r#"{"y":"2"}"#);
    assert!(c.kubectl_with(&["replace", "--force", "-f", "-"], list).contains("configmap/a replaced"));
    assert_eq!(c.field("cm/a", "{.data}"), r#"{"x":"1"}"#);

    assert!(
        c.kubectl(&["auth", "whoami", "--as=system:serviceaccount:a:b", "-o", "json"])
            .contains("system:serviceaccounts:a")
    );
    assert_eq!(c.kubectl_fails(&["auth", "can-i", "create", "pods", "--as=system:serviceaccount:a:b", "-q"], ""), "");
    assert_eq!(c.kubectl(&["create", "token", "default"]).split('.').count(), 3);
    let described =
        ["cm/a", "ns/default", "sa/default", "svc/kubernetes", "endpoints/kubernetes", "endpointslice/kubernetes"];
    described.iter().for_each(|object| assert!(c.kubectl(&["describe", object]).contains("Name:"), "{object}"));
}

#[test]
fn rollouts_remember_and_deletions_wait() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1", "--replicas=2", "--port=8080"]);
    c.kubectl(&["annotate", "deployment", "d", "kubernetes.io/change-cause=first"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    c.kubectl(&["set", "env", "deployment/d", "A=1"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    let history = c.kubectl(&["rollout", "history", "deployment/d"]);
    assert!(history.contains("1         first"), "{history}");
    assert!(!c.kubectl(&["rollout", "history", "deployment/d", "--revision=1"]).contains("A:"));
    assert!(c.kubectl(&["rollout", "history", "deployment/d", "--revision=2"]).contains("A:\t1"));
    assert!(
        refused(&c, &["rollout", "undo", "deployment/d", "--to-revision=9"])
            .contains("unable to find specified revision 9")
    );
    c.kubectl(&["rollout", "undo", "deployment/d", "--to-revision=1"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    c.kubectl(&["rollout", "pause", "deployment/d"]);
    assert!(refused(&c, &["rollout", "pause", "deployment/d"]).contains("is already paused"));
    assert!(refused(&c, &["rollout", "restart", "deployment/d"]).contains("can't restart paused deployment"));
    assert!(refused(&c, &["rollout", "undo", "deployment/d"]).contains("you cannot rollback a paused deployment"));
    c.kubectl(&["rollout", "resume", "deployment/d"]);
    assert!(
        refused(&c, &["scale", "deployment/d", "--current-replicas=7", "--replicas=1"])
            .contains("Expected replicas to be 7, was 2")
    );
    let scale = c.kubectl(&["get", "deployment", "d", "--subresource=scale", "--no-headers"]);
    assert_eq!(scale.split_whitespace().take(3).collect::<Vec<_>>(), ["d", "2", "2"]);
    assert_eq!(c.field("deploy/d", "{.status.unavailableReplicas}"), "", "upstream leaves zeros out");
    assert!(
        c.kubectl(&[
            "get",
            "deploy",
            "d",
            "--show-managed-fields",
            "-o",
            "jsonpath={.metadata.managedFields[*].manager}"
        ])
        .contains("kube-controller-manager")
    );

    c.kubectl(&["create", "job", "j", "--image=fetch:1", "--", "http://nowhere/"]);
    assert!(c.kubectl(&["describe", "job", "j"]).contains("Parallelism:"));
    c.kubectl(&["delete", "job", "j", "--cascade=background", "--timeout=60s"]);
    c.kubectl(&["wait", "--for=delete", "pod", "-l", "job-name=j", "--timeout=60s"]);

    let watch = c
        .kubectl_command(&["wait", "--for=create", "cm/late", "--timeout=60s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    c.kubectl(&["create", "cm", "late"]);
    assert!(ended(watch, "wait", TIMEOUT).status.success());

    c.kubectl(&["create", "namespace", "held"]);
    c.kubectl_with(
        &["create", "-f", "-"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: held, finalizers: [example.com/hold]}\n",
    );
    c.kubectl(&["delete", "namespace", "held", "--wait=false"]);
    c.kubectl(&["wait", "--for=condition=NamespaceFinalizersRemaining", "namespace/held", "--timeout=60s"]);
    assert!(c.kubectl(&["describe", "namespace", "held"]).contains("example.com/hold in 1 resource instances"));
    assert!(c.kubectl_fails(&["create", "cm", "x", "-n", "held"], "").contains("because it is being terminated"));
    c.kubectl(&[
        "patch",
        "cm",
        "c",
        "-n",
        "held",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
    ]);
    c.kubectl(&["wait", "--for=delete", "namespace/held", "--timeout=60s"]);

    c.kubectl(&["cordon", "-l", "kubernetes.io/os=linux"]);
    c.kubectl(&["run", "p", "--image=hello:1"]);
    c.eventually("the scheduler says why", || {
        Some(()).filter(|()| c.kubectl(&["describe", "pod", "p"]).contains("1 node(s) were unschedulable"))
    });
    c.kubectl(&["uncordon", "-l", "kubernetes.io/os=linux"]);
    c.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]);
    c.kubectl(&["delete", "pod", "p", "--now", "--timeout=60s"]);
}

#[test]
fn nodes_are_drained_sets_pruned_and_mistakes_named() {
    let Some(machine) = machine() else { return };
    let c = machine.up(&[]);
    c.kubectl(&["create", "deployment", "d", "--image=hello:1"]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);
    let pod = c.kubectl(&["get", "pods", "-l", "app=d", "-o", "jsonpath={.items[0].metadata.name}"]);
    let resized = c.kubectl(&["patch", "pod", &pod, "--subresource=resize", "-p", "{}"]);
    assert!(resized.contains(&format!("pod/{pod} patched (no change)")), "{resized}");
    let node = ["-l", "kubernetes.io/os=linux"];
    let drained = c.kubectl(&["drain", node[0], node[1], "--timeout=60s"]);
    assert!(drained.contains(&format!("pod/{pod} evicted")), "{drained}");
    assert!(c.kubectl_fails(&["get", "pod", &pod], "").contains("not found"));
    c.kubectl(&["uncordon", node[0], node[1]]);
    c.kubectl(&["rollout", "status", "deployment/d", "--timeout=60s"]);

    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: x}}}}\n");
    c.kubectl_with(&["apply", "-f", "-"], &format!("{}---\n{}", map("a"), map("b")));
    let prune = ["apply", "-f", "-", "--prune", "-l", "set=x"];
    let pruned = c.kubectl_with(&prune, &map("a"));
    assert!(pruned.contains("configmap/b pruned"), "kubectl prunes every kind of its own list: {pruned}");
    c.kubectl_with(&["apply", "-f", "-"], &map("b"));
    let some = [&prune[..], &["--prune-allowlist=core/v1/ConfigMap", "--prune-allowlist=apps/v1/Deployment"]].concat();
    assert!(c.kubectl_with(&some, &map("a")).contains("configmap/b pruned"));

    let wrong = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w}\nspec: {replica: 1, selectr: {}}\n";
    let named = c.kubectl_fails(&["apply", "--server-side", "-f", "-"], wrong);
    for field in [".spec.replica", ".spec.selectr"] {
        assert!(named.contains(&format!("\n  {field}: field not declared in schema")), "{named}");
    }
    let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: w}\nspec: {containers: [{name: a, image: ./hello.wasm, command: [sh]}]}\n";
    let output = c.kubectl_output(&["create", "-f", "-"], file);
    let warned = String::from_utf8_lossy(&output.stderr);
    for text in ["Warning: spec.containers[0].image: looks like a file", "there is no shell in a WebAssembly container"]
    {
        assert!(warned.contains(text), "{warned}");
    }
}

#[test]
fn newer_kubectls_work_too() {
    let Some(machine) = machine() else { return };
    let _cluster = machine.up(&[]);
    for version in ["1.33", "1.34", "1.35", "1.36", "1.37"] {
        let Some(path) = sibling(version) else { continue };
        let run = |args: &[&str]| {
            let output = Command::new(&path)
                .args(args)
                .env("KUBECONFIG", machine.kubeconfig())
                .env("HOME", machine.path("work"))
                .bounded();
            assert!(output.status.success(), "{version} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(&["create", "deployment", "d", "--image=hello:1", "--replicas=2", "--port=8080"]);
        run(&["rollout", "status", "deployment/d", "--timeout=60s"]);
        run(&["set", "env", "deployment/d", "A=1"]);
        run(&["rollout", "status", "deployment/d", "--timeout=60s"]);
        assert!(run(&["describe", "deployment", "d"]).contains("ScalingReplicaSet"));
        assert!(run(&["get", "pods", "-o", "wide"]).contains("Running"));
        run(&["logs", "deployment/d", "--all-pods"]);
        assert!(run(&["explain", "pod.spec.containers"]).contains("livenessProbe"));
        run(&["delete", "deployment", "d", "--cascade=foreground", "--timeout=60s"]);
    }
}
