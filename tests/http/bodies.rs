//! Request bodies that come slowly, or not at all.

use crate::*;
use futures::StreamExt;
use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};
use tokio::task::JoinSet;

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// The start of a body, and then nothing.
fn stuck() -> Body {
    let start = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
    Body::from_stream(start.chain(futures::stream::pending()))
}

/// The token of a new account.
async fn token(cluster: &Cluster, name: &str) -> String {
    cluster.post(ACCOUNTS, json!({"metadata": {"name": name}})).await.ok();
    let request = cluster.post(&format!("{ACCOUNTS}/{name}/token"), json!({"spec": {}})).await.ok();
    format!("Bearer {}", request["status"]["token"].as_str().unwrap())
}

fn review(token: &str, body: Body) -> Request<Body> {
    Request::post(REVIEW).header("authorization", token).body(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_hold_no_room_and_end() {
    let cluster = Cluster::new().await;
    let network = cluster.server.service_for_network();
    let mut slow = JoinSet::new();
    // More than there is room for requests that change something.
    for account in 0..6 {
        let token = token(&cluster, &format!("slow-{account}")).await;
        for _ in 0..50 {
            let (network, request) = (network.clone(), review(&token, stuck()));
            slow.spawn(async move { network.handle(request).await.status().as_u16() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let more = network.handle(review(&token, Body::from("{}"))).await;
        assert_eq!(more.status(), 429, "the account has used up its share");
        assert_eq!(more.headers()["retry-after"], "1");
    }
    let other = token(&cluster, "other").await;
    assert_eq!(network.handle(review(&other, Body::from("{}"))).await.status(), 201);
    let begun = tokio::time::Instant::now();
    while let Some(code) = slow.join_next().await {
        assert_eq!(code.unwrap(), 408);
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    let again = token(&cluster, "again").await;
    assert_eq!(network.handle(review(&again, Body::from("{}"))).await.status(), 201);
}

#[tokio::test]
async fn what_an_account_asks_about_itself_is_short() {
    let cluster = Cluster::new().await;
    let network = cluster.server.service_for_network();
    let token = token(&cluster, "a").await;
    let padded = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
    for (length, code) in [(64 << 10, 201), ((64 << 10) + 1, 413), (3 << 20, 413)] {
        let answer = network.handle(review(&token, Body::from(padded(length)))).await;
        assert_eq!(answer.status(), code, "{length}");
        assert_eq!(cluster.send(&cluster.admin, "POST", REVIEW, &[], padded(length)).await.code, 201, "{length}");
    }
}

/// What a thread is kept busy with at a stretch: all of a large body's parsing, checking and writing is done beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_body_does_not_hold_up_the_thread_that_serves() {
    let cluster = Cluster::new().await;
    cluster.create_map("m", json!({})).await;
    let data: serde_json::Map<_, _> = (0..60_000).map(|n| (format!("key-{n:010}"), json!("v"))).collect();
    let large = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}).to_string();
    assert!(large.len() > 1 << 20);
    for (method, target, media) in [
        ("POST", MAPS.to_owned(), "application/json"),
        ("PUT", map("m"), "application/json"),
        ("PATCH", map("m"), "application/merge-patch+json"),
        ("PATCH", format!("{}?fieldManager=f", map("m")), "application/apply-patch+yaml"),
    ] {
        let (admin, body) = (cluster.admin.clone(), large.clone());
        let request =
            Request::builder().method(method).uri(target).header("content-type", media).body(Body::from(body));
        let work = tokio::spawn(async move {
            let begin = tokio::time::Instant::now();
            let code = admin.handle(request.unwrap()).await.status().as_u16();
            (code, begin.elapsed())
        });
        // in microseconds
        let longest = Arc::new(AtomicU64::new(0));
        let busy = longest.clone();
        let watch = tokio::spawn(async move {
            let mut last = tokio::time::Instant::now();
            loop {
                tokio::task::yield_now().await;
                busy.fetch_max(last.elapsed().as_micros() as u64, SeqCst);
                last = tokio::time::Instant::now();
            }
        });
        let (code, took) = work.await.unwrap();
        watch.abort();
        let longest = Duration::from_micros(longest.load(SeqCst));
        println!("{method} {media}: {code} after {took:?}, the thread was busy for {longest:?}");
        assert!(code < 500, "{code}");
        assert!(longest < took / 2, "{method} {media}: {longest:?} of {took:?}");
    }
}
