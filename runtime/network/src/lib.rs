//! The pod network in virtual mode: pod addresses exist only inside this process.
//!
//! * [`VirtualNetwork`] implements [`container::net::Network`] (each pod its view) and [`container::net::Dialer`] (the cluster's view).
//! * [`ServiceTable`] answers which endpoints stand behind an address; [`run`] keeps it, and the node ports, in step with the API.
//! * [`Egress`] decides what guests may reach outside; names are resolved first and exactly the checked address is dialled.
//!
//! A connection to a pod is an in-memory pipe with bounded buffers; an HTTP request to a local handler is a function call. There is no
//! network namespace and no proxy process, until a pod needs the network of the kernel: see below.
//!
//! A connection to a Service whose Deployment was scaled to zero because it was idle (its EndpointSlices say so) waits, and [`Waker`] asks for
//! the Deployment; a Service without endpoints for any other reason refuses.
//!
//! # Names
//! `resolve` of a guest's sockets is answered from the table by the names of [`lookup`]. Programs that speak DNS themselves find a server at
//! [`Config::dns`] (`dns`), which answers from the same table, on every node.
//!
//! # A way through it
//! A guest connects to `10.96.7.7:80` → [`ServiceTable`] picks `10.32.0.9:8080` → the pod with that address → its listener gets one end of
//! a pipe, or its HTTP handler serves one. From outside: node port → the same table → the handler gets the host's socket whole.
//!
//! # wasi:sockets on [`container::net::Sockets`]
//! `start-bind` is [`Sockets::bind`](container::net::Sockets::bind) (the port is taken and known from then on, and refuses until it
//! listens), `start-connect` is `connect`, whose result is the local address while the remote one is what was asked for;
//! half-close is `shutdown` of the stream; a UDP `stream(remote)` filters what `receive` yields; `resolve-addresses` is `resolve`. A
//! socket bound to an IPv6 wildcard takes IPv4 peers too and shows them mapped (`::ffff:`), since pods have IPv4 addresses.

//!
//! # Kernel mode
//! A pod whose containers are processes gets a network namespace ([`container::net::PodNetwork::kernel`], [`netns`]), beside the pods that exist
//! only here. From then on the kernel has, in the node's namespace:
//! * for each port that a virtual pod opens, a listener at the pod's address, whose connections go to the guest as sockets (`kernel::mirror`);
//! * what is behind each Service, as rules of nftables from the same [`ServiceTable`] (`kernel::rules`);
//! * the DNS server's address, as two sockets (`kernel::dns`);
//! * a way out: what leaves the node's range comes here, to the function that decides for guests (`kernel::outgoing`).
//!
//! In the other direction, guests and the cluster dial pods with a namespace by sockets of the node's.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod clients;
mod config;
mod dns;
mod egress;
mod follow;
mod health;
mod hold;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod host_tests;
mod hostport;
#[cfg(test)]
mod hostport_tests;
mod http;
mod kernel;
mod lookup;
mod members;
mod metrics;
mod names;
mod network;
mod nodeport;
mod pod;
mod policy;
mod pool;
mod relay;
mod seams;
mod slices;
mod sockets;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod tls;
mod udp;
mod unavailable;
mod wake;

/// The fields that this network honours, with the names of `kubectl explain`. The API server warns of others.
pub const HONOURED: &[&str] =
    &["service.spec.externalTrafficPolicy", "service.spec.internalTrafficPolicy", "service.spec.trafficDistribution"];

pub use config::{Api, Config, DOMAIN, KernelMode, Limits, Roots, Upstreams};
pub use egress::{Egress, is_host_address, unmap};
pub use follow::run;
pub use health::{HealthPorts, HealthReport};
pub use names::{Known, lookup};
pub use network::VirtualNetwork;
pub use nodeport::{NodePorts, Report};
pub use policy::Place;
pub use pool::AddressPool;
pub use slices::Protocol;
pub use table::{Answer, Entry, Found, Health, Name, NodePort, Port, ServiceTable};
pub use tls::certificates;
pub use wake::Waker;
