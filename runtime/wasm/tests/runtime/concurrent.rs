//! Instances of WASI 0.3 that answer several requests at the same time, by the sample `async-hello`.

use crate::{
    async_http::{hello, soon},
    http::{busy, idle},
    support::{Node, peer, request},
};
use container::{ContainerId, ContainerSpec, InstancePolicy, Reuse, Runtime};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

fn reuse(node: &Node, reuse: Reuse) -> ContainerSpec {
    let mut spec = hello(node);
    spec.http.instances = InstancePolicy::Reuse(reuse);
    spec
}

fn ask(node: &Node, path: &str) -> JoinHandle<(u16, String)> {
    let (net, path) = (node.net.clone(), path.to_owned());
    tokio::spawn(async move { net.get(80, &path).await })
}

/// The number that an instance gives a request.
async fn number(node: &Node) -> u32 {
    let (status, text) = soon(node.net.get(80, "/")).await;
    let number = text.trim_end().rsplit_once(' ').and_then(|(_, number)| number.parse().ok());
    number.unwrap_or_else(|| panic!("{status} {text}"))
}

async fn instances(node: &Node, id: &ContainerId) -> u64 {
    node.runtime.stats(id).await.unwrap().instances
}

/// A request that waits for nine of its instance, which has had `before`. The instance has it when this returns.
async fn meets(node: &Node, id: &ContainerId, before: u32) -> JoinHandle<(u16, String)> {
    let asked = node.runtime.stats(id).await.unwrap().requests;
    let one = ask(node, "/meet/9");
    while node.runtime.stats(id).await.unwrap().requests == asked {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for others in before + 1..8 {
        let (_, text) = soon(node.net.get(80, "/meet/1")).await;
        if text.trim() != others.to_string() {
            assert_eq!(text, format!("{}\n", others + 1), "it is one of the same instance");
            return one;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    panic!("its instance did not take it");
}

/// Waits until so many instances are left.
async fn left(node: &Node, id: &ContainerId, count: u64) {
    let wait = async {
        while instances(node, id).await != count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(wait).await;
}

/// The guest answers none of the sixteen before all have come to its instance. They come while the instance is created.
#[tokio::test]
async fn sixteen_requests_at_the_same_time_use_one_instance() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    let all: Vec<_> = (0..16).map(|_| ask(&node, "/meet/16")).collect();
    let mut numbers = Vec::new();
    for one in all {
        let (status, text) = soon(one).await.unwrap();
        assert_eq!(status, 200, "{text}");
        numbers.push(text.trim().parse::<u32>().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
    assert_eq!(instances(&node, &id).await, 1);
    assert_eq!(number(&node).await, 17, "and the next goes to the same");
    let stats = node.runtime.stats(&id).await.unwrap();
    assert!(stats.memory_bytes > 0, "an idle instance is charged: {stats:?}");
    node.runtime.stop(&id, 30 * SECOND).await.unwrap();
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!((stats.instances, stats.memory_bytes), (0, 0), "it goes with its container");
}

#[tokio::test]
async fn an_instance_has_at_most_as_many_requests_as_the_limit() {
    let node = Node::new().await;
    let mut spec = reuse(&node, Reuse::default());
    spec.http.max_concurrent = Some(2);
    let id = node.start(spec).await;
    let handler = node.net.handler(80).unwrap();
    let mut ticking = Vec::new();
    for _ in 0..2 {
        let mut response = soon(handler.call(request("/ticks"), peer())).await.unwrap();
        soon(response.body_mut().frame()).await.unwrap().unwrap();
        ticking.push(response);
    }
    assert_eq!(instances(&node, &id).await, 1);
    assert_eq!(number(&node).await, 1, "the third has another instance");
    assert_eq!(instances(&node, &id).await, 2);
}

#[tokio::test]
async fn an_instance_goes_at_its_limits_of_requests_age_and_idle_time() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse { max_requests: 2, ..Reuse::default() })).await;
    for expected in [1, 2, 1, 2] {
        assert_eq!(number(&node).await, expected);
    }
    node.runtime.remove(&id).await.unwrap();
    let id = node.start(reuse(&node, Reuse { max_idle: SECOND / 5, ..Reuse::default() })).await;
    assert_eq!(number(&node).await, 1);
    idle(&node, &id).await;
    assert_eq!(node.runtime.stats(&id).await.unwrap().memory_bytes, 0);
    assert_eq!(number(&node).await, 1);
    node.runtime.remove(&id).await.unwrap();
    let id = node.start(reuse(&node, Reuse { max_age: SECOND / 5, ..Reuse::default() })).await;
    assert_eq!(number(&node).await, 1);
    idle(&node, &id).await;
    node.runtime.remove(&id).await.unwrap();
    let id = node.start(reuse(&node, Reuse { min: 2, max_idle: SECOND / 5, ..Reuse::default() })).await;
    left(&node, &id, 2).await;
    assert_eq!(number(&node).await, 1);
    assert_eq!(node.runtime.stats(&id).await.unwrap().requests, 1);
}

/// The guest cannot be told, so that its instance takes no more requests, and goes with the last that it has.
#[tokio::test]
async fn a_request_whose_client_left_ends_with_the_others_of_its_instance() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    let handler = node.net.handler(80).unwrap();
    // Alone in its instance: one that waits, and one that computes. Both have begun, which an instance alone does not tell.
    let alone = meets(&node, &id, 0).await;
    alone.abort();
    idle(&node, &id).await;
    let alone = ask(&node, "/spin");
    let before = node.runtime.stats(&id).await.unwrap().cpu_nanos;
    let computes = async {
        while node.runtime.stats(&id).await.unwrap().cpu_nanos < before + 200_000_000 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(computes).await;
    alone.abort();
    idle(&node, &id).await;
    let mut ticking = soon(handler.call(request("/ticks"), peer())).await.unwrap();
    soon(ticking.body_mut().frame()).await.unwrap().unwrap();
    let beside = meets(&node, &id, 1).await;
    assert_eq!(instances(&node, &id).await, 1);
    beside.abort();
    let elsewhere = async { while number(&node).await != 1 {} };
    soon(elsewhere).await;
    assert_eq!(instances(&node, &id).await, 2);
    soon(ticking.body_mut().frame()).await.unwrap().unwrap();
    drop(ticking);
    left(&node, &id, 1).await;
    assert_eq!(number(&node).await, 2);
}

#[tokio::test]
async fn a_trap_ends_all_requests_of_its_instance_and_is_logged_once() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    assert_eq!(number(&node).await, 1);
    let handler = node.net.handler(80).unwrap();
    let ticking = soon(handler.call(request("/ticks"), peer())).await.unwrap();
    let waiting = ask(&node, "/meet/9");
    while node.runtime.stats(&id).await.unwrap().requests < 3 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The one that waits comes first.
    assert_eq!(soon(node.net.get(80, "/meet/1")).await, (200, "4\n".to_owned()));
    let failed = (500, "the component failed; its log has the backtrace\n".to_owned());
    assert_eq!(soon(node.net.get(80, "/panic")).await, failed);
    assert_eq!(soon(waiting).await.unwrap(), failed);
    let error = soon(ticking.into_body().collect()).await.unwrap_err();
    assert_eq!(error.to_string(), "the component was ended before its answer was complete");
    let log = node.log(&id, |text| text.contains("trap") && text.contains("failed with another request of its")).await;
    assert_eq!(log.matches("failed: wasm trap").count(), 1, "{log}");
    assert_eq!(number(&node).await, 1);
}

#[tokio::test]
async fn each_request_has_its_own_time_limit_and_trace() {
    let node = Node::new().await;
    let mut spec = reuse(&node, Reuse::default());
    spec.http.request_timeout = Some(2 * SECOND);
    spec.http.trace_context = true;
    let id = node.start(spec).await;
    let handler = node.net.handler(80).unwrap();
    let limited = ask(&node, "/meet/9");
    busy(&node, &id, 1).await;
    let traced = |number: usize| {
        let handler = handler.clone();
        let parent = format!("00-{:032x}-00000000000000ff-01", number + 1);
        tokio::spawn(async move {
            let mut asked = request("/fetch/teapot/brew");
            asked.headers_mut().insert("traceparent", parent.parse().unwrap());
            let body = handler.call(asked, peer()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&body), format!("GET http://teapot/brew \"teapot\" {parent}"));
        })
    };
    for one in (0..16).map(traced).collect::<Vec<_>>() {
        soon(one).await.unwrap();
    }
    let answer = soon(limited).await.unwrap();
    assert_eq!(answer, (504, "no answer from the component within 2 s\n".to_owned()));
}

/// A guest that computes does not keep others from being answered.
#[tokio::test]
async fn another_instance_answers_while_one_computes() {
    let node = Node::new().await;
    let id = node.start(reuse(&node, Reuse::default())).await;
    let spinning = ask(&node, "/spin");
    busy(&node, &id, 1).await;
    assert_eq!(number(&node).await, 1);
    spinning.abort();
    left(&node, &id, 1).await;
    assert_eq!(number(&node).await, 2);
}

/// Idle instances give their memory to those who need it.
#[tokio::test]
async fn idle_instances_are_dropped_for_the_memory_of_others() {
    let node = Node::new().await;
    let mut spec = reuse(&node, Reuse::default());
    (spec.http.max_concurrent, spec.limits.memory_bytes) = (Some(1), Some(4 << 20));
    let id = node.start(spec).await;
    let first: Vec<_> = (0..8).map(|_| ask(&node, "/")).collect();
    for one in first {
        assert_eq!(soon(one).await.unwrap().0, 200);
    }
    let initial = node.runtime.stats(&id).await.unwrap();
    assert!(initial.instances >= 1 && initial.memory_bytes <= 4 << 20, "{initial:?}");
    let all: Vec<_> = (0..32).map(|_| ask(&node, "/")).collect();
    for one in all {
        assert_eq!(soon(one).await.unwrap().0, 200);
    }
}
