//! Figures of Wasm guests that serve HTTP: CPU time of a request, and what others on the node notice. The program that `SAMPAN_BENCH_WASMTIME`
//! names is measured beside them: `wasmtime serve` of the same component with its default settings. So is a server without Wasm.

use crate::{
    figures::{Table, at, load_image, millis, until_answered},
    load::{Client, Connection},
    server::{ADDRESS, Server, process_cpu},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// How long each load runs.
const WINDOW: Duration = Duration::from_secs(3);

/// What a load of requests had.
struct Load {
    requests: usize,
    wall: Duration,
    times: Vec<Duration>,
}

/// Asks for `/` again and again on so many connections, one request at a time on each.
async fn load(address: SocketAddr, connections: usize, window: Duration) -> Load {
    let started = Instant::now();
    let one = move || async move {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.expect("HTTP");
        tokio::task::spawn_local(connection);
        let mut times = Vec::new();
        while started.elapsed() < window {
            let request = Request::get("/").header(header::HOST, "hello").body(Empty::new()).expect("a request");
            let begin = Instant::now();
            sender.ready().await.expect("open");
            let response = sender.send_request(request).await.expect("answered");
            assert!(response.status().is_success(), "{}", response.status());
            response.into_body().collect().await.expect("a body");
            times.push(begin.elapsed());
        }
        times
    };
    let tasks: Vec<_> = (0..connections).map(|_| tokio::task::spawn_local(one())).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    times.sort();
    Load { requests: times.len(), wall: started.elapsed(), times }
}

/// Measures a load and the CPU time that `cpu` reads.
async fn measured(address: SocketAddr, connections: usize, cpu: impl Fn() -> Duration) -> String {
    load(address, connections, Duration::from_millis(500)).await;
    let before = cpu();
    let load = load(address, connections, WINDOW).await;
    let micros = (cpu() - before).as_secs_f64() / load.requests as f64 * 1e6;
    let rate = load.requests as f64 / load.wall.as_secs_f64();
    format!(
        "{micros:.0} µs CPU, {rate:.0} /s, p50 {}, p99 {}",
        millis(at(&load.times, 0.5)),
        millis(at(&load.times, 0.99))
    )
}

/// A Deployment and the Service in front of it.
pub async fn serve(connection: &mut Connection, name: &str, image: &str, port: u16, annotations: &Value) {
    serve_with(connection, name, image, port, annotations, &json!({})).await;
}

/// As [`serve`], with resources of its container.
pub async fn serve_with(
    connection: &mut Connection,
    name: &str,
    image: &str,
    port: u16,
    annotations: &Value,
    resources: &Value,
) {
    let labels = json!({"app": name});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080, "nodePort": port}]}});
    let template = json!({"metadata": {"labels": labels, "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image, "resources": resources, "ports": [{"containerPort": 8080}]}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template}});
    connection.apply(&format!("/api/v1/namespaces/default/services/{name}"), &service).await;
    connection.apply(&format!("/apis/apps/v1/namespaces/default/deployments/{name}"), &deployment).await;
}

/// A server that is measured beside sampan; ended when dropped.
struct Peer(Child, SocketAddr);

/// In this variable this program finds the address on which it is to be the native server.
const NATIVE: &str = "SAMPAN_BENCH_NATIVE";

/// Serves the sample's answer by axum on both cores if [`NATIVE`] asks for it. Returns whether it did.
pub fn serves_natively() -> bool {
    let Ok(address) = std::env::var(NATIVE) else { return false };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "Hello from Wasm\n" }));
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        axum::serve(listener, app).await.expect("served");
    });
    true
}

/// The environment of a pod of [`requests`]: the sample reads all of it for each request, so the peer gets the same.
fn environment() -> impl Iterator<Item = String> {
    let service = |name: &str, port: u16| {
        let (tcp, address) = (format!("{name}_PORT_{port}_TCP"), "10.96.100.100");
        [
            format!("{name}_SERVICE_HOST={address}"),
            format!("{name}_SERVICE_PORT={port}"),
            format!("{name}_PORT=tcp://{address}:{port}"),
            format!("{tcp}=tcp://{address}:{port}"),
            format!("{tcp}_PROTO=tcp"),
            format!("{tcp}_PORT={port}"),
            format!("{tcp}_ADDR={address}"),
        ]
    };
    let all = [service("KUBERNETES", 443), service("NEW", 80), service("REUSE", 80)];
    let own = ["KUBERNETES_SERVICE_PORT_HTTPS=443", "HOSTNAME=new-7d4b9c6f5-abcde", "PWD=/"];
    all.into_iter().flatten().chain(own.map(str::to_owned))
}

impl Peer {
    /// `wasmtime serve`, if its program is named.
    fn wasmtime(component: &Path) -> Option<Self> {
        let program = std::env::var_os("SAMPAN_BENCH_WASMTIME")?;
        let address = SocketAddr::new(ADDRESS.parse().expect("an address"), 31_999);
        let mut command = Command::new(program);
        command.args(["serve", "-S", "cli", "--addr", &address.to_string()]);
        command.args(environment().map(|variable| format!("--env={variable}"))).arg(component);
        Some(Self::start(command, address))
    }

    /// This program as a native server.
    fn native() -> Self {
        let address = SocketAddr::new(ADDRESS.parse().expect("an address"), 31_998);
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(NATIVE, address.to_string());
        Self::start(command, address)
    }

    fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        until_answered(address.port());
        Self(child, address)
    }

    fn cpu(&self) -> Duration {
        process_cpu(&self.0.id().to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of a request.
pub async fn requests(table: &mut Table, folder: &Path, samples: &Path) {
    let component = samples.join("hello/hello.wasm");
    load_image(folder, &component, "hello:1");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    serve(&mut connection, "new", "hello:1", 31_100, &json!({})).await;
    serve(&mut connection, "reuse", "hello:1", 31_101, &json!({"sampan.dev/instances": "reuse"})).await;
    until_answered(31_100);
    until_answered(31_101);
    let (peer, native) = (Peer::wasmtime(&component), Peer::native());
    let address = |port| SocketAddr::new(ADDRESS.parse().expect("an address"), port);
    for connections in [1, 8, 64] {
        let text = measured(address(31_100), connections, || server.cpu()).await;
        let figure = format!("hello through a NodePort, a new instance per request, {connections} connections");
        table.row(&figure, "≤ 0.6 × wasmtime serve", text);
        if let Some(peer) = &peer {
            let text = measured(peer.1, connections, || peer.cpu()).await;
            table.row(&format!("… beside it: wasmtime serve, {connections} connections"), "", text);
        }
        let text = measured(address(31_101), connections, || server.cpu()).await;
        table.row(&format!("… with reuse, {connections} connections"), "≤ 15 µs", text);
        let text = measured(native.1, connections, || native.cpu()).await;
        table.row(&format!("… beside it: the same answer by axum alone, {connections} connections"), "", text);
    }
    drop((peer, native));
    server.stop();
}

/// What a quiet guest and the API notice of guests that compute.
pub async fn neighbours(table: &mut Table, folder: &Path, samples: &Path) {
    load_image(folder, &samples.join("hello/hello.wasm"), "hello:1");
    let spin = folder.with_extension("wat");
    std::fs::write(&spin, r#"(module (func (export "_start") (loop $l (br $l))))"#).expect("written");
    load_image(folder, &spin, "spin:1");
    let server = Server::start(folder, &[]);
    let client = Client::new(&server);
    let mut connection = client.connect().await;
    serve(&mut connection, "hello", "hello:1", 31_100, &json!({})).await;
    until_answered(31_100);
    for spinners in [0, 4, 16] {
        let pod =
            json!({"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "spin:1"}]}});
        for number in 0..spinners {
            let mut pod = pod.clone();
            pod["metadata"] = json!({"name": format!("spin-{spinners}-{number}"), "labels": {"app": "spin"}});
            connection.post("/api/v1/namespaces/default/pods", &pod).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (mut guest, mut api) = (Vec::new(), Vec::new());
        let stream = TcpStream::connect((ADDRESS, 31_100)).await.expect("connected");
        let (mut sender, task) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.expect("HTTP");
        tokio::task::spawn_local(task);
        for _ in 0..500 {
            let begin = Instant::now();
            let request = Request::get("/").header(header::HOST, "hello").body(Empty::new()).expect("a request");
            sender.ready().await.expect("open");
            let response = sender.send_request(request).await.expect("answered");
            response.into_body().collect().await.expect("a body");
            guest.push(begin.elapsed());
            let begin = Instant::now();
            connection.get("/api/v1/namespaces/default").await;
            api.push(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        guest.sort();
        api.sort();
        let shown = |times: &[Duration]| format!("p50 {}, p99 {}", millis(at(times, 0.5)), millis(at(times, 0.99)));
        let goal = if spinners == 0 { "" } else { "≤ 2 × quiet" };
        table.row(&format!("a guest's answer beside {spinners} endless guests"), goal, shown(&guest));
        table.row(&format!("the API's answer beside {spinners} endless guests"), goal, shown(&api));
        connection
            .call(
                hyper::Method::DELETE,
                "/api/v1/namespaces/default/pods?labelSelector=app%3Dspin",
                "application/json",
                Bytes::new(),
            )
            .await;
    }
    server.stop();
}
