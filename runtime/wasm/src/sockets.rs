//! How wasi:sockets will stand on [`container::net::Sockets`]. Nothing runs here yet: until then sockets are refused with
//! `access-denied`, which is what wasmtime-wasi answers while TCP, UDP and lookups are not allowed.
//!
//! # What the spike showed
//! wasmtime-wasi's own resources wrap tokio's TCP and UDP sockets, and its address check can only allow or deny: in virtual mode they
//! cannot be used at all. So `tcp`, `udp`, `tcp-create-socket`, `udp-create-socket` and `ip-name-lookup` (and WASI 0.3's
//! `sockets/types`) get resources of our own, generated with `bindgen!` and put over the stock ones with
//! `linker.allow_shadowing(true)`; only `network` and the streams of `wasi:io` stay. The seam carries every operation:
//!
//! | WASI | `Sockets` |
//! | --- | --- |
//! | `start-bind` / `finish-bind` | [`listen`](container::net::Sockets::listen) at once: it is what finds the port taken and what chooses port 0, which `local-address` must tell before `start-listen`. Connections that come before `start-listen` wait in its queue |
//! | `start-listen` / `accept` | marks it; [`accept`](container::net::Listener::accept). The address of an accepted socket is the bound one, or the pod's first where that is unspecified |
//! | `start-connect` / `finish-connect` | [`connect`](container::net::Sockets::connect): the address it returns is the local one; the remote one is what the guest asked for, a Service's included. A socket bound before drops its listener; its source port is not kept |
//! | streams | `tokio::io::split` of the stream: reads by demand, writes through a bounded buffer; `shutdown(send)` is `poll_shutdown`, `shutdown(receive)` drops the reading half |
//! | options (keep-alive, hop limit, buffer sizes, backlog) | kept and told back, without effect |
//! | `udp.start-bind`, `stream` | [`bind_udp`](container::net::Sockets::bind_udp); `send` puts into a small queue whose room is the permit of `check-send`, a task drains it by [`send_to`](container::net::Datagrams::send_to); a connected stream filters by peer on this side |
//! | `resolve-addresses` | [`resolve`](container::net::Sockets::resolve) in a task; all its addresses in order. Literals too: there is no second parser |
//! | time-outs, permits | one permit of the container's socket bound per socket resource |
//!
//! Errors map one to one: `Refused` connection-refused, `AddressInUse` address-in-use, `NotAvailable` address-not-bindable, `Denied`
//! access-denied, `NoSuchHost` name-unresolvable, `TimedOut` timeout (of a lookup: temporary-resolver-failure), `Unreachable`
//! remote-unreachable, `Unsupported` not-supported, `Protocol` unknown, `Reset` connection-reset, `Exhausted` new-socket-limit.
//!
//! Preview 1 modules have no way to open sockets: wasmtime does not implement `sock_accept` and its like, and they stay so.
