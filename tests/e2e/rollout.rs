//! A rollout loses no request: neither on connections that are kept nor on new ones, with and without a preStop hook.

use crate::{guests, harness::*};
use std::{
    io::{Error, Read, Result, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: 'hello:1'
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30097}]}
";
const HOOK: &str =
    r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","lifecycle":{"preStop":{"sleep":{"seconds":1}}}}]}}}}"#;

/// One request; gives the connection back if the server keeps it.
fn ask(kept: Option<TcpStream>, to: SocketAddr, header: &str) -> Result<Option<TcpStream>> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(to)?,
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: web\r\n{header}\r\n").as_bytes())?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.ends_with("\r\n0\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(Error::other(format!("closed after {text:?}"))),
            count => text += &String::from_utf8_lossy(&buffer[..count]),
        }
    }
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(Error::other(text));
    }
    Ok((!text.to_lowercase().contains("connection: close")).then_some(stream))
}

#[test]
fn a_rollout_loses_no_request() {
    if kubectl().is_none() {
        return;
    }
    let machine = Machine::new();
    guests::load_sample(&machine, "hello");
    let cluster = machine.up(&[]);
    cluster.kubectl_with(&["apply", "-f", "-"], MANIFEST);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=100s"]);
    let to: SocketAddr = format!("{}:30097", machine.address).parse().expect("an address");
    cluster.eventually("it answers", || ask(None, to, "Connection: close\r\n").ok());
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = &|keep: bool| {
        let (mut failures, mut kept) = (Vec::new(), None);
        while !over.load(Ordering::Relaxed) {
            let header = if keep { "" } else { "Connection: close\r\n" };
            match ask(kept.take().filter(|_| keep), to, header) {
                Ok(stream) => kept = stream,
                Err(error) => failures.push(format!("kept {keep}: {error}")),
            }
            asked.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(2));
        }
        failures
    };
    let failures: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = [true, false, true, false].map(|keep| scope.spawn(move || client(keep))).into();
        // the first ends pods without a hook, the second those with one
        cluster.kubectl(&["patch", "deploy/web", "-p", HOOK]);
        cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=100s"]);
        cluster.kubectl(&["rollout", "restart", "deploy/web"]);
        cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=100s"]);
        cluster.eventually("the old ones are gone", || {
            let names = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
            Some(()).filter(|()| names.lines().count() == 3)
        });
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    assert!(asked.load(Ordering::Relaxed) > 100, "hardly anything was asked");
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), asked.load(Ordering::Relaxed));
}
