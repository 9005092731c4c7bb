//! A UDP socket of a guest over the pod's [`Sockets`].

use super::{
    Options, SocketFault, check_family, check_remote, check_unicast,
    tcp::{Pending, tell, unspecified},
};
use bytes::Bytes;
use container::{
    log::Log,
    net::{self, Datagrams, Sockets},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
};
use wasmtime_wasi::p2::Pollable;

/// Most bytes of a datagram.
const MAX_DATAGRAM_BYTES: usize = 65_507;

/// A UDP socket.
pub(crate) struct Udp {
    pub(super) v6: bool,
    pub(super) options: Options,
    socket: Option<Arc<dyn Datagrams>>,
    pub(super) remote: Option<SocketAddr>,
    /// The address by which the peer is reached.
    source: Option<IpAddr>,
}

impl Udp {
    pub(crate) fn new(v6: bool) -> Self {
        Self { v6, options: Options::default(), socket: None, remote: None, source: None }
    }

    pub(crate) async fn bind(&mut self, sockets: &dyn Sockets, at: SocketAddr) -> Result<(), SocketFault> {
        if self.socket.is_some() {
            return Err(SocketFault::InvalidState);
        }
        check_unicast(at)?;
        check_family(at, self.v6)?;
        self.socket = Some(sockets.bind_udp(at).await?.into());
        Ok(())
    }

    /// Binds an ephemeral port.
    pub(crate) async fn any_port(sockets: &dyn Sockets, v6: bool) -> Result<Box<dyn Datagrams>, SocketFault> {
        Ok(sockets.bind_udp(unspecified(v6)).await?)
    }

    /// Sets the port of an unbound socket.
    pub(crate) fn bound_to(&mut self, port: Box<dyn Datagrams>) {
        self.socket.get_or_insert_with(|| port.into());
    }

    /// Restricts the socket to one peer; `None` removes the restriction.
    pub(crate) fn connect(&mut self, sockets: &dyn Sockets, to: Option<SocketAddr>) -> Result<(), SocketFault> {
        if let Some(to) = to {
            check_unicast(to)?;
            check_remote(to)?;
            check_family(to, self.v6)?;
        }
        self.remote = to;
        self.source = to.and_then(|to| match to.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_loopback() => Some(ip.into()),
            _ => sockets.addresses().into_iter().find(|own| own.is_ipv6() == self.v6),
        });
        Ok(())
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.socket.is_some()
    }

    /// Its address. A connected socket that is bound to all of the pod's addresses has the one by which it reaches its peer.
    pub(crate) fn local(&self) -> Result<SocketAddr, SocketFault> {
        let bound = self.socket.as_ref().ok_or(SocketFault::InvalidState)?.local_address();
        let source = self.source.filter(|_| bound.ip().is_unspecified());
        Ok(source.map_or(bound, |source| SocketAddr::new(source, bound.port())))
    }

    pub(crate) fn incoming(&self) -> Result<Incoming, SocketFault> {
        let socket = self.socket.clone().ok_or(SocketFault::InvalidState)?;
        Ok(Incoming { socket, from: self.remote, under_way: None, received: None })
    }

    pub(crate) fn outgoing(&self, log: &Log) -> Result<Outgoing, SocketFault> {
        let socket = self.socket.clone().ok_or(SocketFault::InvalidState)?;
        Ok(Outgoing { socket, v6: self.v6, to: self.remote, log: log.clone(), permitted: 0, under_way: None })
    }
}

/// Receives datagrams.
pub(crate) struct Incoming {
    socket: Arc<dyn Datagrams>,
    /// Drops datagrams of other peers.
    from: Option<SocketAddr>,
    /// The pending operation. Dropping it between polls would lose its waker.
    under_way: Option<Pending<net::Result<(Bytes, SocketAddr)>>>,
    received: Option<net::Result<(Bytes, SocketAddr)>>,
}

impl Incoming {
    /// Ready when a datagram or an error is pending.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.received.is_none() {
            let under_way = self.under_way.get_or_insert_with(|| {
                let socket = self.socket.clone();
                Box::pin(async move { socket.receive().await })
            });
            let received = ready!(under_way.as_mut().poll(context));
            self.under_way = None;
            let is_other_peer = |(_, from): &(Bytes, SocketAddr)| self.from.is_some_and(|only| only != *from);
            if !received.as_ref().is_ok_and(is_other_peer) {
                self.received = Some(received);
            }
        }
        Poll::Ready(())
    }

    /// Receives the next datagram.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(Bytes, SocketAddr), SocketFault>> {
        ready!(self.poll_ready(context));
        Poll::Ready(match self.received.take() {
            Some(received) => received.map_err(SocketFault::from),
            None => Err(SocketFault::InvalidState),
        })
    }
}

#[async_trait::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll_ready(context)).await;
    }
}

/// Sends datagrams.
pub(crate) struct Outgoing {
    socket: Arc<dyn Datagrams>,
    v6: bool,
    /// The only destination.
    to: Option<SocketAddr>,
    log: Log,
    /// Datagrams that the guest may send before it asks again.
    pub(super) permitted: usize,
    under_way: Option<Pending<net::Result<()>>>,
}

impl Outgoing {
    /// Starts to send a datagram.
    pub(crate) fn send(&mut self, data: Vec<u8>, to: Option<SocketAddr>) -> Result<(), SocketFault> {
        if data.len() > MAX_DATAGRAM_BYTES {
            return Err(SocketFault::TooLarge);
        }
        let to = match (to, self.to) {
            (Some(to), None) => to,
            (Some(to), Some(only)) if to == only => to,
            (None, Some(only)) => only,
            _ => return Err(SocketFault::InvalidArgument),
        };
        check_remote(to)?;
        check_family(to, self.v6)?;
        let (socket, log) = (self.socket.clone(), self.log.clone());
        self.under_way = Some(Box::pin(async move {
            let sent = socket.send_to(data.into(), to).await;
            sent.inspect_err(|error| tell(&log, &format!("datagram to {to}"), error))
        }));
        Ok(())
    }

    /// Ready when the datagram is sent or has failed.
    pub(crate) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketFault>> {
        let Some(under_way) = &mut self.under_way else { return Poll::Ready(Ok(())) };
        let sent = ready!(under_way.as_mut().poll(context));
        self.under_way = None;
        Poll::Ready(sent.map_err(SocketFault::from))
    }
}

#[async_trait::async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {
        // A failed datagram is lost, as on any network.
        let _ = std::future::poll_fn(|context| self.poll_sent(context)).await;
    }
}
