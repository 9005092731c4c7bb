//! Figures of many idle pods on one node: memory, CPU time, the first answer of one that never ran, and a restart after `kill -9`; and of probes.

use crate::{
    figures::{Table, answer, at, load_image, millis, until_answered},
    load::{Client, Connection},
    server::Server,
};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// In this variable is the number of pods of [`density`].
const PODS: &str = "SAMPAN_BENCH_PODS";
/// The node port of the pods.
const PORT: u16 = 31_400;
/// The metric of requests that guests answered.
const ANSWERED: &str = "sampan_wasm_http_request_duration_seconds_count";
/// The longest wait for all pods.
const MOST: Duration = Duration::from_secs(1_800);

/// A Deployment of the sample, and the Service in front of it.
async fn deploy(connection: &mut Connection, replicas: u64, probe: Value) {
    let labels = json!({"app": "many"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"}, "spec": {
        "type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080, "nodePort": PORT}]}});
    let container =
        json!({"name": "c", "image": "hello:1", "ports": [{"containerPort": 8080}], "readinessProbe": probe});
    let template = json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}});
    connection.apply("/api/v1/namespaces/default/services/many", &service).await;
    connection.apply("/apis/apps/v1/namespaces/default/deployments/many", &deployment).await;
}

async fn until_ready(connection: &mut Connection, replicas: u64) {
    let begin = Instant::now();
    loop {
        let found = connection.get("/apis/apps/v1/namespaces/default/deployments/many").await;
        let found: Value = serde_json::from_slice(&found).expect("JSON");
        if found["status"]["readyReplicas"] == replicas {
            return;
        }
        assert!(begin.elapsed() < MOST, "{} of {replicas} are ready", found["status"]["readyReplicas"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The value of a metric, over all its labels.
async fn metric(connection: &mut Connection, name: &str) -> f64 {
    let text = String::from_utf8(connection.get("/metrics").await.to_vec()).expect("text");
    let is_named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(is_named).filter_map(value).sum()
}

/// CPU time of the cluster in percent of a core, over some seconds.
async fn idle(server: &Server, window: Duration) -> f64 {
    let before = server.cpu();
    tokio::time::sleep(window).await;
    (server.cpu() - before).as_secs_f64() / window.as_secs_f64() * 100.0
}

/// Ten thousand idle pods, or as many as [`PODS`] says.
pub async fn density(table: &mut Table, folder: &Path, samples: &Path) {
    let replicas: u64 = std::env::var(PODS).map_or(10_000, |pods| pods.parse().expect("a number of pods"));
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let most = (replicas + 1).to_string();
    let args = ["--max-pods", most.as_str()];
    let server = Server::start(folder, &args);
    let mut connection = Client::new(&server).connect().await;
    deploy(&mut connection, 1, Value::Null).await;
    until_answered(PORT);
    let before = server.memory();
    let (begin, cpu) = (Instant::now(), server.cpu());
    deploy(&mut connection, replicas, Value::Null).await;
    until_ready(&mut connection, replicas).await;
    let each = (server.cpu() - cpu).as_secs_f64() / replicas as f64 * 1e3;
    let text = format!("{:.1} s, {each:.1} ms CPU each", begin.elapsed().as_secs_f64());
    table.row(&format!("{replicas} pods of one image → Ready"), "", text);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let cpu = idle(&server, Duration::from_secs(30)).await;
    let held = server.memory();
    let kib = (held - before) * 1024.0 / replicas as f64;
    table.row(
        &format!("{replicas} Ready idle pods, after a minute"),
        "10,000 < 300 MiB, 50,000 < 1 GiB; < 2 % of a core",
        format!("{held:.0} MiB, {kib:.1} KiB a pod; {cpu:.1} %"),
    );
    let mut times: Vec<Duration> = (0..500).map(|_| answer(PORT).expect("answered")).collect();
    times.sort();
    let text = format!("p50 {}, p99 {}", millis(at(&times, 0.5)), millis(at(&times, 0.99)));
    table.row("… a random one of them answers on a new connection", "p99 < 5 ms", text);
    server.kill();
    let begin = Instant::now();
    let server = Server::start(folder, &args);
    until_answered(PORT);
    let first = begin.elapsed();
    let mut connection = Client::new(&server).connect().await;
    while metric(&mut connection, "kubelet_running_pods").await < replicas as f64 {
        assert!(begin.elapsed() < MOST, "not all pods run again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = format!("first 200 {}, all run {}", millis(first), millis(begin.elapsed()));
    table.row(&format!("restart with {replicas} pods after kill -9"), "first 200 < 1 s, all < 3 s", text);
    server.kill();
}

/// A thousand HTTP probes in a second.
pub async fn probes(table: &mut Table, folder: &Path, samples: &Path) {
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let server = Server::start(folder, &[]);
    let mut connection = Client::new(&server).connect().await;
    let probe = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    deploy(&mut connection, 1_000, probe).await;
    until_ready(&mut connection, 1_000).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = metric(&mut connection, ANSWERED).await;
    let cpu = idle(&server, Duration::from_secs(20)).await;
    let rate = (metric(&mut connection, ANSWERED).await - before) / 20.0;
    table.row("HTTP probes of 1,000 pods, one a second each", "< 15 % of a core", format!("{cpu:.1} %, {rate:.0} /s"));
    server.stop();
}
