//! What slow, silent and greedy clients can hold, over real connections. Time passes in steps, between which the sockets are served: on
//! a clock that jumps whenever the runtime waits, deadlines would win over bytes that are under way.

use crate::*;
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use server::pki::{self, Pair, Validity};
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A server that listens on loopback, and an authority that makes client certificates.
pub(crate) struct Network {
    pub(crate) cluster: Cluster,
    pub(crate) validity: Validity,
    ca: Pair,
    pub(crate) serving: server::tls::Serving,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// TLS checks certificates against the real clock.
#[allow(clippy::disallowed_methods)]
fn real_time() -> Timestamp {
    Timestamp::now()
}

impl Network {
    pub(crate) async fn new(connections: usize) -> Self {
        Self::with(connections, |_, _| {}).await
    }

    /// Of which something is changed before it starts.
    pub(crate) async fn with(
        connections: usize,
        change: impl FnOnce(&mut server::Options, &mut server::Parts),
    ) -> Self {
        let cluster = Cluster::with(change).await;
        let hour = jiff::SignedDuration::from_hours(1);
        let validity = Validity { from: real_time() - hour, until: real_time() + hour };
        let ca = pki::authority("ca", validity).unwrap();
        let serving = pki::server(&ca, "apiserver", &pki::Names::api_server([], []), validity).unwrap();
        let serving = server::tls::Serving::new(&serving).unwrap();
        let tls = Arc::new(server::tls::config(&serving, &ca.certificate).unwrap());
        // Small buffers in the kernel, so that little has to be sent until nothing more can be.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (running, token) = (cluster.server.clone(), stop.clone());
        let task = tokio::spawn(async move {
            {
                let limits = server::tls::ConnectionLimits { connections, ..Default::default() };
                running.serve(limits, listener, tls, token).await
            }
        });
        Self { cluster, validity, ca, serving, address, stop, task }
    }

    pub(crate) fn admin(&self) -> Pair {
        pki::client(&self.ca, "admin", &["system:masters"], self.validity).unwrap()
    }

    pub(crate) async fn end(self) {
        self.cluster.shutdown.cancel();
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(crate) async fn connect(
        &self,
        client: Option<&Pair>,
        alpn: &str,
    ) -> Result<TlsStream<TcpStream>, Box<dyn Error>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.certificate.as_bytes())?)?;
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match client {
            Some(pair) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
            )?,
            None => builder.with_no_client_auth(),
        };
        if !alpn.is_empty() {
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(16 * 1024)?;
        let stream = socket.connect(self.address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(connector.connect("kubernetes.default.svc".try_into()?, stream).await?)
    }

    async fn client(&self, certificate: Option<&Pair>, alpn: &str) -> Result<Client, Box<dyn Error>> {
        self.client_with(certificate, alpn, 65_535).await
    }

    /// With room for so many bytes in each HTTP/2 stream.
    async fn client_with(&self, certificate: Option<&Pair>, alpn: &str, window: u32) -> Result<Client, Box<dyn Error>> {
        let io = TokioIo::new(self.connect(certificate, alpn).await?);
        Ok(if alpn == "h2" {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
            let (sender, connection) = builder.handshake(io).await?;
            Client::Two(sender, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            Client::One(sender, tokio::spawn(async move { drop(connection.await) }))
        })
    }

    /// The code of a GET on a connection of its own.
    pub(crate) async fn get(&self, certificate: Option<&Pair>, alpn: &str, path: &str) -> Result<u16, Box<dyn Error>> {
        Ok(self.client(certificate, alpn).await?.get(path).await?.status().as_u16())
    }

    /// Sends bytes over HTTP/1.1 and reads until the server closes.
    async fn raw(&self, alpn: &str, bytes: &str) -> String {
        let mut stream = self.connect(None, alpn).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    /// How many watches there are.
    async fn watches(&self) -> u64 {
        let text = self.cluster.get("/metrics").await.text();
        let line = text.lines().find_map(|l| l.strip_prefix("apiserver_longrunning_requests "));
        line.expect("the gauge").parse().unwrap()
    }
}

enum Client {
    One(http1::SendRequest<Empty<Bytes>>, JoinHandle<()>),
    Two(http2::SendRequest<Empty<Bytes>>, JoinHandle<()>),
}

impl Client {
    async fn get(&mut self, path: &str) -> hyper::Result<Response<hyper::body::Incoming>> {
        let request = Request::get(format!("https://kubernetes.default.svc{path}"));
        let request = request.header("host", "kubernetes.default.svc").body(Empty::new()).unwrap();
        match self {
            Self::One(sender, _) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender, _) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    fn closed(&self) -> bool {
        let (Self::One(_, task) | Self::Two(_, task)) = self;
        task.is_finished()
    }
}

/// What the peer sends until it closes, on the real clock.
async fn read_all(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    // Closed without a goodbye is closed.
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    assert!(read.is_ok(), "still open: {}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Lets time pass, in steps.
async fn pass(seconds: u64) {
    for _ in 0..seconds.div_ceil(5) {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Waits for something that happens soon.
macro_rules! soon {
    ($($condition:tt)*) => {
        let mut left = 2_000;
        while !($($condition)*) {
            left -= 1;
            assert!(left > 0, "never: {}", stringify!($($condition)*));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
}

#[tokio::test]
async fn who_is_silent_after_the_handshake_is_closed() {
    let network = Network::new(100).await;
    for alpn in ["h2", "http/1.1", ""] {
        let mut stream = network.connect(None, alpn).await.unwrap();
        pass(30).await;
        assert!(!read_all(&mut stream).await.contains("HTTP/1.1"), "{alpn}");
    }
    // The first bytes of a preface, and no more.
    let mut stream = network.connect(None, "h2").await.unwrap();
    stream.write_all(b"PRI * ").await.unwrap();
    pass(180).await;
    read_all(&mut stream).await;
    network.end().await;
}

#[tokio::test]
async fn headers_that_come_slowly_are_not_waited_for() {
    let network = Network::new(100).await;
    let mut stream = network.connect(None, "http/1.1").await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
    for _ in 0..24 {
        // Fails once the server has closed.
        let _ = stream.write_all(b"x: y\r\n").await;
        pass(5).await;
    }
    assert!(!read_all(&mut stream).await.contains("200 OK"));
    network.end().await;
}

#[tokio::test]
async fn without_alpn_it_is_http_1_and_a_host_is_needed() {
    let network = Network::new(100).await;
    let answer = network.raw("", "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\nok"), "{answer}");
    for (hosts, why) in [("", "missing required Host header"), ("Host: a\r\nHost: b\r\n", "too many Host headers")] {
        let answer = network.raw("http/1.1", &format!("GET /readyz HTTP/1.1\r\n{hosts}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n400 Bad Request: {why}")), "{answer}");
    }
    let preface = network.raw("http/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!preface.contains("200 OK"), "HTTP/2 was not agreed on: {preface}");
    network.end().await;
}

#[tokio::test]
async fn idle_connections_are_kept_as_long_as_clients_keep_them_and_then_closed() {
    let network = Network::new(100).await;
    for alpn in ["h2", "http/1.1"] {
        let mut client = network.client(None, alpn).await.unwrap();
        for _ in 0..2 {
            assert_eq!(client.get("/readyz").await.unwrap().status(), 200);
            pass(95).await;
        }
        assert_eq!(client.get("/readyz").await.unwrap().status(), 200, "{alpn}: idle for 95 s");
        pass(240).await;
        soon!(client.closed());
    }
    network.end().await;
}

#[tokio::test]
async fn connections_are_bounded_and_strangers_leave_room_for_who_shows_a_certificate() {
    let network = Network::new(4).await;
    let admin = network.admin();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = network.client(None, "h2").await.unwrap();
        assert_eq!(client.get("/readyz").await.unwrap().status(), 200);
        held.push(client);
    }
    assert!(network.get(None, "h2", "/readyz").await.is_err(), "three quarters are taken");
    let mut known = network.client(Some(&admin), "h2").await.unwrap();
    assert_eq!(known.get("/api/v1/nodes").await.unwrap().status(), 200);
    let mut waiting = Box::pin(network.get(Some(&admin), "h2", "/api/v1/nodes"));
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting.as_mut()).await.is_err(), "all are taken");
    drop(held);
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("a place");
    assert_eq!(answer.unwrap(), 200);
    network.end().await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends_and_one_that_is_read_goes_on() {
    let network = Network::new(100).await;
    let admin = network.admin();
    for name in ["a", "b", "c"] {
        let body = json!({"metadata": {"name": name}, "data": {"k": "v".repeat(300_000)}});
        network.cluster.post(MAPS, body).await.ok();
    }
    let target = format!("{MAPS}?watch=true&timeoutSeconds=86400");
    for alpn in ["h2", "http/1.1"] {
        let mut reader = network.client(Some(&admin), alpn).await.unwrap();
        let mut read = reader.get(&target).await.unwrap().into_body();
        let reading = tokio::spawn(async move { while read.frame().await.is_some_and(|f| f.is_ok()) {} });
        let mut client = network.client(Some(&admin), alpn).await.unwrap();
        let unread = client.get(&target).await.unwrap();
        assert_eq!(network.watches().await, 2);
        pass(40).await;
        assert_eq!(network.watches().await, 2, "{alpn}: a pause is no reason");
        // A minute after the last byte was taken, not after some more of it went into buffers.
        pass(25).await;
        soon!(network.watches().await == 1);
        pass(300).await;
        assert!(!reading.is_finished(), "{alpn}: long and silent, but read");
        drop((unread, client));
        reading.abort();
        drop(reader);
        soon!(network.watches().await == 0);
    }
    network.end().await;
}

#[tokio::test]
async fn a_list_that_nobody_reads_ends_and_the_other_streams_go_on() {
    let network = Network::new(100).await;
    let admin = network.admin();
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "v".repeat(900_000)}});
    network.cluster.post(MAPS, body).await.ok();
    let mut client = network.client(Some(&admin), "h2").await.unwrap();
    let unread = client.get(MAPS).await.unwrap();
    let read = client.get(MAPS).await.unwrap();
    assert!(read.into_body().collect().await.unwrap().to_bytes().len() > 900_000);
    pass(120).await;
    assert!(unread.into_body().collect().await.is_err(), "reset by the server");
    assert_eq!(client.get("/readyz").await.unwrap().status(), 200);
    network.end().await;
}

#[tokio::test]
async fn answers_that_nobody_reads_take_room_and_only_for_a_while() {
    let network = Network::new(100).await;
    let jane = pki::client(&network.ca, "jane", &[], network.validity).unwrap();
    let mut deaf = network.client_with(Some(&jane), "h2", 0).await.unwrap();
    let mut client = network.client(Some(&jane), "h2").await.unwrap();
    let mut admin = network.client(Some(&network.admin()), "h2").await.unwrap();
    let mut unread = Vec::new();
    // The seats of all requests that are not exempt.
    for _ in 0..600 {
        unread.push(deaf.get("/version").await.unwrap());
        assert_eq!(unread.last().unwrap().status(), 200);
    }
    assert_eq!(client.get("/version").await.unwrap().status(), 429);
    for path in ["/api/v1/nodes", "/openapi/v3", "/readyz"] {
        assert_eq!(admin.get(path).await.unwrap().status(), 200, "{path}");
    }
    pass(65).await;
    soon!(client.get("/version").await.unwrap().status() == 200);
    drop(unread);
    network.end().await;
}

#[tokio::test]
async fn connections_that_never_shake_hands_keep_nobody_out() {
    let network = Network::new(100).await;
    let admin = network.admin();
    // Nothing, and the first byte of a handshake.
    for bytes in [&b""[..], &[0x16]] {
        let mut held = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect(network.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            held.push(stream);
        }
        for certificate in [Some(&admin), None] {
            for alpn in ["h2", "http/1.1"] {
                let got = tokio::time::timeout(Duration::from_secs(5), network.get(certificate, alpn, "/readyz")).await;
                assert_eq!(got.expect("in time").unwrap(), 200, "{bytes:?} {alpn}");
            }
        }
        // the oldest made place
        let closed = tokio::time::timeout(Duration::from_secs(5), held[0].read(&mut [0; 16])).await.expect("closed");
        assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    }
    network.end().await;
}

#[tokio::test]
async fn http_without_tls_is_told_so_in_gos_words() {
    let network = Network::new(10).await;
    for request in
        ["GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", "POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{}"]
    {
        let mut stream = TcpStream::connect(network.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    }
    network.end().await;
}

#[tokio::test]
async fn another_certificate_is_shown_without_a_pause() {
    let network = Network::new(10).await;
    let shown = async || {
        let stream = network.connect(None, "h2").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let mut client = network.client(Some(&network.admin()), "h2").await.unwrap();
    let first = shown().await;
    let next = pki::server(&network.ca, "apiserver", &pki::Names::api_server([], []), network.validity).unwrap();
    let other = pki::server(&network.ca, "other", &pki::Names::api_server([], []), network.validity).unwrap();
    let mixed = Pair { certificate: next.certificate.clone(), key: other.key };
    assert!(network.serving.replace(&mixed).is_err(), "a key of another certificate");
    assert_eq!(shown().await, first, "the one before stays");
    network.serving.replace(&next).unwrap();
    assert_eq!(shown().await, CertificateDer::from_pem_slice(next.certificate.as_bytes()).unwrap());
    assert_eq!(client.get("/api/v1/nodes").await.unwrap().status(), 200, "connections that are there go on");
    network.end().await;
}
