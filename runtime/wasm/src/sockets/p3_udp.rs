//! wasi:sockets of WASI 0.3: UDP.

use super::{host_handle, p3::v6, positive, udp::Udp, wasi_handle};
use crate::view::{Here, View};
use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::{
    p3::{
        bindings::sockets::types::{HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress},
        sockets::{SocketError, SocketResult},
    },
    sockets::UdpSocket,
};

impl View<'_> {
    fn udp3(&mut self, this: &Resource<UdpSocket>) -> SocketResult<&mut Udp> {
        self.table.get_mut(&host_handle::<Udp, _>(this)).map_err(SocketError::trap)
    }
}

impl<T: Send + 'static> HostUdpSocketWithStore<T> for Here {
    async fn send(
        store: &Accessor<T, Self>,
        this: Resource<UdpSocket>,
        data: Vec<u8>,
        to: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let bound = store.with(|mut access| {
            let mut view = access.get();
            let sockets = view.sockets.clone();
            let socket = view.udp3(&this)?;
            SocketResult::Ok((!socket.is_bound()).then_some((sockets, socket.v6)))
        })?;
        if let Some((sockets, v6)) = bound {
            let port = Udp::any_port(&*sockets, v6).await?;
            store.with(|mut access| access.get().udp3(&this).map(|socket| socket.bound_to(port)))?;
        }
        let mut outgoing = store.with(|mut access| {
            let mut view = access.get();
            let log = view.log.clone();
            Ok::<_, SocketError>(view.udp3(&this)?.outgoing(&log)?)
        })?;
        outgoing.send(data, to.map(Into::into))?;
        Ok(std::future::poll_fn(|context| outgoing.poll_sent(context)).await?)
    }

    async fn receive(store: &Accessor<T, Self>, this: Resource<UdpSocket>) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let mut incoming = store.with(|mut access| Ok::<_, SocketError>(access.get().udp3(&this)?.incoming()?))?;
        let (data, from) = std::future::poll_fn(|context| incoming.poll_receive(context)).await?;
        Ok((data.into(), from.into()))
    }
}

impl HostUdpSocket for View<'_> {
    async fn bind(&mut self, this: Resource<UdpSocket>, at: IpSocketAddress) -> SocketResult<()> {
        let sockets = self.sockets.clone();
        Ok(self.udp3(&this)?.bind(&*sockets, at.into()).await?)
    }

    async fn connect(&mut self, this: Resource<UdpSocket>, to: IpSocketAddress) -> SocketResult<()> {
        let sockets = self.sockets.clone();
        let socket = self.udp3(&this)?;
        socket.connect(&*sockets, Some(to.into()))?;
        if !socket.is_bound() {
            let port = Udp::any_port(&*sockets, socket.v6).await?;
            socket.bound_to(port);
        }
        Ok(())
    }

    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Ok(wasi_handle(&self.table.push(Udp::new(v6(family))).map_err(SocketError::trap)?))
    }

    fn disconnect(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        let sockets = self.sockets.clone();
        let socket = self.udp3(&this)?;
        if socket.remote.is_none() {
            return Err(super::SocketFault::InvalidState.into());
        }
        Ok(socket.connect(&*sockets, None)?)
    }

    fn get_local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp3(&this)?.local()?.into())
    }

    fn get_remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp3(&this)?.remote.ok_or(super::SocketFault::InvalidState)?.into())
    }

    fn get_address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.table.get(&host_handle::<Udp, _>(&this))?.v6 {
            true => IpAddressFamily::Ipv6,
            false => IpAddressFamily::Ipv4,
        })
    }

    fn get_unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp3(&this)?.options.hops)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        self.udp3(&this)?.options.hops = positive(value)?;
        Ok(())
    }

    fn get_receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp3(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        self.udp3(&this)?.options.receive_buffer = positive(value)?;
        Ok(())
    }

    fn get_send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp3(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        self.udp3(&this)?.options.send_buffer = positive(value)?;
        Ok(())
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Udp, _>(&this))?;
        Ok(())
    }
}
