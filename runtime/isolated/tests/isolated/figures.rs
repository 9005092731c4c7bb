//! What isolated pods cost.

use crate::support::{Node, sample};
use container::net::{Dialer, Network};
use http_body_util::{BodyExt, Empty};
use std::time::Instant;

/// A number of kB in a file of /proc.
fn kilobytes(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure: run it alone"]
async fn a_hundred_pods() {
    let node = Node::new().await;
    let hello = sample("hello/hello.wasm");
    let mut addresses = Vec::new();
    let begin = Instant::now();
    for number in 0..100 {
        let id = format!("pod-{number}");
        let address = node.pod(&id, &[]).await;
        node.start(&id, node.spec(&hello, &[])).await;
        addresses.push(address);
    }
    println!("100 pods, one after the other: {:?}", begin.elapsed());
    let report = |when: &str| {
        let children = Node::children();
        let sum = |name: &str| -> u64 {
            children.iter().map(|pid| kilobytes(&format!("/proc/{pid}/smaps_rollup"), name)).sum::<u64>() / 100
        };
        let threads: u64 = children.iter().map(|pid| kilobytes(&format!("/proc/{pid}/status"), "Threads:")).sum();
        println!(
            "{when}: {} children, each {} kB proportional, {} kB of its own, {} kB resident, {} threads",
            children.len(),
            sum("Pss:"),
            sum("Private_Dirty:") + sum("Private_Clean:"),
            sum("Rss:"),
            threads / 100
        );
    };
    report("idle");
    let mut took = Vec::new();
    for address in &addresses {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        let begin = Instant::now();
        let response =
            Dialer::http(&node.network, (*address, 80).into(), http::Request::get("http://hello/").body(body).unwrap());
        assert!(response.await.unwrap().into_body().collect().await.unwrap().to_bytes().len() > 5);
        took.push(begin.elapsed());
    }
    took.sort();
    println!("first request: p50 {:?}, most {:?}", took[50], took[99]);
    report("after a request each");
    assert_eq!(node.network.list().len(), 101);
}
