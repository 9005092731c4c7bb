//! A TCP socket of a guest over the pod's [`Sockets`]: the state machine that both versions of WASI share.

use super::{
    Options, SocketFault, check_family, check_remote, check_unicast, now,
    stream::{Reader, Writer, halves},
};
use container::{
    log::{Log, Source},
    net::{self, BoundPort, Listener, Sockets, Stream},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use wasmtime_wasi::p2::Pollable;

pub(super) type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The unspecified address of a family with port 0.
pub(super) fn unspecified(v6: bool) -> SocketAddr {
    let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}

/// A TCP socket.
pub(crate) struct Tcp {
    pub(super) v6: bool,
    pub(super) options: Options,
    state: State,
}

enum State {
    Unbound,
    Bound(Box<dyn BoundPort>),
    Connecting {
        remote: SocketAddr,
        under_way: Pending<net::Result<(Stream, SocketAddr)>>,
    },
    Connected(Connected),
    Listening(Acceptor),
    /// The connection failed. A socket cannot be reused.
    Failed(SocketFault),
}

struct Connected {
    local: SocketAddr,
    remote: SocketAddr,
    reader: Reader,
    writer: Writer,
    /// Whether the guest has taken the reader, and the writer.
    taken: (bool, bool),
}

/// Accepts the connections of a listener.
pub(crate) struct Acceptor {
    v6: bool,
    /// Options of accepted sockets.
    options: Options,
    listener: Arc<dyn Listener>,
    /// The pending operation. Dropping it between polls would lose its waker.
    under_way: Option<Pending<net::Result<(Stream, SocketAddr)>>>,
    accepted: Option<net::Result<(Stream, SocketAddr)>>,
    own: Vec<IpAddr>,
}

impl Tcp {
    pub(crate) fn new(v6: bool) -> Self {
        Self { v6, options: Options::default(), state: State::Unbound }
    }

    fn connected(v6: bool, options: Options, stream: Stream, local: SocketAddr, remote: SocketAddr) -> Self {
        let (reader, writer) = halves(stream);
        let connected = Connected { local, remote, reader, writer, taken: (false, false) };
        Self { v6, options, state: State::Connected(connected) }
    }

    /// Binds a port of the pod.
    pub(crate) async fn bind(&mut self, sockets: &dyn Sockets, at: SocketAddr) -> Result<(), SocketFault> {
        let State::Unbound = self.state else { return Err(SocketFault::InvalidState) };
        check_unicast(at)?;
        check_family(at, self.v6)?;
        self.state = State::Bound(sockets.bind(at).await?);
        Ok(())
    }

    /// Starts to connect, from the bound port if there is one.
    pub(crate) fn start_connect(
        &mut self,
        sockets: &Arc<dyn Sockets>,
        log: &Log,
        to: SocketAddr,
    ) -> Result<(), SocketFault> {
        if !matches!(self.state, State::Unbound | State::Bound(_)) {
            return Err(SocketFault::InvalidState);
        }
        check_unicast(to)?;
        check_remote(to)?;
        check_family(to, self.v6)?;
        let (sockets, log) = (sockets.clone(), log.clone());
        let before = std::mem::replace(&mut self.state, State::Unbound);
        let under_way = Box::pin(async move {
            let connected = match before {
                State::Bound(port) => port.connect(to).await,
                _ => sockets.connect(to).await,
            };
            connected.inspect_err(|error| tell(&log, &format!("connection to {to}"), error))
        });
        self.state = State::Connecting { remote: to, under_way };
        Ok(())
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Ready when the connection is established or has failed.
    pub(crate) fn poll_connect(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketFault>> {
        let (result, remote) = match &mut self.state {
            State::Connecting { remote, under_way } => (ready!(under_way.as_mut().poll(context)), *remote),
            State::Connected(_) => return Poll::Ready(Ok(())),
            State::Failed(fault) => return Poll::Ready(Err(fault.clone())),
            _ => return Poll::Ready(Err(SocketFault::InvalidState)),
        };
        Poll::Ready(match result {
            Ok((stream, local)) => {
                *self = Self::connected(self.v6, self.options, stream, local, remote);
                Ok(())
            }
            Err(error) => {
                let fault = SocketFault::from(error);
                self.state = State::Failed(fault.clone());
                Err(fault)
            }
        })
    }

    /// Starts to listen.
    pub(crate) async fn listen(&mut self, sockets: &dyn Sockets) -> Result<(), SocketFault> {
        let port = match std::mem::replace(&mut self.state, State::Unbound) {
            State::Bound(port) => port,
            State::Unbound => sockets.bind(unspecified(self.v6)).await?,
            other => {
                self.state = other;
                return Err(SocketFault::InvalidState);
            }
        };
        let listener: Arc<dyn Listener> = port.listen().await?.into();
        let (v6, options, own) = (self.v6, self.options, sockets.addresses());
        self.state = State::Listening(Acceptor { v6, options, listener, own, under_way: None, accepted: None });
        Ok(())
    }

    /// An acceptor that is independent of the socket.
    pub(crate) fn acceptor(&self) -> Result<Acceptor, SocketFault> {
        let State::Listening(it) = &self.state else { return Err(SocketFault::InvalidState) };
        let (listener, own) = (it.listener.clone(), it.own.clone());
        Ok(Acceptor { v6: self.v6, options: self.options, listener, own, under_way: None, accepted: None })
    }

    /// Accepts a pending connection; `None` if there is none.
    pub(crate) fn accept(&mut self) -> Option<Result<Self, SocketFault>> {
        let State::Listening(acceptor) = &mut self.state else { return Some(Err(SocketFault::InvalidState)) };
        match now(|context| acceptor.poll_accept(context)) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        }
    }

    /// Takes both halves, once.
    pub(crate) fn take_halves(&mut self) -> Result<(Reader, Writer), SocketFault> {
        Ok((self.take_reader()?, self.take_writer()?))
    }

    pub(crate) fn take_reader(&mut self) -> Result<Reader, SocketFault> {
        match &mut self.state {
            State::Connected(connected) if !connected.taken.0 => {
                connected.taken.0 = true;
                Ok(connected.reader.clone())
            }
            State::Failed(fault) => Err(fault.clone()),
            _ => Err(SocketFault::InvalidState),
        }
    }

    pub(crate) fn take_writer(&mut self) -> Result<Writer, SocketFault> {
        match &mut self.state {
            State::Connected(connected) if !connected.taken.1 => {
                connected.taken.1 = true;
                Ok(connected.writer.clone())
            }
            State::Failed(fault) => Err(fault.clone()),
            _ => Err(SocketFault::InvalidState),
        }
    }

    pub(crate) fn shut(&self, receive: bool, send: bool) -> Result<(), SocketFault> {
        let State::Connected(connected) = &self.state else { return Err(SocketFault::InvalidState) };
        if receive {
            connected.reader.shut();
        }
        if send {
            connected.writer.shut();
        }
        Ok(())
    }

    pub(crate) fn local(&self) -> Result<SocketAddr, SocketFault> {
        match &self.state {
            State::Bound(port) => Ok(port.local_address()),
            State::Connected(connected) => Ok(connected.local),
            State::Listening(acceptor) => Ok(acceptor.listener.local_address()),
            State::Failed(fault) => Err(fault.clone()),
            State::Unbound | State::Connecting { .. } => Err(SocketFault::InvalidState),
        }
    }

    pub(crate) fn remote(&self) -> Result<SocketAddr, SocketFault> {
        match &self.state {
            State::Connected(connected) => Ok(connected.remote),
            State::Failed(fault) => Err(fault.clone()),
            _ => Err(SocketFault::InvalidState),
        }
    }

    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound(_))
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    /// Validates the backlog. The network decides the length of the queue.
    pub(crate) fn set_backlog(&self, value: u64) -> Result<(), SocketFault> {
        match &self.state {
            _ if value == 0 => Err(SocketFault::InvalidArgument),
            State::Unbound | State::Bound(_) | State::Listening(_) => Ok(()),
            _ => Err(SocketFault::InvalidState),
        }
    }

    /// Upper bound of the bytes that the host holds for the socket, excluding its streams.
    pub(crate) fn weight(&self) -> usize {
        match &self.state {
            State::Connected(connected) => connected.writer.in_flight(),
            _ => 0,
        }
    }
}

impl Acceptor {
    /// Ready when a connection or an error is pending.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.accepted.is_none() {
            let under_way = self.under_way.get_or_insert_with(|| {
                let listener = self.listener.clone();
                Box::pin(async move { listener.accept().await })
            });
            self.accepted = Some(ready!(under_way.as_mut().poll(context)));
            self.under_way = None;
        }
        Poll::Ready(())
    }

    /// Accepts the next connection.
    pub(crate) fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<Result<Tcp, SocketFault>> {
        ready!(self.poll_ready(context));
        Poll::Ready(match self.accepted.take() {
            Some(Ok((stream, remote))) => {
                let local = local_address_for(self.listener.local_address(), remote, &self.own);
                Ok(Tcp::connected(self.v6, self.options, stream, local, remote))
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(SocketFault::InvalidState),
        })
    }
}

/// The pod's address that `remote` connected to.
fn local_address_for(bound: SocketAddr, remote: SocketAddr, own: &[IpAddr]) -> SocketAddr {
    let ip = match bound.ip() {
        ip if !ip.is_unspecified() => ip,
        _ if remote.ip().is_loopback() => remote.ip(),
        ip => {
            let same = own.iter().find(|own| own.is_ipv4() == remote.is_ipv4());
            same.copied().unwrap_or(ip)
        }
    };
    SocketAddr::new(ip, bound.port())
}

/// Logs why the network refused an operation: the guest only receives an error code.
pub(super) fn tell(log: &Log, what: &str, error: &net::Error) {
    if matches!(error, net::Error::Denied(_) | net::Error::Unsupported(_)) {
        log.lines(Source::Stderr, &format!("sampan: {what} refused: {error}"));
    }
    tracing::debug!(what, %error, "a socket of a guest failed");
}

/// Ready when a connection attempt has ended, or when a connection is pending.
#[async_trait::async_trait]
impl Pollable for Tcp {
    async fn ready(&mut self) {
        if self.is_connecting() {
            // The result stays in the socket.
            let _ = std::future::poll_fn(|context| self.poll_connect(context)).await;
        } else if let State::Listening(acceptor) = &mut self.state {
            std::future::poll_fn(|context| acceptor.poll_ready(context)).await;
        }
    }
}
