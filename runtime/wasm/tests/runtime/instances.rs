//! Instances that answer several requests.

use crate::{
    http::{busy, idle},
    support::{Node, http_guest, peer, request},
};
use container::{ContainerId, ContainerSpec, ContainerState, InstancePolicy, Limits, Reuse, Runtime};
use http_body_util::BodyExt;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn reuse(node: &Node, reuse: Reuse) -> ContainerSpec {
    let mut spec = node.spec(&http_guest());
    spec.http.instances = InstancePolicy::Reuse(reuse);
    spec
}

/// The value of a metric of the runtime.
fn metric(node: &Node, name: &str) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    node.runtime.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

/// Waits until no instance has anything to do.
async fn settle(node: &Node) {
    let shown = |name: &str| metric(node, name);
    let wait = async {
        while shown("sampan_wasm_instances") != shown("sampan_wasm_instances_idle") {
            tokio::time::sleep(SECOND / 500).await;
        }
    };
    tokio::time::timeout(20 * SECOND, wait).await.expect("an instance goes on");
}

/// What the guest says of `path` to several requests, one after the other.
async fn said(node: &Node, path: &str, times: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..times {
        let answer = tokio::time::timeout(20 * SECOND, node.net.get(80, path)).await.expect("it is answered");
        assert_eq!(answer.0, 200, "{}", answer.1);
        all.push(answer.1);
        // The guest may have something left to do.
        settle(node).await;
    }
    all
}

async fn instances(node: &Node, id: &ContainerId) -> u64 {
    node.runtime.stats(id).await.unwrap().instances
}

#[tokio::test]
async fn a_new_instance_answers_each_request_unless_the_policy_says_reuse() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    assert_eq!(said(&node, "/i", 3).await, ["1", "1", "1"]);
    idle(&node, &id).await;
    node.runtime.remove(&id).await.unwrap();

    let id = node.start(reuse(&node, Reuse { max_requests: 3, ..Reuse::default() })).await;
    assert_eq!(instances(&node, &id).await, 0, "none before it is needed");
    assert_eq!(said(&node, "/i", 7).await, ["1", "2", "3", "1", "2", "3", "1"]);
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!(stats.instances, 1);
    assert!(stats.memory_bytes >= 128 << 10, "an idle instance is charged: {stats:?}");
    node.runtime.stop(&id, 10 * SECOND).await.unwrap();
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!((stats.instances, stats.memory_bytes), (0, 0), "it goes with its container");
}

#[tokio::test]
async fn memory_that_stays_resident_is_bounded_and_new_to_each_request() {
    if !wasmtime::PoolingAllocationConfig::is_pagemap_scan_available() {
        return eprintln!("skipped: this kernel does not tell which pages were written (Linux 6.7)");
    }
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    // the guest counts its requests in its memory
    assert!(said(&node, "/i", 40).await.iter().all(|count| count == "1"));
    let one = metric(&node, "sampan_wasm_resident_bytes");
    assert!((4 << 10..1 << 20).contains(&one), "one after the other, they share one instance's: {one}");
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let net = node.net.clone();
        many.spawn(async move { net.get(80, "/i").await.0 });
    }
    assert!(many.join_all().await.iter().all(|status| *status == 200));
    settle(&node).await;
    let all = metric(&node, "sampan_wasm_resident_bytes");
    assert!(all <= 64 << 20, "{all}");
    assert!(said(&node, "/i", 40).await.iter().all(|count| count == "1"));
    node.runtime.remove(&id).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_is_old_or_idle_for_long_goes() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse { max_idle: SECOND / 5, ..Reuse::default() })).await;
    assert_eq!(said(&node, "/i", 2).await, ["1", "2"]);
    idle(&node, &id).await;
    assert_eq!(node.runtime.stats(&id).await.unwrap().memory_bytes, 0);
    assert_eq!(said(&node, "/i", 2).await, ["1", "2"], "and the next begins anew");
    node.runtime.remove(&id).await.unwrap();

    let id = node.start(reuse(&node, Reuse { max_age: SECOND / 5, ..Reuse::default() })).await;
    said(&node, "/i", 1).await;
    idle(&node, &id).await;
    assert_eq!(said(&node, "/i", 1).await, ["1"]);
}

#[tokio::test]
async fn one_that_failed_or_whose_client_left_is_not_reused() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    assert_eq!(said(&node, "/i", 2).await, ["1", "2"]);
    assert_eq!(node.net.get(80, "/trap").await.0, 500);
    idle(&node, &id).await;
    assert_eq!(said(&node, "/i", 2).await, ["1", "2"]);
    let handler = node.net.handler(80).unwrap();
    // It has begun to answer, and spins.
    drop(handler.call(request("/while"), peer()).await.unwrap());
    idle(&node, &id).await;
    assert_eq!(said(&node, "/i", 1).await, ["1"]);
}

/// What a guest keeps of a request ends with the request, as it does with an instance of its own.
#[tokio::test]
async fn an_answer_that_the_guest_does_not_finish_ends_with_the_request() {
    let node = Node::new().await;
    node.start(reuse(&node, Reuse::default())).await;
    assert_eq!(said(&node, "/k", 4).await, ["1", "2", "3", "4"]);
    // Neither does a body that nobody reads keep its connection, nor a line without an end the next request.
    let id = node.start({
        let mut spec = reuse(&node, Reuse::default());
        spec.ports[0].number = 81;
        spec
    });
    let id = id.await;
    for _ in 0..2 {
        assert_eq!(node.net.get(81, "/log").await.0, 200);
    }
    node.log(&id, |text| text == "stdout F a line\nstdout F a line\n").await;
}

#[tokio::test]
async fn several_requests_have_several_instances_that_are_kept() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    let handler = node.net.handler(80).unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(handler.call(request("/while"), peer()).await.unwrap());
    }
    assert_eq!(instances(&node, &id).await, 3, "one at a time each");
    drop(open);
    idle(&node, &id).await;
    let ask = || {
        let net = node.net.clone();
        tokio::spawn(async move { net.get(80, "/m").await })
    };
    for one in [(); 8].map(|()| ask()) {
        let (status, body) = one.await.unwrap();
        assert_eq!((status, body.len()), (200, 1 << 20));
    }
    assert!((1..=8).contains(&instances(&node, &id).await));
}

#[tokio::test]
async fn spare_instances_are_there_before_a_request_and_again_after_one_failed() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse { min: 2, max_idle: SECOND / 10, ..Reuse::default() })).await;
    busy(&node, &id, 2).await;
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(instances(&node, &id).await, 2, "they stay although idle");
    assert_eq!(node.net.get(80, "/trap").await.0, 500);
    busy(&node, &id, 2).await;
    settle(&node).await;
    assert_eq!(said(&node, "/i", 2).await, ["1", "2"]);
}

/// Two instances fit into the limit.
fn small(node: &Node) -> ContainerSpec {
    let mut spec = reuse(node, Reuse::default());
    spec.limits = Limits { memory_bytes: Some(300 << 10), ..Limits::default() };
    spec
}

#[tokio::test]
async fn requests_that_find_no_memory_get_the_instances_of_others() {
    let node = Node::new().await;
    let id = node.start(small(&node)).await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let net = node.net.clone();
            tokio::spawn(async move { net.get(80, "/i").await.0 })
        })
        .collect();
    for call in calls {
        let status = tokio::time::timeout(20 * SECOND, call).await.expect("none waits for ever").unwrap();
        assert_eq!(status, 200);
    }
    assert!(instances(&node, &id).await <= 2);
    let state = node.state(&id).await;
    assert!(matches!(state, ContainerState::Running { .. }), "{state:?}");
}

/// What idle instances keep is for others when it is short: for another pod's instance, and for one that grows.
#[tokio::test]
async fn idle_instances_make_room_for_others() {
    let node = Node::with(|options| options.memory = 1 << 20).await;
    let keeps = node.start(reuse(&node, Reuse { min: 1, ..Reuse::default() })).await;
    let handler = node.net.handler(80).unwrap();
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(handler.call(request("/i"), peer()).await.unwrap());
    }
    for response in open {
        response.into_body().collect().await.unwrap();
    }
    let before = instances(&node, &keeps).await;
    assert!(before >= 1);
    // 15 pages more than the node has left beside an idle instance.
    let mut other = node.spec(&http_guest());
    other.ports[0].number = 81;
    let other = node.start(other).await;
    node.net.get(81, "/grow").await;
    assert_eq!(instances(&node, &keeps).await, 0, "all are given back");
    node.exit(&other).await;
    assert_eq!(said(&node, "/i", 1).await, ["1"]);
}
