//! HTTP handlers.

use crate::support::{Net, Node, http_guest, peer, request};
use container::{
    ContainerId, ContainerState, ExitReason, Limits, Runtime,
    net::{Connection, HttpHandler},
};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

/// Waits until the handler has no instance left: what a cancelled request leaves behind.
pub(crate) async fn idle(node: &Node, id: &ContainerId) {
    let wait = async {
        while node.runtime.stats(id).await.unwrap().instances > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a guest goes on that nobody waits for");
}

/// Waits until the handler has an instance.
pub(crate) async fn busy(node: &Node, id: &ContainerId, instances: u64) {
    let wait = async {
        while node.runtime.stats(id).await.unwrap().instances < instances {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no guest begins");
}

#[tokio::test]
async fn a_component_answers_and_is_gone_afterwards() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
    for _ in 0..3 {
        assert_eq!(node.net.get(80, "/").await, (200, "hello\n".to_string()));
    }
    idle(&node, &id).await;
    let stats = node.runtime.stats(&id).await.unwrap();
    assert_eq!((stats.requests, stats.memory_bytes), (3, 0), "an idle handler has no instance and no memory");
    assert!(stats.cpu_nanos > 0);
}

#[tokio::test]
async fn connections_are_served_whole_over_http1_and_http2() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();

    // Two requests on one TCP connection.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0.into_std().unwrap();
    handler.serve(Connection::Tcp(accepted), peer());
    for close in [false, true] {
        let close = if close { "connection: close\r\n" } else { "" };
        client.write_all(format!("GET / HTTP/1.1\r\nhost: hello\r\n{close}\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.ends_with("hello\n\r\n0\r\n\r\n") {
            let mut buffer = [0; 1024];
            let count = client.read(&mut buffer).await.unwrap();
            assert!(count > 0, "closed after {text}");
            text += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    }

    // HTTP/2 by prior knowledge over a pipe.
    let (mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(mine)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello\n");

    // HTTP/1.0 without a Host.
    let (mut mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    mine.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    mine.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("hello\n"), "{text}");
    assert_eq!(node.runtime.stats(&id).await.unwrap().requests, 4);
}

#[tokio::test]
async fn a_trap_is_a_500_with_a_backtrace_in_the_log_and_the_handler_lives() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    for _ in 0..3 {
        assert_eq!(node.net.get(80, "/trap").await.0, 500);
    }
    let log = node.log(&id, |text| text.matches("GET /trap failed").count() == 3).await;
    assert!(
        log.contains("stderr F sampan: GET /trap failed: wasm trap: wasm `unreachable` instruction executed"),
        "{log}"
    );
    assert!(log.contains(" - step_on_a_mine"), "{log}");
    let guest = include_str!("../guests/http.wat");
    let line = 1 + guest.lines().position(|line| line.contains("$step_on_a_mine (unreachable)")).unwrap();
    assert!(log.contains(&format!("guest.wat:{line}:")), "line {line} of {log}");
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

#[tokio::test]
async fn what_a_request_prints_is_a_line() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    node.net.get(80, "/log").await;
    node.net.get(80, "/log").await;
    let log = node.log(&id, |text| text.lines().count() == 2).await;
    assert_eq!(log, "stdout F a line\nstdout F a line\n");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cut() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    spec.http.request_timeout = Some(Duration::from_millis(200));
    let id = node.start(spec).await;
    assert_eq!(node.net.get(80, "/spin").await, (504, "no answer from the component within 0.2 s\n".to_string()));
    idle(&node, &id).await;
    let (status, body) = node.net.get(80, "/while").await;
    assert_eq!(status, 200, "the head was there in time");
    assert!(body.starts_with("cut"), "{body}");
    idle(&node, &id).await;
}

#[tokio::test]
async fn a_guest_whose_client_went_away_is_ended() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();
    // Before the answer.
    let calling = tokio::spawn({
        let handler = handler.clone();
        async move { handler.call(request("/spin"), peer()).await }
    });
    busy(&node, &id, 1).await;
    calling.abort();
    idle(&node, &id).await;
    // Within the body.
    let response = handler.call(request("/while"), peer()).await.unwrap();
    assert_eq!(node.runtime.stats(&id).await.unwrap().instances, 1);
    drop(response);
    idle(&node, &id).await;
    // With its connection.
    let (mut mine, theirs) = tokio::io::duplex(64 << 10);
    handler.serve(Connection::Stream(Box::new(theirs)), peer());
    mine.write_all(b"GET /spin HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    busy(&node, &id, 1).await;
    drop(mine);
    idle(&node, &id).await;
}

#[tokio::test]
async fn outgoing_requests_go_through_the_pods_network() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/other").await, (418, "GET http://other/x \"other\"".to_string()));
    // The network of these tests refuses everything once port 9 is bound. P is HTTP-request-denied.
    let mut spec = node.spec(&http_guest());
    spec.ports[0].number = 9;
    node.start(spec).await;
    assert_eq!(node.net.get(80, "/other").await, (502, "error P".to_string()));
    node.log(&id, |text| text.contains("http://other/x refused: 10.0.0.1 is not allowed: pass --allow-egress")).await;
}

#[tokio::test]
async fn the_second_handler_on_a_port_cannot_run() {
    let node = Node::new().await;
    let first = node.start(node.spec(&http_guest())).await;
    let exit = node.run(node.spec(&http_guest())).await;
    assert_eq!((exit.code, exit.reason), (128, ExitReason::AddressInUse));
    assert_eq!(exit.message, "port 80 is taken by another container of this pod");
    assert_eq!(exit.started_at, None);
    node.runtime.stop(&first, Duration::from_secs(10)).await.unwrap();
    node.start(node.spec(&http_guest())).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

#[tokio::test]
async fn without_a_declared_port_it_is_8080_and_the_log_says_so() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    spec.ports.clear();
    let id = node.start(spec).await;
    assert_eq!(node.net.get(8080, "/").await.0, 200);
    node.log(&id, |text| text.contains("no containerPort is declared: serving HTTP on port 8080")).await;
}

async fn calls(net: &Arc<Net>, path: &'static str, count: usize) -> Vec<u16> {
    let call = |_| {
        let net = net.clone();
        tokio::spawn(async move { net.get(80, path).await.0 })
    };
    let mut statuses = Vec::new();
    for call in (0..count).map(call).collect::<Vec<_>>() {
        statuses.push(call.await.unwrap());
    }
    statuses
}

#[tokio::test]
async fn more_requests_than_places_wait_and_more_than_the_queue_are_refused() {
    let node = Node::with(|options| (options.http.concurrency, options.http.queue) = (2, 42_000)).await;
    let id = node.start(node.spec(&http_guest())).await;
    assert_eq!(calls(&node.net, "/", 12).await, [200; 12]);
    let spinning: Vec<_> = (0..2).map(|_| tokio::spawn(hold(node.net.handler(80).unwrap()))).collect();
    busy(&node, &id, 2).await;
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(hold(node.net.handler(80).unwrap()))).collect();
    let refused = async {
        while node.runtime.stats(&id).await.unwrap().requests < 12 + 12 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        node.net.get(80, "/").await
    };
    let (status, text) = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert_eq!((status, text.as_str()), (503, "too many requests are waiting for this container\n"));
    spinning.iter().chain(&waiting).for_each(|task| task.abort());
    idle(&node, &id).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

async fn hold(handler: Arc<dyn HttpHandler>) {
    let _ = handler.call(request("/spin"), peer()).await;
}

#[tokio::test]
async fn a_stop_finishes_requests_within_the_grace_period() {
    let node = Node::new().await;
    let idle_one = node.start(node.spec(&http_guest())).await;
    node.runtime.stop(&idle_one, Duration::from_secs(30)).await.unwrap();
    assert_eq!(node.exit(&idle_one).await.code, 0);
    assert!(node.net.handler(80).is_none(), "it is unbound");

    let id = node.start(node.spec(&http_guest())).await;
    let call = tokio::spawn(hold(node.net.handler(80).unwrap()));
    busy(&node, &id, 1).await;
    node.runtime.stop(&id, Duration::from_millis(100)).await.unwrap();
    assert_eq!(node.exit(&id).await.code, 137, "a request had to be cut");
    call.await.unwrap();
}

#[tokio::test]
async fn growing_above_the_limit_ends_the_handler() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    spec.limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    let id = node.start(spec).await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
    node.net.get(80, "/grow").await;
    let exit = node.exit(&id).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    assert!(exit.message.starts_with("out of memory: 1048576 more bytes do not fit: "), "{}", exit.message);
    assert!(exit.message.contains("!grow_until_refused"), "{}", exit.message);
    assert!(node.net.handler(80).is_none());
}

#[tokio::test]
async fn a_limit_below_what_an_instance_begins_with_fails_the_start() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    spec.limits = Limits { memory_bytes: Some(100 << 10), ..Limits::default() };
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.reason, exit.started_at), (128, ExitReason::ContainerCannotRun, None));
    assert!(exit.message.starts_with("it begins with 131"), "{}", exit.message);
    assert!(exit.message.contains("bytes of memory, and its limit is 102400"), "{}", exit.message);
    assert!(node.net.handler(80).is_none());
}

#[tokio::test]
async fn load_alone_does_not_exceed_a_memory_limit() {
    let node = Node::new().await;
    let mut spec = node.spec(&http_guest());
    // An instance begins with 128 KiB and a table.
    spec.limits = Limits { memory_bytes: Some(300 << 10), ..Limits::default() };
    let id = node.start(spec).await;
    let statuses = calls(&node.net, "/", 100).await;
    let state = node.state(&id).await;
    assert!(matches!(state, ContainerState::Running { .. }), "{state:?}");
    assert_eq!(statuses, [200; 100]);
}

#[tokio::test]
async fn what_happens_is_measured() {
    let node = Node::new().await;
    let mut registry = prometheus_client::registry::Registry::default();
    node.runtime.register(&mut registry);
    let shown = |line: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    };
    shown("sampan_wasm_images_prepared_total{result=\"compiled\"} 0");
    let spec = node.spec(&http_guest());
    let id = node.start(spec.clone()).await;
    shown("sampan_wasm_images_prepared_total{result=\"compiled\"} 1");
    shown("sampan_wasm_compile_duration_seconds_count 1");
    assert_eq!(node.net.get(80, "/").await.0, 200);
    assert_eq!(node.net.get(80, "/trap").await.0, 500);
    for class in ["2xx", "5xx"] {
        shown(&format!("sampan_wasm_http_request_duration_seconds_count{{result=\"{class}\"}} 1"));
    }
    shown("sampan_wasm_guest_traps_total 1");
    idle(&node, &id).await;
    shown("sampan_wasm_instances 0");
    shown("sampan_wasm_memory_bytes 0");
    node.runtime.remove(&id).await.unwrap();
    node.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
    shown("sampan_wasm_images_prepared_total{result=\"cached\"} 1");
}

#[tokio::test]
async fn a_handler_runs_only_once_its_port_is_served() {
    let node = Node::new().await;
    let gate = Arc::new((Notify::new(), Notify::new()));
    *node.net.gate.lock() = Some(gate.clone());
    let start = async { node.start(node.spec(&http_guest())).await };
    let look = async {
        gate.0.notified().await;
        let state = node.runtime.list().await.unwrap().remove(0).state;
        assert_eq!(state, ContainerState::Created, "whoever hears of a start may knock at once");
        gate.1.notify_one();
    };
    let (id, ()) = tokio::join!(start, look);
    assert!(matches!(node.state(&id).await, ContainerState::Running { .. }));
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

/// Reads one answer of the guest's `/`.
async fn read_answer(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    while !text.ends_with("hello\n\r\n0\r\n\r\n") {
        let mut buffer = [0; 1024];
        let count = client.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {text:?}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    text
}

#[tokio::test]
async fn a_retired_handler_sends_its_clients_away_and_serves_them_until_then() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n";
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();
    let connect = || {
        let (mine, theirs) = tokio::io::duplex(64 << 10);
        handler.serve(Connection::Stream(Box::new(theirs)), peer());
        mine
    };
    let (mut early, mut late) = (connect(), connect());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connect())).await.unwrap();
    let connection = tokio::spawn(connection);
    sender.send_request(request("/")).await.unwrap().into_body().collect().await.unwrap();
    for client in [&mut early, &mut late] {
        client.write_all(GET).await.unwrap();
        assert!(!read_answer(client).await.contains("connection: close"));
    }

    node.runtime.retire(&id);
    // HTTP/2: GOAWAY, and the end. HTTP/1.1: with the next answer.
    tokio::time::timeout(Duration::from_secs(20), connection).await.expect("sent away").unwrap().unwrap();
    early.write_all(GET).await.unwrap();
    assert!(read_answer(&mut early).await.contains("connection: close\r\n"));
    assert_eq!(early.read(&mut [0; 1]).await.unwrap(), 0, "ended");
    // It still serves whoever comes, and after the stop whoever is there.
    assert_eq!(node.net.get(80, "/").await.0, 200);
    let (runtime, stopped) = (node.runtime.clone(), id.clone());
    let stop = tokio::spawn(async move { runtime.stop(&stopped, Duration::from_secs(60)).await });
    while node.net.handler(80).is_some() {
        tokio::task::yield_now().await;
    }
    late.write_all(GET).await.unwrap();
    assert!(read_answer(&mut late).await.contains("connection: close\r\n"));
    stop.await.unwrap().unwrap();
    assert_eq!(node.exit(&id).await.code, 0);
}
