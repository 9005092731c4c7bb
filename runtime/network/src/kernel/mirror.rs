//! What virtual pods open, the kernel has too: a listener or a UDP socket at the pod's address, so that pods with a namespace reach them.
//! Level-driven: after each change the ports that are open are compared with those that are there.

use super::state::{Kernel, error_at, v4, without_delay};
use crate::{
    network::Inner,
    pod::{Bound, Guarded},
};
use container::net::{Connection, Peer, Result, Via};
use netns::Place;
use std::{
    collections::{HashMap, HashSet},
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The delay after a failed accept, mostly out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest datagram.
const MAX_DATAGRAM: usize = 65_507;

/// Keeps the kernel's sockets in step with the ports that virtual pods open.
pub(super) async fn run(inner: Arc<Inner>, kernel: Arc<Kernel>) {
    let mut listeners: HashMap<SocketAddrV4, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let (tcp, udp) = open_ports(&inner);
        listeners.retain(|at, _| tcp.contains(at));
        kernel.datagrams.lock().await.retain(|at, _| udp.contains(at));
        let missing: Vec<SocketAddrV4> = tcp.into_iter().filter(|at| !listeners.contains_key(at)).collect();
        for at in missing {
            match kernel.node.listen(Place::Node, at).await {
                Ok(listener) => {
                    let task = tokio::spawn(serve(inner.clone(), listener, at));
                    listeners.insert(at, AbortOnDropHandle::new(task));
                }
                Err(error) => tracing::warn!(%error, %at, "a port of a pod is not reachable from network namespaces"),
            }
        }
        for at in udp {
            if let Err(error) = datagrams(&inner, &kernel, at).await {
                tracing::warn!(%error, %at, "a port of a pod is not reachable from network namespaces");
            }
        }
        inner.ports_changed.notified().await;
    }
}

/// The TCP and UDP ports that virtual pods have open.
fn open_ports(inner: &Inner) -> (HashSet<SocketAddrV4>, HashSet<SocketAddrV4>) {
    let pods: Vec<_> = inner.pods.read().by_id.values().filter(|pod| !pod.spec.kernel).cloned().collect();
    let (mut tcp, mut udp) = (HashSet::new(), HashSet::new());
    for pod in pods {
        let (of_tcp, of_udp) = pod.open_ports();
        let at = |port| v4(SocketAddr::new(pod.address, port)).ok();
        tcp.extend(of_tcp.into_iter().filter_map(at));
        udp.extend(of_udp.into_iter().filter_map(at));
    }
    (tcp, udp)
}

/// Gives connections to the guest that listens at the address.
async fn serve(inner: Arc<Inner>, listener: TcpListener, at: SocketAddrV4) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => give(&inner, without_delay(stream), from, at).await,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Gives one connection. It is closed if nobody takes it in time.
async fn give(inner: &Inner, stream: TcpStream, from: SocketAddr, at: SocketAddrV4) {
    let Some(pod) = inner.pod_at((*at.ip()).into()) else { return };
    match pod.tcp(at.port(), false) {
        Ok(Bound::Http(handler)) => {
            if let Ok(socket) = stream.into_std() {
                handler.serve(Connection::Tcp(socket), Peer { address: from, via: Via::Pod });
            }
        }
        Ok(Bound::Listener(backlog)) => {
            if let Ok(permit) = pod.permit() {
                let stream = Box::new(Guarded::new(stream, permit));
                let _ = timeout(inner.config.limits.connect_timeout, backlog.send((stream, from))).await;
            }
        }
        _ => {}
    }
}

/// The UDP socket at the address of a virtual pod's port, which is made now if it is not there.
pub(super) async fn datagrams(inner: &Arc<Inner>, kernel: &Kernel, at: SocketAddrV4) -> Result<Arc<UdpSocket>> {
    let mut open = kernel.datagrams.lock().await;
    if let Some((socket, _)) = open.get(&at) {
        return Ok(socket.clone());
    }
    let socket = kernel.node.bind_udp(Place::Node, at).await.map_err(|error| error_at(error, at.into()))?;
    let socket = Arc::new(socket);
    let task = tokio::spawn(receive(inner.clone(), socket.clone(), at));
    open.insert(at, (socket.clone(), AbortOnDropHandle::new(task)));
    Ok(socket)
}

/// Gives datagrams to the guest that has the port.
async fn receive(inner: Arc<Inner>, socket: Arc<UdpSocket>, at: SocketAddrV4) {
    let mut buffer = Vec::new();
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // a socket that waits holds no buffer
        buffer.resize(MAX_DATAGRAM, 0);
        while let Ok((size, from)) = socket.try_recv_from(&mut buffer) {
            if let Some(pod) = inner.pod_at((*at.ip()).into()) {
                pod.deliver(at.port(), false, (bytes::Bytes::copy_from_slice(&buffer[..size]), from));
            }
        }
        buffer = Vec::new();
    }
}
