//! The view of a pod that has a network namespace: its sockets are in it, for guests of this process that share a pod with containers. Services
//! and the way out are the kernel's, as for the containers.

use super::{error_at, v4, without_delay};
use crate::{
    http,
    network::VirtualNetwork,
    pod::{Bound, Guarded, Lease, Pod},
    sockets::mapped,
};
use bytes::Bytes;
use container::net::{
    BoundPort, Connection, Datagrams, Error, HttpHandler, Listener, Peer, Request, Response, Result, Serving, Sockets,
    Stream, Via,
};
use netns::{Node, Place, connect_bound, listen_bound};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The largest datagram.
const MAX_DATAGRAM: usize = 65_507;

/// The delay after a failed accept, mostly out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct NamespaceSockets {
    network: VirtualNetwork,
    pod: Arc<Pod>,
}

impl NamespaceSockets {
    pub(crate) fn new(network: VirtualNetwork, pod: Arc<Pod>) -> Self {
        Self { network, pod }
    }

    fn node(&self) -> Result<&Node> {
        let gone = || Error::Reset(format!("pod {} has left the network", self.pod.label()));
        let there = self.network.inner.kernel.get().filter(|_| !self.pod.left.is_cancelled());
        there.map(|kernel| &kernel.node).ok_or_else(gone)
    }

    fn place(&self) -> Place<'_> {
        Place::Pod(&self.pod.spec.id)
    }

    /// Limits a connect.
    async fn in_time(&self, to: SocketAddr, work: impl Future<Output = netns::Result<TcpStream>>) -> Result<TcpStream> {
        in_time(self.network.inner.config.limits.connect_timeout, to, work).await
    }

    /// The address to bind, which must be the pod's.
    fn own(&self, at: SocketAddr) -> Result<SocketAddrV4> {
        if self.pod.is_self(at.ip()) { v4(at) } else { Err(Error::NotAvailable(at)) }
    }

    async fn take(&self, at: SocketAddr) -> Result<NamespacePort> {
        let wanted = self.own(at)?;
        let permit = self.pod.permit()?;
        let socket = self.node()?.bind(self.place(), wanted).await.map_err(|error| error_at(error, at))?;
        let local = local_of(&socket, at)?;
        let limit = self.network.inner.config.limits.connect_timeout;
        Ok(NamespacePort { pod: self.pod.clone(), socket, local, permit, limit })
    }
}

async fn in_time(
    limit: Duration,
    to: SocketAddr,
    work: impl Future<Output = netns::Result<TcpStream>>,
) -> Result<TcpStream> {
    let done = timeout(limit, work).await.map_err(|_| Error::TimedOut(format!("connect to {to}")))?;
    done.map(without_delay).map_err(|error| error_at(error, to))
}

/// The address that a socket got, as it was asked for.
fn local_of(socket: &OwnedFd, asked: SocketAddr) -> Result<SocketAddr> {
    let socket = socket.try_clone().map(std::net::TcpListener::from);
    let got = socket.and_then(|socket| socket.local_addr()).map_err(|error| error_at(error.into(), asked))?;
    Ok(SocketAddr::new(asked.ip(), got.port()))
}

#[async_trait::async_trait]
impl Sockets for NamespaceSockets {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.pod.address]
    }

    async fn bind(&self, at: SocketAddr) -> Result<Box<dyn BoundPort>> {
        Ok(Box::new(self.take(at).await?))
    }

    async fn connect(&self, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let (permit, wanted) = (self.pod.permit()?, v4(to)?);
        let stream = self.in_time(to, self.node()?.connect(self.place(), None, wanted)).await?;
        let local = stream.local_addr().map_err(|error| error_at(error.into(), to))?;
        Ok((Box::new(Guarded::new(stream, permit)), mapped(local, to)))
    }

    async fn bind_udp(&self, at: SocketAddr) -> Result<Box<dyn Datagrams>> {
        let (permit, wanted) = (self.pod.permit()?, self.own(at)?);
        let socket = self.node()?.bind_udp(self.place(), wanted).await.map_err(|error| error_at(error, at))?;
        let got = socket.local_addr().map_err(|error| error_at(error.into(), at))?;
        let local = SocketAddr::new(at.ip(), got.port());
        Ok(Box::new(NamespaceDatagrams { pod: self.pod.clone(), socket, local, _permit: permit }))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        self.network.inner.resolve(name, &self.pod).await
    }

    async fn http(&self, request: Request) -> Result<Response> {
        let permit = self.pod.permit()?;
        http::outgoing(&self.network.inner, &self.pod, request, permit).await
    }

    async fn serve_http(&self, port: u16, handler: Arc<dyn HttpHandler>) -> Result<Box<dyn Serving>> {
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        // the kernel's for containers and other pods with a namespace, and ours for calls in this process
        let (taken, local) = self.take(at).await.map(|taken| (taken.socket, taken.local))?;
        let lease = self.pod.bind_tcp(local, Bound::Http(handler.clone()))?;
        let listener = listen_bound(taken).map_err(|error| error_at(error.into(), at))?;
        let node = self.network.node_internal();
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await.and_then(|(stream, from)| Ok((without_delay(stream).into_std()?, from))) {
                    Ok((socket, address)) => {
                        let via = if address.ip() == node { Via::Cluster } else { Via::Pod };
                        handler.serve(Connection::Tcp(socket), Peer { address, via });
                    }
                    Err(_) => sleep(PAUSE).await,
                }
            }
        });
        Ok(Box::new(NamespaceServing { lease, _task: AbortOnDropHandle::new(task) }))
    }
}

struct NamespaceServing {
    lease: Lease,
    _task: AbortOnDropHandle<()>,
}

impl Serving for NamespaceServing {
    fn local_address(&self) -> SocketAddr {
        self.lease.local
    }
}

struct NamespacePort {
    pod: Arc<Pod>,
    socket: OwnedFd,
    local: SocketAddr,
    permit: OwnedSemaphorePermit,
    limit: Duration,
}

#[async_trait::async_trait]
impl BoundPort for NamespacePort {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    async fn listen(self: Box<Self>) -> Result<Box<dyn Listener>> {
        let Self { pod, socket, local, permit, .. } = *self;
        let listener = listen_bound(socket).map_err(|error| error_at(error.into(), local))?;
        Ok(Box::new(NamespaceListener { pod, listener, local, _permit: permit }))
    }

    async fn connect(self: Box<Self>, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let Self { socket, permit, limit, .. } = *self;
        let wanted = v4(to)?;
        let connect = async move { connect_bound(socket, wanted).await.map_err(netns::Error::from) };
        let stream = in_time(limit, to, connect).await?;
        let local = stream.local_addr().map_err(|error| error_at(error.into(), to))?;
        Ok((Box::new(Guarded::new(stream, permit)), mapped(local, to)))
    }
}

struct NamespaceListener {
    pod: Arc<Pod>,
    listener: TcpListener,
    local: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

/// What waits for a pod that has left.
fn left(pod: &Pod) -> Error {
    Error::Reset(format!("pod {} has left the network", pod.label()))
}

#[async_trait::async_trait]
impl Listener for NamespaceListener {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    async fn accept(&self) -> Result<(Stream, SocketAddr)> {
        loop {
            let accepted = self.pod.left.run_until_cancelled(self.listener.accept()).await;
            match accepted.ok_or_else(|| left(&self.pod))? {
                Ok((stream, peer)) => {
                    // beyond its limit a connection is closed
                    if let Ok(permit) = self.pod.permit() {
                        let stream = Box::new(Guarded::new(without_delay(stream), permit));
                        return Ok((stream, mapped(peer, self.local)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(Error::Exhausted(format!("accept at {}: {error}", self.local))),
            }
        }
    }
}

struct NamespaceDatagrams {
    pod: Arc<Pod>,
    socket: UdpSocket,
    local: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

#[async_trait::async_trait]
impl Datagrams for NamespaceDatagrams {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    async fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<()> {
        if data.len() > MAX_DATAGRAM {
            return Err(Error::Unsupported(format!("a datagram of {} bytes", data.len())));
        }
        let sent = self.socket.send_to(&data, SocketAddr::from(v4(to)?)).await;
        sent.map(drop).map_err(|error| error_at(error.into(), to))
    }

    async fn receive(&self) -> Result<(Bytes, SocketAddr)> {
        loop {
            let ready = self.pod.left.run_until_cancelled(self.socket.readable()).await;
            ready.ok_or_else(|| left(&self.pod))?.map_err(|error| error_at(error.into(), self.local))?;
            let mut buffer = vec![0; MAX_DATAGRAM];
            match self.socket.try_recv_from(&mut buffer) {
                Ok((size, from)) => {
                    return Ok((Bytes::copy_from_slice(&buffer[..size]), mapped(from, self.local)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error_at(error.into(), self.local)),
            }
        }
    }
}
