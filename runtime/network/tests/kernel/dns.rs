//! The DNS server as pods with a namespace reach it: at two sockets in the node's namespace.

use crate::{
    at, can,
    mixed::{LIMIT, put, soon},
    network, process,
};
use container::net::{Datagrams, Error, Result, Sockets};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use network::{Upstreams, VirtualNetwork};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time::timeout,
};

const SERVER: &str = "10.96.0.10:53";

fn with_dns(upstreams: Vec<SocketAddr>) -> VirtualNetwork {
    let network = network(at("127.0.0.1:1"), |config| {
        config.dns = Some(Ipv4Addr::new(10, 96, 0, 10));
        config.upstreams = Upstreams::Given(upstreams);
    });
    put(&network, "web", "10.96.0.7", "TCP", 80, &[]);
    network
}

fn packet(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Asks by a datagram; an answer that is late is lost.
async fn ask(pod: &Arc<dyn Sockets>, id: u16, name: &str) -> Result<Message> {
    let socket = pod.bind_udp(at("0.0.0.0:0")).await?;
    socket.send_to(packet(id, name).into(), at(SERVER)).await?;
    let late = |_| Error::TimedOut(name.into());
    let (bytes, from) = timeout(Duration::from_secs(1), socket.receive()).await.map_err(late)??;
    assert_eq!(from, at(SERVER), "from the address that was asked");
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.id, id);
    Ok(message)
}

#[tokio::test]
async fn a_process_asks_by_datagrams_and_by_a_connection() {
    if !can() {
        return;
    }
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let network = with_dns(vec![upstream.local_addr().unwrap()]);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((size, from)) = upstream.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..size]).unwrap().into_response();
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 30, RData::A(Ipv4Addr::new(192, 0, 2, 9).into())));
            upstream.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let (pod, _) = process(&network, "process").await;
    let web = soon(async || ask(&pod, 1, "web.default.svc.cluster.local.").await).await;
    assert_eq!(texts(&web), ["10.96.0.7"]);
    let none = ask(&pod, 2, "no.default.svc.cluster.local.").await.unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(texts(&ask(&pod, 3, "www.example.com.").await.unwrap()), ["192.0.2.9"]);
    let connect = async || pod.connect(at(SERVER)).await;
    let (mut stream, _) = soon(connect).await;
    for id in [4, 5] {
        let bytes = packet(id, "web.default.svc.cluster.local.");
        let length = u16::try_from(bytes.len()).unwrap();
        let exchange = async {
            stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.unwrap();
            stream.flush().await.unwrap();
            let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut reply).await.unwrap();
            Message::from_vec(&reply).unwrap()
        };
        let reply = timeout(LIMIT, exchange).await.unwrap();
        assert_eq!((reply.metadata.id, texts(&reply)), (id, vec!["10.96.0.7".to_owned()]));
    }
    for other in ["10.96.0.10:54", "10.96.0.11:53"] {
        assert!(matches!(pod.connect(at(other)).await.map(drop), Err(Error::Refused(_))), "{other}");
    }
}

#[tokio::test]
async fn the_endpoints_of_a_user_go_first() {
    if !can() {
        return;
    }
    let network = with_dns(Vec::new());
    let ((pod, _), (own, own_ip)) = (process(&network, "process").await, process(&network, "own").await);
    let server: Box<dyn Datagrams> = own.bind_udp(at("0.0.0.0:5353")).await.unwrap();
    put(&network, "dns", "10.96.0.10", "UDP", 53, &[]);
    soon(async || ask(&pod, 1, "web.default.svc.cluster.local.").await).await;
    put(&network, "dns", "10.96.0.10", "UDP", 53, &[SocketAddr::new(own_ip, 5353)]);
    soon(async || {
        // a new socket each time: what was begun stays with whom it was begun
        let socket = pod.bind_udp(at("0.0.0.0:0")).await?;
        socket.send_to("theirs".into(), at(SERVER)).await?;
        let (data, _) =
            timeout(Duration::from_millis(100), server.receive()).await.map_err(|_| Error::TimedOut("no".into()))??;
        assert_eq!(data, "theirs");
        Ok(())
    })
    .await;
    put(&network, "dns", "10.96.0.10", "UDP", 53, &[]);
    let web = soon(async || ask(&pod, 2, "web.default.svc.cluster.local.").await).await;
    assert_eq!(texts(&web), ["10.96.0.7"], "and this one again");
}
