//! How wasi:sockets will stand on [`container::net::Sockets`]. Nothing of it runs here yet: until then sockets are refused with
//! `access-denied`, which is what wasmtime-wasi answers while TCP, UDP and lookups are not allowed.
//!
//! # What the spike showed
//! A spike outside this repository was compiled against wasmtime 48 and run: all of WASI 0.2's `tcp`, `tcp-create-socket`, `udp`,
//! `udp-create-socket` and `ip-name-lookup` as host resources of our own (under 1000 lines) over the virtual network's `Sockets`,
//! driven by two components written in Rust under a ticking epoch: a server that waits in one `poll` for its listener, its connections
//! and its UDP socket, and a client. wasmtime-wasi's own TCP, UDP and lookups stayed forbidden, so that nothing came from them. What ran:
//!
//! * The server binds 0.0.0.0:7000 and echoes to clients that resolve a Service's name, a name of `hostAliases` and `localhost` and
//!   connect to what they got; also to a connection of the cluster's dialer. Both sides tell truthful local and remote addresses:
//!   the client the Service's, the server the pod's.
//! * Half-close: after `shutdown(send)` the peer reads the end and still answers; writing is then `closed`. A megabyte there and back,
//!   written by `check-write` while the echo is read, with the shutdown asked for while a write still waits: nothing is lost.
//! * Refused: a port where nobody listens or that is only bound (`connection-refused`), a taken port, another's address, an unknown
//!   name, the metadata address (`access-denied`), and what a socket's state forbids (`invalid-state`, `would-block`).
//! * A socket bound to 5555 connects from 5555. With the first form of the seam, where bind was `listen`, it did not, and a port that was
//!   only bound took connections: hence [`BoundPort`](container::net::BoundPort).
//! * An IPv6 listener and client on the pod's `::1`; an IPv4 address on an IPv6 socket is `invalid-argument`.
//! * UDP both ways, unconnected and connected, through the Service too: the answer comes from the Service's address.
//!
//! Not run: addresses outside the cluster that are allowed, CPU limits, a guest killed with sockets open, WASI 0.3's `sockets/types`.
//!
//! # How the linker is put together
//! wasmtime-wasi's resources wrap tokio's sockets and their address check can only allow or deny, so they cannot be used at all in virtual
//! mode. `bindgen!` makes the five interfaces anew with `with:` naming our types for `tcp-socket`, `udp-socket`, both datagram streams and
//! `resolve-address-stream`; the whole of `wasi:io`, `wasi:clocks` and `wasi:sockets/network` is `with:` wasmtime-wasi's own bindings, so
//! that `network`, `instance-network`, pollables and streams stay stock, and so does `SocketError` as the trappable error (for that the
//! view implements `network::Host` with its `convert_error_code`). `p2::add_to_linker_async` first, then `allow_shadowing(true)`, the five
//! `add_to_linker` calls, `allow_shadowing(false)`. `bindgen!` reads WIT files at compile time and no crate exports them: the
//! packages io, clocks and sockets of WASI 0.2.12 must be in this folder. Only `start-bind` and `start-listen` need to be `async`.
//!
//! # What each function needs
//!
//! | WASI | `Sockets` |
//! | --- | --- |
//! | `start-bind` / `finish-bind` | [`bind`](container::net::Sockets::bind): finds the port taken and chooses port 0, which `local-address` tells. Until it listens it refuses, for probes too |
//! | `start-listen` / `accept` | [`BoundPort::listen`](container::net::BoundPort::listen), [`accept`](container::net::Listener::accept). Where the bound address is unspecified, the local address of an accepted socket is the peer's own if that is a loopback, else the pod's of the same family |
//! | `start-connect` / `finish-connect` | [`connect`](container::net::Sockets::connect), or [`BoundPort::connect`](container::net::BoundPort::connect) of a bound socket, as a boxed future inside the resource, without a task: what it returns is the local address; the remote one is what the guest asked for, a Service's included |
//! | streams | `tokio::io::split` of the stream; reads by demand. A write that must wait becomes a task that owns the writing half until it is done, since the guest need not poll its stream for it; `check-write` is 0 meanwhile |
//! | `shutdown` | `send` is `poll_shutdown`, after that task; `receive` drops the reading half. Dropping a stream does nothing, dropping the socket drops both halves after that task |
//! | `subscribe` | ready when the connection under way is settled; of a listener when one was accepted into a slot, which `accept` empties |
//! | options (keep-alive, hop limit, buffer sizes, backlog) | kept and told back, without effect; 0 is `invalid-argument` |
//! | `udp.start-bind`, `stream` | [`bind_udp`](container::net::Sockets::bind_udp); a connected stream filters by peer on this side. `send` polls [`send_to`](container::net::Datagrams::send_to) once (inside the cluster it never waits); one that waits becomes a task, and `check-send` is 0 meanwhile |
//! | `resolve-addresses` | [`resolve`](container::net::Sockets::resolve) as a boxed future; all its addresses in order. Literals too: there is no second parser |
//!
//! Functions that must not block poll with a waker that does nothing. That is safe because `ready` polls again with a real one; it holds
//! on to one future of `accept` or `receive` meanwhile, since nothing promises that a waker outlives the future it was given to, and
//! drops it when another pollable wins: so both must be cancel-safe, as the seam says. tokio's cooperative budget may make such a poll
//! say `would-block` although something is there (reasoned, not seen); the `poll` that follows finds it.
//!
//! Errors map one to one: `Refused` connection-refused, `AddressInUse` address-in-use, `NotAvailable` address-not-bindable, `Denied`
//! access-denied, `NoSuchHost` name-unresolvable, `TimedOut` timeout (of a lookup: temporary-resolver-failure), `Unreachable`
//! remote-unreachable, `Unsupported` not-supported, `Protocol` unknown, `Reset` connection-reset, `Exhausted` new-socket-limit. A broken
//! pipe while writing is the stream's `closed`. Failures inside a stream must be `std::io::Error`s, so that `network-error-code` works.
//!
//! # Still to be decided when it is built
//! * A task that finishes a write outlives the guest while the peer does not read: it needs the container's token and a time limit.
//! * The pod's bound on sockets covers what is bound or connected; sockets that are neither are held by the table's capacity only.
//! * Detaching a pod ends its listeners and UDP sockets, not its streams: those end with the guest.
//!
//! Preview 1 modules have no way to open sockets: wasmtime does not implement `sock_accept` and its like, and they stay so.
