//! Addresses of Services.

use crate::support::{LIMIT, any, at, can, connect, failure, local, node, pod, routed, talk};
use netns::{Behind, Endpoint, Node, Place, Protocol, Rules, Service};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

fn address(number: u8) -> SocketAddrV4 {
    at(Ipv4Addr::new(10, 96, 0, number), 80)
}

fn service(number: u8, endpoints: &[(SocketAddrV4, u16)], affinity: Option<Duration>) -> Service {
    let endpoints = endpoints.iter().map(|(at, weight)| Endpoint { at: *at, weight: *weight }).collect();
    Service { at: address(number), protocol: Protocol::Tcp, behind: Behind::Endpoints { endpoints, affinity } }
}

async fn apply(node: &Node, services: Vec<Service>) {
    node.apply(&Rules { services, refused: vec!["169.254.0.0/16".parse().unwrap()] }).await.unwrap();
}

/// Calls a Service, and returns which of the listeners had the connection, and the peer that it saw.
async fn called(node: &Node, from: &str, to: SocketAddrV4, listeners: &[&TcpListener]) -> (usize, SocketAddrV4) {
    let mut near = connect(node, Place::Pod(from), to).await.unwrap();
    let all = listeners.iter().map(|listener| Box::pin(listener.accept()));
    let first = std::future::poll_fn({
        let mut all: Vec<_> = all.collect();
        move |cx| {
            for (number, one) in all.iter_mut().enumerate() {
                if let std::task::Poll::Ready(accepted) = one.as_mut().poll(cx) {
                    return std::task::Poll::Ready((number, accepted.unwrap()));
                }
            }
            std::task::Poll::Pending
        }
    });
    let (number, (mut far, peer)) = timeout(LIMIT, first).await.unwrap();
    talk(&mut near, &mut far).await;
    let std::net::SocketAddr::V4(peer) = peer else { panic!("{peer}") };
    (number, peer)
}

#[tokio::test]
async fn connections_are_shared_by_weight_and_keep_their_source() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, _), (c, _)) = (pod(&node, 1).await, pod(&node, 2).await, pod(&node, 3).await);
    let one = node.listen(Place::Pod(&b), any(8080)).await.unwrap();
    let two = node.listen(Place::Pod(&c), any(8081)).await.unwrap();
    let here = node.listen(Place::Node, at(local(9), 8082)).await.unwrap();
    let shares = [(at(routed(2), 8080), 6), (at(routed(3), 8081), 3), (at(local(9), 8082), 1)];
    apply(&node, vec![service(1, &shares, None), service(2, &[(at(routed(3), 8081), 1)], None)]).await;
    let mut counts = BTreeMap::new();
    for _ in 0..200 {
        let (number, peer) = called(&node, &a, address(1), &[&one, &two, &here]).await;
        assert_eq!(*peer.ip(), routed(1), "the true source");
        *counts.entry(number).or_insert(0) += 1;
    }
    // of 200: 120, 60, 20, each within five standard deviations
    assert!(
        (85..=155).contains(&counts[&0]) && (27..=93).contains(&counts[&1]) && (1..=42).contains(&counts[&2]),
        "{counts:?}"
    );
    assert_eq!(called(&node, &a, address(2), &[&two]).await.0, 0);
    // the Service of a Service's own pod
    for _ in 0..3 {
        let (_, peer) = called(&node, &c, address(2), &[&two]).await;
        assert_eq!(*peer.ip(), node.layout().node, "who calls itself is hidden");
    }
}

#[tokio::test]
async fn nobody_behind_is_refused_at_once() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let _listener = node.listen(Place::Node, at(local(9), 80)).await.unwrap();
    let outside = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 80);
    let external = Service { at: outside, protocol: Protocol::Tcp, behind: Behind::Nobody };
    apply(&node, vec![service(1, &[], None), service(2, &[(at(local(9), 80), 1)], None), external]).await;
    for to in [address(1), address(77), at(*address(2).ip(), 81), outside] {
        assert_eq!(failure(&node, Place::Pod(&a), to).await, ErrorKind::ConnectionRefused, "{to}");
    }
    for to in [address(1), address(2)] {
        let socket = node.bind_udp(Place::Pod(&a), any(0)).await.unwrap();
        socket.connect(to).await.unwrap();
        socket.send(b"ask").await.unwrap();
        let refused = timeout(LIMIT, socket.recv(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    connect(&node, Place::Pod(&a), address(2)).await.unwrap();
    assert_eq!(
        failure(&node, Place::Pod(&a), at(Ipv4Addr::new(169, 254, 169, 254), 80)).await,
        ErrorKind::HostUnreachable
    );
}

#[tokio::test]
async fn a_client_keeps_its_endpoint_until_it_was_silent() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, _)) = (pod(&node, 1).await, pod(&node, 2).await);
    let mut listeners = Vec::new();
    for number in 10..18 {
        listeners.push(node.listen(Place::Node, at(local(number), 80)).await.unwrap());
    }
    let listeners: Vec<&TcpListener> = listeners.iter().collect();
    let ends: Vec<_> = (10..18).map(|number| (at(local(number), 80), 1)).collect();
    let time = Some(Duration::from_secs(2));
    apply(&node, vec![service(1, &ends, time)]).await;
    let first = called(&node, &a, address(1), &listeners).await.0;
    for _ in 0..20 {
        assert_eq!(called(&node, &a, address(1), &listeners).await.0, first);
    }
    // another Service comes, and another endpoint goes: who stays is remembered
    let ends: Vec<_> =
        ends.iter().copied().enumerate().filter(|(at, _)| *at == first || at % 2 == 0).map(|(_, end)| end).collect();
    apply(&node, vec![service(1, &ends, time), service(2, &ends, None)]).await;
    let mut other = std::collections::BTreeSet::new();
    for _ in 0..10 {
        assert_eq!(called(&node, &a, address(1), &listeners).await.0, first);
        other.insert(called(&node, &b, address(2), &listeners).await.0);
    }
    assert!(other.len() > 1, "without affinity they are balanced: {other:?}");
    // silent for longer than the time, again and again: then it may be another
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        sleep(Duration::from_millis(2600)).await;
        seen.insert(called(&node, &a, address(1), &listeners).await.0);
    }
    assert!(seen.len() > 1 || seen.iter().next() != Some(&first), "{seen:?} and {first}");
    // its endpoint goes
    let ends: Vec<_> =
        (10..18).filter(|number| usize::from(number - 10) != first).map(|number| (at(local(number), 80), 1)).collect();
    apply(&node, vec![service(1, &ends, time)]).await;
    assert_ne!(called(&node, &a, address(1), &listeners).await.0, first);
}

#[tokio::test]
async fn datagrams_to_a_service_are_answered_by_it() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let server = node.bind_udp(Place::Node, at(local(9), 5353)).await.unwrap();
    let endpoints = vec![Endpoint { at: at(local(9), 5353), weight: 1 }];
    let dns = at(Ipv4Addr::new(10, 96, 0, 10), 53);
    let behind = Behind::Endpoints { endpoints, affinity: None };
    apply(&node, vec![Service { at: dns, protocol: Protocol::Udp, behind }]).await;
    let client = node.bind_udp(Place::Pod(&a), any(0)).await.unwrap();
    client.send_to(b"ask", dns).await.unwrap();
    let mut buffer = [0; 64];
    let (size, from) = timeout(LIMIT, server.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..size], from.ip()), (&b"ask"[..], routed(1).into()));
    server.send_to(b"answer", from).await.unwrap();
    let (size, from) = timeout(LIMIT, client.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..size], from), (&b"answer"[..], dns.into()));
}

#[tokio::test]
async fn thousands_of_services_change_one_by_one() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let listener = node.listen(Place::Node, at(local(9), 80)).await.unwrap();
    let many = |extra: Option<Service>| {
        let one = |number: u16| Service {
            at: at(Ipv4Addr::from(0x0a60_1000 + u32::from(number)), 80),
            ..service(1, &[(at(local(9), 80), 1), (at(local(9), 80), 1)], None)
        };
        (0..2000).map(one).chain(extra).collect::<Vec<_>>()
    };
    let begin = std::time::Instant::now();
    apply(&node, many(None)).await;
    let all = begin.elapsed();
    let begin = std::time::Instant::now();
    apply(&node, many(Some(service(1, &[(at(local(9), 80), 1)], None)))).await;
    let one = begin.elapsed();
    eprintln!("2000 Services: {all:?}, one more: {one:?}");
    for to in [address(1), at(Ipv4Addr::from(0x0a60_1000 + 1999), 80)] {
        assert_eq!(called(&node, &a, to, &[&listener]).await.0, 0);
    }
    assert!(one < all, "one costs less than all");
}
