//! The pod network as one seam.
//!
//! [`Network`] gives each pod its [`Sockets`]; a guest's bind, connect, resolve and HTTP calls go through them and nowhere else.
//! [`Dialer`] is the cluster's way to pods: probes, node ports, port-forward, the API server's proxy. All plain data and byte
//! streams, so that the same seam serves virtual mode (pod addresses exist only in here), kernel mode and an isolated child.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
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

/// Why the network refused. The variants are the ones a guest can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody listens there (or no ready endpoint behind a Service).
    #[error("connection refused: {0}")]
    Refused(String),
    /// The port is taken.
    #[error("address in use: {0}")]
    AddressInUse(SocketAddr),
    /// Not an address of this pod.
    #[error("cannot bind {0}: it is not an address of this pod")]
    NotAvailable(SocketAddr),
    /// The egress rules or a policy forbid it; says what to do.
    #[error("{0}")]
    Denied(String),
    /// The name does not exist.
    #[error("no such host: {0}")]
    NoSuchHost(String),
    /// No answer in time.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// No way there.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Not something this network does.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer went away.
    #[error("connection reset: {0}")]
    Reset(String),
    /// A bound (sockets, buffers) is reached.
    #[error("too many: {0}")]
    Exhausted(String),
}

/// Result of a network call.
pub type Result<T> = std::result::Result<T, Error>;

/// Who a connection comes from, as the guest may see it and policy decides on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Source address: a pod's or, from outside, the node's internal address.
    pub address: SocketAddr,
    /// By which way it came.
    pub via: Via,
}

/// The way by which a connection or request reaches a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// From a pod.
    Pod,
    /// From the cluster itself: a probe. It is served however many others wait.
    Cluster,
    /// By a port of the node that only this machine reaches: every program on it, the user's browser with pages of any site among them.
    /// The text is the command that opens the port to other sites.
    Loopback(Arc<str>),
    /// By a port of the node that others reach too, or one whose Service takes requests of any site.
    NodePort,
}

/// An HTTP server inside the process: a guest that exports an HTTP handler.
#[async_trait::async_trait]
pub trait HttpHandler: Send + Sync + 'static {
    /// One request: a call to a local component is a function call. The future may be polled on any runtime; the handler moves
    /// guest work to its own threads. Dropping the future cancels the request.
    async fn call(&self, request: Request, peer: Peer) -> Result<Response>;

    /// Takes over a whole connection and serves HTTP/1.1 (and HTTP/2 by prior knowledge) on it until it ends, on the handler's
    /// own threads: no hop between pools per request.
    fn serve(&self, connection: Connection, peer: Peer);
}

/// A TCP port that a pod has taken and does nothing with yet: whoever connects to it is refused. Dropping it frees the port.
#[async_trait::async_trait]
pub trait BoundPort: Send + Sync {
    /// Where it is bound; a requested port 0 is chosen by now.
    fn local_address(&self) -> SocketAddr;
    /// Listens here from now on.
    async fn listen(self: Box<Self>) -> Result<Box<dyn Listener>>;
    /// [`Sockets::connect`] from this port, which stays taken while the stream lives.
    async fn connect(self: Box<Self>, to: SocketAddr) -> Result<(Stream, SocketAddr)>;
}

/// A bound TCP listener of a pod. Dropping it unbinds.
#[async_trait::async_trait]
pub trait Listener: Send + Sync {
    /// Where it listens; a requested port 0 is chosen by now.
    fn local_address(&self) -> SocketAddr;
    /// The next connection with its peer. Cancel-safe.
    async fn accept(&self) -> Result<(Stream, SocketAddr)>;
}

/// A bound UDP socket of a pod. Dropping it unbinds. Datagrams that find its queue full are lost, as on any network.
#[async_trait::async_trait]
pub trait Datagrams: Send + Sync {
    /// Where it is bound.
    fn local_address(&self) -> SocketAddr;
    /// Sends one datagram.
    async fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<()>;
    /// The next datagram. Cancel-safe.
    async fn receive(&self) -> Result<(Bytes, SocketAddr)>;
}

/// Keeps an HTTP handler bound; dropping it unbinds (calls under way go on).
pub trait Serving: Send + Sync {
    /// Where it is bound.
    fn local_address(&self) -> SocketAddr;
}

/// A pod's own view of the network. `localhost` is the pod; binds never make a host socket in virtual mode.
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

/// A pod that wants a network.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// The pod's uid.
    pub id: Arc<str>,
    /// Its name, for messages.
    pub name: String,
    /// Its namespace: where short names are looked up first.
    pub namespace: String,
    /// Its host name.
    pub hostname: String,
    /// The address it had before a restart of the node agent: kept if still free.
    pub address: Option<IpAddr>,
    /// `hostAliases`: address and names.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
}

/// Where a pod's network is, which decides what may run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// In this process only: its guests have the pod's [`Sockets`] and nothing of the host.
    #[default]
    Virtual,
    /// A network namespace of the kernel, by the absolute path under which it can be entered. The pod's [`Sockets`] are in it.
    Namespace(PathBuf),
}

/// A pod on the network.
#[derive(Clone)]
pub struct Attachment {
    /// Where it is.
    pub sandbox: Sandbox,
    /// Its addresses, the primary first.
    pub addresses: Vec<IpAddr>,
    /// Its view.
    pub sockets: Arc<dyn Sockets>,
}

/// Gives pods their addresses and their view.
#[async_trait::async_trait]
pub trait Network: Send + Sync + 'static {
    /// Attaches a pod. Idempotent by id: the same pod gets the same address and view.
    async fn attach(&self, pod: PodNetwork) -> Result<Attachment>;
    /// Frees the pod's address and closes what it has open. Idempotent.
    async fn detach(&self, id: &str);
    /// The view of a pod, while it is attached: the way to what listens on its loopback, which is how its ports are forwarded.
    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>>;
    /// Ids and primary addresses of all attached pods.
    fn list(&self) -> Vec<(Arc<str>, IpAddr)>;
}

/// The cluster's way to pods and Services. Not bound by egress rules; used by probes, node ports, port-forward, webhooks, the
/// API server's proxy.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A byte stream to `address:port` of a pod or Service.
    async fn connect(&self, to: SocketAddr) -> Result<Stream>;
    /// Whether somebody listens there, without running any guest code for an HTTP handler (TCP probes).
    async fn reachable(&self, to: SocketAddr) -> Result<()>;
    /// One HTTP request to a pod or Service, no TLS.
    async fn http(&self, to: SocketAddr, request: Request) -> Result<Response>;
    /// Hands an accepted connection to whoever serves `to` (a pod's address): to an HTTP handler whole, else byte by byte.
    async fn hand_over(&self, connection: Connection, peer: Peer, to: SocketAddr) -> Result<()>;
}
