//! The server as guests reach it: real packets, in this process, and an upstream server on a loopback address.

use super::{Dns, Step, Transport, zone_tests};
use crate::{
    Upstreams, VirtualNetwork,
    tests::{LIVENESS, at, network_with, pod},
};
use container::net::{Datagrams, Dialer, Sockets, Stream};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};
use serde_json::json;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time::{Instant, timeout},
};

const SERVER: &str = "10.96.0.10:53";

fn packet(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(zone_tests::query(name, kind));
    message.to_vec().unwrap()
}

fn network(upstreams: Vec<SocketAddr>) -> VirtualNetwork {
    let network = network_with(|config| {
        config.dns = Some(Ipv4Addr::new(10, 96, 0, 10));
        config.upstreams = Upstreams::Given(upstreams);
    });
    *network.table().write() = zone_tests::table();
    network
}

/// Answers everything with one address; `silent.` with nothing.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..size]).unwrap().into_response();
            let name = message.queries[0].name().clone();
            if name.to_string() != "silent." {
                message.add_answer(Record::from_rdata(name, 30, RData::A(Ipv4Addr::new(192, 0, 2, 9).into())));
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    address
}

async fn received(socket: &dyn Datagrams) -> (Message, SocketAddr) {
    let (bytes, from) = timeout(LIVENESS, socket.receive()).await.unwrap().unwrap();
    (Message::from_vec(&bytes).unwrap(), from)
}

async fn by_datagram(guest: &Arc<dyn Sockets>, name: &str, kind: RecordType) -> Message {
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    socket.send_to(packet(7, name, kind).into(), at(SERVER)).await.unwrap();
    let (message, from) = received(&*socket).await;
    assert_eq!((message.metadata.id, from), (7, at(SERVER)));
    message
}

async fn exchange(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<Message> {
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    stream.flush().await?;
    let mut reply = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut reply).await?;
    Ok(Message::from_vec(&reply).unwrap())
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn a_guest_asks_by_datagrams_and_by_a_connection() {
    let network = network(vec![upstream().await]);
    let (guest, _) = pod(&network, "a").await;
    let web = by_datagram(&guest, "WEB.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&web), ["10.96.0.7"]);
    assert!(web.metadata.authoritative && web.queries[0].name().to_string() == "WEB.shop.svc.cluster.local.");
    let none = by_datagram(&guest, "no.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    let outside = by_datagram(&guest, "www.example.com.", RecordType::A).await;
    assert_eq!((texts(&outside), outside.metadata.authoritative), (vec!["192.0.2.9".into()], false));
    let far = by_datagram(&guest, "far.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&far), ["www.example.com.", "192.0.2.9"], "the alias and what it leads to");
    let (mut stream, _) = guest.connect(at(SERVER)).await.unwrap();
    for (id, name) in
        [(1, "web.shop.svc.cluster.local."), (2, "kubernetes.default.svc.cluster.local."), (3, "b.example.")]
    {
        let reply = exchange(&mut stream, &packet(id, name, RecordType::A)).await.unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (id, 1));
    }
    let mut by_cluster = network.connect(at(SERVER)).await.unwrap();
    exchange(&mut by_cluster, &packet(9, "web.shop.svc.cluster.local.", RecordType::A)).await.unwrap();
}

#[tokio::test]
async fn a_question_that_waits_holds_up_nobody() {
    let network = network(vec![upstream().await]);
    let (guest, _) = pod(&network, "a").await;
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    let begin = Instant::now();
    socket.send_to(packet(1, "silent.", RecordType::A).into(), at(SERVER)).await.unwrap();
    socket.send_to(packet(2, "web.shop.svc.cluster.local.", RecordType::A).into(), at(SERVER)).await.unwrap();
    assert_eq!(received(&*socket).await.0.metadata.id, 2);
    assert!(begin.elapsed() < Duration::from_secs(2));
    let (late, _) = received(&*socket).await;
    assert_eq!((late.metadata.id, late.metadata.response_code), (1, ResponseCode::ServFail));
}

#[tokio::test]
async fn nonsense_is_dropped_or_refused_and_the_next_is_answered() {
    let network = network(Vec::new());
    let (guest, _) = pod(&network, "a").await;
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    let web = packet(5, "web.shop.svc.cluster.local.", RecordType::A);
    for bytes in [&[][..], &[0; 11], &web[..20], &web] {
        socket.send_to(bytes.to_vec().into(), at(SERVER)).await.unwrap();
    }
    assert_eq!(received(&*socket).await.0.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(texts(&received(&*socket).await.0), ["10.96.0.7"]);
    // who does not speak DNS on a connection is closed
    let (mut stream, _) = guest.connect(at(SERVER)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(LIVENESS, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    assert!(guest.connect(at("10.96.0.10:54")).await.is_err(), "another port");
}

#[tokio::test]
async fn a_large_answer_is_cut_and_whole_on_a_connection() {
    let network = network(Vec::new());
    let (guest, _) = pod(&network, "a").await;
    let endpoints: Vec<_> = (0..5000).map(|n| json!({"addresses": [Ipv4Addr::from(0x0a21_0000 + n)]})).collect();
    let slice = json!({"metadata": {}, "addressType": "IPv4", "ports": [], "endpoints": endpoints});
    let spec = json!({"clusterIP": "None", "ports": []});
    zone_tests::put(&mut network.table().write(), "shop", "many", spec, &[slice]);
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(zone_tests::query("many.shop.svc.cluster.local.", RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    socket.send_to(message.to_vec().unwrap().into(), at(SERVER)).await.unwrap();
    let (bytes, _) = timeout(LIVENESS, socket.receive()).await.unwrap().unwrap();
    let cut = Message::from_vec(&bytes).unwrap();
    assert!(
        bytes.len() <= 1232 && cut.metadata.truncation && cut.answers.len() > 60,
        "{} {}",
        bytes.len(),
        cut.answers.len()
    );
    let (mut stream, _) = guest.connect(at(SERVER)).await.unwrap();
    let whole = exchange(&mut stream, &message.to_vec().unwrap()).await.unwrap();
    assert!(whole.metadata.truncation && whole.answers.len() > 1000, "{}", whole.answers.len());
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_in_number_and_silence() {
    let network = network(Vec::new());
    let (guest, _) = pod(&network, "a").await;
    let (other, _) = pod(&network, "b").await;
    let mut held = Vec::new();
    for _ in 0..super::CONNECTIONS_OF_CLIENT {
        held.push(guest.connect(at(SERVER)).await.unwrap().0);
    }
    assert!(guest.connect(at(SERVER)).await.is_err(), "the pod has its share");
    let (mut stream, _) = other.connect(at(SERVER)).await.unwrap();
    exchange(&mut stream, &packet(1, "web.shop.svc.cluster.local.", RecordType::A)).await.unwrap();
    let begin = Instant::now();
    assert_eq!(held[0].read(&mut [0]).await.unwrap(), 0, "it was silent");
    assert!(begin.elapsed() <= super::IDLE + Duration::from_millis(10));
    drop(held);
    tokio::time::sleep(Duration::from_millis(1)).await;
    guest.connect(at(SERVER)).await.expect("room again");
}

#[tokio::test]
async fn the_endpoints_of_a_user_go_first() {
    let network = network(Vec::new());
    let (guest, _) = pod(&network, "a").await;
    let (own, own_ip) = pod(&network, "dns").await;
    let server = own.bind_udp(at("0.0.0.0:5353")).await.unwrap();
    let spec = json!({"clusterIP": "10.96.0.10", "selector": {"k8s-app": "dns"}, "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]});
    let slice = json!({"metadata": {}, "addressType": "IPv4", "ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": [{"addresses": [own_ip]}]});
    let set = |slices: &[serde_json::Value]| {
        zone_tests::put(&mut network.table().write(), "kube-system", "kube-dns", spec.clone(), slices);
    };
    set(&[]);
    let web = by_datagram(&guest, "web.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&web), ["10.96.0.7"], "while none is ready");
    set(&[slice]);
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    socket.send_to("theirs".into(), at(SERVER)).await.unwrap();
    assert_eq!(timeout(LIVENESS, server.receive()).await.unwrap().unwrap().0, "theirs");
    set(&[]);
    by_datagram(&guest, "web.shop.svc.cluster.local.", RecordType::A).await;
}

#[tokio::test]
async fn without_an_address_nobody_answers() {
    let network = network_with(|_| ());
    *network.table().write() = zone_tests::table();
    let (guest, _) = pod(&network, "a").await;
    assert!(guest.connect(at(SERVER)).await.is_err());
    let socket = guest.bind_udp(at("0.0.0.0:0")).await.unwrap();
    assert!(socket.send_to("x".into(), at(SERVER)).await.is_err());
}

/// What an answer of the table costs, without sockets. `cargo test --release -p network --lib -- --ignored --nocapture the_cost`
#[tokio::test]
#[ignore = "a figure"]
async fn the_cost_of_an_answer() {
    const ROUNDS: u32 = 200_000;
    let network = network(Vec::new());
    for n in 0..10_000 {
        let ip = Ipv4Addr::from(0x0a60_1000 + n);
        let spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80}]});
        zone_tests::put(&mut network.table().write(), "shop", &format!("s{n}"), spec, &[]);
    }
    let dns: Arc<Dns> = network.inner.dns.clone().unwrap();
    for (name, kind) in [
        ("web.shop.svc.cluster.local.", RecordType::A),
        ("s9999.shop.svc.cluster.local.", RecordType::AAAA),
        ("www.example.com.shop.svc.cluster.local.", RecordType::A),
        ("_https._tcp.pets.shop.svc.cluster.local.", RecordType::SRV),
        ("7.0.96.10.in-addr.arpa.", RecordType::PTR),
    ] {
        let bytes = packet(1, name, kind);
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            assert!(matches!(dns.answer(&bytes, Transport::Datagram), Step::Reply(_)));
        }
        eprintln!("{name} {kind}: {:.2} µs", begin.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
}
