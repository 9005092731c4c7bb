//! wasi:sockets of WASI 0.2: TCP and names.

use super::{
    SocketFault, host_handle, is_name, now, p2_udp, positive,
    tcp::{Pending, Tcp, tell},
    too_many, wasi_handle,
};
use crate::view::{Here, View};
use container::net;
use std::{collections::VecDeque, net::IpAddr, task::Poll};
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Network, Pollable, SocketError, SocketResult, TcpSocket,
    bindings::sockets::{
        ip_name_lookup::{self, IpAddress, ResolveAddressStream},
        network::{self, ErrorCode, IpAddressFamily, IpSocketAddress},
        tcp::{self, ShutdownType},
        tcp_create_socket,
    },
    subscribe,
};

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

/// Replaces the interfaces of wasmtime-wasi in a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: for<'a> fn(&'a mut T) -> View<'a>,
) -> wasmtime::Result<()> {
    tcp::add_to_linker::<T, Here>(linker, view)?;
    tcp_create_socket::add_to_linker::<T, Here>(linker, view)?;
    ip_name_lookup::add_to_linker::<T, Here>(linker, view)?;
    p2_udp::add_to_linker(linker, view)
}

impl From<SocketFault> for SocketError {
    fn from(fault: SocketFault) -> Self {
        ErrorCode::from(fault).into()
    }
}

/// An operation that the guest has started and not finished. WASI 0.2 splits each into two calls; the host completes it in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Bind,
    Connect,
    Listen,
}

/// A TCP socket and its started operation.
pub(crate) struct Socket {
    pub(crate) tcp: Tcp,
    step: Option<Step>,
}

impl Socket {
    fn idle(&mut self) -> Result<&mut Tcp, ErrorCode> {
        if self.step.is_some() { Err(ErrorCode::ConcurrencyConflict) } else { Ok(&mut self.tcp) }
    }

    fn finish(&mut self, step: Step) -> Result<(), ErrorCode> {
        match self.step.take() {
            Some(begun) if begun == step => Ok(()),
            other => {
                self.step = other;
                Err(ErrorCode::NotInProgress)
            }
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        self.tcp.ready().await;
    }
}

impl View<'_> {
    fn socket(&mut self, this: &Resource<TcpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&host_handle::<Socket, _>(this))?)
    }

    fn tcp(&mut self, this: &Resource<TcpSocket>) -> SocketResult<&mut Tcp> {
        Ok(&mut self.socket(this)?.tcp)
    }

    fn streams(&mut self, this: &Resource<Socket>) -> SocketResult<Streams> {
        let (reader, writer) = self.table.get_mut(this)?.tcp.take_halves()?;
        let input: DynInputStream = Box::new(reader);
        let output: DynOutputStream = Box::new(writer);
        let input = self.table.push_child(input, this).map_err(too_many)?;
        Ok((input, self.table.push_child(output, this).map_err(too_many)?))
    }
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<std::io::Error>().map(ErrorCode::from))
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, this: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let socket = Socket { tcp: Tcp::new(matches!(family, IpAddressFamily::Ipv6)), step: None };
        Ok(wasi_handle(&self.table.push(socket).map_err(too_many)?))
    }
}

impl tcp::Host for View<'_> {}

impl tcp::HostTcpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        at: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let sockets = self.sockets.clone();
        let socket = self.socket(&this)?;
        socket.idle()?.bind(&*sockets, at.into()).await?;
        socket.step = Some(Step::Bind);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.socket(&this)?.finish(Step::Bind)?)
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        to: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let (sockets, log) = (self.sockets.clone(), self.log.clone());
        let socket = self.socket(&this)?;
        socket.idle()?.start_connect(&sockets, &log, to.into())?;
        socket.step = Some(Step::Connect);
        Ok(())
    }

    fn finish_connect(&mut self, this: Resource<TcpSocket>) -> SocketResult<Streams> {
        let socket = self.socket(&this)?;
        if socket.step != Some(Step::Connect) {
            return Err(ErrorCode::NotInProgress.into());
        }
        let Poll::Ready(settled) = now(|context| socket.tcp.poll_connect(context)) else {
            return Err(ErrorCode::WouldBlock.into());
        };
        socket.step = None;
        settled?;
        self.streams(&host_handle(&this))
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let sockets = self.sockets.clone();
        let socket = self.socket(&this)?;
        if !socket.idle()?.is_bound() {
            // WASI 0.3 binds implicitly, WASI 0.2 does not.
            return Err(ErrorCode::InvalidState.into());
        }
        socket.tcp.listen(&*sockets).await?;
        socket.step = Some(Step::Listen);
        Ok(())
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        Ok(self.socket(&this)?.finish(Step::Listen)?)
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let accepted = self.socket(&this)?.idle()?.accept().ok_or(ErrorCode::WouldBlock)??;
        let socket = self.table.push(Socket { tcp: accepted, step: None }).map_err(too_many)?;
        let (input, output) = self.streams(&socket)?;
        Ok((wasi_handle(&socket), input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.local()?.into())
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.remote()?.into())
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&host_handle::<Socket, _>(&this))?.tcp.is_listening())
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.table.get(&host_handle::<Socket, _>(&this))?.tcp.v6 {
            true => IpAddressFamily::Ipv6,
            false => IpAddressFamily::Ipv4,
        })
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.tcp(&this)?.set_backlog(value)?)
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp(&this)?.options.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> SocketResult<()> {
        self.tcp(&this)?.options.keep_alive = value;
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp(&this)?.options.keep_alive_idle = positive(value)?;
        Ok(())
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options.keep_alive_interval)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp(&this)?.options.keep_alive_interval = positive(value)?;
        Ok(())
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp(&this)?.options.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        self.tcp(&this)?.options.keep_alive_count = positive(value)?;
        Ok(())
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp(&this)?.options.hops)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        self.tcp(&this)?.options.hops = positive(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp(&this)?.options.receive_buffer = positive(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp(&this)?.options.send_buffer = positive(value)?;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host_handle::<Socket, _>(&this))
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let (receive, send) = match how {
            ShutdownType::Receive => (true, false),
            ShutdownType::Send => (false, true),
            ShutdownType::Both => (true, true),
        };
        Ok(self.tcp(&this)?.shut(receive, send)?)
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Socket, _>(&this))?;
        Ok(())
    }
}

/// A pending name lookup, or its remaining addresses.
enum Lookup {
    UnderWay(Pending<net::Result<Vec<IpAddr>>>),
    Answered(Result<VecDeque<IpAddr>, ErrorCode>),
}

impl Lookup {
    fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<&mut Result<VecDeque<IpAddr>, ErrorCode>> {
        if let Self::UnderWay(answer) = self {
            let answer = std::task::ready!(answer.as_mut().poll(context));
            *self = Self::Answered(answer.map(VecDeque::from).map_err(unresolved));
        }
        match self {
            Self::UnderWay(_) => Poll::Pending,
            Self::Answered(answer) => Poll::Ready(answer),
        }
    }
}

fn unresolved(error: net::Error) -> ErrorCode {
    match error {
        net::Error::TimedOut(_) | net::Error::Exhausted(_) => ErrorCode::TemporaryResolverFailure,
        net::Error::NoSuchHost(_) | net::Error::Denied(_) => SocketFault::from(error).into(),
        _ => ErrorCode::PermanentResolverFailure,
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll(context).map(|_| ())).await;
    }
}

impl ip_name_lookup::Host for View<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.table.get(&network)?;
        if !is_name(&name) {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let (sockets, log) = (self.sockets.clone(), self.log.clone());
        let mut lookup = Lookup::UnderWay(Box::pin(async move {
            let answer = sockets.resolve(&name).await;
            answer.inspect_err(|error| tell(&log, &format!("look-up of {name}"), error))
        }));
        if let Poll::Ready(Err(code)) = now(|context| lookup.poll(context).map(|answer| answer.clone())) {
            return Err(code.into());
        }
        Ok(wasi_handle(&self.table.push(lookup)?))
    }
}

impl ip_name_lookup::HostResolveAddressStream for View<'_> {
    fn resolve_next_address(&mut self, this: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        let lookup = self.table.get_mut(&host_handle::<Lookup, _>(&this))?;
        match now(|context| {
            lookup.poll(context).map(|answer| answer.as_mut().map(VecDeque::pop_front).map_err(|code| *code))
        }) {
            Poll::Pending => Err(ErrorCode::WouldBlock.into()),
            Poll::Ready(next) => Ok(next?.map(IpAddress::from)),
        }
    }

    fn subscribe(&mut self, this: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host_handle::<Lookup, _>(&this))
    }

    fn drop(&mut self, this: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Lookup, _>(&this))?;
        Ok(())
    }
}
