//! What the tests share: guests from text, a network in memory, a runtime whose compiler is this very test program.

#![allow(dead_code)]

use container::{
    Artifact, Clock, ContainerId, ContainerSpec, ContainerState, Exit, HttpPolicy, Limits, Port, Protocol, RootFolder,
    Runtime, SandboxId, SandboxSpec, Stdin,
    net::{self, Sockets},
};
use http_body_util::{BodyExt, Empty};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;
use wasm::{Compiler, Options, PoolOptions, Wasmtime};
use wit_component::{ComponentEncoder, StringEncoding};

const WIT: &str = include_str!("../../guests/wasi.wit");

/// A component of `world` around a core module, with debug information that names its lines as those of `guest.wat`.
pub fn component(world: &str, wat: &str) -> Vec<u8> {
    let mut parser = wat::Parser::new();
    let parser = parser.generate_dwarf(wat::GenerateDwarf::Lines);
    let mut module = parser.parse_str(Some(Path::new("guest.wat")), wat).unwrap();
    let mut resolve = wit_parser::Resolve::new();
    let package = resolve.push_source("wasi.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

pub fn http_guest() -> Vec<u8> {
    component("http", include_str!("../../guests/http.wat"))
}

pub fn files_guest() -> Vec<u8> {
    component("files", include_str!("../../guests/files.wat"))
}

pub fn core_guest() -> Vec<u8> {
    wat::parse_str(include_str!("../../guests/core.wat")).unwrap()
}

pub fn command_guest() -> Vec<u8> {
    component("command", include_str!("../../guests/command.wat"))
}

/// A network of one pod that also knows the host `other`.
#[derive(Default)]
pub struct Net {
    /// Once set, to serve HTTP tells the first and waits for the second.
    pub gate: parking_lot::Mutex<Option<Arc<(Notify, Notify)>>>,
    /// Once set, `other` is the handler on port 80, which is asked when so many ask it.
    pub circle: parking_lot::Mutex<Option<Arc<tokio::sync::Barrier>>>,
    ports: Arc<parking_lot::Mutex<HashMap<u16, Arc<dyn net::HttpHandler>>>>,
}

struct Bound(Arc<parking_lot::Mutex<HashMap<u16, Arc<dyn net::HttpHandler>>>>, u16);

impl net::Serving for Bound {
    fn local_address(&self) -> SocketAddr {
        (address(), self.1).into()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn address() -> IpAddr {
    Ipv4Addr::new(10, 32, 0, 5).into()
}

impl Net {
    pub fn handler(&self, port: u16) -> Option<Arc<dyn net::HttpHandler>> {
        self.ports.lock().get(&port).cloned()
    }

    /// GET as a function call.
    pub async fn get(&self, port: u16, path: &str) -> (u16, String) {
        let handler = self.handler(port).expect("nobody serves there");
        let response = handler.call(request(path), peer()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        (status, body.map_or_else(|error| format!("cut: {error}"), |body| String::from_utf8_lossy(&body).into_owned()))
    }
}

pub fn peer() -> net::Peer {
    net::Peer { address: ([10, 32, 0, 1], 40_000).into(), via: net::Via::NodePort }
}

pub fn request(path: &str) -> net::Request {
    let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
    http::Request::get(format!("http://hello{path}")).body(body).unwrap()
}

#[async_trait::async_trait]
impl Sockets for Net {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![address()]
    }

    async fn bind(&self, at: SocketAddr) -> net::Result<Box<dyn net::BoundPort>> {
        Err(net::Error::NotAvailable(at))
    }

    async fn connect(&self, to: SocketAddr) -> net::Result<(net::Stream, SocketAddr)> {
        Err(net::Error::Refused(to.to_string()))
    }

    async fn bind_udp(&self, at: SocketAddr) -> net::Result<Box<dyn net::Datagrams>> {
        Err(net::Error::NotAvailable(at))
    }

    async fn resolve(&self, name: &str) -> net::Result<Vec<IpAddr>> {
        Err(net::Error::NoSuchHost(name.to_string()))
    }

    async fn http(&self, request: net::Request) -> net::Result<net::Response> {
        if self.ports.lock().contains_key(&9) {
            return Err(net::Error::Denied("10.0.0.1 is not allowed: pass --allow-egress".into()));
        }
        let circle = self.circle.lock().clone();
        if let Some(circle) = circle {
            circle.wait().await;
            let handler = self.handler(80).unwrap();
            let mut request = request;
            *request.uri_mut() = http::Uri::from_static("/");
            return handler.call(request, net::Peer { via: net::Via::Pod, ..peer() }).await;
        }
        let mut text = format!("{} {} {:?}", request.method(), request.uri(), request.headers().get("host").unwrap());
        if let Some(trace) = request.headers().get("traceparent") {
            text += &format!(" {}", trace.to_str().unwrap());
        }
        let body = http_body_util::Full::from(text).map_err(|never: std::convert::Infallible| match never {});
        Ok(http::Response::builder().status(418).body(body.boxed_unsync()).unwrap())
    }

    async fn serve_http(&self, port: u16, handler: Arc<dyn net::HttpHandler>) -> net::Result<Box<dyn net::Serving>> {
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.0.notify_one();
            gate.1.notified().await;
        }
        let mut ports = self.ports.lock();
        if ports.contains_key(&port) {
            return Err(net::Error::AddressInUse((address(), port).into()));
        }
        ports.insert(port, handler);
        Ok(Box::new(Bound(self.ports.clone(), port)))
    }
}

/// One node with one pod.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub runtime: Wasmtime,
    pub net: Arc<Net>,
    pub sandbox: SandboxId,
    count: AtomicU32,
}

impl Drop for Node {
    /// Handlers hold the network that holds them.
    fn drop(&mut self) {
        let ports = std::mem::take(&mut *self.net.ports.lock());
        drop(ports);
    }
}

/// This test program again; the test named `compile_child` in it is the compiler.
pub fn compiler() -> Compiler {
    let args = ["--ignored", "--exact", "compile_child", "--nocapture"].map(Into::into).to_vec();
    Compiler::new(std::env::current_exe().unwrap(), args)
}

pub fn options(folder: &Path) -> Options {
    let clock = Clock::new(SystemTime::now);
    let mut options = Options::new(folder.join("cache"), [1; 32], compiler(), 2, clock);
    // the address space of the process is for the nodes of all tests
    options.pool = PoolOptions { pooled: 64, unpooled: 256 };
    options
}

impl Node {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        change(&mut options);
        let (runtime, net, sandbox): (_, _, SandboxId) =
            (Wasmtime::new(options), Arc::new(Net::default()), "pod".into());
        let node = Self { folder, runtime, net, sandbox: sandbox.clone(), count: AtomicU32::new(0) };
        let spec = SandboxSpec {
            id: sandbox,
            hostname: "pod".into(),
            labels: Default::default(),
            limits: Limits::default(),
            network: Default::default(),
            folders: Vec::new(),
            linux: Default::default(),
        };
        node.runtime.sandbox(spec, node.net.clone()).await.unwrap();
        node
    }

    pub fn artifact(&self, wasm: &[u8]) -> Artifact {
        let hash = hex::encode(Sha256::digest(wasm));
        let path = self.folder.path().join(&hash);
        std::fs::write(&path, wasm).unwrap();
        Artifact::Wasm { path, digest: format!("sha256:{hash}"), files: None }
    }

    pub fn spec(&self, wasm: &[u8]) -> ContainerSpec {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        ContainerSpec {
            id: format!("container-{number}").into(),
            name: "main".into(),
            artifact: self.artifact(wasm),
            args: vec![],
            env: vec![],
            cwd: None,
            root: RootFolder::Absent,
            mounts: vec![],
            ports: vec![Port { name: "http".into(), number: 80, protocol: Protocol::Tcp }],
            limits: Limits::default(),
            log: self.log_path(number),
            core_dump: false,
            http: HttpPolicy::default(),
            stdin: Stdin::Empty,
            tty: false,
            linux: None,
        }
    }

    fn log_path(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("logs/container-{number}/0.log"))
    }

    /// Prepares, creates and starts.
    pub async fn start(&self, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        let _prepared = self.runtime.prepare(&spec.artifact, "", &|_| ()).await.unwrap();
        self.runtime.create(&self.sandbox, spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    pub async fn state(&self, id: &ContainerId) -> ContainerState {
        self.runtime.list().await.unwrap().into_iter().find(|status| status.id == *id).unwrap().state
    }

    /// Waits for the end.
    pub async fn exit(&self, id: &ContainerId) -> Exit {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                if let ContainerState::Exited(exit) = self.state(id).await {
                    return exit;
                }
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it does not end")
    }

    pub async fn run(&self, spec: ContainerSpec) -> Exit {
        let id = self.start(spec).await;
        self.exit(&id).await
    }

    /// The texts of a container's log, without time stamps, once `done` holds for them.
    pub async fn log(&self, id: &ContainerId, done: impl Fn(&str) -> bool) -> String {
        let number = id.strip_prefix("container-").unwrap().parse().unwrap();
        let read = async {
            loop {
                let text = std::fs::read_to_string(self.log_path(number)).unwrap_or_default();
                // The last line may be half written.
                let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                let text: String = whole.filter_map(|line| Some(line.split_once(' ')?.1)).collect();
                if done(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the log does not say that")
    }
}
