//! The interface of the pod network.
//!
//! [`Network`] provides the [`Sockets`] of each pod; all bind, connect, resolve and HTTP calls of a guest use them.
//! [`Dialer`] connects the cluster to pods: probes, node ports, port-forward, the API server's proxy. The interface consists of plain data and
//! byte streams, so that it fits virtual mode (pod addresses exist only in this process), kernel mode and an isolated child process.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Any error inside a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed HTTP body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An HTTP request with a streamed body.
pub type Request = http::Request<Body>;

/// An HTTP response with a streamed body.
pub type Response = http::Response<Body>;

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed byte stream.
pub type Stream = Box<dyn Io>;

/// A connection that may move between thread pools: a socket is handed over without its reactor registration.
pub enum Connection {
    /// A non-blocking TCP socket of the host.
    Tcp(std::net::TcpStream),
    /// An in-memory pipe or anything else.
    Stream(Stream),
}

/// An error of the network. The variants are those that a guest can distinguish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// Nothing listens at the address, or the Service has no ready endpoint.
    #[error("connection refused: {0}")]
    Refused(String),
    /// The port is in use.
    #[error("address in use: {0}")]
    AddressInUse(SocketAddr),
    /// Not an address of this pod.
    #[error("cannot bind {0}: it is not an address of this pod")]
    NotAvailable(SocketAddr),
    /// The egress rules or a policy forbid the call; the text says what to do.
    #[error("{0}")]
    Denied(String),
    /// The name does not exist.
    #[error("no such host: {0}")]
    NoSuchHost(String),
    /// No answer in time.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// There is no route.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// This network does not support the call.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer closed the connection.
    #[error("connection reset: {0}")]
    Reset(String),
    /// A limit (sockets, buffers) is reached.
    #[error("too many: {0}")]
    Exhausted(String),
}

/// Result of a network call.
pub type Result<T> = std::result::Result<T, Error>;

/// The peer of a connection, as guests see it and policies use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Source address: a pod's or, from outside, the node's internal address.
    pub address: SocketAddr,
    /// The route of the connection.
    pub via: Via,
}

/// The route by which a connection or request reaches a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// From a pod.
    Pod,
    /// From the cluster itself: a probe. It is served regardless of waiting requests.
    Cluster,
    /// By a node port that is reachable only from this machine, by every program on it, including pages of any site in the user's browser.
    /// The text is the command that opens the port to other sites.
    Loopback(Arc<str>),
    /// By a node port that other machines reach too, or whose Service accepts requests of any site.
    NodePort,
}

/// An HTTP server in this process: a guest that exports an HTTP handler.
#[async_trait::async_trait]
pub trait HttpHandler: Send + Sync + 'static {
    /// Serves one request by a function call. The future may be polled on any runtime; the handler runs guests on its own threads. Dropping the
    /// future cancels the request.
    async fn call(&self, request: Request, peer: Peer) -> Result<Response>;

    /// Takes over a whole connection and serves HTTP/1.1 (and HTTP/2 by prior knowledge) on it until it ends, on the handler's
    /// own threads: no hop between pools per request.
    fn serve(&self, connection: Connection, peer: Peer);
}

/// A TCP port that a pod has bound without listening: connections are refused. Dropping it frees the port.
#[async_trait::async_trait]
pub trait BoundPort: Send + Sync {
    /// Its local address; a requested port 0 has been replaced.
    fn local_address(&self) -> SocketAddr;
    /// Starts to listen.
    async fn listen(self: Box<Self>) -> Result<Box<dyn Listener>>;
    /// [`Sockets::connect`] from this port, which stays bound while the stream exists.
    async fn connect(self: Box<Self>, to: SocketAddr) -> Result<(Stream, SocketAddr)>;
}

/// A bound TCP listener of a pod. Dropping it unbinds.
#[async_trait::async_trait]
pub trait Listener: Send + Sync {
    /// Its local address; a requested port 0 has been replaced.
    fn local_address(&self) -> SocketAddr;
    /// The next connection with its peer. Cancel-safe.
    async fn accept(&self) -> Result<(Stream, SocketAddr)>;
}

/// A bound UDP socket of a pod. Dropping it unbinds. Datagrams that find its queue full are lost, as on any network.
#[async_trait::async_trait]
pub trait Datagrams: Send + Sync {
    /// Its local address.
    fn local_address(&self) -> SocketAddr;
    /// Sends one datagram.
    async fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<()>;
    /// The next datagram. Cancel-safe.
    async fn receive(&self) -> Result<(Bytes, SocketAddr)>;
}

/// The binding of an HTTP handler; dropping it unbinds. Calls in progress continue.
pub trait Serving: Send + Sync {
    /// Its local address.
    fn local_address(&self) -> SocketAddr;
}

/// The network as a pod sees it. `localhost` is the pod; in virtual mode, a bind creates no host socket.
#[async_trait::async_trait]
pub trait Sockets: Send + Sync + 'static {
    /// The pod's addresses, the primary first.
    fn addresses(&self) -> Vec<IpAddr>;

    /// Takes a TCP port on one of the pod's addresses, its loopback or the unspecified address; port 0 chooses one.
    async fn bind(&self, at: SocketAddr) -> Result<Box<dyn BoundPort>>;

    /// [`Sockets::bind`] and [`BoundPort::listen`].
    async fn listen(&self, at: SocketAddr) -> Result<Box<dyn Listener>> {
        self.bind(at).await?.listen().await
    }

    /// Connects to a pod, a Service or, where the egress rules allow, the outside. Returns the stream with its local address; its
    /// remote one is `to`, as the guest asked, also where a Service address picked a ready endpoint.
    async fn connect(&self, to: SocketAddr) -> Result<(Stream, SocketAddr)>;

    /// Binds a UDP socket.
    async fn bind_udp(&self, at: SocketAddr) -> Result<Box<dyn Datagrams>>;

    /// Resolves a name with the pod's search path (`hello`, `hello.default`, `hello.default.svc.cluster.local`, `hostAliases`),
    /// then outside. All addresses, IPv4 first. A literal address is itself, `localhost` the pod.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>>;

    /// Performs an outgoing HTTP request (absolute URI, `http` or `https`): names, egress rules, load balancing and TLS are the
    /// network's. A redirect is returned, not followed.
    async fn http(&self, request: Request) -> Result<Response>;

    /// Serves HTTP on a port of the pod. The second handler on a port fails with [`Error::AddressInUse`].
    async fn serve_http(&self, port: u16, handler: Arc<dyn HttpHandler>) -> Result<Box<dyn Serving>>;
}

/// The transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a pod (`hostPort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host, or an unspecified one for that of the node.
    pub at: SocketAddr,
    /// The pod's port.
    pub to: u16,
}

/// The data of a pod to attach.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// The pod's uid.
    pub id: Arc<str>,
    /// Its name, for messages.
    pub name: String,
    /// Its namespace, in which short names are resolved first.
    pub namespace: String,
    /// Its host name.
    pub hostname: String,
    /// Its address before a restart of the agent, kept if it is free.
    pub address: Option<IpAddr>,
    /// `hostAliases`: address and names.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// Ports of the host that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Whether processes run in it, which need a network namespace of the kernel.
    pub kernel: bool,
}

/// What network the processes of a pod are in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sandbox {
    /// In this process only: guests use the pod's [`Sockets`], and no socket of the host.
    #[default]
    Virtual,
    /// A network namespace of the kernel, given by its absolute path. The pod's [`Sockets`] are in it.
    Namespace(PathBuf),
    /// The host's own, of processes that ask for it. Guests of the pod have [`Sockets`] as in a virtual one.
    Host,
}

/// An attached pod.
#[derive(Clone)]
pub struct Attachment {
    /// Where it is.
    pub sandbox: Sandbox,
    /// Its addresses, the primary first.
    pub addresses: Vec<IpAddr>,
    /// Its view.
    pub sockets: Arc<dyn Sockets>,
}

/// Attaches pods to the network.
#[async_trait::async_trait]
pub trait Network: Send + Sync + 'static {
    /// Attaches a pod. Idempotent by id: the same pod gets the same address and sockets. One that was attached without the
    /// [kernel](PodNetwork::kernel) and needs it now gets others; one that has a namespace keeps it.
    ///
    /// # Errors
    /// No address is free, or another program has a port of the host; of a pod that needs the kernel, [`Error::Unsupported`] where this machine or network has no namespaces.
    async fn attach(&self, pod: PodNetwork) -> Result<Attachment>;
    /// Frees the pod's address and closes its sockets. Idempotent.
    async fn detach(&self, id: &str);
    /// The sockets of an attached pod. Port-forward connects to its loopback by them.
    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>>;
    /// Ids and primary addresses of all attached pods.
    fn list(&self) -> Vec<(Arc<str>, IpAddr)>;
}

/// Connects the cluster to pods and Services, regardless of egress rules: for probes, node ports, port-forward, webhooks and the API server's
/// proxy.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A byte stream to `address:port` of a pod or Service.
    async fn connect(&self, to: SocketAddr) -> Result<Stream>;
    /// Whether something listens at the address, for TCP probes. Runs no guest code of HTTP handlers.
    async fn reachable(&self, to: SocketAddr) -> Result<()>;
    /// Sends one HTTP request to a pod or Service, without TLS.
    async fn http(&self, to: SocketAddr, request: Request) -> Result<Response>;
    /// Passes an accepted connection to the pod at `to`: to an HTTP handler as a whole, otherwise as bytes.
    async fn hand_over(&self, connection: Connection, peer: Peer, to: SocketAddr) -> Result<()>;
}
