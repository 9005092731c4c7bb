//! The network namespace of a node: for pods that need the kernel's network, without touching that of the host.
//!
//! ```text
//! this process                                 helper: this program again, one thread
//! Node ── calls, descriptors ── one socket ──► holds the node's network namespace
//!  │                                             │ routes, rules (nft)
//!  ├─ sockets of the namespace, ready to use ◄───┤ makes sockets, and passes them out
//!  ├─ listeners at any address of local pods     │
//!  ├─ egress: what leaves the node's range       ├── podXXXXXXXX ═══ eth0   namespace of a pod, /32
//!  └─ descriptors of all namespaces              └── podXXXXXXXX ═══ eth0   namespace of another
//! ```
//!
//! * [`Node`] makes the namespaces of pods, and sockets in them and in the node's: connections, listeners, datagrams.
//! * [`Rules`] say what is behind the addresses of Services: one transaction of nftables.
//! * [`Egress`] gives what a pod sends to anywhere else, with the pod's true address and the address that it meant; its owner decides and dials.
//!
//! # Who may do this
//! Root, and everybody where user namespaces are allowed: then the network namespace is owned by a user namespace, in which this user is root.
//! No interface, rule or sysctl of the host is read or written. Nothing has a name or a file on the host, so that with the last process and
//! descriptor everything is gone: namespaces, links, routes and rules.
//!
//! # Why a process
//! A process with threads cannot enter a user namespace. But a socket belongs to the namespace in which it was made, whoever uses it: so the
//! helper only makes sockets, and all that is done with them (bind, connect, accept) is done here, without the helper. A few are in stock, so
//! that a dial does not wait for it.
//!
//! # What keeps what alive
//! The kernel keeps a network namespace as long as a process is in it or a descriptor is of it. This process has descriptors of all: when the
//! *helper* dies, the next call starts another, which enters them; connections and rules stay. When *this process* dies, the helper has
//! descriptors too. It ends at once unless a process is in the namespace of a pod (containers that outlive the node); then it goes on, and the next
//! [`Node::open`] with the same folder finds it with its pods. When both die, pods that live on have their namespace, but no link:
//! [`Node::adopt`] gives them a new one, with the same address. The path of a namespace ([`Pod::path`]) is a descriptor of this process: whoever
//! needs it longer opens it.
//!
//! # Routes
//! Half of the node's range is `local`: any address of it can be bound, without a device, for pods whose guests run in this process. Since
//! nothing else runs in the namespace, nobody's listener on `0.0.0.0` answers there. The other half is `routed`: a route of one address for each
//! pod with a namespace. There is no bridge, no ARP and no forwarding between anything but these. The default route is local: what leaves the
//! node's range is delivered to the namespace itself, where a rule gives it to the sockets of [`Egress`] (TPROXY, for TCP and UDP alike: neither
//! a mark nor a policy route is needed, and no address is translated). A source address that is not the pod's is dropped by the kernel.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod egress;
pub mod helper;
mod layout;
mod link;
mod node;
mod packet;
mod process;
mod protocol;
mod rules;
mod sockets;
mod table;

pub use egress::{Egress, Flow, Outgoing};
pub use layout::Layout;
pub use node::{Node, Options, Pod};
pub use rules::{Behind, Endpoint, Protocol, Rules, Service};
pub use sockets::{Place, connect_bound, listen_bound};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine cannot do it; the text says what is missing.
    #[error("{0}")]
    Unsupported(String),
    /// The helper refused, with its reason.
    #[error("{0}")]
    Failed(String),
    /// There is no helper, and none can be started.
    #[error("{0}")]
    Lost(String),
    /// A socket's error.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The result of what can go wrong.
pub type Result<T, E = Error> = std::result::Result<T, E>;
