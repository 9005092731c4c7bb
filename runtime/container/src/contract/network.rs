//! Contract tests of [`Network`], its [`Sockets`] and the [`Dialer`], which the virtual network, the kernel's network and the fake must
//! pass.
//!
//! A crate that implements them has one line in its tests: `container::network_contract!(make);`, where `make` is an async function without
//! arguments that returns a new [`Node`].

use crate::net::{
    Body, Connection, Datagrams, Dialer, Error, HttpHandler, Listener, Network, Peer, PodNetwork, Request, Response,
    Result, Sandbox, Sockets, Stream, Via,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Much longer than any test takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A network without pods, and its dialer.
pub struct Node {
    /// The network.
    pub network: Arc<dyn Network>,
    /// The cluster's dialer.
    pub dialer: Arc<dyn Dialer>,
}

/// Creates one test per guarantee of [`Network`], [`Sockets`] and [`Dialer`]. `$make` is an async function that returns a
/// [`Node`](crate::contract::network::Node).
#[macro_export]
macro_rules! network_contract {
    ($make:path) => {
        $crate::network_contract!(@ $make:
            a_pod_is_attached_once_and_keeps_its_address,
            a_detached_pod_is_gone_and_its_address_is_free,
            a_stream_carries_bytes_both_ways_and_closes_by_halves,
            a_port_is_taken_once_and_freed_when_dropped,
            a_bound_port_refuses_until_it_listens,
            a_bound_port_is_where_a_call_comes_from,
            the_loopback_of_a_pod_is_its_own,
            datagrams_find_their_way_back,
            a_handler_is_called_by_pods_and_by_the_cluster,
            a_handler_is_given_whole_connections,
            the_cluster_reaches_what_listens,
            a_connection_is_handed_over,
            names_are_the_pods_own,
        );
    };
    (@ $make:path: $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::contract::network::in_time($crate::contract::network::$name(&$make().await)).await;
            }
        )*
    };
}

/// Fails a test that does not end in time.
pub async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(TEST_TIMEOUT, test).await.expect("nothing hangs");
}

fn spec(id: &str) -> PodNetwork {
    PodNetwork {
        id: id.into(),
        name: id.into(),
        namespace: "default".into(),
        hostname: id.into(),
        address: None,
        host_aliases: vec![("10.9.8.7".parse().expect("an address"), vec!["alias.example".into()])],
        host_ports: Vec::new(),
        kernel: false,
    }
}

async fn pod(node: &Node, id: &str) -> (Arc<dyn Sockets>, IpAddr) {
    let attachment = node.network.attach(spec(id)).await.expect("attached");
    (attachment.sockets, attachment.addresses[0])
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn refused<T>(result: Result<T>) {
    let error = result.map(drop).expect_err("it is refused");
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
}

async fn read(stream: &mut Stream, wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    stream.read_exact(&mut bytes).await.expect("read");
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

async fn write(stream: &mut Stream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("written");
    stream.flush().await.expect("flushed");
}

/// Answers requests with their method and path, and records the peers. Writes three bytes to a whole connection and closes it.
#[derive(Clone, Default)]
struct Echo(Arc<Mutex<Vec<Peer>>>);

impl Echo {
    fn record(&self, peer: Peer) {
        self.0.lock().expect("no panic").push(peer);
    }

    fn peers(&self) -> Vec<(IpAddr, Via)> {
        self.0.lock().expect("no panic").iter().map(|peer| (peer.address.ip(), peer.via.clone())).collect()
    }
}

#[async_trait::async_trait]
impl HttpHandler for Echo {
    async fn call(&self, request: Request, peer: Peer) -> Result<Response> {
        self.record(peer);
        let text = format!("{} {}", request.method(), request.uri().path());
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
        Ok(http::Response::new(Body::new(body)))
    }

    fn serve(&self, connection: Connection, peer: Peer) {
        self.record(peer);
        let mut stream: Stream = match connection {
            Connection::Stream(stream) => stream,
            Connection::Tcp(socket) => Box::new(tokio::net::TcpStream::from_std(socket).expect("a socket")),
        };
        tokio::spawn(async move {
            stream.write_all(b"all").await.expect("written");
            stream.shutdown().await.expect("closed");
        });
    }
}

fn get(uri: &str) -> Request {
    let body = Full::new(Bytes::new()).map_err(|never| match never {});
    http::Request::get(uri).body(Body::new(body)).expect("a request")
}

async fn text(response: Result<Response>) -> String {
    let body = response.expect("a response").into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// Attaching a pod again returns the same address. Other pods have other addresses. A requested address is used if it is free.
pub async fn a_pod_is_attached_once_and_keeps_its_address(node: &Node) {
    let first = node.network.attach(spec("a")).await.expect("attached");
    let again = node.network.attach(spec("a")).await.expect("attached");
    assert_eq!(first.addresses, again.addresses);
    assert_eq!(first.sockets.addresses(), first.addresses);
    assert_eq!(first.sandbox, again.sandbox);
    if let Sandbox::Namespace(path) = &first.sandbox {
        assert!(path.is_absolute(), "a namespace can be entered by its path: {path:?}");
    }
    let _listener = first.sockets.listen(any(80)).await.expect("bound");
    assert!(matches!(again.sockets.bind(any(80)).await.map(drop), Err(Error::AddressInUse(_))), "it is one pod");
    let (_, b) = pod(node, "b").await;
    assert_ne!(first.addresses[0], b);
    let mut listed = node.network.list();
    listed.sort();
    assert_eq!(listed, [("a".into(), first.addresses[0]), ("b".into(), b)]);
    // As after a restart of the agent.
    node.network.detach("b").await;
    let with_address = |id: &str| PodNetwork { address: Some(b), ..spec(id) };
    assert_eq!(node.network.attach(with_address("b")).await.expect("attached").addresses, [b]);
    assert_ne!(node.network.attach(with_address("c")).await.expect("attached").addresses, [b], "it is taken");
}

/// Detaching a pod closes its sockets and makes it unreachable. Detaching twice succeeds.
pub async fn a_detached_pod_is_gone_and_its_address_is_free(node: &Node) {
    let ((a, _), (b, at)) = (pod(node, "a").await, pod(node, "b").await);
    let listener = b.listen(any(80)).await.expect("bound");
    assert!(node.network.view("b").is_some() && node.network.view("c").is_none());
    node.network.detach("b").await;
    node.network.detach("b").await;
    assert!(node.network.view("b").is_none());
    node.network.detach("nobody").await;
    assert!(listener.accept().await.is_err(), "what waits learns of it");
    assert!(a.connect(SocketAddr::new(at, 80)).await.is_err());
    assert!(node.dialer.connect(SocketAddr::new(at, 80)).await.is_err());
    assert_eq!(node.network.list().len(), 1);
    let with_address = PodNetwork { address: Some(at), ..spec("c") };
    assert_eq!(node.network.attach(with_address).await.expect("attached").addresses, [at]);
}

/// Both ends report the same addresses. Closing one direction leaves the other open.
pub async fn a_stream_carries_bytes_both_ways_and_closes_by_halves(node: &Node) {
    let ((a, a_at), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let listener = b.listen(any(80)).await.expect("bound");
    assert_eq!(listener.local_address().port(), 80);
    let (mut near, local) = a.connect(SocketAddr::new(b_at, 80)).await.expect("connected");
    let (mut far, peer) = listener.accept().await.expect("accepted");
    assert_eq!((local.ip(), peer), (a_at, local));
    write(&mut near, "ask").await;
    near.shutdown().await.expect("half closed");
    read(&mut far, "ask").await;
    assert_eq!(far.read(&mut [0]).await.expect("the end"), 0);
    write(&mut far, "answer").await;
    drop(far);
    read(&mut near, "answer").await;
    assert_eq!(near.read(&mut [0]).await.expect("the end"), 0);
}

/// A port has one listener. Port 0 chooses a free port. The address of another pod cannot be bound.
pub async fn a_port_is_taken_once_and_freed_when_dropped(node: &Node) {
    let ((a, a_at), (_, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let first = a.listen(any(80)).await.expect("bound");
    assert!(matches!(a.bind(any(80)).await.map(drop), Err(Error::AddressInUse(_))));
    assert!(matches!(a.serve_http(80, Arc::new(Echo::default())).await.map(drop), Err(Error::AddressInUse(_))));
    drop(first);
    let _again = a.listen(SocketAddr::new(a_at, 80)).await.expect("free again");
    let (one, other) = (a.bind(any(0)).await.expect("bound"), a.bind(any(0)).await.expect("bound"));
    let (one, other) = (one.local_address().port(), other.local_address().port());
    assert!(one != 0 && other != 0 && one != other, "{one}, {other}");
    let foreign = SocketAddr::new(b_at, 81);
    assert!(matches!(a.bind(foreign).await.map(drop), Err(Error::NotAvailable(at)) if at == foreign));
}

/// A bound port refuses connections until it listens.
pub async fn a_bound_port_refuses_until_it_listens(node: &Node) {
    let ((a, _), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let to = SocketAddr::new(b_at, 80);
    refused(a.connect(to).await);
    let port = b.bind(any(80)).await.expect("bound");
    refused(a.connect(to).await);
    refused(node.dialer.reachable(to).await);
    let listener = port.listen().await.expect("listens");
    a.connect(to).await.expect("connected");
    node.dialer.reachable(to).await.expect("it listens");
    drop(listener);
    refused(a.connect(to).await);
}

/// A bound port is the source port of its connections.
pub async fn a_bound_port_is_where_a_call_comes_from(node: &Node) {
    let ((a, a_at), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let listener = b.listen(any(80)).await.expect("bound");
    let port = a.bind(any(5000)).await.expect("bound");
    let (stream, local) = port.connect(SocketAddr::new(b_at, 80)).await.expect("connected");
    assert_eq!(local, SocketAddr::new(a_at, 5000));
    assert_eq!(listener.accept().await.expect("accepted").1, local);
    drop(stream);
}

/// The pod's own view reaches what listens on its loopback address, as for a forwarded port. Others do not.
pub async fn the_loopback_of_a_pod_is_its_own(node: &Node) {
    let ((a, a_at), (b, _)) = (pod(node, "a").await, pod(node, "b").await);
    let listener = a.listen(loopback(80)).await.expect("bound");
    let view = node.network.view("a").expect("attached");
    let (mut near, _) = view.connect(loopback(80)).await.expect("connected");
    let (mut far, peer) = listener.accept().await.expect("accepted");
    assert!(peer.ip().is_loopback(), "{peer}");
    write(&mut near, "me").await;
    read(&mut far, "me").await;
    refused(b.connect(loopback(80)).await);
    refused(b.connect(SocketAddr::new(a_at, 80)).await);
    refused(node.dialer.connect(SocketAddr::new(a_at, 80)).await);
    let _all = a.listen(any(81)).await.expect("bound");
    a.connect(loopback(81)).await.expect("what listens everywhere listens on the loopback too");
}

/// A reply to the source address of a datagram arrives.
pub async fn datagrams_find_their_way_back(node: &Node) {
    let ((a, a_at), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let server: Box<dyn Datagrams> = b.bind_udp(any(53)).await.expect("bound");
    assert!(matches!(b.bind_udp(any(53)).await.map(drop), Err(Error::AddressInUse(_))));
    b.listen(any(53)).await.expect("a stream's port is another");
    let client = a.bind_udp(any(0)).await.expect("bound");
    client.send_to("ask".into(), SocketAddr::new(b_at, 53)).await.expect("sent");
    let (data, from) = server.receive().await.expect("received");
    assert_eq!((&data[..], from), (&b"ask"[..], SocketAddr::new(a_at, client.local_address().port())));
    server.send_to("answer".into(), from).await.expect("sent");
    let (data, from) = client.receive().await.expect("received");
    assert_eq!((&data[..], from), (&b"answer"[..], SocketAddr::new(b_at, 53)));
    client.send_to("lost".into(), SocketAddr::new(b_at, 54)).await.expect("nobody says that nobody is there");
}

/// A request to a handler is a call with the peer's address and kind.
pub async fn a_handler_is_called_by_pods_and_by_the_cluster(node: &Node) {
    let ((a, a_at), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let echo = Echo::default();
    let serving = b.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
    assert_eq!(serving.local_address().port(), 8080);
    let to = SocketAddr::new(b_at, 8080);
    assert_eq!(text(a.http(get(&format!("http://{to}/one"))).await).await, "GET /one");
    assert_eq!(text(node.dialer.http(to, get("/two")).await).await, "GET /two");
    node.dialer.reachable(to).await.expect("it is there, and no guest code ran to say so");
    let peers = echo.peers();
    assert_eq!((peers.len(), &peers[0], &peers[1].1), (2, &(a_at, Via::Pod), &Via::Cluster));
    assert_ne!(peers[1].0, a_at);
    drop(serving);
    refused(node.dialer.http(to, get("/")).await);
    refused(a.http(get(&format!("http://{to}/"))).await);
}

/// A handler also serves a whole connection.
pub async fn a_handler_is_given_whole_connections(node: &Node) {
    let ((a, a_at), (b, b_at)) = (pod(node, "a").await, pod(node, "b").await);
    let echo = Echo::default();
    let _serving = b.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
    let (mut stream, _) = a.connect(SocketAddr::new(b_at, 8080)).await.expect("connected");
    read(&mut stream, "all").await;
    assert_eq!(echo.peers(), [(a_at, Via::Pod)]);
}

/// The cluster's connections, such as those of probes and forwarded ports, reach listeners.
pub async fn the_cluster_reaches_what_listens(node: &Node) {
    let (a, at) = pod(node, "a").await;
    let to = SocketAddr::new(at, 80);
    refused(node.dialer.connect(to).await);
    refused(node.dialer.reachable(to).await);
    let listener: Box<dyn Listener> = a.listen(any(80)).await.expect("bound");
    let mut near = node.dialer.connect(to).await.expect("connected");
    let (mut far, peer) = listener.accept().await.expect("accepted");
    assert_ne!(peer.ip(), at);
    write(&mut near, "ask").await;
    read(&mut far, "ask").await;
}

/// A connection is handed over: as bytes to a listener, whole to a handler, with its original peer.
pub async fn a_connection_is_handed_over(node: &Node) {
    let (a, at) = pod(node, "a").await;
    let listener = a.listen(any(80)).await.expect("bound");
    let echo = Echo::default();
    let _serving = a.serve_http(8080, Arc::new(echo.clone())).await.expect("bound");
    let peer = Peer { address: "192.0.2.1:7".parse().expect("an address"), via: Via::NodePort };
    let pipe = || {
        let (near, far) = tokio::io::duplex(1 << 10);
        (Box::new(near) as Stream, Connection::Stream(Box::new(far)))
    };
    let (mut near, connection) = pipe();
    node.dialer.hand_over(connection, peer.clone(), SocketAddr::new(at, 80)).await.expect("handed over");
    let (mut far, from) = listener.accept().await.expect("accepted");
    assert_eq!(from, peer.address);
    write(&mut near, "ask").await;
    read(&mut far, "ask").await;
    write(&mut far, "answer").await;
    read(&mut near, "answer").await;
    let (mut near, connection) = pipe();
    node.dialer.hand_over(connection, peer.clone(), SocketAddr::new(at, 8080)).await.expect("handed over");
    read(&mut near, "all").await;
    assert_eq!(echo.peers(), [(peer.address.ip(), Via::NodePort)]);
    refused(node.dialer.hand_over(pipe().1, peer, SocketAddr::new(at, 81)).await);
}

/// Names of `hostAliases` resolve, unknown names of the cluster do not.
pub async fn names_are_the_pods_own(node: &Node) {
    let (a, _) = pod(node, "a").await;
    let alias: IpAddr = "10.9.8.7".parse().expect("an address");
    assert_eq!(a.resolve("alias.example").await, Ok(vec![alias]));
    for (name, address) in [("localhost", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("::1", "::1")] {
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(a.resolve(name).await, Ok(vec![address]), "{name}");
    }
    let missing = a.resolve("nobody.default.svc.cluster.local").await;
    assert!(matches!(missing, Err(Error::NoSuchHost(_))), "{missing:?}");
}
