//! A small HTTPS client for load: keep-alive HTTP/1.1 connections with a client certificate, nothing else.

use crate::server::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
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

/// A connection for many watches, HTTP/2 without a library: of 10,000 streams on one core the work of the client would be most of what is
/// measured. It reads frames (RFC 9113) and lets the server send as much as it likes.
pub struct Multiplexed {
    stream: TlsStream<TcpStream>,
    authority: String,
    last: u32,
    read: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// SETTINGS_INITIAL_WINDOW_SIZE.
const WINDOW: [u8; 2] = [0, 4];
/// Of SETTINGS and PING.
const ACK: u8 = 1;
/// Of HEADERS: the request has no body and its headers are all here.
const END: u8 = 5;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    frame.extend_from_slice(payload);
    frame
}

impl Client {
    pub async fn multiplexed(&self) -> Multiplexed {
        let mut stream = self.stream(&self.tls2).await;
        let window = [&WINDOW[..], &LARGEST_WINDOW.to_be_bytes()].concat();
        let more = (LARGEST_WINDOW - 65_535).to_be_bytes();
        let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &window)];
        let start = [start.concat(), frame(WINDOW_UPDATE, 0, 0, &more)].concat();
        stream.write_all(&start).await.expect("written");
        Multiplexed { stream, authority: self.endpoint.clone(), last: 0, read: Vec::new() }
    }
}

impl Multiplexed {
    /// Opens a watch and waits until it is answered.
    pub async fn open(&mut self, path: &str) {
        let text = |name: &[u8], value: &str| {
            let length = u8::try_from(value.len()).ok().filter(|length| *length < 127).expect("a short value");
            [name, &[length], value.as_bytes()].concat()
        };
        // HPACK (RFC 7541): GET and https are indexed, the names of the others too.
        let headers = [
            vec![0x82, 0x87],
            text(&[0x04], path),
            text(&[0x01], &self.authority),
            text(&[0x0f, 0x04], "application/json"),
        ];
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        let request = frame(HEADERS, END, self.last, &headers.concat());
        self.stream.write_all(&request).await.expect("written");
        let (mut answered, last) = (false, self.last);
        while !answered {
            let open = self.frames(|kind, stream, payload| {
                if kind == HEADERS && stream == last {
                    assert_eq!(payload.first(), Some(&0x88), "{path}: not 200");
                    answered = true;
                }
            });
            assert!(open.await, "{path}: the server closed the connection");
        }
    }

    /// Reads what the watches are sent, until the server closes the connection.
    pub async fn run(mut self, mut event: impl FnMut(&[u8])) {
        let mut data = |kind, _, payload: &[u8]| {
            if kind == DATA {
                event(payload);
            }
        };
        while self.frames(&mut data).await {}
    }

    /// Reads what is there, at least one piece; whether there can be more.
    async fn frames(&mut self, mut each: impl FnMut(u8, u32, &[u8])) -> bool {
        self.read.reserve(64 * 1024);
        if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
            return false;
        }
        let (mut rest, mut answer) = (&self.read[..], Vec::new());
        while let Some((head, more)) = rest.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, next)) = more.split_at_checked(length) else { break };
            let (kind, flags) = (head[3], head[4]);
            match kind {
                SETTINGS if flags & ACK == 0 => answer.extend(frame(SETTINGS, ACK, 0, &[])),
                PING if flags & ACK == 0 => answer.extend(frame(PING, ACK, 0, payload)),
                _ => each(kind, u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload),
            }
            rest = next;
        }
        let taken = self.read.len() - rest.len();
        self.read.drain(..taken);
        if !answer.is_empty() {
            return self.stream.write_all(&answer).await.is_ok();
        }
        true
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
