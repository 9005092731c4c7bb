//! Figures, printed: `cargo test --release -p wasm -- --ignored --nocapture bench`. Nothing is asserted on time.

use crate::support::{Node, http_guest, peer, request};
use container::{InstancePolicy, Reuse, Runtime, net::Connection};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use wasm::PoolOptions;

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// CPU time of a request by an instance of its own and by one that is reused: by a call, and over connections on loopback.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn bench_instances() {
    const REQUESTS: u32 = if cfg!(debug_assertions) { 640 } else { 20_000 };
    let node = Node::new().await;
    for (port, policy) in [(80, InstancePolicy::PerRequest), (81, InstancePolicy::Reuse(Reuse::default()))] {
        let mut spec = node.spec(&http_guest());
        spec.ports[0].number = port;
        spec.http.instances = policy;
        node.start(spec).await;
        let handler = node.net.handler(port).unwrap();
        let name = if port == 80 { "new" } else { "reused" };
        for tasks in [1, 8, 64] {
            let call = |_| {
                let handler = handler.clone();
                tokio::spawn(async move {
                    for _ in 0..REQUESTS / tasks {
                        let response = handler.call(request("/"), peer()).await.unwrap();
                        assert_eq!(response.status(), 200);
                        response.into_body().collect().await.unwrap();
                    }
                })
            };
            measure(&format!("{name}, {tasks} calls at a time"), "/", REQUESTS, (0..tasks).map(call).collect()).await;
        }
        for (path, connections, requests) in
            [("/", 1, REQUESTS), ("/", 8, REQUESTS), ("/", 64, REQUESTS), ("/m", 4, REQUESTS / 50)]
        {
            let connect = |_| {
                let (count, handler) = (requests / connections, handler.clone());
                tokio::spawn(async move {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                    client.set_nodelay(true).unwrap();
                    let accepted = listener.accept().await.unwrap().0.into_std().unwrap();
                    handler.serve(Connection::Tcp(accepted), peer());
                    let (mut sender, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
                    tokio::spawn(connection);
                    for _ in 0..count {
                        sender.ready().await.unwrap();
                        let mut request = request(path);
                        request.headers_mut().insert("host", "hello".parse().unwrap());
                        let response = sender.send_request(request).await.unwrap();
                        assert_eq!(response.status(), 200);
                        let mut body = response.into_body();
                        while let Some(frame) = body.frame().await {
                            frame.unwrap();
                        }
                    }
                })
            };
            let name = format!("{name}, {connections} connections");
            measure(&name, path, requests, (0..connections).map(connect).collect()).await;
        }
    }
}

async fn measure(name: &str, path: &str, requests: u32, workers: Vec<tokio::task::JoinHandle<()>>) {
    let (before, started) = (cpu(), tokio::time::Instant::now());
    for worker in workers {
        worker.await.unwrap();
    }
    let (used, wall) = (cpu() - before, started.elapsed());
    println!("{name}, GET {path}: {:?} CPU and {:?} per request, caller included", used / requests, wall / requests);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn bench_idle_handlers() {
    const HANDLERS: u16 = 1000;
    let before = resident();
    let node = Node::with(|options| options.pool = PoolOptions::default()).await;
    node.runtime.warm().await.unwrap();
    println!("the engine and its pool: {} bytes", resident() - before);
    assert_eq!(node.runtime.health(), None);
    let wasm = http_guest();
    node.start(node.spec(&wasm)).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
    let before = resident();
    for number in 0..HANDLERS {
        let mut spec = node.spec(&wasm);
        spec.ports[0].number = 1000 + number;
        node.start(spec).await;
    }
    println!("{HANDLERS} idle handlers: {} bytes each", (resident() - before) / u64::from(HANDLERS));
    assert_eq!(node.runtime.list().await.unwrap().len(), usize::from(HANDLERS) + 1);
}

/// Latencies of a neighbour's requests, alone and beside two commands whose every instruction fills 1 GiB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn bench_neighbour_of_large_instructions() {
    const FILL: &str = r#"(module (memory (export "memory") 16500) (func (export "_start")
      (loop $l (memory.fill (i32.const 65536) (i32.const 1) (i32.const 1073741824)) (br $l))))"#;
    let node = Node::new().await;
    node.start(node.spec(&http_guest())).await;
    latencies(&node, "alone").await;
    let mut fillers = Vec::new();
    for count in [1, 2, 4] {
        while fillers.len() < count {
            fillers.push(node.start(node.spec(&wat::parse_str(FILL).unwrap())).await);
        }
        latencies(&node, &format!("beside {count} that fill 1 GiB again and again")).await;
    }
    for id in fillers {
        node.runtime.remove(&id).await.unwrap();
    }
    latencies(&node, "alone again").await;
}

/// Prints the latencies of 110 requests a second.
async fn latencies(node: &Node, name: &str) {
    let mut all = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(9));
    for _ in 0..550 {
        ticks.tick().await;
        let begin = std::time::Instant::now();
        assert_eq!(node.net.get(80, "/").await.0, 200);
        all.push(begin.elapsed());
    }
    all.sort();
    let (p50, p99, most) = (all[all.len() / 2], all[all.len() * 99 / 100], all[all.len() - 1]);
    println!("{name}: p50 {p50:.2?}, p99 {p99:.2?}, most {most:.2?}");
}
