//! What leaves the node's range.

use crate::support::{LIMIT, any, at, can, connect, failure, local, node, options, pod, routed, talk};
use netns::{Behind, Egress, Flow, Node, Place, Protocol, Rules, Service};
use std::{io::ErrorKind, net::Ipv4Addr, sync::Arc};
use tokio::time::timeout;

const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

async fn received(flow: &Flow) -> Vec<u8> {
    let mut buffer = vec![0; 64];
    let size = timeout(LIMIT, flow.receive(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(size);
    buffer
}

async fn accept(egress: &Egress) -> netns::Outgoing {
    timeout(LIMIT, egress.accept()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_connection_to_elsewhere_is_given_with_what_was_meant() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    assert_eq!(failure(&node, Place::Pod(&a), at(WEB, 443)).await, ErrorKind::HostUnreachable, "nobody takes it");
    let egress = node.egress().await.unwrap();
    assert!(node.egress().await.is_err(), "there is one");
    let elsewhere = [at(WEB, 443), at(Ipv4Addr::new(1, 1, 1, 1), 15001), at(Ipv4Addr::new(10, 33, 0, 1), 80)];
    for to in elsewhere.into_iter().chain([at(node.layout().node, 6443), at(node.layout().node, 15001)]) {
        let mut near = connect(&node, Place::Pod(&a), to).await.unwrap();
        let mut outgoing = accept(&egress).await;
        assert_eq!((outgoing.to, *outgoing.from.ip()), (to, routed(1)));
        assert_eq!(near.local_addr().unwrap(), outgoing.from.into());
        talk(&mut near, &mut outgoing.stream).await;
    }
    drop(egress);
    assert!(connect(&node, Place::Pod(&a), at(WEB, 443)).await.is_err());
}

#[tokio::test]
async fn a_pod_sees_the_client_for_whom_the_node_dials() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let listener = node.listen(Place::Pod(&a), any(80)).await.unwrap();
    for with_egress in [false, true] {
        let _egress = if with_egress { Some(node.egress().await.unwrap()) } else { None };
        let client = at(WEB, 50_000);
        let mut near =
            timeout(LIMIT, node.connect(Place::Node, Some(client), at(routed(1), 80))).await.unwrap().unwrap();
        let (mut far, peer) = crate::support::accept(&listener).await;
        assert_eq!(peer, client);
        talk(&mut near, &mut far).await;
    }
}

#[tokio::test]
async fn datagrams_to_elsewhere_are_flows() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let egress = Arc::new(node.egress().await.unwrap());
    let socket = node.bind_udp(Place::Pod(&a), any(7000)).await.unwrap();
    let (dns, other) = (at(WEB, 53), at(Ipv4Addr::new(203, 0, 113, 8), 53));
    for text in [&b"one"[..], b"two"] {
        socket.send_to(text, dns).await.unwrap();
    }
    let flow = timeout(LIMIT, egress.flow()).await.unwrap().unwrap();
    assert_eq!((flow.from, flow.to), (at(routed(1), 7000), dns));
    assert_eq!(received(&flow).await, b"one");
    socket.send_to(b"three", dns).await.unwrap();
    socket.send_to(b"elsewhere", other).await.unwrap();
    // what came before the flow had its socket is sorted by who waits for flows
    let second = timeout(LIMIT, egress.flow()).await.unwrap().unwrap();
    assert_eq!((second.to, received(&second).await), (other, b"elsewhere".to_vec()));
    for text in [&b"two"[..], b"three"] {
        assert_eq!(received(&flow).await, text);
    }
    second.send(b"from the other").await.unwrap();
    flow.send(b"from the first").await.unwrap();
    let mut buffer = [0; 64];
    for (text, from) in [(&b"from the other"[..], other), (b"from the first", dns)] {
        let (size, peer) = timeout(LIMIT, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..size], peer), (text, from.into()));
    }
    drop(flow);
    socket.send_to(b"again", dns).await.unwrap();
    let again = timeout(LIMIT, egress.flow()).await.unwrap().unwrap();
    assert_eq!(received(&again).await, b"again", "a flow that ended begins anew");
}

#[tokio::test]
async fn a_service_may_be_given_to_the_owner_of_the_egress() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let egress = node.egress().await.unwrap();
    let (asleep, remote) = (at(Ipv4Addr::new(10, 96, 0, 7), 80), at(Ipv4Addr::new(10, 96, 0, 8), 80));
    let elsewhere = at(Ipv4Addr::new(10, 40, 0, 9), 8080);
    let endpoints = vec![netns::Endpoint { at: elsewhere, weight: 1 }];
    let services = vec![
        Service { at: asleep, protocol: Protocol::Tcp, behind: Behind::Egress },
        Service { at: remote, protocol: Protocol::Tcp, behind: Behind::Endpoints { endpoints, affinity: None } },
    ];
    node.apply(&Rules { services, refused: Vec::new() }).await.unwrap();
    for (to, meant) in [(asleep, asleep), (remote, elsewhere)] {
        let mut near = connect(&node, Place::Pod(&a), to).await.unwrap();
        let mut outgoing = accept(&egress).await;
        assert_eq!((outgoing.to, *outgoing.from.ip()), (meant, routed(1)));
        talk(&mut near, &mut outgoing.stream).await;
    }
}

#[tokio::test]
async fn what_is_no_tcp_and_no_udp_does_not_leave() {
    if !can(&["nft", "busybox"]) {
        return;
    }
    let node = node().await;
    let (_, first) = pod(&node, 1).await;
    let _egress = node.egress().await.unwrap();
    let reached = |to: &str| {
        let ping = ["busybox", "ping", "-c1", "-W1", to];
        crate::support::inside(&node, &first.path(), &ping).output().unwrap().status.success()
    };
    assert!(reached(&local(9).to_string()), "the kernel answers for pods of this process");
    assert!(!reached(&WEB.to_string()), "nobody pretends to be elsewhere");
    assert!(!reached("10.96.0.7"));
}

#[tokio::test]
async fn connections_go_on_while_there_is_no_helper() {
    if !can(&["nft"]) {
        return;
    }
    let node = Node::open(options(None)).await.unwrap();
    let (a, _) = pod(&node, 1).await;
    let egress = node.egress().await.unwrap();
    let mut near = connect(&node, Place::Pod(&a), at(WEB, 443)).await.unwrap();
    let mut outgoing = accept(&egress).await;
    node.close().await;
    talk(&mut near, &mut outgoing.stream).await;
}
