//! The DNS server's address in the node's namespace: a UDP socket and a TCP listener, which the rules let pods reach as long as nobody's endpoints
//! are behind it.

use super::state::{Kernel, v4, without_delay};
use crate::{
    dns::{Dns, Step, Transport},
    network::Inner,
};
use netns::Place;
use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::sleep,
};

/// The delay before sockets that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The delay after a failed accept or receive, mostly out of memory or file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a query. One that is longer is cut, and cannot be read.
const MAX_QUERY: usize = 4096;

/// Serves both sockets.
pub(super) async fn run(inner: Arc<Inner>, kernel: Arc<Kernel>, dns: Arc<Dns>) {
    let Ok(at) = v4(dns.address()) else { return };
    let (datagrams, listener) = loop {
        match sockets(&kernel, at).await {
            Ok(both) => break both,
            Err(error) => tracing::warn!(%error, %at, "pods with a network namespace have no DNS server"),
        }
        sleep(RETRY).await;
    };
    tokio::join!(answer(&inner, Arc::new(datagrams), &dns), accept(&inner, listener, &dns));
}

async fn sockets(kernel: &Kernel, at: SocketAddrV4) -> netns::Result<(UdpSocket, TcpListener)> {
    Ok((kernel.node.bind_udp(Place::Node, at).await?, kernel.node.listen(Place::Node, at).await?))
}

/// Answers datagrams, one after the other; what others are asked for does not hold up the next.
async fn answer(inner: &Inner, socket: Arc<UdpSocket>, dns: &Arc<Dns>) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (size, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // such as that a client of before has gone
                tracing::debug!(%error, "a question of DNS is lost");
                tokio::task::yield_now().await;
                continue;
            }
        };
        match dns.answer(buffer.get(..size).unwrap_or_default(), Transport::Datagram) {
            Step::Nothing => {}
            Step::Reply(reply) => send(&socket, &reply, from).await,
            Step::Ask(pending) => {
                let (socket, dns) = (socket.clone(), dns.clone());
                inner.run(async move { send(&socket, &dns.finish(*pending, from.ip()).await, from).await });
            }
        }
    }
}

/// What cannot be sent is lost, and the client asks again.
async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%error, %to, "a reply of DNS is lost");
    }
}

async fn accept(inner: &Inner, listener: TcpListener, dns: &Arc<Dns>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = dns.enter(from.ip()) else { continue };
                let dns = dns.clone();
                inner.run(async move {
                    let _place = place;
                    // an error is the client's end
                    let _ = dns.serve(without_delay(stream), from.ip()).await;
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
