//! Runs Linux containers: [`Runc`] is a [`container::Runtime`] over an OCI runtime with the command line of `runc`.
//!
//! ```text
//! node                                              shim, one for each pod               containers
//! Runc ── a connection for each call, streams ────► parent of its containers ── create ─► runc ─► program
//!   ▲                                                 │  their output ─► logs, clients
//!   └──────────── each change of a state ◄────────────┘  their ends ─► a file for each
//! ```
//!
//! The shim is this program again. It is in the namespaces that the containers of the pod share, and in a mount namespace with their root folders,
//! so that all of this ends with it, however it ends; no other process is needed to hold them. It outlives the node's process: a new one finds it
//! by its socket in the pod's folder. When a shim has ended, what is left of its containers is killed by their cgroups, and they have ended with
//! exit code 137. The node learns each change on one connection, and waits after a call until it knows what the call changed.
//!
//! Where the node is not root, the shim is user 0 of a user namespace with one user, and containers have no limits.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod call;
mod cgroup;
mod config;
mod disk;
mod node;
mod oci;
mod options;
mod pods;
mod protocol;
mod rootfs;
mod runtime;
mod shim;
mod stream;
mod streams;
mod users;
mod wire;

pub use options::{Options, find};
pub use runtime::Runc;
pub use shim::main as shim_main;

/// The name of the runtime, by which a RuntimeClass chooses it.
pub const NAME: &str = "runc";

/// The message of the end of a container whose shim has ended.
pub(crate) const SHIM_ENDED: &str = "the process of the pod has ended, and its containers with it";
