//! The clusters of a machine: in the background, several, listed, remembered and removed.

use crate::{
    cli::{error, fails, succeeds},
    harness::*,
};
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
    let up = machine.command(Path::new("sh"), &["-c", &script]).bounded();
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
fn ctrl_c_at_a_detached_start_says_that_the_cluster_goes_on() {
    use std::{io::BufRead, process::Stdio};
    let machine = Machine::new();
    // It is never ready: the manifest asks for what no node has, and the wait is long.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeSelector: {no: node}, containers: [{name: c, image: 'c:1'}]}\n";
    fs::write(machine.path("work").join("p.yaml"), pod).expect("written");
    let listen = format!("{}:0", machine.address);
    let start = ["up", "--detach", "-f", "p.yaml", "--timeout", "1h", "--listen", &listen];
    let mut up = machine.sampan(&[&start[..], &["--node-address", &machine.address]].concat());
    let mut up = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut ready = String::new();
    std::io::BufReader::new(up.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
    assert!(ready.starts_with("ready "), "{ready}");
    assert!(Command::new("kill").args(["-INT", &up.id().to_string()]).status().expect("kill").success());
    let ended = ended(up, "up", TIMEOUT);
    assert_eq!(ended.status.code(), Some(130), "{}", error(&ended));
    assert!(error(&ended).contains("goes on in the background; stop it with `sampan down`"), "{}", error(&ended));
    assert_eq!(listed(&machine).expect("listed")["status"], "running");
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
fn a_file_of_settings_starts_a_cluster_and_is_remembered_as_flags_are() {
    let machine = Machine::new();
    let free = std::net::TcpListener::bind(format!("{}:0", machine.address)).expect("free");
    let listen = free.local_addr().expect("bound").to_string();
    drop(free);
    let header = "apiVersion: sampan.dev/v1alpha1\nkind: ClusterConfiguration\n";
    let file = format!(
        "{header}listen: {listen}\nnodeAddress: {}\nnodeName: from-a-file\npodCIDR: 10.64.0.0/11\nmaxPods: 100\n",
        machine.address
    );
    fs::write(machine.path("work").join("cluster.yaml"), file).expect("written");
    // The flag wins.
    let up = ["up", "--config", "cluster.yaml", "--max-pods", "200"];
    let first = succeeds(&machine, &[&up[..], &["--detach"]].concat());
    assert!(first.contains(&format!("ready https://{listen} ")), "{first}");
    let node = machine.run(&["get", "node", "from-a-file", "-o", "json"]);
    let node: Value = serde_json::from_slice(&node.stdout).expect("the Node");
    assert_eq!(
        (&node["status"]["capacity"]["pods"], &node["spec"]["podCIDR"]),
        (&"200".into(), &"10.64.0.0/16".into())
    );
    config_map(&machine, "one");
    succeeds(&machine, &[&up[..], &["-f", "c.yaml"]].concat());
    let refused = fails(&machine, &["up", "--config", "cluster.yaml", "-f", "c.yaml"]);
    assert!(refused.contains("without --max-pods 100; stop it first"), "{refused}");
    succeeds(&machine, &["down"]);
    let again = succeeds(&machine, &["up", "--detach"]);
    let recalled =
        format!("as at the last start: --listen {listen} --node-address {} --pod-cidr 10.64.0.0/11", machine.address);
    assert!(again.contains(&format!("ready https://{listen} ")) && again.contains(&recalled), "{again}");
    succeeds(&machine, &["down"]);

    fs::write(machine.path("work").join("wrong.yaml"), format!("{header}cpus: 2\n")).expect("written");
    for detach in [&[][..], &["--detach"]] {
        let wrong = machine.run(&[&["up", "--config", "wrong.yaml"], detach].concat());
        assert_eq!(wrong.status.code(), Some(2));
        assert!(
            error(&wrong).starts_with("error: --config wrong.yaml: line 3: cpus: there is no such field; "),
            "{}",
            error(&wrong)
        );
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_written_is_told_before_anything_is_started() {
    let machine = Machine::new();
    fs::write(machine.path(".kube"), "a file where kubectl has a folder").expect("written");
    for detach in [&[][..], &["--detach"]] {
        let told = fails(&machine, &[&["up", "--merge-kubeconfig"], detach].concat());
        assert!(told.contains("nothing was started: leave the flag out, or set KUBECONFIG"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(!machine.data().join("cluster.redb").exists());
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

/// A manifest of one ConfigMap.
fn config_map(machine: &Machine, name: &str) {
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    fs::write(machine.path("work").join("c.yaml"), text).expect("written");
}

#[test]
fn a_cluster_that_runs_refuses_flags_of_a_start_and_takes_those_of_the_call() {
    let machine = Machine::new();
    let cluster = machine.up(&["--max-pods", "100"]);
    config_map(&machine, "one");
    for flags in [&["--max-pods", "7"][..], &["--detach", "--tls-san", "a.example"], &["--listen", "127.0.0.1:7"]] {
        let refused = fails(&machine, &[&["up", "-f", "c.yaml"], flags].concat());
        let why = format!("runs already (process {}), without {}", cluster.pid(), flags[flags.len() - 2..].join(" "));
        assert!(refused.contains(&why) && refused.contains("stop it first with `sampan down`"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    fails(&machine, &["get", "cm/one"]);
    let listen = format!("{}:0", machine.address);
    let so = ["--listen", &listen, "--node-address", &machine.address, "--max-pods", "100"];
    let call = ["--merge-kubeconfig", "--kubeconfig", "copy", "--detach"];
    let joined = succeeds(&machine, &[&["up", "-f", "c.yaml"], &so[..], &call].concat());
    let copy = machine.path("work").join("copy").display().to_string();
    assert!(
        joined.contains("applied 1 object") && joined.ends_with(&format!("export KUBECONFIG={copy}\n")),
        "{joined}"
    );
    let personal = machine.path(".kube").join("config").display().to_string();
    for each in [copy, personal] {
        assert!(succeeds(&machine, &["get", "cm/one", "--kubeconfig", &each]).contains("one"));
    }
}

#[test]
fn copies_of_the_kubeconfig_follow_the_cluster_and_go_with_it() {
    let machine = Machine::new();
    let (copy, personal) = (machine.path("work").join("copy"), machine.path(".kube").join("config"));
    let up = |more: &[&str]| {
        // Each start has another port.
        let free = std::net::TcpListener::bind(format!("{}:0", machine.address)).expect("free");
        let listen = free.local_addr().expect("bound").to_string();
        drop(free);
        let start = ["up", "--detach", "--listen", &listen, "--node-address", &machine.address];
        error(&machine.run(&[&start[..], more].concat()))
    };
    up(&["--kubeconfig", "copy"]);
    // As the tour exports it: what a cluster keeps for itself is nobody's to merge into.
    let mut merge = machine.sampan(&["kubeconfig", "--merge"]);
    let merged = merge.env("KUBECONFIG", machine.kubeconfig()).bounded();
    assert!(error(&merged).contains(&personal.display().to_string()), "{}", error(&merged));
    let down = machine.run(&["down"]);
    let stays = format!("\"sampan-data\" stays the current context of {}", personal.display());
    assert!(down.status.success() && error(&down).contains(&stays), "{}", error(&down));
    let renewed = up(&[]);
    for each in [&copy, &personal] {
        let each = each.display().to_string();
        assert!(renewed.contains("renewed") && renewed.contains(&each), "{renewed}");
        succeeds(&machine, &["get", "ns", "--kubeconfig", &each]);
    }
    succeeds(&machine, &["down"]);

    fs::remove_dir_all(machine.data()).expect("removed");
    let purged = machine.run(&["down", "--purge"]);
    assert!(purged.status.success() && error(&purged).contains("was gone already"), "{}", error(&purged));
    for each in [&copy, &personal] {
        assert!(!fs::read_to_string(each).expect("kept").contains("sampan-data"), "{}", each.display());
    }
    let none = machine.run(&["down", "--purge"]);
    assert!(none.status.success() && error(&none).contains("there is no data directory"), "{}", error(&none));
    assert!(!error(&none).contains("removed cluster"), "{}", error(&none));
}

#[test]
fn clusters_that_are_stopped_are_listed_wherever_they_are() {
    let machine = Machine::new();
    let listed = || -> Vec<(String, String)> {
        let all: Value = serde_json::from_str(&succeeds(&machine, &["ls", "-o", "json"])).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let all = all.as_array().expect("a list").iter().map(|one| (text(&one["name"]), text(&one["status"])));
        all.filter(|(name, _)| name == "sampan-one" || name == "sampan-two").collect()
    };
    let listen = format!("{}:0", machine.address);
    for name in ["one", "two"] {
        let dir = machine.path(name).display().to_string();
        let place = ["--data-dir", &dir, "--listen", &listen, "--node-address", &machine.address];
        succeeds(&machine, &[&["up", "--detach"], &place[..]].concat());
    }
    let down = |name: &str| succeeds(&machine, &["down", "--data-dir", &machine.path(name).display().to_string()]);
    let is = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    down("one");
    assert_eq!(listed(), [is("sampan-one", "stopped"), is("sampan-two", "running")]);
    down("two");
    fs::remove_dir_all(machine.path("one")).expect("removed");
    assert_eq!(listed(), [is("sampan-two", "stopped")]);
}

#[test]
fn the_node_is_where_its_node_ports_answer_and_pods_are_told_so() {
    let machine = Machine::new();
    for each in ["hello", "fetch"] {
        sample(each, &machine.path("work"));
    }
    let _cluster = machine.up(&[]);
    let applied = succeeds(&machine, &["apply", "-f", "hello", "--wait"]);
    let closing = applied.lines().position(|line| line.starts_with("ready: 4 objects in ")).expect("a closing line");
    let url = format!("  hello  http://{}:30080", machine.address);
    assert_eq!(applied.lines().skip(closing + 1).collect::<Vec<_>>(), [url], "{applied}");
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
        command.env("SAMPAN_DATA_DIR", data).env("KUBECONFIG", kubeconfig).bounded()
    };
    assert!(run(&[], &data, "/absent").status.success(), "$SAMPAN_DATA_DIR comes first");
    let absent = run(&[], "", "/absent");
    assert!(error(&absent).contains("/absent, which $KUBECONFIG names"), "{}", error(&absent));
    assert!(run(&["--kubeconfig", &ours], "", "/absent").status.success());
    assert!(run(&["--data-dir", &data], "", "/absent").status.success());
    let both = format!("/absent:{ours}");
    assert!(run(&[], "", &both).status.success(), "the files that are there, as kubectl does");
    let down = machine.sampan(&["down"]).env("SAMPAN_DATA_DIR", "").env("KUBECONFIG", &ours).bounded();
    let said = String::from_utf8_lossy(&down.stderr).into_owned() + &String::from_utf8_lossy(&down.stdout);
    assert!(down.status.success() && said.contains("stopped process"), "the cluster that kubectl speaks to: {said}");
}

#[test]
fn of_several_files_in_kubeconfig_the_cluster_that_kubectl_speaks_to_is_ended() {
    let machine = Machine::new();
    let file = |path: &Path| path.display().to_string();
    let (one, two) = (machine.path("one"), machine.path("two"));
    let personal = file(&machine.path(".kube").join("config"));
    let run = |args: &[&str], kubeconfig: &str| {
        let mut command = machine.sampan(args);
        command.env("SAMPAN_DATA_DIR", "").env("KUBECONFIG", kubeconfig).bounded()
    };
    let listen = format!("{}:0", machine.address);
    let of_one = file(&one.join("kubeconfig"));
    let mut told = String::new();
    for dir in [&one, &two] {
        let (dir, files) = (file(dir), format!("{personal}:{of_one}"));
        let start = ["up", "--detach", "--data-dir", &dir, "--listen", &listen, "--node-address", &machine.address];
        let up = run(&[&start[..], &["--merge-kubeconfig"]].concat(), &files);
        assert!(up.status.success(), "{}", error(&up));
        told = error(&up);
    }
    let hint = format!("stop it with `sampan down --data-dir {}`", file(&two));
    assert!(told.contains(&hint), "it is not the one of $KUBECONFIG: {told}");
    let held = |dir: &Path| dir.join("lock").exists() && dir.join("cluster.redb").exists();

    let work = machine.path("work").join("config");
    let cluster = "{server: 'https://127.0.0.1:1', certificate-authority-data: d29yaw==}";
    fs::write(
        &work,
        format!(
            "current-context: w\nclusters: [{{name: w, cluster: {cluster}}}]\ncontexts: [{{name: w, context: {{cluster: w}}}}]\n"
        ),
    )
    .expect("written");
    let refused = run(&["down", "--purge"], &format!("{}:{of_one}", file(&work)));
    assert_eq!(refused.status.code(), Some(1), "{}", error(&refused));
    assert!(error(&refused).contains("context \"w\"") && error(&refused).contains(&file(&one)), "{}", error(&refused));
    assert!(held(&one) && held(&two));

    let printed = |kubeconfig: &str| String::from_utf8(run(&["kubeconfig"], kubeconfig).stdout).expect("text");
    assert_eq!(printed(&of_one), fs::read_to_string(&of_one).expect("read"));
    // The personal file comes first, and speaks to the second.
    let both = format!("{personal}:{of_one}");
    assert!(printed(&both).contains("current-context: sampan-two"), "{}", printed(&both));
    let purged = run(&["down", "--purge"], &both);
    assert!(purged.status.success() && !two.exists() && held(&one), "{}", error(&purged));
    let down = run(&["down", "--purge"], &of_one);
    assert!(down.status.success() && !one.exists(), "{}", error(&down));
    assert!(!fs::read_to_string(&personal).expect("kept").contains("sampan-"));
}

/// Another cluster's entries under the name that ours have.
fn namesake(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
         clusters: [{{name: {name}, cluster: {{server: 'https://127.0.0.1:1', certificate-authority-data: d29yaw==}}}}]\n\
         users: [{{name: {name}, user: {{token: secret}}}}]\ncontexts: [{{name: {name}, context: {{cluster: {name}, user: {name}}}}}]\n"
    )
}

#[test]
fn a_folder_that_is_not_ours_is_not_purged_and_neither_are_its_credentials() {
    let machine = Machine::new();
    let (other, personal) = (machine.path("other"), machine.path("work").join("config"));
    fs::create_dir_all(&other).expect("made");
    fs::write(other.join("kubeconfig"), namesake("default")).expect("written");
    fs::write(other.join("other.db"), "x").expect("written");
    fs::write(&personal, namesake("default")).expect("written");
    let mut purge = machine.sampan(&["down", "--purge", "--data-dir", &other.display().to_string()]);
    let output = purge.env("KUBECONFIG", &personal).bounded();
    let told = error(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("holds files that are not sampan's; it was left as it is"), "{told}");
    assert_eq!(fs::read_to_string(&personal).expect("read"), namesake("default"));
    assert!(other.join("kubeconfig").exists() && other.join("other.db").exists());
}

#[test]
fn a_named_kubeconfig_keeps_the_entries_of_another_cluster() {
    let machine = Machine::new();
    let config = machine.path("work").join("config");
    fs::write(&config, namesake("sampan-data")).expect("written");
    let up = ["up", "--detach", "--listen", &format!("{}:0", machine.address), "--node-address", &machine.address];
    let told = fails(&machine, &[&up[..], &["--kubeconfig", "config"]].concat());
    assert!(told.contains("its cluster \"sampan-data\" is of another cluster"), "{told}");
    assert_eq!(fs::read_to_string(&config).expect("read"), namesake("sampan-data"));
    let up = machine.run(&[&up[..], &["--kubeconfig", "new"]].concat());
    let wrote = format!("to {}", machine.path("work").join("new").display());
    assert!(up.status.success() && error(&up).contains(&wrote), "{}", error(&up));
    succeeds(&machine, &["down", "--purge"]);
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
    let dumped = machine.run(&["dump", "report"]);
    let said = error(&dumped);
    assert!(dumped.status.success() && !said.contains("Warning"), "what is deprecated concerns nobody here: {said}");
    let again = machine.run(&["dump", "report"]);
    assert!(!again.status.success() && error(&again).contains("report is not empty; "), "{}", error(&again));
    succeeds(&machine, &["dump", "report", "--force"]);
    let report = machine.path("work").join("report");
    let read = |name: &str| fs::read_to_string(report.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("default/pods.yaml").contains("hello-check-"));
    assert!(read("_cluster/nodes.yaml").contains(&machine.address));
    assert!(read("metrics.txt").contains("# TYPE"));
    let secrets = read("default/secrets.yaml");
    assert!(secrets.contains("password: hidden") && !secrets.contains("aHVudGVyMg"), "{secrets}");
    // The client tries again, and prints each try: the Service may have no endpoint yet when the Job's pod begins.
    let logs = fs::read_dir(report.join("default/logs")).expect("logs").flatten().map(|pod| pod.path());
    let fetched: Vec<_> = logs
        .filter(|pod| pod.display().to_string().contains("hello-check-"))
        .map(|pod| fs::read_to_string(pod.join("fetch.log")).expect("its log"))
        .collect();
    assert!(
        fetched.iter().flat_map(|log| log.lines()).any(|line| line.starts_with("Hello from hello-")),
        "{fetched:?}"
    );
}
