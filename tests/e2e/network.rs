//! The pod network as guests and clients see it.

use crate::{guests, harness::*};
use std::{fs, thread, time::Duration};

fn job(name: &str, url: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      \
         - {{name: c, image: 'fetch:1', args: ['{url}']}}\n---\n"
    )
}

#[test]
fn guests_reach_the_api_over_tls_and_pods_by_every_name() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    for name in ["hello", "fetch"] {
        guests::load_sample(&machine, name);
    }
    let cluster = machine.up(&[]);
    cluster.kubectl(&["run", "web", "--image=hello:1", "--port=8080"]);
    cluster.kubectl(&["expose", "pod", "web", "--port=80", "--target-port=8080"]);
    cluster.kubectl(&["create", "namespace", "other"]);
    let jobs = [
        ("api", "https://kubernetes.default.svc/version"),
        ("api-by-address", "https://10.96.0.1/version"),
        ("short", "http://web/"),
        ("namespaced", "http://web.default/"),
        ("full", "http://web.default.svc.cluster.local/"),
    ];
    let manifest: String = jobs.iter().map(|(name, url)| job(name, url)).collect();
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest);
    cluster.kubectl_with(&["apply", "-n", "other", "-f", "-"], &job("elsewhere", "http://web.default/"));
    for (name, _) in jobs {
        cluster.kubectl(&["wait", "--for=condition=Complete", &format!("job/{name}"), "--timeout=100s"]);
        let log = cluster.kubectl(&["logs", &format!("job/{name}")]);
        let expected = if name.starts_with("api") { "gitVersion" } else { "Hello from web" };
        assert!(log.contains(expected), "{name}: {log}");
    }
    cluster.kubectl(&["wait", "-n", "other", "--for=condition=Complete", "job/elsewhere", "--timeout=100s"]);

    // Through the API, without a node port: pods, Services by number and the node's own paths.
    for (path, expected) in [
        ("namespaces/default/pods/web/proxy/", "Hello from web"),
        ("namespaces/default/services/web:80/proxy/a?b=c", "Hello from web"),
        ("namespaces/default/services/http:web:/proxy/", "Hello from web"),
    ] {
        let said = cluster.kubectl(&["get", "--raw", &format!("/api/v1/{path}")]);
        assert!(said.contains(expected), "{path}: {said}");
    }

    // A cloud's metadata service is refused, and the log says how to allow it.
    cluster.kubectl_with(&["apply", "-f", "-"], &job("host", "http://169.254.169.254/latest"));
    cluster.eventually("the refusal is told", || {
        let output = cluster.kubectl_output(&["logs", "job/host"], "");
        Some(()).filter(|()| String::from_utf8_lossy(&output.stdout).contains("--allow-egress"))
    });
}

#[test]
fn handlers_take_their_port_the_second_fails_and_none_declared_is_8080_with_a_warning() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let two = "apiVersion: v1\nkind: Pod\nmetadata: {name: two}\nspec:\n  containers:\n  - {name: first, image: 'hello:1', ports: [{containerPort: 8080}]}\n  \
               - {name: second, image: 'hello:1', ports: [{containerPort: 8080}]}\n";
    cluster.kubectl_with(&["apply", "-f", "-"], two);
    cluster.kubectl(&["run", "plain", "--image=hello:1"]);
    cluster.kubectl(&[
        "expose",
        "pod",
        "plain",
        "--type=NodePort",
        "--port=80",
        "--target-port=8080",
        "--overrides={\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":8080,\"nodePort\":30094}]}}",
    ]);
    cluster.eventually("served on 8080", || {
        get(&format!("http://{}:30094/", machine.address)).ok().filter(|(_, body)| body == "Hello from plain\n")
    });
    cluster.eventually("a warning", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector=involvedObject.name=plain,type=Warning"]);
        Some(()).filter(|()| events.contains("8080"))
    });
    let message = cluster.eventually("the second handler fails", || {
        let states = cluster.field(
            "pod/two",
            "{range .status.containerStatuses[*]}{.lastState.terminated.reason} {.lastState.terminated.message}{end}",
        );
        Some(states).filter(|s| s.contains("AddressInUse"))
    });
    assert!(message.contains("8080"), "{message}");
    let ready = cluster.field("pod/two", "{.status.containerStatuses[*].ready}");
    assert!(ready.contains("true") && ready.contains("false"), "one serves, one does not: {ready}");
}

#[test]
fn a_storm_of_requests_is_answered_and_the_api_stays_alive() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    cluster.kubectl_with(
        &["apply", "-f", "-"],
        "apiVersion: v1\nkind: Pod\nmetadata: {name: storm, labels: {app: storm}}\nspec:\n  containers:\n  - {name: c, image: 'hello:1', ports: [{containerPort: 8080}], \
         resources: {limits: {cpu: 500m, memory: 64Mi}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: storm}\nspec: {type: NodePort, selector: {app: storm}, \
         ports: [{port: 80, targetPort: 8080, nodePort: 30095}]}\n",
    );
    let url = format!("http://{}:30095/", machine.address);
    cluster.eventually("served", || get(&url).ok().filter(|(code, _)| *code == 200));
    let attackers: Vec<_> = (0..60)
        .map(|_| {
            let url = url.clone();
            thread::spawn(move || (0..5).filter_map(|_| get(&url).ok()).map(|(code, _)| code).collect::<Vec<_>>())
        })
        .collect();
    for _ in 0..5 {
        cluster.kubectl(&["get", "--raw", "/readyz"]);
        thread::sleep(Duration::from_millis(50));
    }
    let codes: Vec<u16> = attackers.into_iter().flat_map(|a| a.join().expect("asked")).collect();
    let log = cluster.kubectl(&["logs", "storm", "--tail=20"]);
    assert!(codes.contains(&200), "{codes:?}\n{log}");
    let other: Vec<_> = codes.iter().filter(|code| ![200, 503].contains(*code)).collect();
    assert!(other.is_empty(), "answered, or told to come back: {other:?}\n{log}");
    assert_eq!(cluster.field("pod/storm", "{.status.containerStatuses[0].restartCount}"), "0");
    assert_eq!(get(&url).expect("served after it").0, 200);
}

/// The sockets of a process that listen, or receive datagrams, on the host.
fn host_sockets(pid: u32) -> Vec<String> {
    let owned = |entry: std::io::Result<fs::DirEntry>| {
        let link = fs::read_link(entry.ok()?.path()).ok()?;
        Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
    };
    let mine: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").filter_map(owned).collect();
    let mut found = Vec::new();
    for (table, states) in
        [("tcp", ["0A"].as_slice()), ("tcp6", &["0A"]), ("udp", &["07", "01"]), ("udp6", &["07", "01"])]
    {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if states.contains(&words[3]) && mine.iter().any(|inode| inode == words[9]) {
                found.push(format!("{table} {}", words[1]));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn servers_on_sockets_are_behind_services_and_open_nothing_on_the_host() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    let folder = sample("echo", &machine.path("work"));
    guests::load_sample(&machine, "echo");
    let cluster = machine.up(&[]);
    let before = host_sockets(cluster.pid());
    assert!(before.iter().any(|socket| socket.starts_with("tcp ")), "the API is seen: {before:?}");
    let applied = machine.run(&["apply", "-f", &folder.display().to_string(), "--wait"]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    cluster.kubectl(&["rollout", "status", "deployment/echo", "--timeout=100s"]);
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/echo-check", "--timeout=100s"]);
    // A first pod may have come before the server and failed.
    let succeeded =
        ["get", "pod", "-l", "job-name=echo-check", "--field-selector=status.phase=Succeeded", "-o", "name"];
    let log = cluster.kubectl(&["logs", cluster.kubectl(&succeeded).trim()]);
    assert_eq!(log, "The boat drifts where the water goes");
    assert_eq!(host_sockets(cluster.pid()), before, "a guest's listener is no socket of the host");

    let client = |name: &str, url: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - {{name: c, image: 'echo:1', args: ['{url}', 'a boat']}}\n---\n"
        )
    };
    let asked = [
        ("udp", "udp://echo:7", "a boat"),
        ("full", "tcp://echo.default.svc.cluster.local:7", "a boat"),
        ("no-port", "tcp://echo:8", "tcp://echo:8: connection-refused\n"),
        ("own", "tcp://127.0.0.1:22", "tcp://127.0.0.1:22: connection-refused\n"),
        ("unknown", "tcp://nobody.default:7", "tcp://nobody.default:7: name-unresolvable\n"),
        ("metadata", "tcp://169.254.169.254:80", "tcp://169.254.169.254:80: access-denied\n"),
    ];
    let pods: String = asked.iter().map(|(name, url, _)| client(name, url)).collect();
    cluster.kubectl_with(&["apply", "-f", "-"], &pods);
    for (name, url, expected) in asked {
        cluster.eventually("it ends", || {
            let phase = cluster.field(&format!("pod/{name}"), "{.status.phase}");
            Some(()).filter(|()| phase == "Succeeded" || phase == "Failed")
        });
        let log = cluster.kubectl(&["logs", name]);
        assert!(log.contains(expected), "{url}: {log}");
        assert_eq!(log.contains("--allow-egress"), name == "metadata", "{log}");
    }
    let pod = cluster.kubectl(&["get", "pod", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl(&["delete", "pod", &pod, "--wait"]);
    assert_eq!(host_sockets(cluster.pid()), before);
}

#[test]
fn a_balanced_service_has_a_port_that_tells_whether_it_has_endpoints() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: lb}\nspec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {run: lb}, \
                   ports: [{port: 80, targetPort: 8080}]}\n";
    cluster.kubectl_with(&["apply", "-f", "-"], service);
    let number = cluster.field("service/lb", "{.spec.healthCheckNodePort}");
    let url = format!("http://{}:{number}/healthz", machine.address);
    let told = |code: u16, local: &str| {
        let is = |(status, body): &(u16, String)| *status == code && body.contains(local);
        cluster.eventually(&format!("{code} and {local}"), || get(&url).ok().filter(is));
    };
    told(503, "\"localEndpoints\": 0");
    cluster.kubectl(&["run", "lb", "--image=hello:1", "--port=8080"]);
    told(200, "\"localEndpoints\": 1");
    cluster.kubectl(&["delete", "pod", "lb"]);
    told(503, "\"localEndpoints\": 0");
    cluster.kubectl(&["patch", "service", "lb", "-p", "{\"spec\":{\"externalTrafficPolicy\":\"Cluster\"}}"]);
    assert_eq!(cluster.field("service/lb", "{.spec.healthCheckNodePort}"), "");
    cluster.eventually("the port to close", || get(&url).is_err().then_some(()));
}
