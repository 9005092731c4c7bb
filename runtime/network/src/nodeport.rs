//! Node ports: real listeners of the host, one per port, whose connections go to ready endpoints.
//!
//! As with kube-proxy, a port refuses connections while no endpoint is ready, so that a client that waits for the port waits for the
//! application; only where the application was scaled to zero because it was idle does it accept, and the connection waits. Meanwhile a socket that is bound and does not listen keeps the port in use. If another program has the port, a report names
//! that program, and the port is tried again until it is free.

use crate::{
    network::{Route, Source, VirtualNetwork},
    pod::Bound,
    slices::Protocol,
    table::{NodePort, Port},
    udp, unavailable,
};
use api::annotations::{CROSS_SITE, CROSS_SITE_ALLOW};
use container::net::{Connection, Peer, Via};
use std::{collections::BTreeMap, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// First and longest delay before a port that could not be opened is tried again; the delay doubles.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// First and longest delay after a failed accept (mostly out of file descriptors); the delay doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often a port logs a failed accept.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Called once when a node port cannot be opened. The port is tried again until it is open or no longer wanted.
pub type Report = Arc<dyn Fn(&NodePort, &io::Error) + Send + Sync>;

/// The node ports of a node. A drop closes the listeners, but not the connections.
pub struct NodePorts {
    network: VirtualNetwork,
    report: Report,
    taken: BTreeMap<NodePort, Taken>,
}

struct Taken {
    token: CancellationToken,
    /// Whether an endpoint is ready, or may be woken.
    ready: watch::Sender<bool>,
}

impl NodePorts {
    /// Without ports.
    pub fn new(network: VirtualNetwork, report: Report) -> Self {
        Self { network, report, taken: BTreeMap::new() }
    }

    /// Opens wanted ports and closes others; one of TCP listens while the table has endpoints.
    pub fn sync(&mut self, wanted: &[NodePort]) {
        self.taken.retain(|port, taken| {
            let keep = wanted.contains(port);
            if !keep {
                taken.token.cancel();
            }
            keep
        });
        for port in wanted {
            let found = self.network.inner.table.read().node_port(port.protocol, port.number);
            let ready = found.is_some_and(|port| !port.endpoints(true).is_empty() || port.is_asleep(true));
            match self.taken.get(port) {
                Some(taken) => {
                    taken.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
                }
                None => self.take(port, ready),
            }
        }
    }

    fn take(&mut self, port: &NodePort, ready: bool) {
        let inner = &self.network.inner;
        let (token, ready) = (inner.token.child_token(), watch::Sender::new(ready));
        let changes = ready.subscribe();
        self.taken.insert(port.clone(), Taken { token: token.clone(), ready });
        let (network, report, port) = (self.network.clone(), self.report.clone(), port.clone());
        if port.protocol == Protocol::Udp {
            inner.tasks.spawn(async move { token.run_until_cancelled(keep_udp(&network, &port, &report)).await });
            return;
        }
        inner.tasks.spawn(async move { token.run_until_cancelled(keep(&network, &port, &report, changes)).await });
    }
}

impl Drop for NodePorts {
    fn drop(&mut self) {
        self.taken.values().for_each(|taken| taken.token.cancel());
    }
}

/// Opens a UDP port. Its datagrams are lost while no endpoint is ready.
async fn keep_udp(network: &VirtualNetwork, port: &NodePort, report: &Report) {
    let inner = &network.inner;
    let at = SocketAddr::new(inner.config.node_address, port.number);
    let pick = |client: SocketAddr| {
        let found = inner.table.read().node_port(Protocol::Udp, port.number)?;
        match inner.endpoint_of(Source::Cluster(client.ip()), &found, Protocol::Udp, true)? {
            Ok(Route::Pod { pod, port, .. }) => Some((pod, port)),
            _ => None,
        }
    };
    let mut wait = RETRY.0;
    let mut reported = false;
    loop {
        match UdpSocket::bind(at).await {
            Ok(socket) => udp::relay(inner, socket, pick).await,
            Err(error) if !std::mem::replace(&mut reported, true) => report(port, &error),
            Err(_) => {}
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Reserves the port, and listens while an endpoint is ready.
async fn keep(network: &VirtualNetwork, port: &NodePort, report: &Report, mut ready: watch::Receiver<bool>) {
    let at = SocketAddr::new(network.inner.config.node_address, port.number);
    let mut wait = RETRY.0;
    let mut reported = false;
    loop {
        let error = match reserve(at) {
            Ok(reserved) => listen_while_ready(network, port, at, &reserved, &mut ready).await,
            Err(error) => error,
        };
        if !std::mem::replace(&mut reported, true) {
            report(port, &error);
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// A socket that is bound to the address and refuses connections.
fn reserve(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = bind(at)?;
    // From now on nobody else gets it, not even who is content with an address that does not listen.
    socket.set_reuseaddr(false)?;
    Ok(socket)
}

/// A socket that is bound to the address.
pub(crate) fn bind(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without it, connections of before that have not quite ended would keep the port taken.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

/// A second socket at the reserved address, so that the port stays reserved when the listener is closed.
fn listen(at: SocketAddr, reserved: &TcpSocket) -> io::Result<TcpListener> {
    reserved.set_reuseaddr(true)?;
    let listener = bind(at).and_then(|socket| socket.listen(BACKLOG));
    reserved.set_reuseaddr(false)?;
    listener
}

/// Returns when it cannot listen.
async fn listen_while_ready(
    network: &VirtualNetwork,
    port: &NodePort,
    at: SocketAddr,
    reserved: &TcpSocket,
    ready: &mut watch::Receiver<bool>,
) -> io::Error {
    let service = || format!("{}/{}", port.service.0, port.service.1);
    loop {
        // The sender lives as long as this task.
        let _ = ready.wait_for(|ready| *ready).await;
        let listener = match listen(at, reserved) {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        tracing::info!(service = service(), %at, "node port open");
        tokio::select! {
            never = accept_each(at, &listener, |socket, client| accept(network, port, socket, client)) => match never {},
            _ = ready.wait_for(|ready| !ready) => {}
        }
        tracing::info!(service = service(), %at, "node port closed: no endpoint is ready");
    }
}

/// Accepts connections for ever.
pub(crate) async fn accept_each(
    at: SocketAddr,
    listener: &TcpListener,
    mut accepted: impl FnMut(TcpStream, SocketAddr),
) -> Infallible {
    let mut pause = PAUSE.0;
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((socket, client)) => {
                pause = PAUSE.0;
                accepted(socket, client);
            }
            // Out of file descriptors, or the client is gone already: the listener continues.
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
                    told = Some(Instant::now());
                    tracing::warn!(%at, %error, "a port of the node cannot accept connections: it tries again");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Passes a connection to an endpoint, or resets it when none is ready.
fn accept(network: &VirtualNetwork, port: &NodePort, socket: TcpStream, client: SocketAddr) {
    let inner = &network.inner;
    let source = Source::Cluster(client.ip());
    let found = inner.table.read().node_port(port.protocol, port.number);
    let any_site = found.as_ref().is_some_and(|port| port.any_site);
    let (network, port) = (network.clone(), port.clone());
    if found.as_ref().is_some_and(|found| found.is_asleep(true)) {
        inner.tasks.clone().spawn(async move {
            let network = network;
            let token = network.inner.token.clone();
            token.run_until_cancelled(hold(&network, &port, any_site, socket, client)).await
        });
        return;
    }
    let route = found.and_then(|port| inner.endpoint_of(source, &port, Protocol::Tcp, true));
    let count = if route.is_some() { &inner.metrics.endpoint } else { &inner.metrics.no_endpoint };
    count.inc();
    let Some(Ok(route)) = route else {
        tracing::debug!(service = %format_args!("{}/{}", port.service.0, port.service.1), "no endpoint is ready");
        let _ = socket.set_zero_linger(); // without it the client sees an end instead of a reset
        return;
    };
    pass(&network, &port, any_site, socket, client, route);
}

/// Lets a connection wait until an endpoint is ready; nothing is read of it meanwhile.
async fn hold(network: &VirtualNetwork, port: &NodePort, any_site: bool, socket: TcpStream, client: SocketAddr) {
    let inner = &network.inner;
    let found = || -> Option<Arc<Port>> { inner.table.read().node_port(port.protocol, port.number) };
    let source = Source::Cluster(client.ip());
    let route = match inner.awake(true, found).await {
        Ok(_) => found().and_then(|found| inner.endpoint_of(source, &found, Protocol::Tcp, true)),
        Err(error) => Some(Err(error)),
    };
    match route {
        Some(Ok(route)) => {
            inner.metrics.endpoint.inc();
            pass(network, port, any_site, socket, client, route);
        }
        Some(Err(error)) => unavailable::answer(&inner.refusing, socket, &error.to_string()).await,
        None => {
            inner.metrics.no_endpoint.inc();
            let _ = socket.set_zero_linger();
        }
    }
}

/// Passes a connection along a route.
fn pass(
    network: &VirtualNetwork,
    port: &NodePort,
    any_site: bool,
    socket: TcpStream,
    client: SocketAddr,
    route: Route,
) {
    let inner = &network.inner;
    let _ = socket.set_nodelay(true); // a socket without the option still works
    let Ok(socket) = socket.into_std() else { return };
    let via = if inner.config.node_address.is_loopback() && !any_site {
        let (namespace, name) = &port.service;
        Via::Loopback(format!("kubectl annotate -n {namespace} service {name} {CROSS_SITE}={CROSS_SITE_ALLOW}").into())
    } else {
        Via::NodePort
    };
    let peer = Peer { address: SocketAddr::new(network.node_internal(), client.port()), via };
    if let Route::Pod { pod, port, by_loopback } = &route
        && let Ok(Bound::Http(handler)) = pod.tcp(*port, *by_loopback)
    {
        // Nothing of this thread pool touches it again.
        handler.serve(Connection::Tcp(socket), peer);
        return;
    }
    let inner = inner.clone();
    inner.tasks.clone().spawn(async move {
        if let Err(error) = inner.hand_over(Connection::Tcp(socket), peer, &route).await {
            tracing::debug!(%error, "connection not taken");
        }
    });
}
