//! The clusters of a machine: in the background, several, listed, remembered and removed.

use crate::cli::{error, succeeds};
use crate::harness::*;
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// What `ls` tells of the cluster of a machine.
fn listed(machine: &Machine) -> Option<Value> {
    let all: Value = serde_json::from_str(&succeeds(machine, &["ls", "-o", "json"])).expect("JSON");
    let dir = machine.data().display().to_string();
    all.as_array()?.iter().find(|one| one["dataDirectory"] == dir.as_str()).cloned()
}

#[test]
fn a_detached_cluster_holds_nothing_of_its_caller() {
    let machine = Machine::new();
    let lock = machine.path("work").join("caller.lock");
    let script = format!(
        "exec 9>{}; flock 9; exec {} up --detach --listen {}:0 --node-address {}",
        lock.display(),
        binary().display(),
        machine.address,
        machine.address
    );
    let up = machine.command(Path::new("sh"), &["-c", &script]).output().expect("a shell");
    assert!(up.status.success(), "{}", error(&up));
    let free = Command::new("flock").args(["--nonblock"]).arg(&lock).arg("true").status().expect("flock");
    assert!(free.success(), "the lock of the caller is free again");
    let pid = listed(&machine).expect("it runs")["pid"].as_u64().expect("a process");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("after its name").split_whitespace().collect();
    assert_eq!(
        (fields[3], fields[4]),
        (pid.to_string().as_str(), "0"),
        "a session of its own, and no terminal: {stat}"
    );
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("readable"), Path::new("/"));
    succeeds(&machine, &["down"]);
}

#[test]
fn flags_are_remembered_and_purge_leaves_nothing() {
    let machine = Machine::new();
    let free = std::net::TcpListener::bind(format!("{}:0", machine.address)).expect("free");
    let listen = free.local_addr().expect("bound").to_string();
    drop(free);
    let first = succeeds(
        &machine,
        &["up", "--detach", "--listen", &listen, "--node-address", &machine.address, "--merge-kubeconfig"],
    );
    assert!(first.contains(&format!("ready https://{listen} ")), "{first}");
    assert_eq!(listed(&machine).expect("listed")["status"], "running");
    succeeds(&machine, &["down"]);
    assert_eq!(listed(&machine).expect("listed")["status"], "stopped");
    let again = machine.run(&["up", "--detach", "-o", "json"]);
    let told: Value = serde_json::from_slice(&again.stdout).expect("JSON alone");
    assert_eq!((&told["api"], &told["ready"]), (&format!("https://{listen}").into(), &true.into()));
    assert_eq!(told["nodeAddress"], machine.address.as_str());
    let personal = machine.path(".kube").join("config");
    assert!(fs::read_to_string(&personal).expect("merged").contains("sampan-data"));
    let purged = machine.run(&["down", "--purge"]);
    assert!(purged.status.success(), "{}", error(&purged));
    assert!(!machine.data().exists());
    let left = fs::read_to_string(&personal).expect("kept");
    assert!(!left.contains("sampan-data"), "{left}");
    assert!(listed(&machine).is_none());
}

#[test]
fn a_cluster_whose_directory_is_removed_ends_and_says_why() {
    let machine = Machine::new();
    let cluster = machine.up(&[]);
    fs::remove_dir_all(machine.data()).expect("removed");
    assert_eq!(cluster.ended(), 1);
}

#[test]
fn up_with_a_manifest_joins_the_cluster_that_runs() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let cluster = machine.up(&[]);
    let joined = machine.run(&["up", "-f", "hello"]);
    let (said, out) = (error(&joined), String::from_utf8_lossy(&joined.stdout));
    assert!(joined.status.success(), "{said}");
    assert!(said.contains(&format!("runs already (process {}): applying to it", cluster.pid())), "{said}");
    assert!(out.contains("applied 4 objects") && out.contains(&format!("http://{}:30080", machine.address)), "{out}");
    assert_eq!(get(&format!("http://{}:30080/", machine.address)).expect("answered").0, 200);
}

#[test]
fn the_node_is_where_its_node_ports_answer_and_pods_are_told_so() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let _cluster = machine.up(&[]);
    succeeds(&machine, &["apply", "-f", "hello", "--wait"]);
    let nodes: Value = serde_json::from_str(&succeeds(&machine, &["get", "nodes", "-o", "json"])).expect("JSON");
    let addresses = nodes["items"][0]["status"]["addresses"].as_array().expect("addresses").clone();
    let internal: Vec<&Value> = addresses.iter().filter(|one| one["type"] == "InternalIP").collect();
    assert_eq!(internal.len(), 1, "{addresses:?}");
    assert_eq!(internal[0]["address"], machine.address.as_str());
    let pods: Value =
        serde_json::from_str(&succeeds(&machine, &["get", "pods", "-l", "app=hello", "-o", "json"])).expect("JSON");
    assert_eq!(pods["items"][0]["status"]["hostIP"], machine.address.as_str());
}

#[test]
fn which_cluster_is_meant_follows_the_flags_then_the_environment() {
    let machine = Machine::new();
    let _cluster = machine.up(&[]);
    let (ours, data) = (machine.kubeconfig().display().to_string(), machine.data().display().to_string());
    let run = |args: &[&str], data: &str, kubeconfig: &str| {
        let mut command = machine.sampan(&[&["get", "ns"], args].concat());
        command.env("SAMPAN_DATA_DIR", data).env("KUBECONFIG", kubeconfig).output().expect("the binary runs")
    };
    assert!(run(&[], &data, "/absent").status.success(), "$SAMPAN_DATA_DIR comes first");
    let absent = run(&[], "", "/absent");
    assert!(error(&absent).contains("/absent, which $KUBECONFIG names"), "{}", error(&absent));
    assert!(run(&["--kubeconfig", &ours], "", "/absent").status.success());
    assert!(run(&["--data-dir", &data], "", "/absent").status.success());
    let both = format!("/absent:{ours}");
    assert!(run(&[], "", &both).status.success(), "the files that are there, as kubectl does");
    let down = machine.sampan(&["down"]).env("SAMPAN_DATA_DIR", "").env("KUBECONFIG", &ours).output().expect("it runs");
    let said = String::from_utf8_lossy(&down.stderr).into_owned() + &String::from_utf8_lossy(&down.stdout);
    assert!(down.status.success() && said.contains("stopped process"), "the cluster that kubectl speaks to: {said}");
}

#[test]
fn a_dump_has_objects_and_logs_and_no_secret() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let _cluster = machine.up(&[]);
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n";
    fs::write(machine.path("work").join("s.yaml"), secret).expect("written");
    succeeds(&machine, &["apply", "-f", "hello", "-f", "s.yaml", "--wait"]);
    succeeds(&machine, &["dump", "report"]);
    let report = machine.path("work").join("report");
    let read = |name: &str| fs::read_to_string(report.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("default/pods.yaml").contains("hello-check-"));
    assert!(read("_cluster/nodes.yaml").contains(&machine.address));
    assert!(read("metrics.txt").contains("# TYPE"));
    let secrets = read("default/secrets.yaml");
    assert!(secrets.contains("password: hidden") && !secrets.contains("aHVudGVyMg"), "{secrets}");
    let logs = fs::read_dir(report.join("default/logs")).expect("logs").flatten();
    let check =
        logs.map(|pod| pod.path()).find(|pod| pod.display().to_string().contains("hello-check-")).expect("the Job's");
    assert!(fs::read_to_string(check.join("fetch.log")).expect("its log").starts_with("Hello from hello-"));
}
