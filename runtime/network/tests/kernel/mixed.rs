//! Guests of this process, pods with a namespace, Services and the way out.

use crate::{at, can, guest, network, process};
use bytes::Bytes;
use container::net::{
    Connection, Dialer, Error, HttpHandler, Network, Peer, PodNetwork, Request, Response, Result, Sandbox, Sockets,
    Stream, Via,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use network::VirtualNetwork;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Tries again until it succeeds: what the kernel shall have is there a moment later.
pub(crate) async fn soon<T>(attempt: impl AsyncFn() -> Result<T>) -> T {
    let work = async {
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(LIMIT, work).await.expect("in time")
}

async fn talk(near: &mut Stream, far: &mut Stream) {
    let work = async {
        near.write_all(b"ask").await.unwrap();
        near.flush().await.unwrap();
        let mut bytes = [0; 3];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        far.flush().await.unwrap();
        let mut bytes = [0; 6];
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"answer");
    };
    timeout(LIMIT, work).await.expect("in time");
}

/// Says a word on each connection, and remembers the peers.
async fn says(sockets: &Arc<dyn Sockets>, port: u16, word: &'static str) -> Arc<Mutex<Vec<SocketAddr>>> {
    let listener = sockets.listen(SocketAddr::new([0, 0, 0, 0].into(), port)).await.unwrap();
    let peers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    let seen = peers.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            seen.lock().push(peer);
            let _ = stream.write_all(word.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    peers
}

async fn heard(stream: Result<Stream>) -> Result<String> {
    let (mut stream, mut text) = (stream?, String::new());
    match timeout(LIMIT, stream.read_to_string(&mut text)).await.expect("in time") {
        Ok(_) if !text.is_empty() => Ok(text),
        other => Err(Error::Reset(format!("{other:?}"))),
    }
}

async fn called(from: &Arc<dyn Sockets>, to: SocketAddr) -> Result<String> {
    heard(from.connect(to).await.map(|(stream, _)| stream)).await
}

pub(crate) fn put(network: &VirtualNetwork, name: &str, ip: &str, protocol: &str, port: u16, ends: &[SocketAddr]) {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": ip, "ports": [{"port": port, "protocol": protocol}]},
    }))
    .unwrap();
    let slice = |end: &SocketAddr| -> Arc<EndpointSlice> {
        let slice: Value = json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": end.port(), "protocol": protocol}],
            "endpoints": [{"addresses": [end.ip()], "conditions": {"ready": true}}],
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    };
    let slices: Vec<_> = ends.iter().map(slice).collect();
    network.table().write().update(&("default".into(), name.into()), Some((&service, &slices)));
    network.services_changed();
}

#[tokio::test]
async fn guests_and_processes_reach_each_other() {
    if !can() {
        return;
    }
    let network = network(at("127.0.0.1:1"), |_| ());
    let (guest, guest_ip) = guest(&network, "guest").await;
    // bound before there is a namespace, and after
    let early = says(&guest, 8080, "guest").await;
    let (process, process_ip) = process(&network, "process").await;
    let late = says(&guest, 8081, "guest").await;
    let of_process = says(&process, 80, "process").await;
    for port in [8080, 8081] {
        assert_eq!(soon(async || called(&process, SocketAddr::new(guest_ip, port)).await).await, "guest");
    }
    for seen in [early, late] {
        assert_eq!(seen.lock()[0].ip(), process_ip);
    }
    assert_eq!(called(&guest, SocketAddr::new(process_ip, 80)).await, Ok("process".into()));
    assert_eq!(of_process.lock()[0].ip(), guest_ip);
    let (stream, local) = guest.connect(SocketAddr::new(process_ip, 80)).await.unwrap();
    assert_eq!(heard(Ok(stream)).await, Ok("process".into()));
    assert_eq!(of_process.lock()[1], local, "the port too");
    for to in [SocketAddr::new(process_ip, 81), SocketAddr::new(guest_ip, 82)] {
        assert!(matches!(called(&guest, to).await, Err(Error::Refused(_))), "{to}");
        assert!(matches!(called(&process, to).await, Err(Error::Refused(_))), "{to}");
    }
    // what is bound to the loopback address is the pod's own
    let _own = guest.listen(at("127.0.0.1:90")).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert!(called(&process, SocketAddr::new(guest_ip, 90)).await.is_err());
    let listener = process.listen(at("0.0.0.0:91")).await.unwrap();
    let (mut near, _) = guest.connect(SocketAddr::new(process_ip, 91)).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    talk(&mut near, &mut far).await;
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    if !can() {
        return;
    }
    let network = network(at("127.0.0.1:1"), |_| ());
    let ((guest, guest_ip), (process, process_ip)) = (guest(&network, "a").await, process(&network, "b").await);
    let server = guest.bind_udp(at("0.0.0.0:53")).await.unwrap();
    let client = process.bind_udp(at("0.0.0.0:0")).await.unwrap();
    let port = client.local_address().port();
    soon(async || {
        client.send_to("ask".into(), SocketAddr::new(guest_ip, 53)).await?;
        timeout(Duration::from_millis(50), server.receive()).await.map_err(|_| Error::TimedOut("no".into()))?
    })
    .await;
    client.send_to("ask".into(), SocketAddr::new(guest_ip, 53)).await.unwrap();
    let (_, from) = timeout(LIMIT, server.receive()).await.unwrap().unwrap();
    assert_eq!(from, SocketAddr::new(process_ip, port));
    server.send_to("answer".into(), from).await.unwrap();
    let (data, from) = timeout(LIMIT, client.receive()).await.unwrap().unwrap();
    assert_eq!((&data[..], from), (&b"answer"[..], SocketAddr::new(guest_ip, 53)));
    // and the guest begins
    let first = guest.bind_udp(at("0.0.0.0:7000")).await.unwrap();
    first.send_to("ask".into(), SocketAddr::new(process_ip, port)).await.unwrap();
    let (data, from) = timeout(LIMIT, client.receive()).await.unwrap().unwrap();
    assert_eq!((&data[..], from), (&b"ask"[..], SocketAddr::new(guest_ip, 7000)));
}

#[tokio::test]
async fn a_service_has_endpoints_of_both_kinds() {
    if !can() {
        return;
    }
    let network = network(at("127.0.0.1:1"), |_| ());
    let ((guest, guest_ip), (process, process_ip)) = (guest(&network, "a").await, process(&network, "b").await);
    says(&guest, 8080, "guest").await;
    let peers = says(&process, 8081, "process").await;
    put(
        &network,
        "both",
        "10.96.0.7",
        "TCP",
        80,
        &[SocketAddr::new(guest_ip, 8080), SocketAddr::new(process_ip, 8081)],
    );
    put(&network, "none", "10.96.0.8", "TCP", 80, &[]);
    let to = at("10.96.0.7:80");
    soon(async || called(&process, to).await).await;
    for who in ["process", "guest", "cluster"] {
        let mut seen = BTreeSet::new();
        for _ in 0..60 {
            let word = match who {
                "process" => called(&process, to).await,
                "guest" => called(&guest, to).await,
                _ => heard(network.connect(to).await).await,
            };
            seen.insert(word.unwrap());
        }
        assert_eq!(seen.len(), 2, "{who}: {seen:?}");
    }
    let seen: BTreeSet<IpAddr> = peers.lock().iter().map(SocketAddr::ip).collect();
    assert_eq!(seen, [guest_ip, network.node_internal()].into(), "who calls itself is hidden");
    for to in ["10.96.0.8:80", "10.96.0.7:81"] {
        for from in [&guest, &process] {
            assert!(matches!(called(from, at(to)).await, Err(Error::Refused(_))), "{to}");
        }
    }
}

#[tokio::test]
async fn what_leaves_the_node_is_decided_here() {
    if !can() {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let _ = stream.write_all(b"host").await;
        }
    });
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let of_datagrams = datagrams.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((size, from)) = datagrams.recv_from(&mut buffer).await {
            let _ = datagrams.send_to(&buffer[..size], from).await;
        }
    });
    for allowed in [true, false] {
        let network = network(address, |config| {
            if allowed {
                config.allow_egress = vec!["127.0.0.0/8".parse().unwrap()];
            }
        });
        let (process, _) = process(&network, "process").await;
        // the API server, always
        let api = SocketAddr::new(network.node_internal(), address.port());
        assert_eq!(called(&process, api).await, Ok("host".into()));
        put(&network, "kubernetes", "10.96.0.1", "TCP", 443, &[api]);
        assert_eq!(soon(async || called(&process, at("10.96.0.1:443")).await).await, "host");
        // an endpoint that a user wrote
        put(&network, "sly", "10.96.0.9", "TCP", 80, &[address]);
        put(&network, "slow", "10.96.0.9", "UDP", 53, &[of_datagrams]);
        sleep(Duration::from_millis(300)).await;
        let reached = called(&process, at("10.96.0.9:80")).await;
        assert_eq!(reached.is_ok(), allowed, "{reached:?}");
        let socket = process.bind_udp(at("0.0.0.0:0")).await.unwrap();
        socket.send_to("ask".into(), at("10.96.0.9:53")).await.unwrap();
        let answer = timeout(Duration::from_secs(if allowed { 20 } else { 1 }), socket.receive()).await;
        let answer = answer.ok().map(|answer| answer.unwrap());
        assert_eq!(answer, allowed.then(|| ("ask".into(), at("10.96.0.9:53"))));
        for never in ["169.254.169.254:80", "10.32.0.1:22"] {
            assert!(called(&process, at(never)).await.is_err(), "{never}");
        }
    }
}

/// Says whether it was called, or was given a whole socket.
#[derive(Default)]
struct Handler(Mutex<Vec<(IpAddr, Via, bool)>>);

#[async_trait::async_trait]
impl HttpHandler for Handler {
    async fn call(&self, _: Request, peer: Peer) -> Result<Response> {
        self.0.lock().push((peer.address.ip(), peer.via, false));
        let body = http_body_util::BodyExt::map_err(http_body_util::Full::new(Bytes::new()), |never| match never {});
        Ok(http::Response::new(container::net::Body::new(body)))
    }

    fn serve(&self, connection: Connection, peer: Peer) {
        let Connection::Tcp(socket) = connection else { return };
        self.0.lock().push((peer.address.ip(), peer.via, true));
        tokio::spawn(async move {
            let mut stream = TcpStream::from_std(socket).unwrap();
            stream.write_all(b"whole").await.unwrap();
        });
    }
}

#[tokio::test]
async fn an_http_guest_is_given_whole_connections_of_processes() {
    if !can() {
        return;
    }
    let network = network(at("127.0.0.1:1"), |_| ());
    let ((guest, guest_ip), (process, process_ip)) = (guest(&network, "a").await, process(&network, "b").await);
    let handler = Arc::new(Handler::default());
    let _of_guest = guest.serve_http(8080, handler.clone()).await.unwrap();
    let _of_mixed = process.serve_http(8081, handler.clone()).await.unwrap();
    assert_eq!(soon(async || called(&process, SocketAddr::new(guest_ip, 8080)).await).await, "whole");
    // a guest that shares its pod with containers
    assert_eq!(called(&process, at("127.0.0.1:8081")).await, Ok("whole".into()));
    let seen = std::mem::take(&mut *handler.0.lock());
    assert_eq!(seen, [(process_ip, Via::Pod, true), ([127, 0, 0, 1].into(), Via::Pod, true)]);
}

#[tokio::test]
async fn it_exists_only_when_a_pod_needs_it() {
    if !can() {
        return;
    }
    let without = network(at("127.0.0.1:1"), |config| config.kernel = None);
    let wanted = || PodNetwork { kernel: true, ..crate::spec("a") };
    let refused = without.attach(wanted()).await.map(drop);
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    assert_eq!(Network::list(&without), []);
    let broken = network(at("127.0.0.1:1"), |config| {
        config.kernel.as_mut().unwrap().program = "/nonexistent".into();
    });
    assert!(broken.attach(wanted()).await.is_err());
    guest(&broken, "b").await;
    assert_eq!(Network::list(&broken).len(), 1, "and others are not disturbed");
}

#[tokio::test]
async fn a_pod_that_turns_out_to_need_the_kernel_gets_another_address() {
    if !can() {
        return;
    }
    let network = network(at("127.0.0.1:1"), |_| {});
    let (virtual_sockets, first) = guest(&network, "a").await;
    let listener = virtual_sockets.listen(at("0.0.0.0:80")).await.unwrap();
    let attached = network.attach(PodNetwork { kernel: true, address: Some(first), ..crate::spec("a") }).await.unwrap();
    assert!(matches!(attached.sandbox, Sandbox::Namespace(_)), "{:?}", attached.sandbox);
    let second = attached.addresses[0];
    assert_ne!(first, second, "that of a virtual pod is not routed");
    assert!(listener.accept().await.is_err(), "its former sockets are closed");
    assert_eq!(Network::list(&network), [("a".into(), second)]);
    // and it stays so, whatever is asked
    let again = network.attach(crate::spec("a")).await.unwrap();
    assert_eq!((again.sandbox, again.addresses), (attached.sandbox, vec![second]));
}
