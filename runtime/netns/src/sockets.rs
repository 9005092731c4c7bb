//! What is done with sockets of a namespace, in this process.

use crate::{Node, Result, protocol::Kind};
use rustix::{
    io::Errno,
    net::{bind, connect, listen, sockopt},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that wait for accept.
const BACKLOG: i32 = 1024;

/// Where a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the node's namespace.
    Node,
    /// In the namespace of a pod, by its id.
    Pod(&'a str),
}

impl Node {
    /// Connects to an address inside. `from` is the source: an address of a local pod, or of the pod in whose namespace the socket is; without
    /// one the kernel chooses the node's address, or the pod's. There is no time limit but the kernel's.
    ///
    /// # Errors
    /// As those of connect(2), or there is no helper.
    pub async fn connect(&self, place: Place<'_>, from: Option<SocketAddrV4>, to: SocketAddrV4) -> Result<TcpStream> {
        let socket = self.socket(place, Kind::Tcp).await?;
        if let Some(from) = from {
            // the port may be one that a connection had a moment ago
            sockopt::set_socket_reuseaddr(&socket, from.port() != 0).map_err(io::Error::from)?;
            bind(&socket, &from).map_err(io::Error::from)?;
        }
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            None => Ok(stream),
            Some(error) => Err(error.into()),
        }
    }

    /// Takes a TCP port, without listening. The port 0 chooses one.
    ///
    /// # Errors
    /// As those of bind(2), or there is no helper.
    pub async fn bind(&self, place: Place<'_>, at: SocketAddrV4) -> Result<OwnedFd> {
        let socket = self.socket(place, Kind::Tcp).await?;
        sockopt::set_socket_reuseaddr(&socket, true).map_err(io::Error::from)?;
        bind(&socket, &at).map_err(io::Error::from)?;
        Ok(socket)
    }

    /// [`Node::bind`], and listens.
    ///
    /// # Errors
    /// As those of bind(2) and listen(2), or there is no helper.
    pub async fn listen(&self, place: Place<'_>, at: SocketAddrV4) -> Result<TcpListener> {
        let socket = self.bind(place, at).await?;
        listen(&socket, BACKLOG).map_err(io::Error::from)?;
        Ok(TcpListener::from_std(socket.into())?)
    }

    /// A UDP socket at an address. The port 0 chooses one.
    ///
    /// # Errors
    /// As those of bind(2), or there is no helper.
    pub async fn bind_udp(&self, place: Place<'_>, at: SocketAddrV4) -> Result<UdpSocket> {
        let socket = self.socket(place, Kind::Udp).await?;
        bind(&socket, &at).map_err(io::Error::from)?;
        Ok(UdpSocket::from_std(socket.into())?)
    }
}

/// The loopback address of the node's namespace, which no pod reaches.
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
