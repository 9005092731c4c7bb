//! wasi:sockets over [`container::net::Sockets`]: TCP, UDP and names, of WASI 0.2 (`p2`) and 0.3 (`p3`).
//!
//! The sockets of wasmtime-wasi are host sockets, and its address check can only allow or deny. A guest's sockets belong to its pod: a bind
//! takes a port of the pod and opens no host socket, names and addresses are the cluster's, and the network decides which destinations are
//! reachable. Therefore only the bindings of wasmtime-wasi are used. Its resource types name the entries of an instance's table, which
//! hold [`tcp::Tcp`], [`udp::Udp`] and their streams (`host_handle` and `wasi_handle` convert between the handle types).
//!
//! | WASI | [`Sockets`](container::net::Sockets) |
//! | --- | --- |
//! | bind | `bind`: fails if the port is in use, and chooses a port for 0. A bound port without a listener refuses connections |
//! | listen, accept | `BoundPort::listen`, `Listener::accept`. The local address of an accepted connection is one of the pod's, as its peer used it |
//! | connect | `connect`, or `BoundPort::connect` of a bound socket. The remote address is what the guest asked for, a Service's included |
//! | UDP | `bind_udp`. A connected socket filters by peer on this side |
//! | resolve-addresses | `resolve`: all addresses in its order, IP literals included |
//! | keep-alive, hop limit, buffer sizes, backlog | stored and returned without effect; 0 is an invalid argument |
//!
//! Functions that must not block poll once (`now`). A pending operation stays in its resource, and the `ready` function of the resource polls
//! it with a waker.
//!
//! Limits: the network's limit of bound and connected sockets per pod, the capacity of the instance's table for all other sockets, and the
//! container's memory, which is charged for the buffers of a connection ([`crate::host`]).
//!
//! Modules of preview 1 cannot open sockets: wasmtime does not implement `sock_accept` and the related functions.

pub(crate) mod p2;
mod p2_udp;
pub(crate) mod p3;
mod p3_udp;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod udp;

use container::net;
use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
};
use wasmtime::component::{Resource, ResourceTableError};
use wasmtime_wasi::p2::{SocketError, bindings::sockets::network::ErrorCode};

/// Polls once, without a waker. Ignores tokio's cooperative budget, which would report pending.
pub(crate) fn now<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let future = pin!(tokio::task::coop::unconstrained(std::future::poll_fn(poll)));
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Converts a handle of wasmtime-wasi's type into one of the host's type.
fn host_handle<T: 'static, W: 'static>(handle: &Resource<W>) -> Resource<T> {
    match handle.owned() {
        true => Resource::new_own(handle.rep()),
        false => Resource::new_borrow(handle.rep()),
    }
}

/// Converts a handle of the host's type into one of wasmtime-wasi's type.
fn wasi_handle<T: 'static, W: 'static>(handle: &Resource<T>) -> Resource<W> {
    host_handle(handle)
}

/// Why a socket call of a guest fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketFault {
    /// An error of the network.
    Net(net::Error),
    /// The call is invalid in the current state of the socket.
    InvalidState,
    /// An argument is invalid.
    InvalidArgument,
    /// The datagram exceeds the maximum size.
    TooLarge,
}

impl From<net::Error> for SocketFault {
    fn from(error: net::Error) -> Self {
        Self::Net(error)
    }
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
                net::Error::NoSuchHost(_) => Self::NameUnresolvable,
                net::Error::TimedOut(_) => Self::Timeout,
                net::Error::Unreachable(_) => Self::RemoteUnreachable,
                net::Error::Unsupported(_) => Self::NotSupported,
                net::Error::Protocol(_) => Self::Unknown,
                net::Error::Reset(_) => Self::ConnectionReset,
                net::Error::Exhausted(_) => Self::NewSocketLimit,
            },
        }
    }
}

/// Socket options that are stored and returned, without effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    keep_alive: bool,
    /// Nanoseconds.
    keep_alive_idle: u64,
    /// Nanoseconds.
    keep_alive_interval: u64,
    keep_alive_count: u32,
    hops: u8,
    receive_buffer: u64,
    send_buffer: u64,
}

impl Default for Options {
    /// The defaults of Linux.
    fn default() -> Self {
        Self {
            keep_alive: false,
            keep_alive_idle: 7200 * 1_000_000_000,
            keep_alive_interval: 75 * 1_000_000_000,
            keep_alive_count: 9,
            hops: 64,
            receive_buffer: stream::WRITE as u64,
            send_buffer: stream::WRITE as u64,
        }
    }
}

/// Maps a full table to an error of the call, so that the guest does not trap.
fn too_many(error: ResourceTableError) -> SocketError {
    match error {
        ResourceTableError::Full => ErrorCode::NewSocketLimit.into(),
        other => SocketError::trap(other),
    }
}

/// Whether the length of a name is valid.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
}

/// Returns the value of an option, or an error for 0.
fn positive<T: PartialEq + Default>(value: T) -> Result<T, SocketFault> {
    if value == T::default() { Err(SocketFault::InvalidArgument) } else { Ok(value) }
}

/// Checks the address family. An IPv6 socket takes no IPv4 address, mapped or not.
fn check_family(address: SocketAddr, v6: bool) -> Result<(), SocketFault> {
    let fits = match address.ip() {
        IpAddr::V4(_) => !v6,
        IpAddr::V6(ip) => v6 && ip.to_ipv4_mapped().is_none(),
    };
    if fits { Ok(()) } else { Err(SocketFault::InvalidArgument) }
}

fn check_unicast(address: SocketAddr) -> Result<(), SocketFault> {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_multicast() || broadcast { Err(SocketFault::InvalidArgument) } else { Ok(()) }
}

fn check_remote(address: SocketAddr) -> Result<(), SocketFault> {
    let is_invalid = address.ip().to_canonical().is_unspecified() || address.port() == 0;
    if is_invalid { Err(SocketFault::InvalidArgument) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
