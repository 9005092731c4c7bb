//! An in-memory pod network: pipes between pods and sequential addresses, without Services and without access to the outside.

use super::lock;
use crate::net::{
    Attachment, Body, BoundPort, Connection, Datagrams, Dialer, Error, HttpHandler, Listener, Network, Peer,
    PodNetwork, Request, Response, Result, Sandbox, Serving, Sockets, Stream, Via,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// The buffer size of a pipe in bytes.
const PIPE_BUFFER: usize = 64 << 10;
/// The number of waiting connections or datagrams.
const BACKLOG: usize = 16;
/// The first ephemeral port.
const FIRST_EPHEMERAL_PORT: u16 = 40_000;
/// The source address of the cluster's own connections.
const NODE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 32, 0, 1));

type Answer = Arc<dyn Fn(&http::Request<()>) -> (u16, Vec<(String, String)>) + Send + Sync>;

/// An in-memory network. Cheap to clone.
#[derive(Clone, Default)]
pub struct FakeNetwork(Arc<Inner>);

#[derive(Default)]
struct Inner {
    pods: Mutex<BTreeMap<Arc<str>, Arc<Pod>>>,
    answers: Mutex<HashMap<u16, Answer>>,
    no_namespaces: AtomicBool,
}

struct Pod {
    spec: PodNetwork,
    address: IpAddr,
    tcp: Mutex<BTreeMap<u16, (bool, Bound)>>,
    udp: Mutex<BTreeMap<u16, (bool, Inbox)>>,
}

/// The queue of datagrams for a UDP port, each with its sender's address.
type Inbox = mpsc::Sender<(Bytes, SocketAddr)>;

/// What uses a TCP port. Tables also store whether it is bound to the loopback address only.
#[derive(Clone)]
enum Bound {
    Nothing,
    Listener(mpsc::Sender<(Stream, SocketAddr)>),
    Http(Arc<dyn HttpHandler>),
}

impl FakeNetwork {
    /// Answers HTTP requests of the cluster to this port of any pod with a status and headers.
    pub fn answer(
        &self,
        port: u16,
        with: impl Fn(&http::Request<()>) -> (u16, Vec<(String, String)>) + Send + Sync + 'static,
    ) {
        lock(&self.0.answers).insert(port, Arc::new(with));
    }

    /// From now on it has no namespaces for pods, as a machine that forbids them.
    pub fn refuse_namespaces(&self) {
        self.0.no_namespaces.store(true, Ordering::Relaxed);
    }

    /// Whether an attached pod has a namespace of the kernel.
    pub fn has_namespace(&self, id: &str) -> bool {
        lock(&self.0.pods).get(id).is_some_and(|pod| pod.spec.kernel)
    }

    /// Removes the answer of a port.
    pub fn remove_answer(&self, port: u16) {
        lock(&self.0.answers).remove(&port);
    }

    /// Finds the pod with an address, and whether the loopback address is used.
    fn resolve_target(&self, from: Option<&Arc<Pod>>, to: IpAddr) -> Result<(Arc<Pod>, bool)> {
        match from {
            Some(pod) if to.is_loopback() => Ok((pod.clone(), true)),
            _ => {
                let pods = lock(&self.0.pods);
                let pod = pods.values().find(|pod| pod.address == to).cloned();
                Ok((pod.ok_or_else(|| Error::Unreachable(format!("no pod has the address {to}")))?, false))
            }
        }
    }

    /// What is bound to the target.
    fn bound(&self, from: Option<&Arc<Pod>>, to: SocketAddr) -> Result<Bound> {
        let (pod, by_loopback) = self.resolve_target(from, to.ip())?;
        match lock(&pod.tcp).get(&to.port()) {
            None | Some((_, Bound::Nothing)) => Err(Error::Refused(to.to_string())),
            Some((true, _)) if !by_loopback => Err(Error::Refused(to.to_string())),
            Some((_, bound)) => Ok(bound.clone()),
        }
    }

    async fn open(&self, from: Option<&Arc<Pod>>, to: SocketAddr, peer: Peer) -> Result<Stream> {
        let bound = self.bound(from, to)?;
        let (near, far) = tokio::io::duplex(PIPE_BUFFER);
        match bound {
            Bound::Nothing => return Err(Error::Refused(to.to_string())),
            Bound::Listener(queue) => {
                let queued = queue.send((Box::new(far), peer.address)).await;
                queued.map_err(|_| Error::Refused(to.to_string()))?;
            }
            Bound::Http(handler) => handler.serve(Connection::Stream(Box::new(far)), peer),
        }
        Ok(Box::new(near))
    }

    async fn call(&self, from: Option<&Arc<Pod>>, to: SocketAddr, peer: Peer, request: Request) -> Result<Response> {
        match self.bound(from, to)? {
            Bound::Http(handler) => handler.call(request, peer).await,
            _ => Err(Error::Unsupported("the fake network speaks HTTP to handlers only".into())),
        }
    }
}

fn cluster_peer() -> Peer {
    Peer { address: SocketAddr::new(NODE_ADDRESS, 0), via: Via::Cluster }
}

fn free_port<T>(taken: &BTreeMap<u16, T>) -> u16 {
    (FIRST_EPHEMERAL_PORT..u16::MAX).find(|port| !taken.contains_key(port)).unwrap_or(u16::MAX)
}

impl Pod {
    /// Checks a bind. Returns the address, and whether it is the loopback only.
    fn check_bind<T>(&self, at: SocketAddr, taken: &BTreeMap<u16, T>) -> Result<(SocketAddr, bool)> {
        let ip = at.ip();
        if !(ip.is_unspecified() || ip.is_loopback() || ip == self.address) {
            return Err(Error::NotAvailable(at));
        }
        let at = SocketAddr::new(ip, if at.port() == 0 { free_port(taken) } else { at.port() });
        if taken.contains_key(&at.port()) { Err(Error::AddressInUse(at)) } else { Ok((at, ip.is_loopback())) }
    }

    fn bind(self: &Arc<Self>, at: SocketAddr, bound: Bound) -> Result<Port> {
        let mut tcp = lock(&self.tcp);
        let (at, loopback) = self.check_bind(at, &tcp)?;
        tcp.insert(at.port(), (loopback, bound));
        Ok(Port { pod: self.clone(), at, network: None })
    }

    /// The source address of the pod's connections to `to`.
    fn source(&self, to: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(if to.is_loopback() { to } else { self.address }, port)
    }
}

/// A TCP port that is in use until this is dropped.
struct Port {
    pod: Arc<Pod>,
    at: SocketAddr,
    network: Option<FakeNetwork>,
}

impl Drop for Port {
    fn drop(&mut self) {
        lock(&self.pod.tcp).remove(&self.at.port());
    }
}

impl Serving for Port {
    fn local_address(&self) -> SocketAddr {
        self.at
    }
}

#[async_trait::async_trait]
impl BoundPort for Port {
    fn local_address(&self) -> SocketAddr {
        self.at
    }

    async fn listen(self: Box<Self>) -> Result<Box<dyn Listener>> {
        let (sender, queue) = mpsc::channel(BACKLOG);
        match lock(&self.pod.tcp).get_mut(&self.at.port()) {
            Some((_, bound)) => *bound = Bound::Listener(sender),
            None => return Err(detached()),
        }
        Ok(Box::new(FakeListener { port: *self, queue: AsyncMutex::new(queue) }))
    }

    async fn connect(self: Box<Self>, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let network = self.network.clone().unwrap_or_default();
        let local = self.pod.source(to.ip(), self.at.port());
        let stream = network.open(Some(&self.pod), to, Peer { address: local, via: Via::Pod }).await?;
        Ok((stream, local))
    }
}

fn detached() -> Error {
    Error::Reset("the pod has left the network".into())
}

struct FakeListener {
    port: Port,
    queue: AsyncMutex<mpsc::Receiver<(Stream, SocketAddr)>>,
}

#[async_trait::async_trait]
impl Listener for FakeListener {
    fn local_address(&self) -> SocketAddr {
        self.port.at
    }

    async fn accept(&self) -> Result<(Stream, SocketAddr)> {
        self.queue.lock().await.recv().await.ok_or_else(detached)
    }
}

struct FakeDatagrams {
    network: FakeNetwork,
    pod: Arc<Pod>,
    at: SocketAddr,
    queue: AsyncMutex<mpsc::Receiver<(Bytes, SocketAddr)>>,
}

impl Drop for FakeDatagrams {
    fn drop(&mut self) {
        lock(&self.pod.udp).remove(&self.at.port());
    }
}

#[async_trait::async_trait]
impl Datagrams for FakeDatagrams {
    fn local_address(&self) -> SocketAddr {
        self.at
    }

    async fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<()> {
        let (pod, by_loopback) = self.network.resolve_target(Some(&self.pod), to.ip())?;
        if let Some((loopback, queue)) = lock(&pod.udp).get(&to.port())
            && (by_loopback || !loopback)
        {
            // A full queue drops datagrams, as on any network.
            let _ = queue.try_send((data, self.pod.source(to.ip(), self.at.port())));
        }
        Ok(())
    }

    async fn receive(&self) -> Result<(Bytes, SocketAddr)> {
        self.queue.lock().await.recv().await.ok_or_else(detached)
    }
}

struct FakeSockets {
    network: FakeNetwork,
    pod: Arc<Pod>,
}

#[async_trait::async_trait]
impl Sockets for FakeSockets {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.pod.address]
    }

    async fn bind(&self, at: SocketAddr) -> Result<Box<dyn BoundPort>> {
        let mut port = self.pod.bind(at, Bound::Nothing)?;
        port.network = Some(self.network.clone());
        Ok(Box::new(port))
    }

    async fn connect(&self, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let local = self.pod.source(to.ip(), free_port(&lock(&self.pod.tcp)));
        let stream = self.network.open(Some(&self.pod), to, Peer { address: local, via: Via::Pod }).await?;
        Ok((stream, local))
    }

    async fn bind_udp(&self, at: SocketAddr) -> Result<Box<dyn Datagrams>> {
        let (sender, queue) = mpsc::channel(BACKLOG);
        let mut udp = lock(&self.pod.udp);
        let (at, loopback) = self.pod.check_bind(at, &udp)?;
        udp.insert(at.port(), (loopback, sender));
        let (network, pod) = (self.network.clone(), self.pod.clone());
        Ok(Box::new(FakeDatagrams { network, pod, at, queue: AsyncMutex::new(queue) }))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        if let Ok(literal) = name.parse() {
            return Ok(vec![literal]);
        }
        if name == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        let spec = &self.pod.spec;
        let alias = spec.host_aliases.iter().filter(|(_, names)| names.iter().any(|n| n == name)).map(|(ip, _)| *ip);
        let found: Vec<_> = alias.chain((spec.hostname == name).then_some(self.pod.address)).collect();
        if found.is_empty() { Err(Error::NoSuchHost(name.to_owned())) } else { Ok(found) }
    }

    async fn http(&self, request: Request) -> Result<Response> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let ip = match host.parse() {
            Ok(ip) => ip,
            Err(_) => self.resolve(&host).await?.into_iter().next().ok_or(Error::NoSuchHost(host))?,
        };
        let to = SocketAddr::new(ip, request.uri().port_u16().unwrap_or(80));
        let peer = Peer { address: self.pod.source(ip, 0), via: Via::Pod };
        self.network.call(Some(&self.pod), to, peer, request).await
    }

    async fn serve_http(&self, port: u16, handler: Arc<dyn HttpHandler>) -> Result<Box<dyn Serving>> {
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        Ok(Box::new(self.pod.bind(at, Bound::Http(handler))?))
    }
}

#[async_trait::async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, spec: PodNetwork) -> Result<Attachment> {
        if spec.kernel && self.0.no_namespaces.load(Ordering::Relaxed) {
            return Err(Error::Unsupported("this machine has no namespaces".into()));
        }
        let mut pods = lock(&self.0.pods);
        let pod = match pods.get(&spec.id) {
            Some(pod) if pod.spec.kernel || !spec.kernel => pod.clone(),
            _ => {
                let taken: BTreeSet<IpAddr> = pods.values().map(|pod| pod.address).collect();
                let first = |n: u8| IpAddr::V4(Ipv4Addr::new(10, 32, 0, n));
                let wanted = spec.address.filter(|a| !taken.contains(a));
                let free = wanted.or_else(|| (2..=254).map(first).find(|a| !taken.contains(a)));
                let Some(address) = free else { return Err(Error::Exhausted("pod addresses".into())) };
                let pod = Arc::new(Pod { spec, address, tcp: Mutex::default(), udp: Mutex::default() });
                pods.insert(pod.spec.id.clone(), pod.clone());
                pod
            }
        };
        let addresses = vec![pod.address];
        let sandbox = match pod.spec.kernel {
            // any will do
            true => Sandbox::Namespace("/proc/self/ns/net".into()),
            false => Sandbox::Virtual,
        };
        let sockets = Arc::new(FakeSockets { network: self.clone(), pod });
        Ok(Attachment { addresses, sockets, sandbox })
    }

    async fn detach(&self, id: &str) {
        let Some(pod) = lock(&self.0.pods).remove(id) else { return };
        lock(&pod.tcp).clear();
        lock(&pod.udp).clear();
    }

    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>> {
        let pod = lock(&self.0.pods).get(id).cloned()?;
        Some(Arc::new(FakeSockets { network: self.clone(), pod }))
    }

    fn list(&self) -> Vec<(Arc<str>, IpAddr)> {
        lock(&self.0.pods).iter().map(|(id, pod)| (id.clone(), pod.address)).collect()
    }
}

#[async_trait::async_trait]
impl Dialer for FakeNetwork {
    async fn connect(&self, to: SocketAddr) -> Result<Stream> {
        self.open(None, to, cluster_peer()).await
    }

    async fn reachable(&self, to: SocketAddr) -> Result<()> {
        let answered = lock(&self.0.answers).contains_key(&to.port());
        if answered { Ok(()) } else { self.bound(None, to).map(drop) }
    }

    async fn http(&self, to: SocketAddr, request: Request) -> Result<Response> {
        let answer = lock(&self.0.answers).get(&to.port()).cloned();
        let Some(answer) = answer else { return self.call(None, to, cluster_peer(), request).await };
        let (parts, _body) = request.into_parts();
        let (status, headers) = answer(&http::Request::from_parts(parts, ()));
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let body = Body::new(Full::new(Bytes::new()).map_err(|never| match never {}));
        response.body(body).map_err(|e| Error::Protocol(e.to_string()))
    }

    async fn hand_over(&self, connection: Connection, peer: Peer, to: SocketAddr) -> Result<()> {
        if let Bound::Http(handler) = self.bound(None, to)? {
            handler.serve(connection, peer);
            return Ok(());
        }
        let mut far = self.open(None, to, peer).await?;
        let mut near: Stream = match connection {
            Connection::Stream(stream) => stream,
            Connection::Tcp(socket) => {
                Box::new(tokio::net::TcpStream::from_std(socket).map_err(|e| Error::Reset(e.to_string()))?)
            }
        };
        // The end of either side ends both.
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        Ok(())
    }
}
