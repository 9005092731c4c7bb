//! How requests are served, as a container's policy says.

use crate::{
    http::{busy, idle},
    support::{Node, http_guest, peer, request},
};
use container::{Runtime, net::Connection};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_container_has_its_own_bounds_of_concurrency_and_queue() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    (spec.http.max_concurrent, spec.http.max_queued) = (Some(1), Some(1));
    let id = node.start(spec).await;
    let hold = || {
        let handler = node.net.handler(80).unwrap();
        tokio::spawn(async move { handler.call(request("/spin"), peer()).await.map(drop) })
    };
    let running = hold();
    busy(&node, &id, 1).await;
    let waiting = hold();
    let refused = async {
        while node.runtime.stats(&id).await.unwrap().requests < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        loop {
            // The second may not have begun to wait: then this one does, until it is given up.
            let third = tokio::time::timeout(Duration::from_millis(200), node.net.get(80, "/"));
            if let Ok(answer) = third.await {
                return answer;
            }
        }
    };
    let (status, text) = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert_eq!((status, text.as_str()), (503, "too many requests are waiting for this container\n"));
    running.abort();
    waiting.abort();
    idle(&node, &id).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

/// Also with one turn and no queue: who waits for an answer has no turn.
#[tokio::test]
async fn a_guest_that_asks_its_own_service_is_answered() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    (spec.http.max_concurrent, spec.http.max_queued) = (Some(1), Some(0));
    node.start(spec).await;
    *node.net.circle.lock() = Some(Arc::new(Barrier::new(1)));
    let answer = tokio::time::timeout(Duration::from_secs(20), node.net.get(80, "/other")).await;
    assert_eq!(answer.unwrap(), (200, "hello\n".to_string()));
}

#[tokio::test]
async fn each_request_is_a_line_in_the_log_if_the_policy_says_so() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    spec.http.access_log = true;
    let id = node.start(spec).await;
    assert_eq!(node.net.get(80, "/?a=%22b%0A").await.0, 200);
    assert_eq!(node.net.get(80, "/nothing").await.0, 502);
    let handler = node.net.handler(80).unwrap();
    let spinning = tokio::spawn(async move { handler.call(request("/spin"), peer()).await.map(drop) });
    busy(&node, &id, 1).await;
    spinning.abort();
    let log = node.log(&id, |text| text.contains(" 499 ")).await;
    for line in [
        "stderr F sampan: 10.32.0.1 \"GET /?a=%22b%0A HTTP/1.1\" 200 6 ",
        "stderr F sampan: 10.32.0.1 \"GET /nothing HTTP/1.1\" 502 ",
        "stderr F sampan: 10.32.0.1 \"GET /spin HTTP/1.1\" 499 0 ",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    node.net.get(80, "/").await;
    node.net.get(80, "/log").await;
    assert_eq!(node.log(&id, |text| !text.is_empty()).await, "stdout F a line\n", "without, there is none");
}

#[tokio::test]
async fn a_trace_goes_through_and_begins_here_if_the_policy_says_so() {
    let node = Node::new().await;
    let handler = async |traced: bool| {
        let mut spec = node.spec(&http_guest());
        spec.http.trace_context = traced;
        let id = node.start(spec).await;
        (id, node.net.handler(80).unwrap())
    };
    let ask = async |handler: &Arc<dyn container::net::HttpHandler>, path: &str, parent: Option<&str>| {
        let mut request = request(path);
        if let Some(parent) = parent {
            request.headers_mut().insert("traceparent", parent.parse().unwrap());
        }
        let response = handler.call(request, peer()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let (id, plain) = handler(false).await;
    assert_eq!(ask(&plain, "/p", None).await, "");
    assert_eq!(ask(&plain, "/p", Some(PARENT)).await, PARENT, "the guest is told in any case");
    assert_eq!(ask(&plain, "/other", Some(PARENT)).await, "GET http://other/x \"other\"");
    node.runtime.remove(&id).await.unwrap();
    let (_, traced) = handler(true).await;
    assert_eq!(ask(&traced, "/p", Some(PARENT)).await, PARENT);
    assert_eq!(ask(&traced, "/other", Some(PARENT)).await, format!("GET http://other/x \"other\" {PARENT}"));
    let made = ask(&traced, "/p", None).await;
    assert!(made.starts_with("00-") && made.ends_with("-01") && made.len() == 55, "{made}");
    assert_ne!(ask(&traced, "/p", None).await, made);
    let sent = ask(&traced, "/other", None).await;
    assert!(sent.starts_with("GET http://other/x \"other\" 00-"), "{sent}");
}

/// What a guest sends after the body reaches clients of both versions of HTTP.
#[tokio::test]
async fn trailers_reach_the_client() {
    let node = Node::new().await;
    node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();
    let (mut mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    mine.write_all(b"GET /z HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    mine.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("trailer: end\r\n") && text.ends_with("\r\nhello\n\r\n0\r\nend: 10\r\n\r\n"), "{text}");

    let (mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(mine)).await.unwrap();
    tokio::spawn(connection);
    let body = sender.send_request(request("/z")).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap().get("end").unwrap(), "10");
    assert_eq!(body.to_bytes(), "hello\n");
}
