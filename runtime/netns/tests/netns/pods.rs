//! Pods and the node reach each other by their addresses.

use crate::support::{
    LIMIT, accept, any, at, can, connect, failure, local, node, number_of, options, pod, printed, routed, talk,
};
use netns::{Error, Node, Place};
use std::{io::ErrorKind, net::Ipv4Addr};
use tokio::time::timeout;

#[tokio::test]
async fn pods_reach_each_other_with_their_own_addresses() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, _)) = (pod(&node, 1).await, pod(&node, 2).await);
    let listener = node.listen(Place::Pod(&b), any(80)).await.unwrap();
    let mut near = connect(&node, Place::Pod(&a), at(routed(2), 80)).await.unwrap();
    let (mut far, peer) = accept(&listener).await;
    assert_eq!((*peer.ip(), near.local_addr().unwrap()), (routed(1), peer.into()));
    talk(&mut near, &mut far).await;
    let mut near = connect(&node, Place::Node, at(routed(2), 80)).await.unwrap();
    let (mut far, peer) = accept(&listener).await;
    assert_eq!(*peer.ip(), node.layout().node);
    talk(&mut near, &mut far).await;
    assert_eq!(failure(&node, Place::Pod(&a), at(routed(2), 81)).await, ErrorKind::ConnectionRefused);
    assert_eq!(failure(&node, Place::Node, at(routed(2), 81)).await, ErrorKind::ConnectionRefused);
    assert_eq!(failure(&node, Place::Pod(&a), at(routed(77), 80)).await, ErrorKind::HostUnreachable, "nobody's");
    assert_eq!(failure(&node, Place::Node, at(routed(77), 80)).await, ErrorKind::HostUnreachable, "nobody's");
}

#[tokio::test]
async fn the_loopback_of_a_pod_is_its_own() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let ((a, _), (b, _)) = (pod(&node, 1).await, pod(&node, 2).await);
    let listener = node.listen(Place::Pod(&a), at(Ipv4Addr::LOCALHOST, 80)).await.unwrap();
    let mut near = connect(&node, Place::Pod(&a), at(Ipv4Addr::LOCALHOST, 80)).await.unwrap();
    talk(&mut near, &mut accept(&listener).await.0).await;
    assert_eq!(failure(&node, Place::Pod(&b), at(Ipv4Addr::LOCALHOST, 80)).await, ErrorKind::ConnectionRefused);
    assert_eq!(failure(&node, Place::Node, at(Ipv4Addr::LOCALHOST, 80)).await, ErrorKind::ConnectionRefused);
    assert_eq!(failure(&node, Place::Pod(&b), at(routed(1), 80)).await, ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn local_addresses_are_bound_without_a_device() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let (at9, at8) = (at(local(9), 8080), at(local(8), 8080));
    let (nine, eight) = (node.listen(Place::Node, at9).await.unwrap(), node.listen(Place::Node, at8).await.unwrap());
    let taken = node.bind(Place::Node, at9).await.map(drop);
    assert!(matches!(&taken, Err(Error::Io(error)) if error.kind() == ErrorKind::AddrInUse), "{taken:?}");
    for (listener, to) in [(&nine, at9), (&eight, at8)] {
        let mut near = connect(&node, Place::Pod(&a), to).await.unwrap();
        let (mut far, peer) = accept(listener).await;
        assert_eq!(*peer.ip(), routed(1));
        talk(&mut near, &mut far).await;
        // from a pod of this process to another, and to one with a namespace
        let mut near = node.connect(Place::Node, Some(at(local(7), 0)), to).await.unwrap();
        let (mut far, peer) = accept(listener).await;
        assert_eq!(*peer.ip(), local(7));
        talk(&mut near, &mut far).await;
    }
    let inside = node.listen(Place::Pod(&a), any(80)).await.unwrap();
    let mut near = node.connect(Place::Node, Some(at(local(7), 5000)), at(routed(1), 80)).await.unwrap();
    let (mut far, peer) = accept(&inside).await;
    assert_eq!(peer, at(local(7), 5000));
    talk(&mut near, &mut far).await;
    assert_eq!(failure(&node, Place::Pod(&a), at(local(77), 80)).await, ErrorKind::ConnectionRefused);
    let foreign = node.listen(Place::Pod(&a), at(routed(2), 80)).await.map(drop);
    assert!(matches!(&foreign, Err(Error::Io(error)) if error.kind() == ErrorKind::AddrNotAvailable), "{foreign:?}");
}

#[tokio::test]
async fn datagrams_find_their_way_back() {
    if !can(&["nft"]) {
        return;
    }
    let node = node().await;
    let (a, _) = pod(&node, 1).await;
    let of_local = node.bind_udp(Place::Node, at(local(9), 53)).await.unwrap();
    let of_pod = node.bind_udp(Place::Pod(&a), any(5353)).await.unwrap();
    of_pod.send_to(b"ask", at(local(9), 53)).await.unwrap();
    let mut buffer = [0; 64];
    let (size, from) = timeout(LIMIT, of_local.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..size], from), (&b"ask"[..], at(routed(1), 5353).into()));
    of_local.send_to(b"answer", from).await.unwrap();
    let (size, from) = timeout(LIMIT, of_pod.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..size], from), (&b"answer"[..], at(local(9), 53).into()));
}

#[tokio::test]
async fn a_pod_cannot_speak_in_the_name_of_another() {
    if !can(&["nft", "ip"]) {
        return;
    }
    let node = node().await;
    let ((a, first), _) = (pod(&node, 1).await, pod(&node, 2).await);
    let server = node.bind_udp(Place::Node, at(local(9), 53)).await.unwrap();
    // its container may have the right to change its own namespace
    for stolen in ["10.32.128.2/32", "10.32.0.7/32", "203.0.113.7/32", "10.32.0.1/32"] {
        printed(&node, &first.path(), &["ip", "address", "add", stolen, "dev", "lo"]);
    }
    for stolen in [routed(2), local(7), Ipv4Addr::new(203, 0, 113, 7), node.layout().node] {
        let thief = node.bind_udp(Place::Pod(&a), at(stolen, 1000)).await.unwrap();
        thief.send_to(b"stolen", at(local(9), 53)).await.unwrap();
    }
    let honest = node.bind_udp(Place::Pod(&a), at(routed(1), 1000)).await.unwrap();
    honest.send_to(b"mine", at(local(9), 53)).await.unwrap();
    let mut buffer = [0; 64];
    let (size, from) = timeout(LIMIT, server.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..size], from), (&b"mine"[..], at(routed(1), 1000).into()));
}

#[tokio::test]
async fn a_pod_has_one_namespace_and_one_address() {
    if !can(&["nft", "ip"]) {
        return;
    }
    let node = node().await;
    let (a, first) = pod(&node, 1).await;
    let again = node.attach(&a, routed(1)).await.unwrap();
    assert_eq!(number_of(&first.path()), number_of(&again.path()));
    assert_ne!(number_of(&first.path()), number_of(&node.paths().0));
    for (id, address) in [("other", routed(1)), (a.as_str(), routed(2)), ("other", local(1)), ("", routed(3))] {
        let refused = node.attach(id, address).await;
        assert!(matches!(refused, Err(Error::Failed(_))), "{id} {address}: {refused:?}");
    }
    assert!(node.attach(&"x".repeat(129), routed(3)).await.is_err());
    assert_eq!(node.pods(), [("pod-1".into(), routed(1))]);
    let links = printed(&node, &first.path(), &["ip", "-o", "address"]);
    assert!(links.contains("eth0    inet 10.32.128.1/32") && !links.contains("fe80"), "{links}");
    let listener = node.listen(Place::Pod(&a), any(80)).await.unwrap();
    node.detach(&a).await.unwrap();
    node.detach(&a).await.unwrap();
    node.detach("nobody").await.unwrap();
    assert_eq!(failure(&node, Place::Node, at(routed(1), 80)).await, ErrorKind::HostUnreachable);
    drop((listener, first, again));
    let links = printed(&node, &node.paths().0, &["ip", "-o", "link"]);
    assert!(!links.contains("pod"), "{links}");
    // the address is free
    node.attach("other", routed(1)).await.unwrap();
}

#[tokio::test]
async fn many_pods_come_and_go_at_once() {
    if !can(&["nft", "ip"]) {
        return;
    }
    let node = node().await;
    let ids: Vec<String> = (1..=50).map(|number| format!("pod-{number}")).collect();
    let tasks: Vec<_> = (1..=50u8)
        .map(|number| {
            let node = node.clone();
            tokio::spawn(async move { pod(&node, number).await.1.address() })
        })
        .collect();
    for (number, task) in (1..=50).zip(tasks) {
        assert_eq!(task.await.unwrap(), routed(number));
    }
    let listener = node.listen(Place::Pod("pod-50"), any(80)).await.unwrap();
    connect(&node, Place::Pod("pod-1"), at(routed(50), 80)).await.unwrap();
    accept(&listener).await;
    for id in &ids {
        node.detach(id).await.unwrap();
    }
    let links = printed(&node, &node.paths().0, &["ip", "-o", "link"]);
    assert_eq!(links.lines().count(), 1, "{links}");
}

#[tokio::test]
async fn without_nft_it_says_what_to_install() {
    if !can(&[]) {
        return;
    }
    let mut options = options(None);
    options.env.push(("PATH".into(), "/nowhere".into()));
    match Node::open(options).await.map(drop) {
        Err(Error::Unsupported(text)) => assert!(text.contains("install the package nftables"), "{text}"),
        other => panic!("{other:?}"),
    }
}
