//! HTTP handlers in isolated pods: by calls of the network, and by connections that are handed over.

use crate::support::{Node, sample};
use container::{
    Runtime,
    net::{Connection, Dialer, Peer, Via},
};
use http_body_util::{BodyExt, Empty};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn get(path: &str) -> container::net::Request {
    let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
    http::Request::get(format!("http://hello{path}")).body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_by_call_by_stream_and_by_a_socket_that_is_handed_over() {
    let node = Node::new().await;
    let address = SocketAddr::new(node.pod("hello", &[]).await, 80);
    let id = node.start("hello", node.spec(&sample("hello/hello.wasm"), &[])).await;

    let response = Dialer::http(&node.network, address, get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.starts_with("Hello from "), "{text}");

    let mut stream = Dialer::connect(&node.network, address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&text), "{answer}");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, from) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let peer = Peer { address: from, via: Via::NodePort };
    node.network.hand_over(Connection::Tcp(accepted), peer, address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n").unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&text), "{answer}");

    assert_eq!(node.runtime.stats(&id).await.unwrap().requests, 3);
    node.runtime.stop(&id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(node.exit(&id).await.code, 0);
    assert!(Dialer::http(&node.network, address, get("/")).await.is_err(), "the port is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_takes_a_port_and_the_next_one_is_told_so() {
    let node = Node::new().await;
    node.pod("hello", &[]).await;
    let first = node.start("hello", node.spec(&sample("hello/hello.wasm"), &[])).await;
    let second = node.start("hello", node.spec(&sample("hello/hello.wasm"), &[])).await;
    let exit = node.exit(&second).await;
    assert_eq!(exit.reason, container::ExitReason::AddressInUse, "{}", exit.message);
    node.runtime.remove(&first).await.unwrap();
    let third = node.start("hello", node.spec(&sample("hello/hello.wasm"), &[])).await;
    assert!(matches!(node.state(&third).await, container::ContainerState::Running { .. }));
}
