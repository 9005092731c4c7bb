//! What pods send to anywhere else: connections and datagrams, with the address that they meant.

use crate::{
    Result,
    node::{Node, Place},
    protocol::Kind,
    rules::EGRESS,
};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt as options},
};
use parking_lot::Mutex;
use rustix::net::{bind, connect, listen, sockopt};
use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Weak},
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Bytes of the largest datagram.
const MAX_DATAGRAM: usize = 65_507;

/// Datagrams that wait in a flow that has no socket of its own yet; more are lost, as on any network.
const EARLY: usize = 16;

/// Flows of a pod at a time; datagrams of more are lost.
const FLOWS_OF_POD: usize = 512;

/// A connection of a pod to somewhere else.
#[derive(Debug)]
pub struct Outgoing {
    /// The connection, already accepted.
    pub stream: TcpStream,
    /// The pod.
    pub from: SocketAddrV4,
    /// The address that it meant.
    pub to: SocketAddrV4,
}

/// Datagrams between a pod's socket and one address elsewhere.
#[derive(Debug)]
pub struct Flow {
    /// The pod.
    pub from: SocketAddrV4,
    /// The address that it meant.
    pub to: SocketAddrV4,
    socket: UdpSocket,
    early: tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
    _place: FlowPlace,
}

impl Flow {
    /// The next datagram of the pod: its bytes are put into the buffer as far as they fit, and their number is returned. Cancel-safe.
    ///
    /// # Errors
    /// Those of the socket, such as that the pod has closed its own.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut early = self.early.lock().await;
        tokio::select! {
            biased;
            Some(datagram) = early.recv() => {
                let size = datagram.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..size), datagram.get(..size)) {
                    to.copy_from_slice(from);
                }
                Ok(size)
            }
            size = self.socket.recv(buffer) => size,
        }
    }

    /// Sends the pod a datagram, which comes from the address that it meant.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).await.map(drop)
    }
}

type Key = (SocketAddrV4, SocketAddrV4);
type Flows = Mutex<HashMap<Key, mpsc::Sender<Vec<u8>>>>;

/// The place of a flow among those that exist, until it is dropped.
#[derive(Debug)]
struct FlowPlace {
    key: Key,
    flows: Weak<Flows>,
}

impl Drop for FlowPlace {
    fn drop(&mut self) {
        if let Some(flows) = self.flows.upgrade() {
            flows.lock().remove(&self.key);
        }
    }
}

/// The two sockets to which the rules give what leaves the node's range.
pub struct Egress {
    node: Node,
    listener: TcpListener,
    datagrams: UdpSocket,
    flows: Arc<Flows>,
    buffer: Mutex<Vec<u8>>,
}

impl Node {
    /// Listens for what pods send elsewhere. Until then, and after it is dropped, it is refused.
    ///
    /// # Errors
    /// Somebody listens already, or there is no helper.
    pub async fn egress(&self) -> Result<Egress> {
        let [stream, datagrams] = [
            transparent(self.socket(Place::Node, Kind::Tcp).await?, EGRESS)?,
            transparent(self.socket(Place::Node, Kind::Udp).await?, EGRESS)?,
        ];
        listen(&stream, BACKLOG).map_err(io::Error::from)?;
        setsockopt(&datagrams, options::Ipv4OrigDstAddr, &true).map_err(io::Error::from)?;
        Ok(Egress {
            node: self.clone(),
            listener: TcpListener::from_std(stream.into())?,
            datagrams: UdpSocket::from_std(datagrams.into())?,
            flows: Arc::default(),
            buffer: Mutex::new(vec![0; MAX_DATAGRAM]),
        })
    }
}

/// Binds a socket that may be given what is for others, and may be at their addresses.
fn transparent(socket: OwnedFd, at: SocketAddrV4) -> io::Result<OwnedFd> {
    setsockopt(&socket, options::IpTransparent, &true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    Ok(socket)
}

fn v4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The maximum is reached, or the pod has gone: the next one may be good.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

impl Egress {
    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// Those of accept(2) that are not of one connection, such as that there are too many descriptors.
    pub async fn accept(&self) -> io::Result<Outgoing> {
        loop {
            let accepted = self.listener.accept().await.and_then(|(stream, from)| {
                let to = v4(stream.local_addr()?)?;
                Ok(Outgoing { from: v4(from)?, to, stream })
            });
            match accepted {
                Err(error) if is_of_one_connection(&error) => {}
                // the listener's own address is nowhere else
                Ok(Outgoing { to, .. }) if to.ip().is_loopback() => {}
                other => return other,
            }
        }
    }

    /// The next flow of datagrams, with its first datagram waiting in it. Cancel-safe but for the datagram.
    ///
    /// # Errors
    /// Those of recvmsg(2), or there is no helper.
    pub async fn flow(&self) -> Result<Flow> {
        loop {
            let (datagram, from, to) = self
                .datagrams
                .async_io(Interest::READABLE, || receive(&self.datagrams, &mut self.buffer.lock()))
                .await?;
            if let Some(flow) = self.sort(datagram, from, to).await? {
                return Ok(flow);
            }
        }
    }

    /// Gives a datagram to its flow; returns the flow if it is new.
    async fn sort(&self, datagram: Vec<u8>, from: SocketAddrV4, to: SocketAddrV4) -> Result<Option<Flow>> {
        let key = (from, to);
        let (sender, early) = mpsc::channel(EARLY);
        {
            let mut flows = self.flows.lock();
            if let Some(flow) = flows.get(&key) {
                let _ = flow.try_send(datagram);
                return Ok(None);
            }
            let of_pod = |ip: &Ipv4Addr| flows.keys().filter(|(from, _)| from.ip() == ip).count();
            if of_pod(from.ip()) >= FLOWS_OF_POD {
                return Ok(None);
            }
            let _ = sender.try_send(datagram);
            flows.insert(key, sender);
        }
        let place = FlowPlace { key, flows: Arc::downgrade(&self.flows) };
        let socket = transparent(self.node.socket(Place::Node, Kind::Udp).await?, to)?;
        connect(&socket, &from).map_err(io::Error::from)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Some(Flow { from, to, socket, early: early.into(), _place: place }))
    }
}

/// A datagram, its source, and the destination that it had before it was diverted.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(Vec<u8>, SocketAddrV4, SocketAddrV4)> {
    let mut space = cmsg_space!(nix::libc::sockaddr_in);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let original = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(SockaddrIn::from(address)),
        _ => None,
    });
    let (Some(from), Some(to)) = (received.address, original) else { return Err(io::ErrorKind::InvalidData.into()) };
    let (from, to) = (SocketAddrV4::new(from.ip(), from.port()), SocketAddrV4::new(to.ip(), to.port()));
    let size = received.bytes;
    Ok((buffer.get(..size).unwrap_or_default().to_vec(), from, to))
}
