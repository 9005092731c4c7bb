//! wasi:sockets of WASI 0.2: UDP.

use super::{
    host_handle, now, positive, too_many,
    udp::{Incoming, Outgoing, Udp},
    wasi_handle,
};
use crate::view::{Here, View};
use std::task::Poll;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{
    DynPollable, Network, Pollable, SocketError, SocketResult, UdpSocket,
    bindings::sockets::{
        network::{ErrorCode, IpAddressFamily, IpSocketAddress},
        udp::{self, IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream},
        udp_create_socket,
    },
    subscribe,
};

/// Most datagrams of one call.
const DATAGRAMS: usize = 16;
/// Bytes after which a call receives no further datagram.
const RECEIVE: usize = 64 << 10;

pub(super) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: for<'a> fn(&'a mut T) -> View<'a>,
) -> wasmtime::Result<()> {
    udp::add_to_linker::<T, Here>(linker, view)?;
    udp_create_socket::add_to_linker::<T, Here>(linker, view)
}

/// A UDP socket, and whether its bind is started and not finished.
struct Socket {
    udp: Udp,
    binding: bool,
}

/// A socket is always ready.
#[async_trait::async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {}
}

impl View<'_> {
    fn udp_socket(&mut self, this: &Resource<UdpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&host_handle::<Socket, _>(this))?)
    }

    fn udp(&mut self, this: &Resource<UdpSocket>) -> SocketResult<&mut Udp> {
        Ok(&mut self.udp_socket(this)?.udp)
    }
}

impl udp_create_socket::Host for View<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let socket = Socket { udp: Udp::new(matches!(family, IpAddressFamily::Ipv6)), binding: false };
        Ok(wasi_handle(&self.table.push(socket).map_err(too_many)?))
    }
}

impl udp::Host for View<'_> {}

impl udp::HostUdpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        at: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let sockets = self.sockets.clone();
        let socket = self.udp_socket(&this)?;
        if socket.binding {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        socket.udp.bind(&*sockets, at.into()).await?;
        socket.binding = true;
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        match std::mem::take(&mut self.udp_socket(&this)?.binding) {
            true => Ok(()),
            false => Err(ErrorCode::NotInProgress.into()),
        }
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        to: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let (log, sockets, this) = (self.log.clone(), self.sockets.clone(), host_handle::<Socket, _>(&this));
        if self.table.iter_children(&this)?.any(|child| child.is::<Incoming>() || child.is::<Outgoing>()) {
            return Err(SocketError::trap(wasmtime::format_err!("the streams of the UDP socket are not dropped yet")));
        }
        let socket = &mut self.table.get_mut(&this)?.udp;
        if !socket.is_bound() {
            return Err(ErrorCode::InvalidState.into());
        }
        socket.connect(&*sockets, to.map(Into::into))?;
        let (incoming, outgoing) = (socket.incoming()?, socket.outgoing(&log)?);
        let incoming = self.table.push_child(incoming, &this).map_err(too_many)?;
        let outgoing = self.table.push_child(outgoing, &this).map_err(too_many)?;
        Ok((wasi_handle(&incoming), wasi_handle(&outgoing)))
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&this)?.local()?.into())
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&this)?.remote.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.table.get(&host_handle::<Socket, _>(&this))?.udp.v6 {
            true => IpAddressFamily::Ipv6,
            false => IpAddressFamily::Ipv4,
        })
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp(&this)?.options.hops)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        self.udp(&this)?.options.hops = positive(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        self.udp(&this)?.options.receive_buffer = positive(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        self.udp(&this)?.options.send_buffer = positive(value)?;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host_handle::<Socket, _>(&this))
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Socket, _>(&this))?;
        Ok(())
    }
}

impl udp::HostIncomingDatagramStream for View<'_> {
    fn receive(&mut self, this: Resource<IncomingDatagramStream>, most: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let incoming = self.table.get_mut(&host_handle::<Incoming, _>(&this))?;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(DATAGRAMS);
        let (mut datagrams, mut size) = (Vec::new(), 0);
        while datagrams.len() < most && size < RECEIVE {
            match now(|context| incoming.poll_receive(context)) {
                Poll::Ready(Ok((data, from))) => {
                    size += data.len();
                    datagrams.push(IncomingDatagram { data: data.into(), remote_address: from.into() });
                }
                Poll::Ready(Err(fault)) if datagrams.is_empty() => return Err(fault.into()),
                _ => break,
            }
        }
        Ok(datagrams)
    }

    fn subscribe(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host_handle::<Incoming, _>(&this))
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Incoming, _>(&this))?;
        Ok(())
    }
}

impl udp::HostOutgoingDatagramStream for View<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        let outgoing = self.table.get_mut(&host_handle::<Outgoing, _>(&this))?;
        outgoing.permitted = match now(|context| outgoing.poll_sent(context)) {
            Poll::Pending => 0,
            Poll::Ready(sent) => {
                sent?;
                DATAGRAMS
            }
        };
        Ok(outgoing.permitted as u64)
    }

    fn send(&mut self, this: Resource<OutgoingDatagramStream>, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
        let outgoing = self.table.get_mut(&host_handle::<Outgoing, _>(&this))?;
        if datagrams.len() > outgoing.permitted {
            return Err(SocketError::trap(wasmtime::format_err!("more is sent than check-send allowed")));
        }
        if datagrams.is_empty() {
            return Ok(0);
        }
        outgoing.permitted = 0;
        let mut count = 0;
        for datagram in datagrams {
            let sent = outgoing.send(datagram.data, datagram.remote_address.map(Into::into));
            let sent = sent.and_then(|()| match now(|context| outgoing.poll_sent(context)) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            });
            match sent {
                Ok(()) => count += 1,
                Err(_) if count > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
            if now(|context| outgoing.poll_sent(context)).is_pending() {
                break;
            }
        }
        Ok(count)
    }

    fn subscribe(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host_handle::<Outgoing, _>(&this))
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        let mut outgoing = self.table.delete(host_handle::<Outgoing, _>(&this))?;
        outgoing.ready().await;
        Ok(())
    }
}
