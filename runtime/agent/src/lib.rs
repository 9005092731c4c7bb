//! The node agent: the kubelet's role. Makes the pods that are bound to its node real: network, volumes, images, containers, probes;
//! and tells the API how they are.
//!
//! It knows no runtime, network or registry by name: they arrive as `Arc<dyn Runtime>`, `Arc<dyn Network>`, `Arc<dyn Dialer>` and
//! `Arc<dyn Images>`. It has no back door to the API: everything goes through [`client::Client`].
//!
//! Where to look: [`admission`] decides which pods the node takes (pure), [`plan`] what happens to a pod (pure), `worker` does it,
//! [`status`] says how it is (pure), [`volumes`] and
//! [`mod@env`] give it its configuration, [`logs`] and [`router`] answer `kubectl logs`, [`node`] keeps the Node object.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

pub mod admission;
mod agent;
mod awaited;
pub mod backoff;
mod capabilities;
pub mod check;
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
pub mod logs;
mod metrics;
mod named;
pub mod node;
mod options;
pub mod plan;
pub mod pod;
pub mod policy;
mod pressure;
pub mod probe;
mod prober;
mod readings;
mod reporter;
pub mod resources;
pub mod router;
mod setup;
mod shared;
mod start;
pub mod state;
pub mod status;
mod termination;
mod usage;
pub mod volumes;
mod worker;

pub use agent::{Agent, Parts};
pub use capabilities::HONOURED;
pub use handle::ProbeKind;
pub use images::{Images, preparation_scope};
pub use options::{Machine, Options, Runtimes};
pub use pressure::Pressure;
pub use readings::Usage;

#[cfg(test)]
mod tests;
