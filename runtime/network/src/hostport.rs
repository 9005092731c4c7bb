//! Ports of the host that lead to one pod (`hostPort`), for as long as it is attached. A connection is accepted whether the pod listens or not, as
//! where the kernel translates addresses: one that nobody takes is closed.

use crate::{
    network::{Inner, Route, VirtualNetwork},
    nodeport::{accept_each, bind},
    pod::Pod,
    udp,
};
use container::{
    Protocol,
    net::{Connection, Error, HostPort, Peer, Result, Via},
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How to reach a pod from other sites, told to a browser that asks by a port of the host.
const OTHER_SITES: &str =
    "kubectl annotate service NAME sampan.dev/cross-site-requests=allow, of a Service with a node port";

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl VirtualNetwork {
    /// Opens the host ports of a pod that has just been attached.
    ///
    /// # Errors
    /// Another program has one, or the host has not its address: none is open then.
    pub(crate) async fn open_host_ports(&self, pod: &Arc<Pod>) -> Result<()> {
        let mut open = Vec::new();
        for port in &pod.spec.host_ports {
            let own = self.inner.config.node_address;
            let at = if port.at.ip().is_unspecified() { SocketAddr::new(own, port.at.port()) } else { port.at };
            let socket = match port.protocol {
                Protocol::Tcp => bind(at).and_then(|socket| socket.listen(BACKLOG)).map(Socket::Tcp),
                Protocol::Udp => UdpSocket::bind(at).await.map(Socket::Udp),
            };
            open.push((port.clone(), at, socket.map_err(|error| unopened(at, &error))?));
        }
        for (port, at, socket) in open {
            let (inner, pod) = (self.inner.clone(), pod.clone());
            let serve = async move {
                let serve = async {
                    match socket {
                        Socket::Tcp(listener) => {
                            let pass = |socket, client| pass(&inner, &pod, &port, socket, client);
                            match accept_each(at, &listener, pass).await {}
                        }
                        Socket::Udp(socket) => udp::relay(&inner, socket, |_| Some((pod.clone(), port.to))).await,
                    }
                };
                let token = inner.token.clone();
                pod.left.run_until_cancelled(token.run_until_cancelled(serve)).await
            };
            self.inner.tasks.spawn(serve);
        }
        Ok(())
    }
}

fn unopened(at: SocketAddr, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse(at),
        _ => Error::Unreachable(format!("host port {at} cannot be opened: {error}")),
    }
}

/// Passes a connection to the pod.
fn pass(inner: &Arc<Inner>, pod: &Arc<Pod>, port: &HostPort, socket: TcpStream, client: SocketAddr) {
    let via = match socket.local_addr().is_ok_and(|own| own.ip().is_loopback()) {
        true => Via::Loopback(OTHER_SITES.into()),
        false => Via::NodePort,
    };
    let peer = Peer { address: SocketAddr::new(inner.config.node_internal(), client.port()), via };
    let route = Route::Pod { pod: pod.clone(), port: port.to, by_loopback: false };
    let _ = socket.set_nodelay(true);
    let Ok(socket) = socket.into_std() else { return };
    let (inner, label) = (inner.clone(), pod.label());
    inner.clone().tasks.spawn(async move {
        if let Err(error) = inner.hand_over(Connection::Tcp(socket), peer, &route).await {
            tracing::debug!(%error, pod = label, "a connection to a host port is not taken");
        }
    });
}
