//! Node ports: real listeners of the host, one per port, each connection given to a ready endpoint.

use crate::{
    network::{From, VirtualNetwork, Way},
    pod::Bound,
    table::{NodePort, Protocol},
};
use container::net::{Connection, Peer};
use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// How long to wait before a port that could not be opened is tried again: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Told once when a node port cannot be opened; it is tried again until it works or is no longer wanted.
pub type Report = Arc<dyn Fn(&NodePort, &io::Error) + Send + Sync>;

/// The listeners of a node. Dropping it closes them; connections go on.
pub struct NodePorts {
    network: VirtualNetwork,
    report: Report,
    open: BTreeMap<NodePort, CancellationToken>,
}

impl NodePorts {
    /// No listener yet.
    pub fn new(network: VirtualNetwork, report: Report) -> Self {
        Self { network, report, open: BTreeMap::new() }
    }

    /// Opens what is wanted and closes what is not. TCP only: UDP node ports are reported as unsupported.
    pub fn sync(&mut self, wanted: &[NodePort]) {
        self.open.retain(|port, token| {
            let keep = wanted.contains(port);
            if !keep {
                token.cancel();
            }
            keep
        });
        for port in wanted {
            if self.open.contains_key(port) {
                continue;
            }
            let inner = &self.network.inner;
            let token = inner.token.child_token();
            self.open.insert(port.clone(), token.clone());
            if port.protocol != Protocol::Tcp {
                (self.report)(port, &io::Error::new(io::ErrorKind::Unsupported, "UDP node ports are not served"));
                continue;
            }
            let (network, report, port) = (self.network.clone(), self.report.clone(), port.clone());
            inner.tasks.spawn(async move { token.run_until_cancelled(listen(&network, &port, &report)).await });
        }
    }
}

impl Drop for NodePorts {
    fn drop(&mut self) {
        self.open.values().for_each(CancellationToken::cancel);
    }
}

async fn listen(network: &VirtualNetwork, port: &NodePort, report: &Report) {
    let at = SocketAddr::new(network.inner.config.node_address, port.number);
    let mut wait = RETRY.0;
    let mut reported = false;
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut reported, true) {
                    report(port, &error);
                }
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    };
    tracing::info!(service = %format_args!("{}/{}", port.service.0, port.service.1), %at, "node port open");
    loop {
        match listener.accept().await {
            Ok((socket, client)) => accept(network, port, socket, client),
            // Out of file descriptors, or the client was gone already: the listener lives on.
            Err(error) => {
                tracing::warn!(%at, %error, "accept failed");
                sleep(RETRY.0 / 10).await;
            }
        }
    }
}

/// Gives a connection to an endpoint; closes it with a reset when none is ready.
fn accept(network: &VirtualNetwork, port: &NodePort, socket: TcpStream, client: SocketAddr) {
    let inner = &network.inner;
    let from = From::Cluster(client.ip());
    let found = inner.table.read().node_port(port.protocol, port.number);
    let way = found.and_then(|port| inner.endpoint_of(from, &port, Protocol::Tcp));
    let count = if way.is_some() { &inner.metrics.endpoint } else { &inner.metrics.no_endpoint };
    count.inc();
    let Some(Ok(way)) = way else {
        tracing::debug!(service = %format_args!("{}/{}", port.service.0, port.service.1), "no endpoint is ready");
        let _ = socket.set_zero_linger(); // without it the client sees an end instead of a reset
        return;
    };
    let _ = socket.set_nodelay(true); // a socket without the option still works
    let Ok(socket) = socket.into_std() else { return };
    let peer = Peer { address: SocketAddr::new(network.node_internal(), client.port()) };
    if let Way::Pod { pod, port, by_loopback } = &way
        && let Ok(Bound::Http(handler)) = pod.tcp(*port, *by_loopback)
    {
        // Nothing of this thread pool touches it again.
        handler.serve(Connection::Tcp(socket), peer);
        return;
    }
    let inner = inner.clone();
    inner.tasks.clone().spawn(async move {
        if let Err(error) = inner.hand_over(Connection::Tcp(socket), peer, &way).await {
            tracing::debug!(%error, "connection not taken");
        }
    });
}
