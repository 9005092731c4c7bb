//! What is there once a pod needs the kernel, and how addresses and errors are those of the kernel.

use crate::egress::unmap;
use container::net::{Error, Result};
use netns::Node;
use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::Mutex as AsyncMutex,
};
use tokio_util::task::AbortOnDropHandle;

/// A socket, and the task that receives by it.
pub(super) type Received = (Arc<UdpSocket>, AbortOnDropHandle<()>);

/// The network namespace of the node.
pub(crate) struct Kernel {
    pub(crate) node: Node,
    /// UDP sockets of virtual pods, each with the task that receives.
    pub(super) datagrams: AsyncMutex<HashMap<SocketAddrV4, Received>>,
}

/// An address as the kernel's network has it: of IPv4.
pub(super) fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    let ip = match unmap(address.ip()) {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => return Err(Error::Unreachable(format!("{ip}: pods have addresses of IPv4"))),
    };
    Ok(SocketAddrV4::new(ip, address.port()))
}

/// The error of a socket that is or shall be at an address, or go there.
pub(super) fn error_at(error: netns::Error, at: SocketAddr) -> Error {
    match error {
        netns::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Error::Refused(at.to_string()),
            ErrorKind::AddrInUse => Error::AddressInUse(at),
            ErrorKind::AddrNotAvailable => Error::NotAvailable(at),
            ErrorKind::TimedOut => Error::TimedOut(at.to_string()),
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Error::Reset(at.to_string()),
            _ => Error::Unreachable(format!("{at}: {error}")),
        },
        netns::Error::Unsupported(text) => Error::Unsupported(text),
        other => Error::Unreachable(format!("{at}: {other}")),
    }
}

/// Small writes must not be delayed; a socket without the option still works.
pub(super) fn without_delay(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}
