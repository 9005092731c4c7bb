//! The node agent, which is Sampan's kubelet. It runs the pods that are bound to its node (network, volumes, images, containers, probes)
//! and reports their status to the API.
//!
//! It depends on interfaces: `Arc<dyn Runtime>`, `Arc<dyn Network>`, `Arc<dyn Dialer>` and `Arc<dyn Images>`. It accesses the API only
//! through [`client::Client`].
//!
//! Modules: [`admission`] decides which pods the node admits (pure), [`plan`] decides what to do next for a pod (pure), `worker` executes
//! the plan, [`status`] computes the pod's status (pure), [`volumes`] and [`mod@env`] provide its configuration, [`logs`] and [`router`]
//! serve the kubelet API, and [`node`] updates the Node object.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

pub mod admission;
mod agent;
mod awaited;
pub mod backoff;
mod capabilities;
pub mod check;
mod claimsize;
mod cluster;
pub mod command;
pub mod config;
pub mod downward;
pub mod env;
mod eviction;
pub mod expand;
mod handle;
mod hook;
pub mod images;
mod kernel;
pub mod linux;
pub mod logs;
mod metrics;
pub mod node;
mod options;
pub mod plan;
pub mod pod;
pub mod policy;
mod pressure;
pub mod probe;
mod prober;
mod readings;
mod reclaim;
mod referenced;
mod reporter;
pub mod resize;
pub mod resolver;
pub mod resources;
mod returning;
pub mod router;
mod secrets;
mod setup;
mod shared;
mod start;
pub mod state;
pub mod status;
mod termination;
mod usage;
pub mod volumes;
mod worker;

pub use agent::{Agent, Dependencies};
pub use capabilities::HONOURED;
pub use handle::ProbeKind;
pub use images::{Images, preparation_scope};
pub use options::{Machine, Options, Runtimes};
pub use pressure::Pressure;
pub use readings::Usage;
pub use volumes::LOCAL_VOLUMES;

#[cfg(test)]
mod tests;
