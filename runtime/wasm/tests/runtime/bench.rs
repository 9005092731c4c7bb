//! Figures, printed: `cargo test --release -p wasm -- --ignored --nocapture bench`. Nothing is asserted on time.

use crate::support::{Node, http_guest, peer, request};
use container::Runtime;
use http_body_util::BodyExt;
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn bench_fresh_instances() {
    const REQUESTS: u32 = 20_000;
    let node = Node::new().await;
    node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();
    for (name, tasks) in [("1 at a time", 1), ("8 at a time", 8)] {
        let (before, started) = (cpu(), tokio::time::Instant::now());
        let workers: Vec<_> = (0..tasks)
            .map(|_| {
                let handler = handler.clone();
                tokio::spawn(async move {
                    for _ in 0..REQUESTS / tasks {
                        let response = handler.call(request("/"), peer()).await.unwrap();
                        assert_eq!(response.status(), 200);
                        response.into_body().collect().await.unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        let (used, wall) = (cpu() - before, started.elapsed());
        println!("{name}: {:?} CPU and {:?} per request, caller included", used / REQUESTS, wall / REQUESTS);
    }
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
