//! Clients that do nothing, that ask in circles, that break the rules; and what of guests' answers is told.

use crate::{
    http::{busy, idle},
    support::{Net, Node, http_guest, peer, request},
};
use container::{
    ContainerId, ContainerState, Limits, Runtime,
    net::{Connection, Peer, Via},
};
use http_body_util::BodyExt;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Barrier,
};

/// Only tells alive from dead.
const ALIVE: Duration = Duration::from_secs(120);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(ALIVE, what).await.expect("it hangs")
}

/// A connection on which `bytes` were sent.
async fn connect(net: &Net, via: Via, bytes: &str) -> DuplexStream {
    let (mut mine, theirs) = tokio::io::duplex(64 << 10);
    net.handler(80).unwrap().serve(Connection::Stream(Box::new(theirs)), Peer { via, ..peer() });
    mine.write_all(bytes.as_bytes()).await.unwrap();
    mine
}

/// What comes until the connection is closed.
async fn exchange(net: &Net, via: Via, bytes: &str) -> String {
    let mut client = connect(net, via, bytes).await;
    let mut text = Vec::new();
    let _ = soon(client.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

const UNREAD: &str = "GET /b HTTP/1.1\r\nhost: h\r\n\r\n";
const UNSENT: &str = "POST /r HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhalf";

#[tokio::test]
async fn clients_that_read_or_send_nothing_hold_no_place() {
    let node = Node::with(|options| options.http.concurrency = 2).await;
    let id = node.start(node.spec(&http_guest())).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(&node.net, Via::NodePort, UNREAD).await);
        clients.push(connect(&node.net, Via::NodePort, UNSENT).await);
    }
    busy(&node, &id, 16).await;
    for _ in 0..4 {
        assert_eq!(soon(node.net.get(80, "/")).await, (200, "hello\n".to_string()));
    }
    // Whoever sends the rest, or reads, is served.
    let mut sending = clients.pop().unwrap();
    sending.write_all(&[b'x'; 96]).await.unwrap();
    let mut head = [0; 15];
    soon(sending.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut reading = clients.pop().unwrap();
    soon(reading.read_exact(&mut vec![0; 1 << 20])).await.unwrap();
}

#[tokio::test]
async fn clients_that_do_nothing_are_cut_and_the_log_says_so() {
    let node = Node::with(|options| {
        let limit = Duration::from_millis(500);
        let clients = &mut options.http.clients;
        (clients.first_byte, clients.idle, clients.stall) = (limit, limit, limit);
    })
    .await;
    let id = node.start(node.spec(&http_guest())).await;
    assert_eq!(exchange(&node.net, Via::NodePort, "").await, "", "silent");
    assert_eq!(exchange(&node.net, Via::NodePort, "GET / HTT").await, "", "half a head");
    let idle_one = exchange(&node.net, Via::NodePort, "GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(idle_one.ends_with("hello\n\r\n0\r\n\r\n"), "closed after its answer: {idle_one}");
    let unsent = exchange(&node.net, Via::NodePort, UNSENT).await;
    assert!(unsent.starts_with("HTTP/1.1 408 ") && unsent.contains("connection: close"), "{unsent}");
    node.log(&id, |text| text.contains("POST /r: ended, since its client neither sent nor took anything")).await;
    let _unread = connect(&node.net, Via::NodePort, UNREAD).await;
    busy(&node, &id, 1).await;
    idle(&node, &id).await;
    node.log(&id, |text| text.contains("GET /b: ended, since its client neither sent nor took anything")).await;
    // By a call.
    let response = node.net.handler(80).unwrap().call(request("/b"), peer()).await.unwrap();
    idle(&node, &id).await;
    assert!(response.into_body().collect().await.is_err(), "it is not whole");
    // A guest may take longer than that.
    let spins = tokio::spawn(connect_and_wait(node.net.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.runtime.stats(&id).await.unwrap().instances, 1);
    spins.abort();
    idle(&node, &id).await;
    // Also after its answer has begun, as one that sends events does.
    let mut waits = connect(&node.net, Via::NodePort, "GET /w HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut head = [0; 15];
    soon(waits.read_exact(&mut head)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((&head, node.runtime.stats(&id).await.unwrap().instances), (b"HTTP/1.1 200 OK", 1));
}

async fn connect_and_wait(net: Arc<Net>) {
    exchange(&net, Via::NodePort, "GET /spin HTTP/1.1\r\nhost: h\r\n\r\n").await;
}

#[tokio::test]
async fn who_is_silent_longest_makes_room_for_others() {
    let node = Node::with(|options| options.http.clients.connections = 3).await;
    node.start(node.spec(&http_guest())).await;
    let mut oldest = connect(&node.net, Via::NodePort, "").await;
    let mut others = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        others.push(connect(&node.net, Via::NodePort, "").await);
    }
    assert_eq!(soon(oldest.read(&mut [0; 1])).await.unwrap(), 0, "closed");
    let mut newest = others.pop().unwrap();
    newest.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    soon(newest.read_to_string(&mut text)).await.unwrap();
    assert!(text.contains("hello"), "{text}");
}

#[tokio::test]
async fn a_probe_does_not_wait_for_a_place() {
    let node = Node::with(|options| options.http.concurrency = 1).await;
    let id = node.start(node.spec(&http_guest())).await;
    let handler = node.net.handler(80).unwrap();
    let spinning = tokio::spawn({
        let handler = handler.clone();
        async move { handler.call(request("/spin"), peer()).await.map(drop) }
    });
    busy(&node, &id, 1).await;
    let waiting = tokio::spawn({
        let handler = handler.clone();
        async move { handler.call(request("/"), peer()).await.map(|it| it.status()) }
    });
    let probe = Peer { via: Via::Cluster, ..peer() };
    for _ in 0..3 {
        assert_eq!(soon(handler.call(request("/"), probe.clone())).await.unwrap().status(), 200);
    }
    assert!(!waiting.is_finished());
    spinning.abort();
    assert_eq!(soon(waiting).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_guest_that_asks_itself_locks_nobody_out() {
    const CALLS: usize = 40;
    let node = Node::with(|options| options.http.concurrency = 4).await;
    node.start(node.spec(&http_guest())).await;
    // None is answered before all have asked.
    *node.net.circle.lock() = Some(Arc::new(Barrier::new(CALLS)));
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let net = node.net.clone();
            tokio::spawn(async move { net.get(80, "/other").await })
        })
        .collect();
    for call in calls {
        assert_eq!(soon(call).await.unwrap(), (200, "hello\n".to_string()));
    }
}

async fn small(node: &Node) -> ContainerId {
    let mut spec = node.spec(&http_guest());
    // An instance begins with 128 KiB and a table: two fit.
    spec.limits = Limits { memory_bytes: Some(300 << 10), ..Limits::default() };
    node.start(spec).await
}

#[tokio::test]
async fn a_circle_that_has_all_the_memory_is_broken() {
    let node = Node::new().await;
    let id = small(&node).await;
    *node.net.circle.lock() = Some(Arc::new(Barrier::new(2)));
    let calls = [(); 2].map(|()| {
        let net = node.net.clone();
        tokio::spawn(async move { net.get(80, "/other").await })
    });
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(soon(call).await.unwrap().0);
    }
    assert!(statuses.contains(&503), "one was refused so that the other goes on: {statuses:?}");
    node.log(&id, |text| {
        text.contains("requests that wait keep all the memory or places there are, and nothing moves")
    })
    .await;
    let state = node.state(&id).await;
    assert!(matches!(state, ContainerState::Running { .. }), "{state:?}");
}

#[tokio::test]
async fn clients_that_do_nothing_give_their_memory_to_others() {
    let node = Node::new().await;
    let id = small(&node).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(connect(&node.net, Via::NodePort, UNREAD).await);
    }
    busy(&node, &id, 2).await;
    assert_eq!(soon(node.net.get(80, "/")).await.0, 200);
}

#[tokio::test]
async fn what_a_guest_fails_to_answer_is_in_its_log() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    let log = async |line: &str| node.log(&id, |text| text.contains(&format!("stderr F sampan: {line}\n"))).await;
    assert_eq!(node.net.get(80, "/nothing").await, (502, "the component gave no answer\n".to_string()));
    log("GET /nothing: the component gave no answer").await;
    let (status, text) = node.net.get(80, "/error").await;
    assert_eq!((status, text.starts_with("the component answered with an error: ")), (502, true), "{text}");
    log("GET /error: the component answered with an error: ErrorCode::DnsTimeout").await;
    let switched = exchange(&node.net, Via::NodePort, "GET /1 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    let refused = "the component answered 101 Switching Protocols, but wasi:http has no way to switch: WebSockets are for wasi:sockets";
    assert!(switched.starts_with("HTTP/1.1 502 ") && switched.contains(refused), "{switched}");
    log(&format!("GET /1: {refused}")).await;
    let broken = exchange(&node.net, Via::NodePort, "GET /c HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(broken.contains("content-length: 10\r\n") && broken.ends_with("\r\n\r\nhello\n"), "{broken}");
    log("GET /c: the component broke its answer off, 4 bytes before its content-length").await;
    assert_eq!(node.net.get(80, "/").await.0, 200);
}

#[tokio::test]
async fn requests_that_break_the_rules_reach_no_guest() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    for (head, status, text) in [
        ("GET / HTTP/1.1\r\n", 400, "missing required Host header"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n", 400, "too many Host headers"),
        ("GET / HTTP/1.1\r\nhost: a b\r\n", 400, "malformed Host header"),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n", 501, "CONNECT is not supported"),
    ] {
        let got = exchange(&node.net, Via::NodePort, &format!("{head}\r\n")).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")) && got.ends_with(&format!("{text}\n")),
            "{head}: {got}"
        );
    }
    assert_eq!(node.runtime.stats(&id).await.unwrap().requests, 0);
}

#[tokio::test]
async fn pages_of_other_sites_do_not_reach_a_port_of_this_machine() {
    let node = Node::new().await;
    let id = node.start(node.spec(&http_guest())).await;
    let send = async |method: &str, via, more: &str| {
        let head = format!("{method} / HTTP/1.1\r\nhost: 127.0.0.1:30080\r\nconnection: close\r\n{more}\r\n");
        exchange(&node.net, via, &head).await[9..12].to_string()
    };
    let ask = async |via, more: &str| send("GET", via, more).await;
    let loopback = || Via::Loopback("open it".into());
    let evil = "sec-fetch-site: cross-site\r\nsec-fetch-mode: cors\r\norigin: https://evil.example\r\n";
    assert_eq!(ask(loopback(), evil).await, "403");
    let form = "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\norigin: https://evil.example\r\n";
    assert_eq!(send("POST", loopback(), form).await, "403", "a form that submits itself");
    assert_eq!(send("POST", loopback(), "origin: https://evil.example\r\n").await, "403", "by an older browser");
    assert_eq!(ask(loopback(), &form.replace("document", "iframe")).await, "403", "a frame");
    assert_eq!(node.runtime.stats(&id).await.unwrap().requests, 0);
    let line = "sampan: GET / refused: https://evil.example asked, and this port is for this machine; to allow other sites: open it\n";
    node.log(&id, |text| text.contains(line)).await;
    assert_eq!(ask(Via::NodePort, evil).await, "200", "others reach it anyway, or it is allowed");
    let own = "sec-fetch-site: same-origin\r\nsec-fetch-mode: cors\r\norigin: http://127.0.0.1:30080\r\n";
    assert_eq!(ask(loopback(), own).await, "200");
    assert_eq!(ask(loopback(), "").await, "200");
    assert_eq!(ask(loopback(), form).await, "200", "a link");
    assert_eq!(send("POST", loopback(), "").await, "200");
    assert_eq!(send("POST", Via::NodePort, form).await, "200");
}
