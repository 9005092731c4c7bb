//! A small HTTPS client for load: keep-alive HTTP/1.1 connections with a client certificate, nothing else.

use crate::server::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Opens connections to one cluster.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    tls2: TlsConnector,
    endpoint: String,
}

/// One connection.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    pub fn new(server: &Server) -> Self {
        let [ca, certificate, key] = server.credentials();
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(&ca) {
            roots.add(ca.expect("PEM")).expect("a CA");
        }
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&key).expect("PEM");
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a key that fits");
        let mut config2 = config.clone();
        config2.alpn_protocols = vec![b"h2".to_vec()];
        let [tls, tls2] = [config, config2].map(|config| TlsConnector::from(Arc::new(config)));
        Self { tls, tls2, endpoint: server.endpoint.clone() }
    }

    async fn stream(&self, tls: &TlsConnector) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(&self.endpoint).await.expect("connected");
        tcp.set_nodelay(true).expect("set");
        let name = ServerName::try_from("localhost").expect("a name");
        tls.connect(name, tcp).await.expect("TLS")
    }

    /// A GET whose answer is read as it comes, without an HTTP library: of 100 readers on one core the last waits for the others' work.
    pub async fn raw(&self, path: &str) -> TlsStream<TcpStream> {
        let mut stream = self.stream(&self.tls).await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n\r\n", self.endpoint);
        stream.write_all(head.as_bytes()).await.expect("written");
        stream
    }

    pub async fn connect(&self) -> Connection {
        let tls = self.stream(&self.tls).await;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.expect("HTTP");
        tokio::task::spawn_local(connection);
        Connection { sender, host: self.endpoint.clone() }
    }
}

/// A connection for many requests at a time.
pub struct Multiplexed {
    sender: http2::SendRequest<Full<Bytes>>,
    origin: String,
}

impl Client {
    pub async fn multiplexed(&self) -> Multiplexed {
        let tls = self.stream(&self.tls2).await;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
        tokio::task::spawn_local(connection);
        Multiplexed { sender, origin: format!("https://{}", self.endpoint) }
    }
}

impl Multiplexed {
    /// A GET whose answer is read as it comes.
    pub async fn open(&mut self, path: &str) -> hyper::body::Incoming {
        let request = Request::get(format!("{}{path}", self.origin)).header(header::ACCEPT, "application/json");
        self.sender.ready().await.expect("open");
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        let response = self.sender.send_request(request).await.expect("answered");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.into_body()
    }
}

impl Connection {
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> hyper::Response<hyper::body::Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .expect("a request");
        self.sender.ready().await.expect("open");
        self.sender.send_request(request).await.expect("answered")
    }

    /// A request that must succeed, and its whole body.
    pub async fn call(&mut self, method: Method, path: &str, kind: &str, body: Bytes) -> Bytes {
        let shown = format!("{method} {path}");
        let response = self.send(method, path, kind, body).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(status.is_success(), "{shown}: {status} {}", String::from_utf8_lossy(&body));
        body
    }

    pub async fn get(&mut self, path: &str) -> Bytes {
        self.call(Method::GET, path, "application/json", Bytes::new()).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Bytes {
        self.call(Method::POST, path, "application/json", body.to_string().into()).await
    }

    pub async fn apply(&mut self, path: &str, body: &Value) -> Bytes {
        let url = format!("{path}?fieldManager=bench&force=true");
        self.call(Method::PATCH, &url, "application/apply-patch+yaml", body.to_string().into()).await
    }
}

/// Runs `total` requests over `connections` connections; wall time and the sorted times of each.
pub async fn spread<F, Fut>(client: &Client, connections: usize, total: usize, request: F) -> (Duration, Vec<Duration>)
where
    F: Fn(Connection, usize) -> Fut + Clone + 'static,
    Fut: Future<Output = Connection> + 'static,
{
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(client.connect().await);
    }
    let started = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .enumerate()
        .map(|(first, mut connection)| {
            let request = request.clone();
            tokio::task::spawn_local(async move {
                let mut times = Vec::new();
                for number in (first..total).step_by(connections) {
                    let start = Instant::now();
                    connection = request(connection, number).await;
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    let wall = started.elapsed();
    times.sort();
    (wall, times)
}
