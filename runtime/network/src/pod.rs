//! A pod's sockets: what is bound to its ports, and the in-memory connections and datagrams that reach it.

use crate::config::Limits;
use bytes::Bytes;
use container::net::{Connection, Error, HttpHandler, Peer, PodNetwork, Result, Stream};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The first ephemeral port.
const FIRST_FREE_PORT: u16 = 32768;

/// From where a binding is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Its pod only.
    Loopback,
    /// From other pods, and from its own by the pod address.
    Pod,
    /// Both.
    Any,
}

impl Scope {
    fn meets(self, other: Self) -> bool {
        self == other || self == Self::Any || other == Self::Any
    }
}

/// The listener of a bound port.
#[derive(Clone)]
pub(crate) enum Bound {
    /// None: the port is only reserved.
    Nothing,
    Listener(mpsc::Sender<(Stream, SocketAddr)>),
    Http(Arc<dyn HttpHandler>),
    /// What the kernel has there: only a dial shows it.
    Kernel,
}

struct Binding<T> {
    id: u64,
    scope: Scope,
    value: T,
}

/// A datagram and its sender.
pub(crate) type Datagram = (Bytes, SocketAddr);

/// Where the datagrams of a UDP socket wait: bounded in number and in bytes. What finds it full is lost, as on any network.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// A datagram that waits. It has its bytes of the queue until it is dropped.
pub(crate) type Waiting = (Datagram, OwnedSemaphorePermit);

impl Inbox {
    pub(crate) fn new(limits: &Limits) -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(limits.datagrams.max(1));
        (Self { sender, room: Arc::new(Semaphore::new(limits.datagram_bytes)) }, receiver)
    }

    pub(crate) fn put(&self, datagram: Datagram) {
        // an empty one is an entry as well
        let bytes = u32::try_from(datagram.0.len().max(1)).unwrap_or(u32::MAX);
        if let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) {
            let _ = self.sender.try_send((datagram, room));
        }
    }

    /// The inbox as long as its socket is bound: the binding holds it.
    pub(crate) fn downgrade(&self) -> (mpsc::WeakSender<Waiting>, Arc<Semaphore>) {
        (self.sender.downgrade(), self.room.clone())
    }

    pub(crate) fn upgrade((sender, room): &(mpsc::WeakSender<Waiting>, Arc<Semaphore>)) -> Option<Self> {
        Some(Self { sender: sender.upgrade()?, room: room.clone() })
    }
}

struct Ports {
    tcp: HashMap<u16, Vec<Binding<Bound>>>,
    udp: HashMap<u16, Vec<Binding<Inbox>>>,
    closed: bool,
}

/// One pod on the network.
pub(crate) struct Pod {
    /// Where it needs the kernel it has a network namespace, and the ports here are only those of HTTP handlers in this process.
    pub(crate) spec: PodNetwork,
    pub(crate) address: IpAddr,
    pub(crate) limits: Limits,
    /// Cancelled when it leaves the network.
    pub(crate) left: CancellationToken,
    /// Told when what is bound changes.
    changed: Arc<Notify>,
    ports: Mutex<Ports>,
    next_id: AtomicU64,
    next_port: AtomicU16,
    /// Permits for listeners, UDP sockets and connections.
    sockets: Arc<Semaphore>,
    /// Permits for look-ups of outside names.
    pub(crate) lookups: Arc<Semaphore>,
}

/// The table of a binding.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Tcp,
    Udp,
}

/// Keeps a port bound until it is dropped.
pub(crate) struct Lease {
    pod: Arc<Pod>,
    table: Table,
    id: u64,
    pub(crate) local: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Starts to accept connections.
    pub(crate) fn listen(&self, backlog: mpsc::Sender<(Stream, SocketAddr)>) -> Result<()> {
        let mut ports = self.pod.ports.lock();
        let bindings = ports.tcp.get_mut(&self.local.port());
        let binding = bindings.and_then(|list| list.iter_mut().find(|binding| binding.id == self.id));
        binding.ok_or_else(|| self.pod.gone())?.value = Bound::Listener(backlog);
        self.pod.changed.notify_one();
        Ok(())
    }

    /// The source address of a connection from this port to `to`.
    pub(crate) fn source(&self, to: IpAddr) -> Result<SocketAddr> {
        if self.pod.ports.lock().closed {
            return Err(self.pod.gone());
        }
        let bound = crate::egress::unmap(self.local.ip());
        if bound.is_loopback() && !(to.is_loopback() || self.pod.is_self(to)) {
            return Err(Error::Unreachable(format!("{to}, from the loopback of pod {}", self.pod.label())));
        }
        let ip = if bound.is_unspecified() { self.pod.source(to).ip() } else { bound };
        Ok(SocketAddr::new(ip, self.local.port()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut ports = self.pod.ports.lock();
        let Ports { tcp, udp, .. } = &mut *ports;
        match self.table {
            Table::Tcp => remove(tcp, self.local.port(), self.id),
            Table::Udp => remove(udp, self.local.port(), self.id),
        }
        self.pod.changed.notify_one();
    }
}

fn remove<T>(map: &mut HashMap<u16, Vec<Binding<T>>>, port: u16, id: u64) {
    if let Some(list) = map.get_mut(&port) {
        list.retain(|binding| binding.id != id);
        if list.is_empty() {
            map.remove(&port);
        }
    }
}

impl Pod {
    /// A pod without sockets. `changed`: see the field.
    pub(crate) fn new(spec: PodNetwork, address: IpAddr, limits: Limits, changed: Arc<Notify>) -> Arc<Self> {
        let ports = Ports { tcp: HashMap::new(), udp: HashMap::new(), closed: false };
        Arc::new(Self {
            address,
            limits,
            spec,
            left: CancellationToken::new(),
            changed,
            ports: Mutex::new(ports),
            next_id: AtomicU64::new(0),
            next_port: AtomicU16::new(FIRST_FREE_PORT),
            sockets: Arc::new(Semaphore::new(limits.sockets_per_pod)),
            lookups: Arc::new(Semaphore::new(limits.lookups_per_pod)),
        })
    }

    /// The pod as messages name it.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// A permit for one more socket; refused after the pod has been detached.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit> {
        self.sockets.clone().try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => self.gone(),
            TryAcquireError::NoPermits => {
                Error::Exhausted(format!("pod {} has {} sockets open", self.label(), self.limits.sockets_per_pod))
            }
        })
    }

    fn gone(&self) -> Error {
        Error::Reset(format!("pod {} has left the network", self.label()))
    }

    fn scope(&self, at: IpAddr) -> Option<Scope> {
        let at = crate::egress::unmap(at);
        if at.is_unspecified() {
            Some(Scope::Any)
        } else if at.is_loopback() {
            Some(Scope::Loopback)
        } else {
            (at == self.address).then_some(Scope::Pod)
        }
    }

    /// Whether an address is the pod's own.
    pub(crate) fn is_self(&self, to: IpAddr) -> bool {
        self.scope(to).is_some()
    }

    /// The source address of a connection from this pod to `to`: loopback for loopback.
    pub(crate) fn source(&self, to: IpAddr) -> SocketAddr {
        let ip = match to {
            to if to.is_loopback() => to,
            to if to.is_unspecified() && to.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
            to if to.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            _ => self.address,
        };
        SocketAddr::new(ip, self.ephemeral())
    }

    fn ephemeral(&self) -> u16 {
        self.next_port.fetch_add(1, Ordering::Relaxed).max(FIRST_FREE_PORT)
    }

    pub(crate) fn bind_tcp(self: &Arc<Self>, at: SocketAddr, bound: Bound) -> Result<Lease> {
        let (local, id, permit) = self.bind(at, |ports| &mut ports.tcp, bound)?;
        Ok(Lease { pod: self.clone(), table: Table::Tcp, id, local, _permit: permit })
    }

    pub(crate) fn bind_udp(self: &Arc<Self>, at: SocketAddr, inbox: Inbox) -> Result<Lease> {
        let (local, id, permit) = self.bind(at, |ports| &mut ports.udp, inbox)?;
        Ok(Lease { pod: self.clone(), table: Table::Udp, id, local, _permit: permit })
    }

    fn bind<T>(
        &self,
        at: SocketAddr,
        table: fn(&mut Ports) -> &mut HashMap<u16, Vec<Binding<T>>>,
        value: T,
    ) -> Result<(SocketAddr, u64, OwnedSemaphorePermit)> {
        let scope = self.scope(at.ip()).ok_or(Error::NotAvailable(at))?;
        let permit = self.permit()?;
        let mut ports = self.ports.lock();
        if ports.closed {
            return Err(self.gone());
        }
        let map = table(&mut ports);
        let free = |map: &HashMap<u16, Vec<Binding<T>>>, port: u16| {
            map.get(&port).is_none_or(|list| !list.iter().any(|binding| binding.scope.meets(scope)))
        };
        let port = match at.port() {
            0 => {
                let mut tries = (0..u16::MAX - FIRST_FREE_PORT).map(|_| self.ephemeral());
                tries.find(|port| free(map, *port)).ok_or_else(|| Error::Exhausted("no port is free".into()))?
            }
            port if free(map, port) => port,
            _ => return Err(Error::AddressInUse(at)),
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        map.entry(port).or_default().push(Binding { id, scope, value });
        self.changed.notify_one();
        Ok((SocketAddr::new(at.ip(), port), id, permit))
    }

    /// The listener of a TCP port, reached by loopback or by the pod address.
    pub(crate) fn tcp(&self, port: u16, by_loopback: bool) -> Result<Bound> {
        let ports = self.ports.lock();
        let refused = || Error::Refused(format!("pod {} does not listen on {port}", self.label()));
        let found = find(&ports.tcp, port, by_loopback).filter(|bound| !matches!(bound, Bound::Nothing));
        found.or_else(|| self.spec.kernel.then_some(Bound::Kernel)).ok_or_else(refused)
    }

    /// The ports that are reachable from other pods: of TCP those that listen, and of UDP.
    pub(crate) fn open_ports(&self) -> (Vec<u16>, Vec<u16>) {
        fn open<T>(map: &HashMap<u16, Vec<Binding<T>>>, is_open: impl Fn(&T) -> bool) -> Vec<u16> {
            let meets = |binding: &Binding<T>| binding.scope.meets(Scope::Pod) && is_open(&binding.value);
            map.iter().filter(|(_, list)| list.iter().any(meets)).map(|(port, _)| *port).collect()
        }
        let ports = self.ports.lock();
        (open(&ports.tcp, |bound| !matches!(bound, Bound::Nothing)), open(&ports.udp, |_| true))
    }

    /// Delivers a datagram; it is lost when the port is not bound or the queue is full.
    pub(crate) fn deliver(&self, port: u16, by_loopback: bool, datagram: Datagram) {
        let inbox = find(&self.ports.lock().udp, port, by_loopback);
        if let Some(inbox) = inbox {
            inbox.put(datagram);
        }
    }

    /// Unbinds everything: listeners and UDP sockets end with a reset.
    pub(crate) fn close(&self) {
        self.sockets.close();
        self.left.cancel();
        self.changed.notify_one();
        let mut ports = self.ports.lock();
        ports.closed = true;
        ports.tcp.clear();
        ports.udp.clear();
    }

    /// Connects `peer` to a listener of this pod. Waits, within the connect timeout, while the backlog is full.
    pub(crate) async fn connect(&self, port: u16, by_loopback: bool, peer: Peer) -> Result<Stream> {
        match self.tcp(port, by_loopback)? {
            Bound::Http(handler) => {
                let (ours, theirs) = tokio::io::duplex(self.limits.buffer);
                handler.serve(Connection::Stream(Box::new(theirs)), peer);
                Ok(Box::new(ours))
            }
            // whose dials are of `kernel`
            Bound::Nothing | Bound::Kernel => {
                Err(Error::Refused(format!("pod {} does not listen on {port}", self.label())))
            }
            Bound::Listener(backlog) => {
                let permit = self.permit()?;
                let (ours, theirs) = tokio::io::duplex(self.limits.buffer);
                let theirs: Stream = Box::new(Guarded::new(theirs, permit));
                match timeout(self.limits.connect_timeout, backlog.send((theirs, peer.address))).await {
                    Ok(Ok(())) => Ok(Box::new(ours)),
                    Ok(Err(_)) => Err(Error::Refused(format!("pod {} no longer listens on {port}", self.label()))),
                    Err(_) => Err(Error::TimedOut(format!("pod {} does not accept on {port}", self.label()))),
                }
            }
        }
    }
}

fn find<T: Clone>(map: &HashMap<u16, Vec<Binding<T>>>, port: u16, by_loopback: bool) -> Option<T> {
    let wanted = if by_loopback { Scope::Loopback } else { Scope::Pod };
    map.get(&port)?.iter().find(|binding| binding.scope.meets(wanted)).map(|binding| binding.value.clone())
}

/// A stream that counts as a socket of its pod until it is dropped: by a permit, or by the lease of its source port.
pub(crate) struct Guarded<S, G = OwnedSemaphorePermit> {
    inner: S,
    _guard: G,
}

impl<S, G> Guarded<S, G> {
    pub(crate) fn new(inner: S, guard: G) -> Self {
        Self { inner, _guard: guard }
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Guarded<S, G> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Guarded<S, G> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
