//! The network of Linux containers: Services, probes, port-forward, mixed pods.

use crate::{
    guests,
    harness::{Cluster, Machine},
    linux::{can_run, clear, load_image},
};
use std::{fs, io::Read, net::TcpStream, path::Path, process::Stdio, time::Duration};

/// A Deployment of busybox's HTTP server that says `hello from <pod>`, and its Service `web`.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, "mkdir /tmp/w && echo hello from $(hostname) >/tmp/w/index.html && exec httpd -f -h /tmp/w -p 8080"]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// A pod that sleeps, to run commands in.
fn shell(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: \
         'busybox:1', command: [sleep, '1000']}}]\n"
    )
}

fn machine() -> Machine {
    let machine = Machine::new();
    load_image(&machine);
    for name in ["hello", "fetch"] {
        guests::load_sample(&machine, name);
    }
    machine
}

fn wget(cluster: &Cluster<'_>, pod: &str, url: &str) -> String {
    cluster.kubectl(&["exec", pod, "--", "wget", "-q", "-O", "-", url])
}

fn address(cluster: &Cluster<'_>, service: &str) -> String {
    cluster.field(&format!("service/{service}"), "{.spec.clusterIP}")
}

#[test]
fn linux_pods_are_reached_as_all_pods_are() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], WEB);
    cluster.kubectl_with(&["apply", "-f", "-"], &shell("shell"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=100s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    let web = address(&cluster, "web");
    // from Linux, from WebAssembly, from the API server, from outside
    assert!(wget(&cluster, "shell", &format!("http://{web}/")).starts_with("hello from web-"));
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: fetch}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      \
               containers: [{name: c, image: 'fetch:1', args: ['http://web/']}]\n";
    cluster.kubectl_with(&["apply", "-f", "-"], job);
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/fetch", "--timeout=60s"]);
    assert!(cluster.kubectl(&["logs", "job/fetch"]).contains("hello from web-"));
    let proxied = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/web:80/proxy/"]);
    assert!(proxied.starts_with("hello from web-"), "{proxied}");
    let port = cluster.field("service/web", "{.spec.ports[0].nodePort}");
    let host = cluster.field("node", "{.items[0].status.addresses[0].address}");
    assert!(said(&format!("{host}:{port}")).contains("hello from web-"), "the node port");
    let mut forward = cluster.kubectl_command(&["port-forward", "deployment/web", ":8080"]);
    let mut forward = forward.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut line = [0; 64];
    let size = forward.stdout.as_mut().expect("its output").read(&mut line).expect("a line");
    let line = String::from_utf8_lossy(&line[..size]).into_owned();
    let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()).expect("an address");
    assert!(said(local).contains("hello from web-"), "port-forward");
    let _ = (forward.kill(), forward.wait());
    // both endpoints serve
    let mut seen = std::collections::BTreeSet::new();
    cluster.eventually("both pods answer", || {
        seen.insert(wget(&cluster, "shell", &format!("http://{web}/")));
        (seen.len() == 2).then_some(())
    });
    clear(&cluster);
}

#[test]
fn the_sample_of_both_worlds_answers() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let folder = crate::harness::sample("mixed", &machine.path("work"));
    let cluster = machine.up(&[]);
    let applied = machine.run(&["apply", "-f", &folder.display().to_string(), "--wait"]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let proxied = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/mixed/proxy/"]);
    assert!(proxied.starts_with("Hello from Linux, in mixed-"), "{proxied}");
    cluster.kubectl(&["delete", "deployment/mixed", "--timeout=60s"]);
    clear(&cluster);
}

/// The answer to a request for `/`.
fn said(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn linux_pods_reach_guests_the_api_and_themselves_and_not_the_host() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    cluster.kubectl(&["run", "hello", "--image=hello:1", "--port=8080"]);
    cluster.kubectl(&["expose", "pod", "hello", "--port=80", "--target-port=8080"]);
    cluster.kubectl_with(&["apply", "-f", "-"], &WEB.replace("replicas: 2", "replicas: 1"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=100s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/hello", "--timeout=60s"]);
    let pod = cluster.field("pods", "{.items[?(@.metadata.labels.app=='web')].metadata.name}");
    let (hello, web) = (address(&cluster, "hello"), address(&cluster, "web"));
    cluster.eventually("a guest answers", || {
        let out =
            cluster.kubectl_output(&["exec", &pod, "--", "wget", "-q", "-O", "-", &format!("http://{hello}/")], "");
        String::from_utf8_lossy(&out.stdout).contains("Hello from hello").then_some(())
    });
    assert_eq!(wget(&cluster, &pod, &format!("http://{web}/")), format!("hello from {pod}\n"), "itself by its Service");
    assert_eq!(wget(&cluster, &pod, "http://127.0.0.1:8080/"), format!("hello from {pod}\n"), "by its loopback");
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        assert_eq!(wget(&cluster, &pod, &format!("http://{name}/")), format!("hello from {pod}\n"), "{name}");
    }
    let api = format!("echo | nc -w 5 {} 443 >/dev/null && echo open", address(&cluster, "kubernetes"));
    assert_eq!(cluster.kubectl(&["exec", &pod, "--", "sh", "-c", &api]), "open\n");
    // the API listens on the host's loopback, which is not the pod's
    let listen = cluster.field("endpointslices/kubernetes", "{.ports[0].port}");
    let host = format!("nc -w 2 127.0.0.1 {listen} </dev/null; echo $?");
    assert_eq!(cluster.kubectl(&["exec", &pod, "--", "sh", "-c", &host]).lines().last(), Some("1"));
    clear(&cluster);
}

#[test]
fn the_network_of_linux_pods_outlives_the_node_and_goes_with_the_pods() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], WEB);
    cluster.kubectl_with(&["apply", "-f", "-"], &shell("shell"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=100s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    let addresses =
        |cluster: &Cluster<'_>| cluster.field("pods", "{range .items[*]}{.metadata.name}={.status.podIP} {end}");
    let (before, web) = (addresses(&cluster), address(&cluster, "web"));
    cluster.kill();
    let cluster = machine.up(&[]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"]);
    assert_eq!(addresses(&cluster), before);
    cluster.eventually("it serves", || {
        let out =
            cluster.kubectl_output(&["exec", "shell", "--", "wget", "-q", "-O", "-", &format!("http://{web}/")], "");
        String::from_utf8_lossy(&out.stdout).starts_with("hello from web-").then_some(())
    });
    cluster.kubectl(&["delete", "deployment/web", "--timeout=60s"]);
    clear(&cluster);
    let data = machine.data();
    assert_eq!(cluster.interrupt(), 0);
    let left = processes_of(&data);
    assert!(left.is_empty(), "these stay: {left:?}");
}

/// The command lines of the processes that name the folder, or whose working folder or open files are in it.
fn processes_of(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("a folder").flatten().map(|entry| entry.path()) {
        let Ok(line) = fs::read(process.join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let of_test = process.ends_with(std::process::id().to_string());
        if !of_test
            && (line.contains(&*folder.to_string_lossy()) || links.into_iter().any(|link| link.starts_with(folder)))
        {
            found.push(line);
        }
    }
    found
}

#[test]
fn guests_and_linux_containers_of_one_pod_share_its_loopback() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let cluster = machine.up(&[]);
    let mixed = "apiVersion: v1\nkind: Pod\nmetadata: {name: mixed}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
                 - {name: guest, image: 'hello:1', ports: [{containerPort: 8080}]}\n  \
                 - name: linux\n    image: busybox:1\n    command: [sh, -c, 'mkdir /tmp/w; echo linux >/tmp/w/index.html; exec httpd -f -h /tmp/w -p 8081']\n";
    cluster.kubectl_with(&["apply", "-f", "-"], mixed);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/mixed", "--timeout=60s"]);
    cluster.kubectl_with(&["apply", "-f", "-"], &shell("shell"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    let ip = cluster.field("pod/mixed", "{.status.podIP}");
    let inside = |url: &str| cluster.kubectl(&["exec", "mixed", "-c", "linux", "--", "wget", "-q", "-O", "-", url]);
    cluster.eventually("both listen", || {
        let out = cluster.kubectl_output(
            &["exec", "mixed", "-c", "linux", "--", "wget", "-q", "-O", "-", "http://localhost:8081/"],
            "",
        );
        (String::from_utf8_lossy(&out.stdout) == "linux\n").then_some(())
    });
    assert!(inside("http://127.0.0.1:8080/").contains("Hello from mixed"), "the guest by the loopback");
    for (port, expected) in [(8080, "Hello from mixed"), (8081, "linux")] {
        assert!(wget(&cluster, "shell", &format!("http://{ip}:{port}/")).contains(expected), "{port} from another pod");
        let path = format!("/api/v1/namespaces/default/pods/mixed:{port}/proxy/");
        assert!(cluster.kubectl(&["get", "--raw", &path]).contains(expected), "{port} by the API server");
    }
    let job = "apiVersion: v1\nkind: Pod\nmetadata: {name: asks}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  \
               initContainers: [{name: linux, image: 'busybox:1', restartPolicy: Always, command: [sh, -c, 'mkdir /tmp/w; echo behind \
               >/tmp/w/index.html; exec httpd -f -h /tmp/w -p 8081'], startupProbe: {periodSeconds: 1, httpGet: {port: 8081, path: /}}}]\n  \
               containers: [{name: c, image: 'fetch:1', args: ['http://localhost:8081/']}]\n";
    cluster.kubectl_with(&["apply", "-f", "-"], job);
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s"]);
    assert!(cluster.kubectl(&["logs", "asks", "-c", "c"]).contains("behind"), "the guest asks the container");
    clear(&cluster);
}
