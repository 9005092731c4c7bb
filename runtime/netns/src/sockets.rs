//! What is done with sockets of a namespace, in this process.

use crate::{
    Result,
    node::{Node, Place},
    protocol::Kind,
};
use nix::sys::socket::{setsockopt, sockopt::IpTransparent};
use rustix::{
    io::Errno,
    net::{Shutdown, bind, connect, listen, shutdown, sockopt},
};
use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that wait for accept.
const BACKLOG: i32 = 1024;

impl Node {
    /// Connects to an address inside. `from` is the source: of a local pod, of the pod in whose namespace the socket is, or in the node's namespace
    /// any address elsewhere, to which the answers come back here: a pod sees the client for whom this dials. Without one the kernel
    /// chooses the node's address, or the pod's. There is no time limit but the kernel's.
    ///
    /// # Errors
    /// As those of connect(2), or there is no helper.
    pub async fn connect(&self, place: Place<'_>, from: Option<SocketAddrV4>, to: SocketAddrV4) -> Result<TcpStream> {
        let socket = self.socket(place, Kind::Tcp).await?;
        if let Some(from) = from {
            // the port may be one that a connection had a moment ago
            sockopt::set_socket_reuseaddr(&socket, from.port() != 0).map_err(io::Error::from)?;
            self.allow(place, from, &socket)?;
            bind(&socket, &from).map_err(io::Error::from)?;
        }
        Ok(connect_bound(socket, to).await?)
    }

    /// Lets a socket of the node's namespace have an address that the namespace does not have, such as a Service's.
    fn allow(&self, place: Place<'_>, at: SocketAddrV4, socket: &OwnedFd) -> io::Result<()> {
        let ip = at.ip();
        let has = ip.is_unspecified() || ip.is_loopback() || self.layout().is_of_node(*ip);
        if place == Place::Node && !has {
            setsockopt(socket, IpTransparent, &true)?;
        }
        Ok(())
    }

    /// Takes a TCP port, without listening. The port 0 chooses one. In the node's namespace the address may be a Service's: what comes there is for
    /// the socket where the rules say so ([`crate::Behind::Socket`]).
    ///
    /// # Errors
    /// As those of bind(2), or there is no helper.
    pub async fn bind(&self, place: Place<'_>, at: SocketAddrV4) -> Result<OwnedFd> {
        let socket = self.socket(place, Kind::Tcp).await?;
        self.allow(place, at, &socket)?;
        sockopt::set_socket_reuseaddr(&socket, true).map_err(io::Error::from)?;
        bind(&socket, &at).map_err(io::Error::from)?;
        // from now on nobody else gets it, not even who is content with an address that does not listen
        sockopt::set_socket_reuseaddr(&socket, false).map_err(io::Error::from)?;
        Ok(socket)
    }

    /// [`Node::bind`], and listens.
    ///
    /// # Errors
    /// As those of bind(2) and listen(2), or there is no helper.
    pub async fn listen(&self, place: Place<'_>, at: SocketAddrV4) -> Result<TcpListener> {
        Ok(listen_bound(self.bind(place, at).await?)?)
    }

    /// A UDP socket at an address, which may be one as in [`Node::bind`]. The port 0 chooses one.
    ///
    /// # Errors
    /// As those of bind(2), or there is no helper.
    pub async fn bind_udp(&self, place: Place<'_>, at: SocketAddrV4) -> Result<UdpSocket> {
        let socket = self.socket(place, Kind::Udp).await?;
        self.allow(place, at, &socket)?;
        bind(&socket, &at).map_err(io::Error::from)?;
        Ok(UdpSocket::from_std(socket.into())?)
    }
}

/// Listens with a socket of [`Node::bind`].
///
/// # Errors
/// As those of listen(2).
pub fn listen_bound(socket: OwnedFd) -> io::Result<TcpListener> {
    // connections of before that have not quite ended have its port too
    sockopt::set_socket_reuseaddr(&socket, true)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Stops a listener at once, though a task that accepts has it still.
///
/// # Errors
/// As those of shutdown(2).
pub fn stop_listening(listener: impl AsFd) -> io::Result<()> {
    Ok(shutdown(listener, Shutdown::Both)?)
}

/// Connects a socket of [`Node::bind`], which is the source.
///
/// # Errors
/// As those of connect(2).
pub async fn connect_bound(socket: OwnedFd, to: SocketAddrV4) -> io::Result<TcpStream> {
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}
