//! Requests that wait for a Service that was put to zero while it was idle: at node ports, of guests, and of the cluster.

use crate::{
    table_tests::{name, service, slice},
    tests::*,
    *,
};
use container::net::*;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A Service `web` at 10.96.0.7 with a node port; `asleep`: its slice says so.
fn put(network: &VirtualNetwork, node_port: u16, asleep: bool, endpoints: &[IpAddr]) {
    let spec = json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]});
    let endpoints: Value = endpoints.iter().map(|a| json!({"addresses": [a.to_string()]})).collect();
    let mut slice = (*slice(json!([{"port": 8080}]), endpoints)).clone();
    slice.metadata.annotations = asleep.then(|| [("sampan.dev/scaled-to-zero".to_owned(), "web".to_owned())].into());
    network.table().write().update(&name("web"), Some((&service("web", spec), &[Arc::new(slice)])));
    network.inner.holds.changed("default/web");
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIVENESS, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Sends bytes and reads all that comes back; `None` after a reset.
async fn talk(mut stream: TcpStream, bytes: &[u8]) -> Option<String> {
    stream.write_all(bytes).await.expect("written");
    let mut got = String::new();
    timeout(LIVENESS, stream.read_to_string(&mut got)).await.expect("in time").ok().map(|_| got)
}

const ASK: &[u8] = b"GET /n HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn requests_wait_at_every_door_and_are_answered_when_an_endpoint_is_ready() {
    let network = network();
    let ((h, h_ip), (a, _)) = (pod(&network, "h").await, pod(&network, "a").await);
    let _serving = h.serve_http(8080, Arc::new(Echo::new("h"))).await.expect("bound");
    let number = free_port();
    put(&network, number, true, &[]);
    let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    ports.sync(&network.table().read().node_ports());
    let outside = connect_when_open(SocketAddr::new(at("127.0.0.1:0").ip(), number)).await;
    let outside = tokio::spawn(talk(outside, ASK));
    let guest = a.clone();
    let by_http = tokio::spawn(async move { guest.http(get("http://10.96.0.7/n")).await });
    let by_socket = tokio::spawn(async move { a.connect(at("10.96.0.7:80")).await.map(drop) });
    let dialer = network.clone();
    let by_cluster = tokio::spawn(async move { Dialer::http(&dialer, at("10.96.0.7:80"), get("/n")).await });
    until("all four to wait", || network.inner.holds.held() == 4).await;
    put(&network, number, true, &[]);
    tokio::task::yield_now().await;
    assert_eq!(network.inner.holds.held(), 4, "a change that brings no endpoint wakes nobody for good");
    assert_eq!(network.inner.holds.due().await, ["default/web"], "it is asked for");
    put(&network, number, true, &[h_ip]);
    let answer = timeout(LIVENESS, outside).await.expect("in time").expect("no panic").expect("no reset");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("h GET /n h"), "{answer}");
    let answer = timeout(LIVENESS, by_http).await.expect("in time").expect("no panic").expect("answered");
    assert_eq!(text(answer).await, "h GET /n 10.96.0.7");
    let answer = timeout(LIVENESS, by_cluster).await.expect("in time").expect("no panic").expect("answered");
    assert!(text(answer).await.starts_with("h GET /n"));
    timeout(LIVENESS, by_socket).await.expect("in time").expect("no panic").expect("connected");
    until("nobody to wait", || network.inner.holds.held() == 0).await;
}

#[tokio::test]
async fn what_has_no_endpoint_for_another_reason_refuses_at_once() {
    let network = network();
    let (a, _) = pod(&network, "a").await;
    let number = free_port();
    put(&network, number, false, &[]);
    let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    ports.sync(&network.table().read().node_ports());
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), number);
    let refused = timeout(LIVENESS, a.connect(at("10.96.0.7:80"))).await.expect("at once").map(drop);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(
        TcpStream::connect(to).await.map(drop).map_err(|e| e.kind()),
        Err(std::io::ErrorKind::ConnectionRefused)
    );
    // asleep, and then put to zero by somebody: those that wait are not left alone
    put(&network, number, true, &[]);
    ports.sync(&network.table().read().node_ports());
    let outside = tokio::spawn(talk(connect_when_open(to).await, ASK));
    let inside = tokio::spawn(async move { a.connect(at("10.96.0.7:80")).await.map(drop) });
    until("both to wait", || network.inner.holds.held() == 2).await;
    put(&network, number, false, &[]);
    ports.sync(&network.table().read().node_ports());
    let refused = timeout(LIVENESS, inside).await.expect("at once").expect("no panic");
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(timeout(LIVENESS, outside).await.expect("at once").expect("no panic"), None, "reset");
}

#[tokio::test]
async fn the_bounds_of_number_and_time_are_answered_clearly() {
    let network = network_with(|config| {
        config.limits.held_of_service = 1;
        config.limits.hold = Duration::from_secs(2);
    });
    let (a, _) = pod(&network, "a").await;
    let number = free_port();
    put(&network, number, true, &[]);
    let mut ports = NodePorts::new(network.clone(), Arc::new(|port, error| panic!("{port:?}: {error}")));
    ports.sync(&network.table().read().node_ports());
    let to = SocketAddr::new(at("127.0.0.1:0").ip(), number);
    let first = tokio::spawn(talk(connect_when_open(to).await, ASK));
    until("one to wait", || network.inner.holds.held() == 1).await;
    let second = talk(connect_when_open(to).await, ASK).await.expect("no reset");
    assert!(second.starts_with("HTTP/1.1 503 ") && second.contains("retry-after: 1"), "{second}");
    assert!(second.contains("\"default/web\" is scaled to zero and 1 requests wait already: try again"), "{second}");
    assert_eq!(
        talk(connect_when_open(to).await, b"\x16\x03\x01 no HTTP").await,
        None,
        "a reset for who speaks no HTTP"
    );
    let full = a.connect(at("10.96.0.7:80")).await.map(drop);
    assert!(matches!(&full, Err(Error::Exhausted(text)) if text.contains("wait already")), "{full:?}");
    let late = timeout(LIVENESS, first).await.expect("in time").expect("no panic").expect("no reset");
    assert!(late.starts_with("HTTP/1.1 503 ") && late.contains("did not wake within 2 s"), "{late}");
    let late = a.http(get("http://10.96.0.7/")).await.map(drop);
    assert!(matches!(late, Err(Error::TimedOut(_))), "{late:?}");
}
