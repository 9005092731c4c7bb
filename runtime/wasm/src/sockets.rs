//! wasi:sockets over [`container::net::Sockets`]: TCP, UDP and names, of WASI 0.2 (`p2`) and 0.3 (`p3`).
//!
//! wasmtime-wasi's own sockets are sockets of the host, and its check of addresses can only allow or deny. A guest's are the pod's: a
//! bind takes a port of the pod and makes no socket of the host, names and addresses are the cluster's, and the network decides what is
//! reached. So wasmtime-wasi gives the bindings only. Its resource types name the entries of an instance's table; what stands in the
//! entries is [`tcp::Tcp`], [`udp::Udp`] and their streams (`ours` and `theirs` turn a handle of the one into one of the other).
//!
//! | WASI | [`Sockets`](container::net::Sockets) |
//! | --- | --- |
//! | bind | `bind`: finds the port taken and chooses port 0. A port that does not listen yet refuses |
//! | listen, accept | `BoundPort::listen`, `Listener::accept`. The local address of an accepted connection is one of the pod's, as its peer used it |
//! | connect | `connect`, or `BoundPort::connect` of a bound socket. The remote address is what the guest asked for, a Service's included |
//! | UDP | `bind_udp`. A connected socket filters by peer on this side |
//! | resolve-addresses | `resolve`: all addresses in its order. Literals too: there is no second parser |
//! | keep-alive, hop limit, buffer sizes, backlog | kept and told back, without effect; 0 is an invalid argument |
//!
//! Functions that must not block poll once (`now`). What is not ready then stays in its resource, and the `ready` of the resource polls
//! it with a waker.
//!
//! What bounds them: the network's limit of sockets of a pod (what is bound or connected), the capacity of the instance's table (the
//! others), and the container's memory, which is charged for what a connection may hold ([`crate::host`]).
//!
//! Modules of preview 1 have no way to open sockets: wasmtime does not implement `sock_accept` and its like.

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

/// Polls once, without a waker. tokio's budget of polls does not count: it would say that nothing is there.
pub(crate) fn now<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let future = pin!(tokio::task::coop::unconstrained(std::future::poll_fn(poll)));
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The handle of our resource behind one of wasmtime-wasi's.
fn ours<T: 'static, W: 'static>(handle: &Resource<W>) -> Resource<T> {
    match handle.owned() {
        true => Resource::new_own(handle.rep()),
        false => Resource::new_borrow(handle.rep()),
    }
}

/// wasmtime-wasi's handle for a resource of ours.
fn theirs<T: 'static, W: 'static>(handle: &Resource<T>) -> Resource<W> {
    ours(handle)
}

/// Why a call of a guest fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The network says so.
    Net(net::Error),
    /// Not in this state of the socket.
    InvalidState,
    /// Not with these arguments.
    InvalidArgument,
    /// A datagram above the largest.
    TooLarge,
}

impl From<net::Error> for Fault {
    fn from(error: net::Error) -> Self {
        Self::Net(error)
    }
}

impl From<Fault> for ErrorCode {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::InvalidState => Self::InvalidState,
            Fault::InvalidArgument => Self::InvalidArgument,
            Fault::TooLarge => Self::DatagramTooLarge,
            Fault::Net(error) => match error {
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

/// Settings that are kept and told back.
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
    /// As Linux has them.
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

/// A socket for which the table has no room is one too many, and no end of the guest.
fn too_many(error: ResourceTableError) -> SocketError {
    match error {
        ResourceTableError::Full => ErrorCode::NewSocketLimit.into(),
        other => SocketError::trap(other),
    }
}

/// Whether a name may be looked up at all.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
}

/// A setting that may not be 0.
fn positive<T: PartialEq + Default>(value: T) -> Result<T, Fault> {
    if value == T::default() { Err(Fault::InvalidArgument) } else { Ok(value) }
}

/// An IPv6 socket is not for IPv4, mapped into it or not.
fn check_family(address: SocketAddr, v6: bool) -> Result<(), Fault> {
    let fits = match address.ip() {
        IpAddr::V4(_) => !v6,
        IpAddr::V6(ip) => v6 && ip.to_ipv4_mapped().is_none(),
    };
    if fits { Ok(()) } else { Err(Fault::InvalidArgument) }
}

fn check_unicast(address: SocketAddr) -> Result<(), Fault> {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_multicast() || broadcast { Err(Fault::InvalidArgument) } else { Ok(()) }
}

fn check_remote(address: SocketAddr) -> Result<(), Fault> {
    let none = address.ip().to_canonical().is_unspecified() || address.port() == 0;
    if none { Err(Fault::InvalidArgument) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
