//! The command line as people and scripts meet it: exit codes, and errors that say what is right.

use crate::harness::*;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Output, Stdio},
};

pub fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_flag_of_up_ends_with_2_before_anything_is_made_also_detached() {
    let machine = Machine::new();
    for flags in [
        &["--cpu", "banana"][..],
        &["--max-pods", "0"],
        &["--node-address", "8.8.8.8"],
        &["--pod-cidr", "10.0.0.0/8", "--service-cidr", "10.96.0.0/16"],
    ] {
        for detach in [&[][..], &["--detach"]] {
            let output = machine.run(&[&["up"], detach, flags].concat());
            assert_eq!(output.status.code(), Some(2), "{detach:?} {flags:?}: {}", error(&output));
            assert!(error(&output).contains(flags[0]), "{flags:?}: {}", error(&output));
        }
    }
    assert!(!machine.data().exists(), "nothing was made");
}

#[test]
fn an_empty_directory_is_taken_and_one_with_foreign_files_is_not_touched() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let foreign = machine.path("work");
    std::fs::write(foreign.join("notes.txt"), "mine").expect("written");
    let before = mode(&foreign);
    for command in [&["up"][..], &["up", "--detach"], &["image", "ls"], &["down"], &["get", "pods"]] {
        let output = machine.run(&[command, &["--data-dir", "."]].concat());
        assert_eq!(output.status.code(), Some(i32::from(command != ["down"])), "{command:?}: {}", error(&output));
        assert_eq!(mode(&foreign), before, "{command:?}");
        assert_eq!(std::fs::read_dir(&foreign).expect("read").count(), 1, "{command:?}");
    }
}

/// A pod of two containers that print who they are, and one that a Job makes.
const TELLERS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: tell}}
spec:
  restartPolicy: Never
  containers:
  - {name: a, image: teller:1}
  - {name: b, image: teller:1}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    metadata: {labels: {app: tell}}
    spec: {restartPolicy: Never, containers: [{name: a, image: teller:1}]}
";

const TELLER: &str = "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func $w (param i32 i32 i32 i32) (result i32))) \
    (memory (export \"memory\") 1) (data (i32.const 16) \"told\\n\") \
    (func (export \"_start\") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 5)) \
    (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))";

/// What a command printed, having succeeded.
pub fn succeeds(machine: &Machine, args: &[&str]) -> String {
    let output = machine.run(args);
    assert!(output.status.success(), "{args:?}: {}", error(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command said, having failed with 1.
pub fn fails(machine: &Machine, args: &[&str]) -> String {
    let output = machine.run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", error(&output));
    error(&output)
}

/// A cluster in which the tellers have told.
fn tellers(machine: &Machine) -> Cluster<'_> {
    std::fs::write(machine.path("work").join("teller.wat"), TELLER).expect("written");
    std::fs::write(machine.path("work").join("tellers.yaml"), TELLERS).expect("written");
    succeeds(machine, &["image", "load", "teller.wat", "-t", "teller:1"]);
    let cluster = machine.up(&[]);
    succeeds(machine, &["apply", "-f", "tellers.yaml"]);
    cluster
}

#[test]
fn get_names_objects_as_kubectl_does_and_fails_in_its_words() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    let configs = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {tier: test}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n";
    std::fs::write(machine.path("work").join("c.yaml"), configs).expect("written");
    succeeds(&machine, &["apply", "-f", "c.yaml"]);

    let several = succeeds(&machine, &["get", "svc,cm"]);
    assert!(several.contains("service/kubernetes") && several.contains("configmap/one"), "{several}");
    assert_eq!(several.matches("NAME").count(), 2, "a header for each kind: {several}");
    let named = succeeds(&machine, &["get", "cm/one", "cm/two"]);
    assert_eq!(named.matches("NAME").count(), 1, "one header: {named}");
    assert!(!named.contains("configmap/"), "one kind: {named}");
    assert!(succeeds(&machine, &["get", "all"]).contains("service/kubernetes"));
    assert_eq!(succeeds(&machine, &["get", "cm", "-l", "tier=test", "-o", "name"]), "configmap/one\n");
    let everywhere = succeeds(&machine, &["get", "cm", "-A"]);
    assert!(everywhere.starts_with("NAMESPACE") && everywhere.contains("kube-system"), "{everywhere}");

    let yaml = succeeds(&machine, &["get", "cm/one", "-o", "yaml"]);
    assert!(yaml.contains("kind: ConfigMap") && !yaml.contains("managedFields"), "{yaml}");
    assert!(succeeds(&machine, &["get", "cm/one", "-o", "yaml", "--show-managed-fields"]).contains("managedFields"));
    assert!(succeeds(&machine, &["get", "cm", "-o", "json"]).contains("\"kind\": \"List\""));

    for (args, want) in [
        (&["get", "pods", "absent"][..], "Error from server (NotFound): pods \"absent\" not found\n"),
        (&["get", "nonsense"], "error: the server doesn't have a resource type \"nonsense\"\n"),
        (&["delete", "cm/absent"], "Error from server (NotFound): configmaps \"absent\" not found\n"),
    ] {
        assert_eq!(fails(&machine, args), want, "{args:?}");
    }
    for (args, want) in [
        (&["get", "cm/one", "-A"][..], "error: a resource cannot be retrieved by name across all namespaces\n"),
        (&["get", "cm/one", "-l", "a=b"], "error: name cannot be provided when a selector is specified\n"),
        (&["get", "svc,cm", "-w"], "error: you may only specify a single resource type\n"),
        (&["delete", "cm"], "error: resource(s) were provided, but no name was specified\n"),
    ] {
        let wrong = machine.run(args);
        assert_eq!((wrong.status.code(), error(&wrong).as_str()), (Some(2), want), "{args:?}");
    }
    assert_eq!(machine.run(&["get", "svc/x", "pods"]).status.code(), Some(2));
    let partly = machine.run(&["get", "cm/one", "cm/absent"]);
    assert_eq!(partly.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&partly.stdout).contains("one"), "what is there is shown");
    let none = machine.run(&["get", "pods"]);
    assert_eq!((none.status.code(), error(&none).as_str()), (Some(0), "No resources found in default namespace.\n"));
    for args in [&["get"][..], &["logs"], &["delete"], &["get", "cm", "-o", "nonsense"]] {
        assert_eq!(machine.run(args).status.code(), Some(2), "{args:?}");
    }

    assert_eq!(succeeds(&machine, &["delete", "cm/one", "cm/two"]), "configmap/one deleted\nconfigmap/two deleted\n");
}

#[test]
fn get_watch_prints_what_is_there_and_then_each_change() {
    use std::io::{BufRead, BufReader};
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    let config = |name: &str| {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: w}}}}\n");
        std::fs::write(machine.path("work").join("c.yaml"), text).expect("written");
        succeeds(&machine, &["apply", "-f", "c.yaml"]);
    };
    config("before");
    let mut command = machine.sampan(&["get", "cm", "-l", "app=w", "-w"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.next().expect("a header").starts_with("NAME"));
    assert!(lines.next().expect("what is there").starts_with("before"));
    // The server sends the columns with the first change only.
    for name in ["after", "later", "last"] {
        config(name);
        let line = lines.next().expect("the change");
        assert!(line.starts_with(name) && line.split_whitespace().count() == 3, "{line:?}");
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

#[test]
fn logs_finds_the_pod_and_the_container_as_kubectl_does() {
    let machine = Machine::new();
    let cluster = tellers(&machine);
    if kubectl().is_none() {
        return;
    }
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod", "-l", "app=tell", "--timeout=60s"]);
    for args in [&["logs", "two"][..], &["logs", "pod/two"], &["logs", "two", "-c", "b"], &["logs", "job/once"]] {
        assert_eq!(succeeds(&machine, args), "told\n", "{args:?}");
    }
    let defaulted = machine.run(&["logs", "two"]);
    assert_eq!(error(&defaulted), "Defaulted container \"a\" out of: a, b\n");
    assert_eq!(succeeds(&machine, &["logs", "-l", "app=tell"]), "told\ntold\n");
    for (args, want) in [
        (&["logs", "absent"][..], "Error from server (NotFound): pods \"absent\" not found\n"),
        (&["logs", "job/absent"], "Error from server (NotFound): jobs.batch \"absent\" not found\n"),
        (&["logs", "two", "-c", "z"], "error: container z is not valid for pod two\n"),
        (
            &["logs", "namespace/default"],
            "error: cannot get the logs from *v1.Namespace: selector for *v1.Namespace not implemented\n",
        ),
    ] {
        assert_eq!(fails(&machine, args), want, "{args:?}");
    }
}

#[test]
fn logs_of_what_will_have_no_pods_are_not_waited_for() {
    let machine = Machine::new();
    let _cluster = tellers(&machine);
    let more = "apiVersion: v1\nkind: Service\nmetadata: {name: bare}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: none}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: none}}\n  \
        template: {metadata: {labels: {app: none}}, spec: {containers: [{name: c, image: 'teller:1'}]}}\n";
    std::fs::write(machine.path("work").join("more.yaml"), more).expect("written");
    succeeds(&machine, &["apply", "-f", "tellers.yaml", "-f", "more.yaml", "--wait"]);
    succeeds(&machine, &["delete", "pods", "-l", "app=tell"]);
    for (what, why) in [
        ("job/once", "error: job.batch/once has no pods: it is over, and its pods were removed\n"),
        ("deploy/none", "error: deployment.apps/none has no pods: it is scaled to 0 replicas\n"),
        ("svc/bare", "error: service/bare has no pods: its selector finds none\n"),
    ] {
        assert_eq!(fails(&machine, &["logs", what]), why, "{what}");
    }
}

#[test]
fn the_data_directory_of_the_environment_may_be_empty_and_is_in_no_usage_line() {
    let mut machine = Machine::new();
    let wrong = machine.run(&["delete"]);
    assert!(error(&wrong).contains("Usage: ") && !error(&wrong).contains("--data-dir"), "{}", error(&wrong));
    let both = machine.run(&["logs", "two", "-l", "a=b"]);
    assert_eq!(error(&both), "error: only a selector (-l) or a POD name is allowed\n");
    assert_eq!(both.status.code(), Some(2));
    assert!(fails(&machine, &["get", "pods"]).contains(&machine.kubeconfig().display().to_string()));
    machine.environment.push(("SAMPAN_DATA_DIR".into(), String::new()));
    let default = machine.path("xdg").join("sampan/kubeconfig").display().to_string();
    assert!(fails(&machine, &["get", "pods"]).contains(&default));
}

#[test]
fn images_in_use_are_removed_by_force_alone_and_latest_is_told_about() {
    let machine = Machine::new();
    std::fs::write(machine.path("work").join("spin.wat"), "(module (func (export \"_start\") (loop $l (br $l))))")
        .expect("written");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: user}\nspec: {containers: [{name: c, image: 'spin:1', resources: {limits: {cpu: 10m}}}]}\n";
    std::fs::write(machine.path("work").join("pod.yaml"), pod).expect("written");
    assert!(succeeds(&machine, &["image", "ls"]).starts_with("NAME"));
    succeeds(&machine, &["image", "load", "spin.wat", "-t", "spin:1"]);
    let latest = machine.run(&["image", "load", "spin.wat", "-t", "localhost/x:latest"]);
    assert!(latest.status.success());
    assert!(error(&latest).contains("imagePullPolicy: IfNotPresent") && error(&latest).contains("-t localhost/x:1"));

    let _cluster = machine.up(&[]);
    succeeds(&machine, &["apply", "-f", "pod.yaml"]);
    let refused = fails(&machine, &["image", "rm", "spin:1"]);
    assert!(refused.contains("default/user") && refused.contains("--force"), "{refused}");
    succeeds(&machine, &["image", "rm", "localhost/x:latest"]);
    succeeds(&machine, &["image", "rm", "--force", "spin:1"]);
}

#[test]
fn detach_shows_the_progress_of_what_is_applied() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let listen = format!("{}:0", machine.address);
    let up = machine.run(&["up", "--detach", "-f", "hello", "--listen", &listen, "--node-address", &machine.address]);
    let stopped = machine.run(&["down"]);
    assert!(up.status.success() && stopped.status.success(), "{}", error(&up));
    assert!(error(&up).contains("deployment.apps/hello created"), "{}", error(&up));
    assert!(error(&up).contains("deployment.apps/hello 0/3 ready"), "{}", error(&up));
    assert!(String::from_utf8_lossy(&up.stdout).contains("applied 4 objects"));
}

/// `up --detach -f` of a manifest, then `down`: the output of the first.
fn up_and_down(machine: &Machine, manifest: &str) -> Output {
    std::fs::write(machine.path("work").join("m.yaml"), manifest).expect("written");
    let listen = format!("{}:0", machine.address);
    let up = machine.run(&["up", "--detach", "-f", "m.yaml", "--listen", &listen, "--node-address", &machine.address]);
    assert!(succeeds(machine, &["get", "ns", "-o", "name"]).contains("namespace/default"), "the cluster stays up");
    succeeds(machine, &["down"]);
    up
}

#[test]
fn what_will_not_become_ready_is_told_soon_and_fails_detached() {
    let missing = "apiVersion: v1\nkind: Pod\nmetadata: {name: lost}\nspec: {containers: [{name: c, image: 'lost:1', imagePullPolicy: Never}]}\n";
    let failing = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: f}\nspec:\n  backoffLimit: 0\n  template: {spec: {restartPolicy: Never, containers: [{name: c, image: ./trap.wat}]}}\n";
    for (manifest, reason, label) in
        [(missing, "pod/lost: ErrImageNeverPull", "pod/lost"), (failing, "BackoffLimitExceeded", "job.batch/f")]
    {
        let machine = Machine::new();
        std::fs::write(machine.path("work").join("trap.wat"), "(module (func (export \"_start\") unreachable))")
            .expect("written");
        let start = std::time::Instant::now();
        let up = up_and_down(&machine, manifest);
        let (said, out) = (error(&up), String::from_utf8_lossy(&up.stdout));
        assert_eq!(up.status.code(), Some(1), "{said}");
        assert!(start.elapsed() < std::time::Duration::from_secs(100), "not after the whole patience: {said}");
        assert!(said.contains(reason) && said.contains(label), "{said}");
        assert!(
            said.contains(" describe -n default ")
                && said.contains("kubectl --kubeconfig ")
                && said.contains("sampan down"),
            "{said}"
        );
        assert_eq!(said.matches("error:").count(), 1, "one failure is told once: {said}");
        assert!(out.contains("export KUBECONFIG=") && !out.contains("applied"), "{out}");
    }
}

#[test]
fn the_url_of_a_taken_node_port_is_not_printed_but_who_has_it() {
    let machine = Machine::new();
    let taken = std::net::TcpListener::bind(format!("{}:30080", machine.address)).expect("free");
    let up = up_and_down(
        &machine,
        "apiVersion: v1\nkind: Service\nmetadata: {name: hello}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}\n",
    );
    drop(taken);
    let (said, out) = (error(&up), String::from_utf8_lossy(&up.stdout));
    assert_eq!(up.status.code(), Some(1), "{said}");
    // The cluster runs as another user if the tests run as root: whose the port is may then not be seen.
    let who = ["another process".to_owned(), format!("process {} ", std::process::id())];
    assert!(
        who.iter().any(|who| said.contains(&format!("node port 30080 of service/hello is taken by {who}"))),
        "{said}"
    );
    assert!(!out.contains(":30080"), "{out}");
}

#[test]
fn a_second_data_directory_is_beside_the_first_in_a_kubeconfig_and_its_path_is_quoted() {
    let machine = Machine::new();
    let listen = format!("{}:0", machine.address);
    let (first, second) = (machine.path("data"), machine.path("two words"));
    let mut seen = Vec::new();
    for dir in [&first, &second] {
        let dir = dir.display().to_string();
        let out = succeeds(
            &machine,
            &["up", "--detach", "--data-dir", &dir, "--listen", &listen, "--node-address", &machine.address],
        );
        seen.push(out.lines().last().expect("a line").trim().to_owned());
        let merged = machine.run(&["kubeconfig", "--merge", "--data-dir", &dir]);
        assert!(merged.status.success() && error(&merged).contains(".kube/config"), "{}", error(&merged));
        succeeds(&machine, &["down", "--data-dir", &dir]);
    }
    assert_eq!(seen[0], format!("export KUBECONFIG={}/kubeconfig", first.display()));
    assert_eq!(seen[1], format!("export KUBECONFIG='{}/kubeconfig'", second.display()));
    let merged = std::fs::read_to_string(machine.path(".kube/config")).expect("merged");
    assert!(merged.contains("name: sampan-data") && merged.contains("name: sampan-two-words"), "{merged}");
}

#[test]
fn looking_for_images_makes_no_data_directory() {
    let machine = Machine::new();
    let listed = machine.run(&["image", "ls"]);
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).starts_with("NAME"));
    let data = machine.data().display().to_string();
    assert!(error(&listed).contains(&data), "{}", error(&listed));
    for args in [&["image", "rm", "x:1"][..], &["image", "push", "localhost:1/x:1"]] {
        assert!(fails(&machine, args).contains(&data), "{args:?}");
    }
    assert!(!machine.data().exists(), "nothing was made");
}

#[test]
fn one_object_is_one_and_every_address_is_told_as_one_to_go_to() {
    let machine = Machine::new();
    std::fs::write(machine.path("work").join("c.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n")
        .expect("written");
    let out = succeeds(&machine, &["up", "--detach", "-f", "c.yaml", "--listen", "0.0.0.0:0"]);
    assert!(out.starts_with("ready https://127.0.0.1:") && out.contains("\napplied 1 object "), "{out}");
    std::fs::remove_file(machine.kubeconfig()).expect("there");
    let gone = fails(&machine, &["get", "pods"]);
    assert!(gone.contains("is gone, but the cluster runs (process "), "{gone}");
    succeeds(&machine, &["down"]);
}

#[test]
fn a_reader_that_stops_ends_a_command_without_a_word() {
    let machine = Machine::new();
    for args in [&["completions", "bash"][..], &["version"], &["image", "ls"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = machine.sampan(args).stdout(writer).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let output = ended(output, "the binary", CLIENT_TIMEOUT);
        assert_eq!((output.status.code(), error(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}

/// A program that is killed when the test ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ports_are_forwarded_and_urls_told_without_kubectl() {
    let machine = Machine::new();
    sample("hello", &machine.path("work"));
    let _cluster = machine.up(&[]);
    // The Job is not needed here.
    let hello = std::fs::read_to_string(machine.path("work").join("hello/hello.yaml")).expect("the sample");
    let hello: Vec<_> = hello.split("---\n").filter(|part| !part.contains("kind: Job")).collect();
    std::fs::write(machine.path("work").join("hello/hello.yaml"), hello.join("---\n")).expect("written");
    succeeds(&machine, &["apply", "-f", "hello", "--wait"]);
    let url = succeeds(&machine, &["url", "hello"]);
    assert_eq!(url, format!("http://{}:30080\n", machine.address));
    assert!(get(url.trim()).expect("it answers").1.starts_with("Hello from "));
    assert_eq!(
        fails(&machine, &["url", "kubernetes"]).split(" -n ").last(),
        Some("default service/kubernetes :443\n"),
        "what has no node port is reached by a forwarded one"
    );
    assert_eq!(fails(&machine, &["url", "absent"]), "Error from server (NotFound): services \"absent\" not found\n");

    let arguments = ["port-forward", "svc/hello", ":http", "--address", machine.address.as_str()];
    let mut forward = Ends(machine.sampan(&arguments).stdout(Stdio::piped()).spawn().expect("the binary runs"));
    let mut lines = BufReader::new(forward.0.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let (first, address) = (line(), String::new());
    let address =
        address + first.strip_prefix("Forwarding from ").expect("its address").split(' ').next().expect("one");
    assert!(first.ends_with(" -> 8080"), "the Service's port 80 is the pod's 8080: {first}");
    let answer = |address: &str| get(&format!("http://{address}/")).expect("it answers");
    let (code, before) = answer(&address);
    assert!(code == 200 && before.starts_with("Hello from hello-"), "{before}");
    assert_eq!(line(), format!("Handling connection for {}", address.rsplit(':').next().expect("a port")));
    // The pod that was forwarded to goes: the next connection finds another.
    succeeds(&machine, &["delete", "pods", "-l", "app=hello"]);
    succeeds(&machine, &["apply", "-f", "hello", "--wait"]);
    assert!(answer(&address).1.starts_with("Hello from hello-"));
    drop(forward);

    for (args, want) in [
        (&["port-forward", "svc/hello", "81"][..], "error: Service hello does not have a service port 81\n"),
        (
            &["port-forward", "namespace/default", "80"],
            "error: cannot forward ports of *v1.Namespace: selector for *v1.Namespace not implemented\n",
        ),
        (&["port-forward", "absent", "80"], "Error from server (NotFound): pods \"absent\" not found\n"),
    ] {
        assert_eq!(fails(&machine, args), want, "{args:?}");
    }
    let wrong = machine.run(&["port-forward", "svc/hello", "80:"]);
    assert_eq!(
        (wrong.status.code(), error(&wrong).lines().next().map(str::to_owned)),
        (Some(2), Some("error: invalid port format '80:': expected [LOCAL:]REMOTE".to_owned()))
    );
}
