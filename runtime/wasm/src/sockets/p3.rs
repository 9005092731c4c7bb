//! wasi:sockets of WASI 0.3: TCP.

use super::{
    SocketFault, host_handle, positive,
    stream::{Reader, Writer},
    tcp::{Acceptor, Tcp, tell},
    wasi_handle,
};
use crate::view::{Here, View};
use bytes::BytesMut;
use container::net;
use std::{
    iter,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{
        Access, Accessor, Destination, FutureReader, Linker, Resource, Source, StreamConsumer, StreamProducer,
        StreamReader, StreamResult,
    },
};
use wasmtime_wasi::{
    p3::{
        bindings::sockets::{
            ip_name_lookup,
            types::{self, ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress},
        },
        sockets::{SocketError, SocketResult},
    },
    sockets::TcpSocket,
};

/// Bytes of one read when the guest provides no buffer.
const BUFFER: usize = 8 << 10;

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: for<'a> fn(&'a mut T) -> View<'a>,
) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Here>(linker, view)?;
    ip_name_lookup::add_to_linker::<T, Here>(linker, view)
}

impl From<SocketFault> for ErrorCode {
    fn from(fault: SocketFault) -> Self {
        match fault {
            SocketFault::InvalidState => Self::InvalidState,
            SocketFault::InvalidArgument => Self::InvalidArgument,
            SocketFault::TooLarge => Self::DatagramTooLarge,
            SocketFault::Net(error) => match error {
                net::Error::Refused(_) => Self::ConnectionRefused,
                net::Error::AddressInUse(_) => Self::AddressInUse,
                net::Error::NotAvailable(_) => Self::AddressNotBindable,
                net::Error::Denied(_) => Self::AccessDenied,
                net::Error::TimedOut(_) => Self::Timeout,
                net::Error::Unreachable(_) => Self::RemoteUnreachable,
                net::Error::Unsupported(_) => Self::NotSupported,
                net::Error::Reset(_) => Self::ConnectionReset,
                net::Error::Exhausted(_) => Self::OutOfMemory,
                net::Error::NoSuchHost(_) | net::Error::Protocol(_) => Self::Other(None),
            },
        }
    }
}

impl From<SocketFault> for SocketError {
    fn from(fault: SocketFault) -> Self {
        ErrorCode::from(fault).into()
    }
}

pub(super) fn v6(family: IpAddressFamily) -> bool {
    matches!(family, IpAddressFamily::Ipv6)
}

impl View<'_> {
    fn tcp3(&mut self, this: &Resource<TcpSocket>) -> SocketResult<&mut Tcp> {
        self.table.get_mut(&host_handle::<Tcp, _>(this)).map_err(SocketError::trap)
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

/// Produces the connections of a listener.
struct Accepting<T> {
    acceptor: Acceptor,
    view: for<'a> fn(&'a mut T) -> View<'a>,
}

impl<T: 'static> StreamProducer<T> for Accepting<T> {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut to: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let pending = if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending };
        if to.remaining(&mut store) == Some(0) {
            return match self.acceptor.poll_ready(context) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => pending,
            };
        }
        match self.acceptor.poll_accept(context) {
            Poll::Pending => pending,
            // The pod is detached from the network.
            Poll::Ready(Err(_)) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Ready(Ok(accepted)) => {
                let socket = (self.view)(store.data_mut()).table.push(accepted)?;
                to.set_buffer(Some(wasi_handle(&socket)));
                Poll::Ready(Ok(StreamResult::Completed))
            }
        }
    }
}

type Outcome = oneshot::Sender<Result<(), ErrorCode>>;

/// Reports the result of a stream once. A dropped reporter reports success.
struct End(Option<Outcome>);

impl End {
    fn with(&mut self, result: Result<(), ErrorCode>) {
        if let Some(tell) = self.0.take() {
            // The guest may have dropped the future.
            let _ = tell.send(result);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.with(Ok(()));
    }
}

/// Produces the received bytes of a connection.
struct Receiving {
    from: Reader,
    end: End,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.from.shut();
    }
}

impl<T> StreamProducer<T> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        to: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let pending = if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending };
        if to.remaining(store.as_context_mut()) == Some(0) {
            return match self.from.poll_ready(context) {
                Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
                Poll::Pending => pending,
            };
        }
        let mut to = to.as_direct(store, BUFFER);
        match self.from.poll_read(context, to.remaining()) {
            Poll::Pending => pending,
            Poll::Ready(Ok(0)) => {
                self.end.with(Ok(()));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
            Poll::Ready(Ok(count)) => {
                to.mark_written(count);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => {
                self.end.with(Err(error.into()));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
        }
    }
}

/// Sends the guest's stream to a connection. The end of the stream closes the sending half.
struct Transmitting {
    to: Writer,
    end: End,
}

impl Drop for Transmitting {
    fn drop(&mut self) {
        self.to.shut();
    }
}

impl<T> StreamConsumer<T> for Transmitting {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        from: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut from = from.as_direct(store);
        if from.remaining().is_empty() {
            // The guest asks for readiness only, which is unknown before a write.
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        match self.to.poll_write(context, from.remaining()) {
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count)) => {
                from.mark_read(count);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => {
                self.end.with(Err(error.into()));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
        }
    }
}

impl<T: Send + 'static> types::HostTcpSocketWithStore<T> for Here {
    async fn connect(store: &Accessor<T, Self>, this: Resource<TcpSocket>, to: IpSocketAddress) -> SocketResult<()> {
        store.with(|mut access| {
            let mut view = access.get();
            let (sockets, log) = (view.sockets.clone(), view.log.clone());
            view.tcp3(&this)?.start_connect(&sockets, &log, to.into()).map_err(SocketError::from)
        })?;
        let settled = |context: &mut Context<'_>| {
            store.with(|mut access| access.get().tcp3(&this).map(|tcp| tcp.poll_connect(context)))
        };
        std::future::poll_fn(|context| match settled(context) {
            Ok(polled) => polled.map_err(SocketError::from),
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    async fn listen(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let view = store.getter();
        let sockets = store.get().sockets.clone();
        let mut here = store.get();
        let socket = here.tcp3(&this)?;
        socket.listen(&*sockets).await?;
        let acceptor = socket.acceptor()?;
        StreamReader::new(&mut store, Accepting { acceptor, view }).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        let writer = store.get().tcp3(&this).map(Tcp::take_writer);
        match writer.map_err(|error| wasmtime::format_err!("{error:?}"))? {
            Ok(to) => {
                let (tell, told) = oneshot::channel();
                data.pipe(&mut store, Transmitting { to, end: End(Some(tell)) })?;
                FutureReader::new(&mut store, told)
            }
            Err(fault) => {
                data.close(&mut store)?;
                FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(fault.into())) })
            }
        }
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let reader = store.get().tcp3(&this).map(Tcp::take_reader);
        match reader.map_err(|error| wasmtime::format_err!("{error:?}"))? {
            Ok(from) => {
                let (tell, told) = oneshot::channel();
                let bytes = StreamReader::new(&mut store, Receiving { from, end: End(Some(tell)) })?;
                Ok((bytes, FutureReader::new(&mut store, told)?))
            }
            Err(fault) => {
                let none = StreamReader::new(&mut store, iter::empty())?;
                Ok((none, FutureReader::new(&mut store, async move { wasmtime::error::Ok(Err(fault.into())) })?))
            }
        }
    }
}

impl types::HostTcpSocket for View<'_> {
    async fn bind(&mut self, this: Resource<TcpSocket>, at: IpSocketAddress) -> SocketResult<()> {
        let sockets = self.sockets.clone();
        Ok(self.tcp3(&this)?.bind(&*sockets, at.into()).await?)
    }

    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        Ok(wasi_handle(&self.table.push(Tcp::new(v6(family))).map_err(SocketError::trap)?))
    }

    fn get_local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp3(&this)?.local()?.into())
    }

    fn get_remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp3(&this)?.remote()?.into())
    }

    fn get_is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&host_handle::<Tcp, _>(&this))?.is_listening())
    }

    fn get_address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(match self.table.get(&host_handle::<Tcp, _>(&this))?.v6 {
            true => IpAddressFamily::Ipv6,
            false => IpAddressFamily::Ipv4,
        })
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_backlog(value)?)
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp3(&this)?.options.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> SocketResult<()> {
        self.tcp3(&this)?.options.keep_alive = value;
        Ok(())
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.options.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp3(&this)?.options.keep_alive_idle = positive(value)?;
        Ok(())
    }

    fn get_keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.options.keep_alive_interval)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp3(&this)?.options.keep_alive_interval = positive(value)?;
        Ok(())
    }

    fn get_keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp3(&this)?.options.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        self.tcp3(&this)?.options.keep_alive_count = positive(value)?;
        Ok(())
    }

    fn get_hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp3(&this)?.options.hops)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        self.tcp3(&this)?.options.hops = positive(value)?;
        Ok(())
    }

    fn get_receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp3(&this)?.options.receive_buffer = positive(value)?;
        Ok(())
    }

    fn get_send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.tcp3(&this)?.options.send_buffer = positive(value)?;
        Ok(())
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(host_handle::<Tcp, _>(&this))?;
        Ok(())
    }
}

impl<T: Send + 'static> ip_name_lookup::HostWithStore<T> for Here {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>> {
        use ip_name_lookup::ErrorCode;
        if !super::is_name(&name) {
            return Ok(Err(ErrorCode::InvalidArgument));
        }
        let (sockets, log) = store.with(|mut access| {
            let view = access.get();
            (view.sockets.clone(), view.log.clone())
        });
        let answer = sockets.resolve(&name).await;
        let answer = answer.inspect_err(|error| tell(&log, &format!("look-up of {name}"), error));
        Ok(answer.map(|addresses| addresses.into_iter().map(IpAddress::from).collect()).map_err(|error| match error {
            net::Error::TimedOut(_) | net::Error::Exhausted(_) => ErrorCode::TemporaryResolverFailure,
            net::Error::NoSuchHost(_) => ErrorCode::NameUnresolvable,
            net::Error::Denied(_) => ErrorCode::AccessDenied,
            _ => ErrorCode::PermanentResolverFailure,
        }))
    }
}

impl ip_name_lookup::Host for View<'_> {}
