//! One function per figure.

use crate::{
    density, guests, hostile,
    load::{Client, spread},
    pods,
    server::{ADDRESS, Server, fsync},
    stored, watchers,
};
use hyper::Method;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, task::LocalSet};

/// Between the creates that are watched: 25 in a second.
pub const PACE: Duration = Duration::from_millis(40);

pub struct Table(Vec<[String; 3]>);

impl Table {
    pub fn row(&mut self, figure: &str, goal: &str, measured: String) {
        eprintln!("{figure}: {measured}");
        self.0.push([figure.into(), goal.into(), measured]);
    }
}

/// Measures what is wanted (everything if nothing is named) and prints the table.
pub async fn all(wanted: &[String]) {
    let want = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut table = Table(Vec::new());
    let folder = tempfile::Builder::new().prefix("sampan-bench-").tempdir().expect("a folder");
    let f = fsync(folder.path(), Duration::ZERO);
    let paced = fsync(folder.path(), PACE);
    table.row("disk: fsync p50, F", "", format!("{}; at 25/s {}", millis(f), millis(paced)));
    if want("start") {
        start(&mut table, folder.path());
    }
    if want("sample") {
        sample(&mut table, folder.path());
    }
    if want("idle") {
        idle(&mut table, folder.path());
    }
    let local = LocalSet::new();
    local
        .run_until(async {
            if want("objects") {
                objects(&mut table, &folder.path().join("objects")).await;
            }
            if want("stored") {
                stored::start(&mut table, &folder.path().join("stored")).await;
            }
            if want("memory") {
                stored::memory(&mut table, &folder.path().join("memory")).await;
            }
            if want("watch") {
                watch(&mut table, &folder.path().join("watch")).await;
            }
            if want("watchers") {
                watchers::watchers(&mut table, folder.path()).await;
            }
            if want("replicas") {
                replicas(&mut table, &folder.path().join("replicas")).await;
            }
            if want("schedule") {
                schedule(&mut table, &folder.path().join("schedule")).await;
            }
            if want("apply") {
                apply(&mut table, &folder.path().join("apply")).await;
            }
            if want("requests") {
                guests::requests(&mut table, &folder.path().join("requests"), &samples()).await;
            }
            if want("neighbours") {
                guests::neighbours(&mut table, &folder.path().join("neighbours"), &samples()).await;
            }
            if want("pods") {
                pods::pods(&mut table, &folder.path().join("pods"), &samples(), 1000).await;
            }
            // takes minutes: only by their names
            if wanted.iter().any(|name| name == "hostile") {
                hostile::hostile(&mut table, &folder.path().join("hostile"), &samples(), 2_000).await;
            }
            if wanted.iter().any(|name| name == "density") {
                density::density(&mut table, &folder.path().join("density"), &samples()).await;
            }
            if want("probes") {
                density::probes(&mut table, &folder.path().join("probes"), &samples()).await;
            }
            if want("wake") {
                pods::wake(&mut table, &folder.path().join("wake"), &samples()).await;
            }
            if want("compile") {
                pods::compile(&mut table, &folder.path().join("compile"), &samples()).await;
            }
            if want("edit") {
                pods::edit(&mut table, &folder.path().join("edit")).await;
            }
        })
        .await;
    println!("| figure | goal | measured |\n| --- | --- | --- |");
    for [figure, goal, measured] in &table.0 {
        println!("| {figure} | {goal} | {measured} |");
    }
}

pub fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub fn at(times: &[Duration], share: f64) -> Duration {
    times[((times.len() - 1) as f64 * share) as usize]
}

fn start(table: &mut Table, folder: &Path) {
    let times = (0..5)
        .map(|n| {
            let server = Server::start(&folder.join(format!("start{n}")), &[]);
            let ready = server.ready;
            server.stop();
            ready
        })
        .collect();
    table.row("start → /readyz, new data directory (median of 5)", "< 150 ms", millis(median(times)));
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// A GET of the sample's NodePort on a new connection: how long it takes, if it is answered 200.
pub fn answer(port: u16) -> Option<Duration> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect((ADDRESS, port)).ok()?;
    let mut answer = [0; 12];
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").ok()?;
    stream.read_exact(&mut answer).ok()?;
    answer.ends_with(b"200").then(|| begin.elapsed())
}

/// Waits for a 200 of a node port.
pub fn until_answered(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while answer(port).is_none() {
        assert!(Instant::now() < deadline, "no answer on port {port}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn sample(table: &mut Table, folder: &Path) {
    let path = samples().join("hello").display().to_string();
    let mut times = Vec::new();
    let data = folder.join("sample");
    // The first start fills the compile cache; the cluster's objects are made anew each time.
    for round in 0..4 {
        let started = Instant::now();
        let mut server = Server::start(&data, &["-f", &path]);
        until_answered(30080);
        if round > 0 {
            times.push(started.elapsed());
        }
        server.line("applied");
        server.stop();
        std::fs::remove_file(data.join("cluster.redb")).expect("the store");
    }
    table.row("start → first HTTP 200 of an applied Deployment, compile cache warm", "< 1 s", millis(median(times)));
}

fn idle(table: &mut Table, folder: &Path) {
    let server = Server::start(&folder.join("idle"), &[]);
    let before = server.cpu();
    std::thread::sleep(Duration::from_secs(60));
    let cpu = (server.cpu() - before).as_secs_f64() / 60.0 * 100.0;
    table.row(
        "idle RSS of the whole cluster, 60 s after start",
        "< 35 MiB",
        format!("{:.1} MiB ({cpu:.2} % CPU)", server.memory()),
    );
    server.stop();
}

async fn objects(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let total = 20_000;
    let value = "x".repeat(1024);
    let path = "/api/v1/namespaces/default/configmaps";
    let before = server.cpu();
    let (wall, times) = spread(&client, 32, total, move |mut connection, number| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}")}, "data": {"v": value}});
        async move {
            connection.post(path, &body).await;
            connection
        }
    })
    .await;
    let rate = total as f64 / wall.as_secs_f64();
    let cpu = (server.cpu() - before).as_secs_f64() / total as f64 * 1e6;
    table.row(
        "durable create of 1 KiB ConfigMaps over TLS, 32 connections",
        "≥ 4,500 /s, ≤ 200 µs CPU",
        format!("{rate:.0} /s, {cpu:.0} µs CPU, p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99))),
    );
    let before = server.cpu();
    let gets = 60_000;
    let (wall, _) = spread(&client, 32, gets, move |mut connection, number| async move {
        connection.get(&format!("{path}/c{}", number % total)).await;
        connection
    })
    .await;
    let cpu = (server.cpu() - before).as_secs_f64() / gets as f64 * 1e6;
    table.row("get", "≤ 80 µs CPU", format!("{cpu:.0} µs CPU, {:.0} /s", gets as f64 / wall.as_secs_f64()));
    let pods = 5_000;
    spread(&client, 32, pods, move |mut connection, number| async move {
        connection.post("/api/v1/namespaces/default/pods", &pod(&format!("p{number}"), "nobody")).await;
        connection
    })
    .await;
    let mut connection = client.connect().await;
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..11 {
        let start = Instant::now();
        size = connection.get("/api/v1/namespaces/default/pods").await.len();
        times.push(start.elapsed());
    }
    let size = size as f64 / 1e6;
    table.row("list 5,000 pods", "< 30 ms", format!("{} ({size:.1} MB)", millis(median(times))));
    table.row("RSS with 20,000 ConfigMaps and 5,000 pods", "", format!("{:.0} MiB", server.memory()));
    server.stop();
}

/// A pod for a scheduler of that name.
pub fn pod(name: &str, scheduler: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": {
        "schedulerName": scheduler,
        "containers": [{"name": "c", "image": "example/none:1", "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "ports": [{"containerPort": 8080}]}]}})
}

async fn watch(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel::<(String, Instant)>();
    for _ in 0..100 {
        let mut stream = client.raw("/api/v1/namespaces/default/configmaps?watch=true").await;
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                let now = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..length]);
                if let Some(name) = text.split("\"name\":\"w").nth(1).and_then(|rest| rest.split('"').next()) {
                    let _ = sender.send((name.to_owned(), now));
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut connection = client.connect().await;
    let mut times = Vec::new();
    for number in 0..100 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("w{number}")}});
        let start = Instant::now();
        connection.post("/api/v1/namespaces/default/configmaps", &body).await;
        for _ in 0..100 {
            let (name, at) = seen.recv().await.expect("open");
            assert_eq!(name, number.to_string());
            times.push(at.saturating_duration_since(start));
        }
        tokio::time::sleep(PACE).await;
    }
    times.sort();
    let text = format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99)));
    table.row("create → watch event, 100 watchers, 25 events/s", "p50 < F + 2 ms, p99 < 2 F + 5 ms", text);
    server.stop();
}

async fn count(connection: &mut crate::load::Connection, path: &str) -> usize {
    let list: Value = serde_json::from_slice(&connection.get(&format!("{path}?limit=1")).await).expect("JSON");
    let rest = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    list["items"].as_array().map_or(0, Vec::len) + usize::try_from(rest).expect("small")
}

async fn replicas(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    let mut times = Vec::new();
    let before = server.cpu();
    for round in 0..3 {
        let namespace = format!("r{round}");
        connection
            .post(
                "/api/v1/namespaces",
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            )
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let template = json!({"metadata": {"labels": {"app": "bench"}}, "spec": pod("x", "nobody")["spec"]});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": 1000, "selector": {"matchLabels": {"app": "bench"}}, "template": template}});
        let start = Instant::now();
        connection.post(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &deployment).await;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        while count(&mut connection, &path).await < 1000 {
            assert!(start.elapsed() < Duration::from_secs(60), "1,000 pods never came");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        times.push(start.elapsed());
    }
    let cpu = (server.cpu() - before).as_secs_f64() / 3.0;
    table.row(
        "Deployment of 1,000 replicas → 1,000 Pod objects",
        "< 0.7 s",
        format!("{} ({cpu:.2} s CPU)", millis(median(times))),
    );
    server.stop();
}

async fn schedule(table: &mut Table, folder: &Path) {
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    for number in 0..100 {
        let name = format!("node{number}");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"bench": "true"}}});
        connection.post("/api/v1/nodes", &node).await;
        let resources = json!({"cpu": "16", "memory": "64Gi", "pods": "1000"});
        let status = json!({"status": {"capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        let url = format!("/api/v1/nodes/{name}/status");
        connection.call(Method::PATCH, &url, "application/merge-patch+json", status.to_string().into()).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let total = 2_000;
    let before = server.cpu();
    let started = Instant::now();
    spread(&client, 32, total, move |mut connection, number| async move {
        let mut pod = pod(&format!("s{number}"), "default-scheduler");
        pod["spec"]["nodeSelector"] = json!({"bench": "true"});
        connection.post("/api/v1/namespaces/default/pods", &pod).await;
        connection
    })
    .await;
    let created = started.elapsed();
    while count(&mut connection, "/api/v1/namespaces/default/events").await < 1
        && started.elapsed() < Duration::from_secs(1)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    loop {
        let url = "/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3D&limit=1";
        let list: Value = serde_json::from_slice(&connection.get(url).await).expect("JSON");
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never bound");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let wall = started.elapsed();
    let cpu = (server.cpu() - before).as_secs_f64() / total as f64 * 1e3;
    table.row(
        "2,000 pods created and bound over 100 nodes",
        "≥ 1,500 /s",
        format!(
            "{:.0} /s ({cpu:.2} ms CPU each; created after {})",
            total as f64 / wall.as_secs_f64(),
            millis(created)
        ),
    );
    server.stop();
}

/// `sampan image load`.
pub fn load_image(folder: &Path, file: &Path, name: &str) {
    let load = std::process::Command::new(crate::server::binary())
        .args(["image", "load"])
        .arg(file)
        .args(["-t", name, "--data-dir"])
        .arg(folder)
        .output()
        .expect("loads");
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
}

async fn apply(table: &mut Table, folder: &Path) {
    load_image(folder, &samples().join("hello/hello.wasm"), "hello:1");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    let mut times = Vec::new();
    for round in 0..6u16 {
        let name = format!("a{round}");
        let labels = json!({"app": name});
        let port = 31000 + round;
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "hello:1", "ports": [{"containerPort": 8080}]}]}}}});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080, "nodePort": port}]}});
        let start = Instant::now();
        connection.apply(&format!("/api/v1/namespaces/default/services/{name}"), &service).await;
        connection.apply(&format!("/apis/apps/v1/namespaces/default/deployments/{name}"), &deployment).await;
        until_answered(port);
        if round > 0 {
            times.push(start.elapsed());
        }
    }
    table.row("apply → 200 on a running cluster (Service and Deployment)", "< 50 ms + 5 F", millis(median(times)));
    server.stop();
}
