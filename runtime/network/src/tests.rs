//! The network as pods and the cluster use it.

use crate::{
    table_tests::{name, service, slice},
    *,
};
use ::http::{StatusCode, header};
use bytes::Bytes;
use container::net::*;
use http_body_util::{BodyExt, Empty, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Only says that something hangs.
pub(crate) const LIVENESS: Duration = Duration::from_secs(60);

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("bound").port()
}

/// Connects until the listener is open.
pub(crate) async fn connect_when_open(to: SocketAddr) -> TcpStream {
    let open = async {
        loop {
            match TcpStream::connect(to).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(LIVENESS, open).await.expect("open in time")
}

pub(crate) fn network_with(change: impl FnOnce(&mut Config)) -> VirtualNetwork {
    let mut config = Config::new(at("127.0.0.1:1"));
    change(&mut config);
    VirtualNetwork::new(config, CancellationToken::new(), TaskTracker::new()).expect("a sound layout")
}

pub(crate) fn network() -> VirtualNetwork {
    network_with(|_| ())
}

pub(crate) fn spec(id: &str) -> PodNetwork {
    PodNetwork {
        id: id.into(),
        name: id.into(),
        namespace: "default".into(),
        hostname: id.into(),
        address: None,
        host_aliases: Vec::new(),
        host_ports: Vec::new(),
        kernel: false,
    }
}

pub(crate) async fn pod(network: &VirtualNetwork, id: &str) -> (Arc<dyn Sockets>, IpAddr) {
    let attachment = network.attach(spec(id)).await.expect("attached");
    (attachment.sockets, attachment.addresses[0])
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn get(uri: &str) -> Request {
    ::http::Request::get(uri).body(empty()).expect("a request")
}

pub(crate) async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// Answers with what it saw; serves connections by hyper, as a real one does.
#[derive(Clone)]
pub(crate) struct Echo {
    name: &'static str,
    pub(crate) peers: Arc<Mutex<Vec<SocketAddr>>>,
    pub(crate) vias: Arc<Mutex<Vec<Via>>>,
}

impl Echo {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, peers: Arc::default(), vias: Arc::default() }
    }

    fn answer(&self, method: &::http::Method, uri: &::http::Uri, headers: &::http::HeaderMap) -> Response {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("-");
        let text = format!("{} {method} {uri} {host}", self.name);
        ::http::Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync())
    }
}

#[async_trait::async_trait]
impl HttpHandler for Echo {
    async fn call(&self, request: Request, peer: Peer) -> Result<Response> {
        self.peers.lock().push(peer.address);
        self.vias.lock().push(peer.via);
        let mut response = self.answer(request.method(), request.uri(), request.headers());
        response.headers_mut().insert("x-called", ::http::HeaderValue::from_static("yes"));
        Ok(response)
    }

    fn serve(&self, connection: Connection, peer: Peer) {
        self.peers.lock().push(peer.address);
        self.vias.lock().push(peer.via);
        let this = self.clone();
        tokio::spawn(async move {
            let stream: Stream = match connection {
                Connection::Stream(stream) => stream,
                Connection::Tcp(socket) => {
                    Box::new(TcpStream::from_std(socket).expect("a socket that is non-blocking"))
                }
            };
            let answer = hyper::service::service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
                let response = this.answer(request.method(), request.uri(), request.headers());
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
        });
    }
}

pub(crate) fn put_service(
    network: &VirtualNetwork,
    service_name: &str,
    spec: Value,
    ports: Value,
    endpoints: &[IpAddr],
) {
    let endpoints =
        endpoints.iter().map(|a| json!({"addresses": [a.to_string()], "conditions": {"ready": true}})).collect();
    let slices = [slice(ports, endpoints)];
    network.table().write().update(&name(service_name), Some((&service(service_name, spec), &slices)));
}

#[tokio::test]
async fn attaching_is_idempotent_and_detaching_frees() {
    let network = network();
    let (_, first) = pod(&network, "a").await;
    assert_eq!(first, at("10.32.0.2:0").ip());
    let (_, again) = pod(&network, "a").await;
    assert_eq!(again, first);
    let wanted = PodNetwork { address: Some(at("10.32.0.77:0").ip()), ..spec("b") };
    assert_eq!(network.attach(wanted.clone()).await.expect("attached").addresses, [at("10.32.0.77:0").ip()]);
    let taken = PodNetwork { id: "c".into(), ..wanted };
    assert_eq!(
        network.attach(taken).await.expect("attached").addresses,
        [at("10.32.0.78:0").ip()],
        "taken: another one"
    );
    assert_eq!(network.list().len(), 3);
    network.detach("a").await;
    network.detach("a").await;
    assert_eq!(network.list().len(), 2);
    assert!(matches!(Dialer::connect(&network, SocketAddr::new(first, 1)).await, Err(Error::Unreachable(_))));
}

#[tokio::test]
async fn pods_connect_to_each_other_with_half_close() {
    let network = network();
    let ((a, a_ip), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listener = b.listen(at("0.0.0.0:0")).await.expect("bound");
    let to = SocketAddr::new(b_ip, listener.local_address().port());
    assert_ne!(to.port(), 0);
    let (mut client, local) = a.connect(to).await.expect("connected");
    let (mut server, peer) = listener.accept().await.expect("accepted");
    assert_eq!((peer, peer.ip()), (local, a_ip));
    client.write_all(b"ping").await.expect("written");
    client.shutdown().await.expect("half closed");
    let mut got = String::new();
    server.read_to_string(&mut got).await.expect("read to the end");
    server.write_all(b"pong").await.expect("the other half is open");
    drop(server);
    client.read_to_string(&mut got).await.expect("read to the end");
    assert_eq!(got, "pingpong");
}

#[tokio::test]
async fn binding_follows_the_rules_of_addresses() {
    let network = network();
    let ((a, a_ip), (b, _)) = (pod(&network, "a").await, pod(&network, "b").await);
    let local = a.listen(at("127.0.0.1:80")).await.expect("bound");
    let own = a.listen(SocketAddr::new(a_ip, 80)).await.expect("another address");
    assert_eq!(a.listen(at("0.0.0.0:80")).await.err(), Some(Error::AddressInUse(at("0.0.0.0:80"))));
    assert_eq!(a.listen(at("[::]:80")).await.err(), Some(Error::AddressInUse(at("[::]:80"))));
    let foreign = at("10.32.9.9:80");
    assert_eq!(a.listen(foreign).await.err(), Some(Error::NotAvailable(foreign)));
    assert!(a.serve_http(80, Arc::new(Echo::new("x"))).await.is_err(), "a listener has the port");
    let serving = a.serve_http(81, Arc::new(Echo::new("x"))).await.expect("bound");
    assert!(matches!(a.serve_http(81, Arc::new(Echo::new("y"))).await, Err(Error::AddressInUse(_))));
    b.listen(at("0.0.0.0:80")).await.expect("each pod has its own ports");
    // The loopback listener gets what is local, the other what comes by the address.
    a.connect(at("127.0.0.1:80")).await.expect("local");
    let (_, peer) = local.accept().await.expect("accepted");
    assert!(peer.ip().is_loopback());
    b.connect(SocketAddr::new(a_ip, 80)).await.expect("by address");
    own.accept().await.expect("accepted");
    drop(own);
    assert!(matches!(b.connect(SocketAddr::new(a_ip, 80)).await, Err(Error::Refused(_))), "loopback only is left");
    drop(serving);
    a.serve_http(81, Arc::new(Echo::new("y"))).await.expect("free again");
}

#[tokio::test]
async fn a_bound_port_refuses_until_it_listens() {
    let network = network();
    let ((a, a_ip), (b, _)) = (pod(&network, "a").await, pod(&network, "b").await);
    let port = a.bind(at("0.0.0.0:80")).await.expect("bound");
    assert_eq!(port.local_address(), at("0.0.0.0:80"));
    assert_eq!(a.listen(at("0.0.0.0:80")).await.err(), Some(Error::AddressInUse(at("0.0.0.0:80"))));
    let to = SocketAddr::new(a_ip, 80);
    assert!(matches!(b.connect(to).await, Err(Error::Refused(_))));
    assert!(matches!(network.reachable(to).await, Err(Error::Refused(_))), "a probe must not take it for ready");
    let listener = port.listen().await.expect("listens");
    let (_stream, local) = b.connect(to).await.expect("connected");
    assert_eq!(listener.accept().await.expect("accepted").1, local);
    let left = a.bind(at("0.0.0.0:81")).await.expect("bound");
    let other = a.bind(at("0.0.0.0:82")).await.expect("bound");
    network.detach("a").await;
    assert!(matches!(left.listen().await.map(drop), Err(Error::Reset(_))), "the pod has left");
    assert!(matches!(other.connect(at("192.0.2.1:1")).await.map(drop), Err(Error::Reset(_))), "not even outside");
}

#[tokio::test]
async fn a_connection_from_a_bound_port_keeps_it() {
    let network = network();
    let ((a, a_ip), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listener = b.listen(at("0.0.0.0:80")).await.expect("bound");
    let to = SocketAddr::new(b_ip, 80);
    let port = a.bind(at("0.0.0.0:5555")).await.expect("bound");
    let (stream, local) = port.connect(to).await.expect("connected");
    assert_eq!(local, SocketAddr::new(a_ip, 5555));
    assert_eq!(listener.accept().await.expect("accepted").1, local, "the peer sees it");
    assert!(matches!(b.connect(local).await, Err(Error::Refused(_))), "nobody listens there");
    assert!(matches!(a.bind(at("0.0.0.0:5555")).await.map(drop), Err(Error::AddressInUse(_))));
    drop(stream);
    let port = a.bind(at("127.0.0.1:5555")).await.expect("free again");
    assert!(matches!(port.connect(to).await.map(drop), Err(Error::Unreachable(_))), "a loopback leads nowhere else");
    let port = a.bind(at("127.0.0.1:5555")).await.expect("a failed connection frees it");
    assert!(
        matches!(port.connect(at("127.0.0.1:1")).await.map(drop), Err(Error::Refused(_))),
        "the way itself is open"
    );
}

#[tokio::test]
async fn an_ipv6_listener_takes_ipv4_peers_mapped() {
    let network = network();
    let ((a, a_ip), (b, _)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listener = a.listen(at("[::]:80")).await.expect("bound");
    let IpAddr::V4(v4) = a_ip else { panic!("IPv4") };
    let (_stream, local) = b.connect(SocketAddr::new(v4.to_ipv6_mapped().into(), 80)).await.expect("connected");
    let (_server, peer) = listener.accept().await.expect("accepted");
    assert!(local.is_ipv6() && peer == local, "{local} {peer}");
}

#[tokio::test(start_paused = true)]
async fn slow_peers_are_bounded() {
    let network = network_with(|c| {
        c.limits.backlog = 2;
        c.limits.buffer = 1024;
        c.limits.sockets_per_pod = 6;
    });
    let ((a, _), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listener = b.listen(at("0.0.0.0:80")).await.expect("bound");
    let to = SocketAddr::new(b_ip, 80);
    let (mut first, _) = a.connect(to).await.expect("connected");
    // A peer that does not read takes what the buffer holds, no more.
    let written = timeout(Duration::from_secs(1), first.write_all(&[0; 4096])).await;
    assert!(written.is_err(), "the writer waits");
    let (_second, _) = a.connect(to).await.expect("connected");
    assert!(matches!(a.connect(to).await, Err(Error::TimedOut(_))), "the backlog is full");
    let (server, _) = listener.accept().await.expect("accepted");
    let (_third, _) = a.connect(to).await.expect("room again");
    drop((server, first));
    // And a pod may not hold more sockets than its bound.
    let mut held = Vec::new();
    let refused = loop {
        match a.bind_udp(at("0.0.0.0:0")).await {
            Ok(socket) => held.push(socket),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Exhausted(_)));
    assert_eq!(held.len(), 4);
    held.pop();
    a.bind_udp(at("0.0.0.0:0")).await.expect("room again");
}

#[tokio::test]
async fn detaching_ends_what_waits() {
    let network = network();
    let (a, _) = pod(&network, "a").await;
    let listener = a.listen(at("0.0.0.0:80")).await.expect("bound");
    let udp = a.bind_udp(at("0.0.0.0:80")).await.expect("bound");
    let (accepted, received, ()) = tokio::join!(listener.accept(), udp.receive(), network.detach("a"));
    assert!(matches!(accepted.map(drop), Err(Error::Reset(_))));
    assert!(matches!(received.map(drop), Err(Error::Reset(_))));
    assert!(matches!(a.listen(at("0.0.0.0:81")).await.map(drop), Err(Error::Reset(_))));
    assert!(matches!(a.connect(at("192.0.2.1:1")).await.map(drop), Err(Error::Reset(_))), "not even outside");
}

#[tokio::test]
async fn a_call_to_a_local_handler_is_a_function_call() {
    let network = network();
    let ((a, a_ip), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let echo = Echo::new("b");
    let _serving = b.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
    let response = a.http(get(&format!("http://user:pw@{b_ip}:8080/x?y=1"))).await.expect("answered");
    assert_eq!(response.headers()["x-called"], "yes");
    assert_eq!(text(response).await, format!("b GET /x?y=1 {b_ip}:8080"));
    assert_eq!(echo.peers.lock()[0].ip(), a_ip);
    // By byte stream the same handler serves HTTP on a pipe.
    let (mut stream, _) = a.connect(SocketAddr::new(b_ip, 8080)).await.expect("connected");
    stream.write_all(b"GET /raw HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut got = String::new();
    stream.read_to_string(&mut got).await.expect("read");
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("b GET /raw h"), "{got}");
    // To itself too, by localhost.
    let response = b.http(get("http://localhost:8080/")).await.expect("answered");
    assert_eq!(text(response).await, "b GET / localhost:8080");
    let refused = a.http(get(&format!("http://{b_ip}:1/"))).await.map(drop);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert!(matches!(a.http(get("ftp://x/")).await.map(drop), Err(Error::Unsupported(_))));
}

#[tokio::test]
async fn http_to_a_listener_goes_over_a_pipe() {
    let network = network();
    let ((a, _), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listener = b.listen(at("0.0.0.0:80")).await.expect("bound");
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a byte"));
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok").await.expect("written");
        (String::from_utf8(head).expect("text"), stream)
    };
    let mut request = get(&format!("http://{b_ip}/p"));
    request.headers_mut().insert(header::TRANSFER_ENCODING, ::http::HeaderValue::from_static("chunked"));
    let (response, (head, _stream)) = tokio::join!(a.http(request), serve);
    let response = response.expect("answered");
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(text(response).await, "ok");
    assert!(head.starts_with(&format!("GET /p HTTP/1.1\r\nhost: {b_ip}\r\n")), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn services_balance_and_refuse_without_endpoints() {
    let network = network();
    let (client, _) = pod(&network, "client").await;
    let mut servings = Vec::new();
    let mut addresses = Vec::new();
    for name in ["x", "y"] {
        let (sockets, address) = pod(&network, name).await;
        servings.push(sockets.serve_http(8080, Arc::new(Echo::new(name))).await.expect("bound"));
        addresses.push(address);
    }
    let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
    put_service(&network, "hello", spec.clone(), json!([{"port": 8080}]), &addresses);
    let mut seen = Vec::new();
    for name in ["hello", "hello.default", "hello.default.svc.cluster.local", "10.96.0.7"] {
        let answer = text(client.http(get(&format!("http://{name}/"))).await.expect("answered")).await;
        seen.push(answer.chars().next().expect("a name"));
    }
    assert_eq!(seen, ['x', 'y', 'x', 'y']);
    network.reachable(at("10.96.0.7:80")).await.expect("somebody listens");
    let response = network.http(at("10.96.0.7:80"), get("/healthz")).await.expect("answered");
    assert_eq!(text(response).await, "y GET /healthz 10.96.0.7:80", "x had its turn when it was reached");
    put_service(&network, "hello", spec, json!([{"port": 8080}]), &[]);
    let refused = client.http(get("http://hello/")).await.map(drop);
    assert_eq!(refused, Err(Error::Refused("no endpoints available for service \"default/hello\"".into())));
    assert!(matches!(client.connect(at("10.96.0.7:81")).await.map(drop), Err(Error::Refused(_))));
    assert!(matches!(client.connect(at("10.96.9.9:80")).await.map(drop), Err(Error::Unreachable(_))));
    assert!(matches!(client.resolve("nothing.default").await, Err(Error::NoSuchHost(_))));
}

#[tokio::test]
async fn reachable_runs_no_guest() {
    struct Never;
    #[async_trait::async_trait]
    impl HttpHandler for Never {
        async fn call(&self, _: Request, _: Peer) -> Result<Response> {
            panic!("a probe ran the guest")
        }
        fn serve(&self, _: Connection, _: Peer) {
            panic!("a probe ran the guest")
        }
    }
    let network = network();
    let (a, ip) = pod(&network, "a").await;
    assert!(matches!(network.reachable(SocketAddr::new(ip, 80)).await, Err(Error::Refused(_))));
    let _serving = a.serve_http(80, Arc::new(Never)).await.expect("bound");
    network.reachable(SocketAddr::new(ip, 80)).await.expect("bound");
}

#[tokio::test]
async fn guests_do_not_reach_the_host_unless_allowed() {
    let host = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = host.local_addr().expect("bound").port();
    let network = network();
    let attached = network
        .attach(PodNetwork { host_aliases: vec![(at("127.0.0.1:0").ip(), vec!["sneaky".into()])], ..spec("a") })
        .await;
    let a = attached.expect("attached").sockets;
    // A guest's localhost is its pod's, however it is written.
    for own in ["127.0.0.1", "127.3.4.5", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"] {
        let refused = a.connect(at(&format!("{own}:{port}"))).await.map(drop);
        assert!(matches!(refused, Err(Error::Refused(_))), "{own}: {refused:?}");
    }
    let refused = a.http(get(&format!("http://sneaky:{port}/"))).await.map(drop);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    for denied in ["169.254.169.254:80", "224.0.0.1:80", "[fe80::1]:80", "[::ffff:169.254.169.254]:80"] {
        assert!(matches!(a.connect(at(denied)).await.map(drop), Err(Error::Denied(_))), "{denied}");
        assert!(matches!(a.http(get(&format!("http://{denied}/"))).await.map(drop), Err(Error::Denied(_))), "{denied}");
    }
    // Nor by a Service that somebody points there, whoever dials it.
    put_service(
        &network,
        "trap",
        json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}),
        json!([{"port": port}]),
        &[at("127.0.0.1:0").ip()],
    );
    assert!(matches!(a.connect(at("10.96.0.9:80")).await.map(drop), Err(Error::Denied(_))));
    assert!(matches!(Dialer::connect(&network, at("10.96.0.9:80")).await.map(drop), Err(Error::Denied(_))));
    // The cluster itself may, and so may guests by the flag.
    Dialer::connect(&network, at(&format!("127.0.0.1:{port}"))).await.expect("allowed");
    let open = network_with(|c| c.allow_egress = vec!["127.0.0.1/32".parse().expect("a network")]);
    put_service(
        &open,
        "host",
        json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}),
        json!([{"port": port}]),
        &[at("127.0.0.1:0").ip()],
    );
    let (b, _) = pod(&open, "b").await;
    b.connect(at("10.96.0.9:80")).await.expect("allowed");
}

#[tokio::test]
async fn hollow_addresses_are_never_dialled() {
    // somebody listens there, and the flag allows it: only the range keeps guests, and the cluster itself, from dialling
    let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = host.local_addr().expect("bound");
    let network = network_with(|c| {
        c.allow_egress = vec!["127.0.0.0/8".parse().expect("a network")];
        c.undialled = vec!["127.0.0.0/24".parse().expect("a network")];
    });
    put_service(
        &network,
        "hollow",
        json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}),
        json!([{"port": to.port()}]),
        &[to.ip()],
    );
    let (a, _) = pod(&network, "a").await;
    assert!(matches!(a.connect(at("10.96.0.9:80")).await.map(drop), Err(Error::Unreachable(_))));
    assert!(matches!(Dialer::connect(&network, at("10.96.0.9:80")).await.map(drop), Err(Error::Unreachable(_))));
    assert!(matches!(Dialer::connect(&network, to).await.map(drop), Err(Error::Unreachable(_))));
}

#[tokio::test]
async fn datagrams_reach_pods_and_services_and_answers_come_back() {
    let network = network();
    let ((a, a_ip), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let server = b.bind_udp(at("0.0.0.0:5353")).await.expect("bound");
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]});
    put_service(&network, "dns", spec, json!([{"port": 5353, "protocol": "UDP"}]), &[b_ip]);
    let client = a.bind_udp(at("0.0.0.0:0")).await.expect("bound");
    client.send_to(Bytes::from_static(b"q"), at("10.96.0.10:53")).await.expect("sent");
    let (data, from) = timeout(LIVENESS, server.receive()).await.expect("in time").expect("received");
    assert_eq!((&data[..], from), (&b"q"[..], SocketAddr::new(a_ip, client.local_address().port())));
    server.send_to(Bytes::from_static(b"a"), from).await.expect("sent");
    let (data, from) = timeout(LIVENESS, client.receive()).await.expect("in time").expect("received");
    assert_eq!((&data[..], from), (&b"a"[..], at("10.96.0.10:53")), "from the address that was asked");
    // Nobody there: lost, as on any network. Out of bounds: an error.
    client.send_to(Bytes::from_static(b"x"), SocketAddr::new(b_ip, 9)).await.expect("lost");
    assert!(matches!(client.send_to(Bytes::from_static(b"x"), at("169.254.1.1:9")).await, Err(Error::Denied(_))));
    assert!(client.send_to(Bytes::from(vec![0; 70_000]), SocketAddr::new(b_ip, 9)).await.is_err());
}

#[tokio::test]
async fn what_a_udp_socket_has_not_read_is_bounded_in_bytes() {
    let network = network_with(|config| config.limits.datagram_bytes = 1000);
    let ((a, _), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let server = b.bind_udp(at("0.0.0.0:53")).await.expect("bound");
    let client = a.bind_udp(at("0.0.0.0:0")).await.expect("bound");
    for size in [600, 600, 400, 0, 1] {
        client.send_to(Bytes::from(vec![1; size]), SocketAddr::new(b_ip, 53)).await.expect("sent or lost");
    }
    let mut read = Vec::new();
    for _ in 0..2 {
        read.push(timeout(LIVENESS, server.receive()).await.expect("in time").expect("received").0.len());
    }
    assert_eq!(read, [600, 400], "the second, and what came when all was taken, are lost");
    client.send_to(Bytes::from(vec![1; 1000]), SocketAddr::new(b_ip, 53)).await.expect("sent");
    assert_eq!(timeout(LIVENESS, server.receive()).await.expect("in time").expect("received").0.len(), 1000);
}

#[tokio::test]
async fn datagrams_reach_the_outside_by_a_host_socket() {
    let host = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let to = host.local_addr().expect("bound");
    let network = network_with(|c| {
        c.allow_egress = vec!["192.0.2.0/24".parse().expect("a network"), "127.0.0.1/32".parse().expect("a network")]
    });
    // A Service is the way to 127.0.0.1 that is not the pod's own.
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]});
    put_service(&network, "out", spec, json!([{"port": to.port(), "protocol": "UDP"}]), &[to.ip()]);
    let (a, _) = pod(&network, "a").await;
    let client = a.bind_udp(at("0.0.0.0:0")).await.expect("bound");
    client.send_to(Bytes::from_static(b"q"), at("10.96.0.10:53")).await.expect("sent");
    let mut buffer = [0; 8];
    let (size, from) = timeout(LIVENESS, host.recv_from(&mut buffer)).await.expect("in time").expect("received");
    assert_eq!(&buffer[..size], b"q");
    host.send_to(b"a", from).await.expect("sent");
    let (data, from) = timeout(LIVENESS, client.receive()).await.expect("in time").expect("received");
    assert_eq!((&data[..], from), (&b"a"[..], at("10.96.0.10:53")));
}

#[tokio::test]
async fn a_socket_is_held_until_the_response_has_ended() {
    let network = network_with(|c| c.limits.sockets_per_pod = 1);
    let ((a, _), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let _serving = b.serve_http(80, Arc::new(Echo::new("b"))).await.expect("bound");
    let uri = format!("http://{b_ip}/");
    let first = a.http(get(&uri)).await.expect("answered");
    assert!(matches!(a.http(get(&uri)).await.map(drop), Err(Error::Exhausted(_))));
    drop(first);
    a.http(get(&uri)).await.expect("room again");
}

#[tokio::test]
async fn dials_of_services_are_counted_and_relayed_connections_shown() {
    let network = network();
    let mut registry = prometheus_client::registry::Registry::default();
    network.register(&mut registry);
    let shown = |line: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    };
    let ((a, _), (b, b_ip)) = (pod(&network, "a").await, pod(&network, "b").await);
    let listening = b.bind(at("0.0.0.0:80")).await.expect("bound").listen().await.expect("listening");
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]});
    put_service(&network, "full", spec, json!([{"port": 80}]), &[b_ip]);
    let spec = json!({"clusterIP": "10.96.0.11", "ports": [{"port": 80}]});
    put_service(&network, "empty", spec, json!([{"port": 80}]), &[]);
    a.connect(at("10.96.0.10:80")).await.expect("connected");
    assert!(a.connect(at("10.96.0.11:80")).await.is_err());
    assert!(a.connect(at("10.96.0.10:81")).await.is_err());
    for result in ["endpoint", "no_endpoint", "no_port"] {
        shown(&format!("sampan_network_service_dials_total{{result=\"{result}\"}} 1"));
    }
    shown("sampan_network_connections 0");
    let (_ours, theirs) = tokio::io::duplex(64);
    let peer = container::net::Peer { address: at("10.32.0.1:9"), via: container::net::Via::NodePort };
    let connection = container::net::Connection::Stream(Box::new(theirs));
    network.hand_over(connection, peer, SocketAddr::new(b_ip, 80)).await.expect("taken");
    shown("sampan_network_connections 1");
    drop(listening);
}

async fn node() -> container::contract::network::Node {
    let network = Arc::new(network());
    container::contract::network::Node { network: network.clone(), dialer: network }
}

mod contract {
    container::network_contract!(super::node);
}
