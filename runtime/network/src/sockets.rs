//! A pod's own view of the network.

use crate::{
    dns::{Dns, Step, Transport},
    egress, http,
    network::{Route, Source, VirtualNetwork},
    pod::{Bound, Guarded, Inbox, Lease, Pod, Waiting},
    slices::Protocol,
};
use bytes::Bytes;
use container::net::{
    BoundPort, Datagrams, Error, HttpHandler, Listener, Peer, Request, Response, Result, Serving, Sockets, Stream, Via,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::UdpSocket,
    sync::{Mutex as AsyncMutex, Semaphore, mpsc},
    task::JoinHandle,
};

/// The largest datagram.
const MAX_DATAGRAM: usize = 65_507;
/// Most ports that are tried as the source of a connection.
const MAX_TRIES: usize = 16;
/// Peers that a UDP socket remembers: it accepts only their datagrams, and shows them under the Service address that was used.
const MAX_PEERS: usize = 256;

pub(crate) struct PodSockets {
    network: VirtualNetwork,
    pod: Arc<Pod>,
}

impl PodSockets {
    pub(crate) fn new(network: VirtualNetwork, pod: Arc<Pod>) -> Self {
        Self { network, pod }
    }
}

#[async_trait::async_trait]
impl Sockets for PodSockets {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.pod.address]
    }

    async fn bind(&self, at: SocketAddr) -> Result<Box<dyn BoundPort>> {
        let lease = self.pod.bind_tcp(at, Bound::Nothing)?;
        Ok(Box::new(PodPort { lease, network: self.network.clone(), pod: self.pod.clone() }))
    }

    async fn connect(&self, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let permit = self.pod.permit()?;
        let route = self.network.inner.route_awake(Source::Pod(&self.pod), to).await?;
        let mut tries = 0;
        loop {
            let local = self.pod.source(egress::unmap(to.ip()));
            match self.network.inner.open(&route, Peer { address: local, via: Via::Pod }).await {
                // the kernel has the port still, of a connection that has ended
                Err(Error::AddressInUse(_)) if tries < MAX_TRIES => tries += 1,
                opened => return Ok((Box::new(Guarded::new(opened?, permit)), mapped(local, to))),
            }
        }
    }

    async fn bind_udp(&self, at: SocketAddr) -> Result<Box<dyn Datagrams>> {
        let (inbox, receiver) = Inbox::new(&self.pod.limits);
        let incoming = inbox.downgrade();
        let lease = self.pod.bind_udp(at, inbox)?;
        Ok(Box::new(PodDatagrams {
            lease,
            network: self.network.clone(),
            pod: self.pod.clone(),
            incoming,
            waiting: AsyncMutex::new(receiver),
            peers: Arc::default(),
            outside: [AsyncMutex::default(), AsyncMutex::default()],
        }))
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
        Ok(Box::new(PodServing(self.pod.bind_tcp(at, Bound::Http(handler))?)))
    }
}

/// An address in the family of another: a guest's IPv6 socket sees IPv4 peers mapped.
pub(crate) fn mapped(address: SocketAddr, like: SocketAddr) -> SocketAddr {
    match (address.ip(), like.ip()) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

struct PodServing(Lease);

impl Serving for PodServing {
    fn local_address(&self) -> SocketAddr {
        self.0.local
    }
}

struct PodPort {
    lease: Lease,
    network: VirtualNetwork,
    pod: Arc<Pod>,
}

#[async_trait::async_trait]
impl BoundPort for PodPort {
    fn local_address(&self) -> SocketAddr {
        self.lease.local
    }

    async fn listen(self: Box<Self>) -> Result<Box<dyn Listener>> {
        let (sender, receiver) = mpsc::channel(self.pod.limits.backlog.max(1));
        self.lease.listen(sender)?;
        Ok(Box::new(PodListener { lease: self.lease, waiting: AsyncMutex::new(receiver) }))
    }

    async fn connect(self: Box<Self>, to: SocketAddr) -> Result<(Stream, SocketAddr)> {
        let route = self.network.inner.route_awake(Source::Pod(&self.pod), to).await?;
        let local = self.lease.source(egress::unmap(to.ip()))?;
        let stream = self.network.inner.open(&route, Peer { address: local, via: Via::Pod }).await?;
        Ok((Box::new(Guarded::new(stream, self.lease)), mapped(local, to)))
    }
}

struct PodListener {
    lease: Lease,
    waiting: AsyncMutex<mpsc::Receiver<(Stream, SocketAddr)>>,
}

#[async_trait::async_trait]
impl Listener for PodListener {
    fn local_address(&self) -> SocketAddr {
        self.lease.local
    }

    async fn accept(&self) -> Result<(Stream, SocketAddr)> {
        let next = self.waiting.lock().await.recv().await;
        let (stream, peer) = next.ok_or_else(|| Error::Reset("the pod has left the network".into()))?;
        Ok((stream, mapped(peer, self.lease.local)))
    }
}

/// A UDP socket. Inside the cluster datagrams are queue entries; for the outside a host socket is opened on the first send.
struct PodDatagrams {
    lease: Lease,
    network: VirtualNetwork,
    pod: Arc<Pod>,
    /// Weak, because the binding holds the inbox: a closed pod ends the socket.
    incoming: (mpsc::WeakSender<Waiting>, Arc<Semaphore>),
    waiting: AsyncMutex<mpsc::Receiver<Waiting>>,
    peers: Arc<Mutex<Peers>>,
    /// For IPv4 and IPv6.
    outside: [AsyncMutex<Option<Outside>>; 2],
}

/// The peers of a socket: from the address that answers to the address that the guest used.
#[derive(Default)]
struct Peers(HashMap<SocketAddr, SocketAddr>);

impl Peers {
    fn note(&mut self, real: SocketAddr, used: SocketAddr) {
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(&real) {
            self.0.clear(); // answers to the forgotten ones are lost or seem to come from the endpoint, as after a NAT timeout
        }
        self.0.insert(real, used);
    }
}

struct Outside {
    socket: Arc<UdpSocket>,
    receiver: JoinHandle<()>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

#[async_trait::async_trait]
impl Datagrams for PodDatagrams {
    fn local_address(&self) -> SocketAddr {
        self.lease.local
    }

    async fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<()> {
        if data.len() > MAX_DATAGRAM {
            return Err(Error::Unsupported(format!("a datagram of {} bytes", data.len())));
        }
        let used = SocketAddr::new(egress::unmap(to.ip()), to.port());
        let is_node = used.ip() == self.network.node_internal();
        if is_node && self.network.inner.clients.answer(used.port(), &data) {
            return Ok(());
        }
        match self.network.inner.route(Source::Pod(&self.pod), used, Protocol::Udp)? {
            Route::Pod { pod, port, .. } if pod.spec.kernel => {
                let real = SocketAddr::new(pod.address, port);
                if real != used {
                    self.peers.lock().note(real, used);
                }
                self.network.inner.send_datagram(&self.pod, self.lease.local.port(), &data, real).await
            }
            Route::Pod { pod, port, by_loopback } => {
                let real = SocketAddr::new(if by_loopback { used.ip() } else { pod.address }, port);
                if real != used {
                    self.peers.lock().note(real, used);
                }
                let source = SocketAddr::new(self.pod.source(used.ip()).ip(), self.lease.local.port());
                pod.deliver(port, by_loopback, (data, source));
                Ok(())
            }
            Route::Host { to: real, .. } => {
                self.peers.lock().note(real, used);
                let socket = self.outside(real).await?;
                let sent = socket.send_to(&data, real).await;
                sent.map(drop).map_err(|e| Error::Unreachable(format!("{real}: {e}")))
            }
            Route::Dns(dns) => {
                self.ask(dns, &data, used);
                Ok(())
            }
        }
    }

    async fn receive(&self) -> Result<(Bytes, SocketAddr)> {
        let next = self.waiting.lock().await.recv().await;
        let ((data, from), _room) = next.ok_or_else(|| Error::Reset("the pod has left the network".into()))?;
        let from = self.peers.lock().0.get(&from).copied().unwrap_or(from);
        Ok((data, mapped(from, self.lease.local)))
    }
}

impl PodDatagrams {
    /// Gives a datagram to the DNS server, whose reply comes from the address that was used.
    fn ask(&self, dns: Arc<Dns>, data: &[u8], used: SocketAddr) {
        let incoming = self.incoming.clone();
        let reply = move |bytes: Vec<u8>| {
            if let Some(inbox) = Inbox::upgrade(&incoming) {
                inbox.put((bytes.into(), used));
            }
        };
        match dns.answer(data, Transport::Datagram) {
            Step::Nothing => {}
            Step::Reply(bytes) => reply(bytes),
            Step::Ask(pending) => {
                let client = self.pod.address;
                self.network.inner.run(async move { reply(dns.finish(*pending, client).await) });
            }
        }
    }

    /// The host socket for an address family, with a task that receives the answers of peers.
    async fn outside(&self, to: SocketAddr) -> Result<Arc<UdpSocket>> {
        let mut slot = self.outside[usize::from(to.is_ipv6())].lock().await;
        if let Some(outside) = &*slot {
            return Ok(outside.socket.clone());
        }
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await;
        let socket = Arc::new(socket.map_err(|e| Error::Exhausted(format!("a UDP socket: {e}")))?);
        let (receiving, peers, incoming) = (socket.clone(), self.peers.clone(), self.incoming.clone());
        let receiver = tokio::spawn(async move {
            let mut buffer = vec![0; MAX_DATAGRAM];
            while let Ok((size, from)) = receiving.recv_from(&mut buffer).await {
                let Some(inbox) = Inbox::upgrade(&incoming) else { return };
                if peers.lock().0.contains_key(&from) {
                    inbox.put((Bytes::copy_from_slice(&buffer[..size]), from));
                }
            }
        });
        *slot = Some(Outside { socket: socket.clone(), receiver });
        Ok(socket)
    }
}
