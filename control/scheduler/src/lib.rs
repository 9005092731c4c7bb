//! The scheduler: binds every pod without a node to the best node that fits.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/> and the scheduling framework (KEP-624), with upstream's
//! plugin names, order, weights and texts.
//!
//! ```text
//! informers ──► inbox ──► loop: cache, queue ──► decision on a snapshot ──► binding cycle, one task a pod
//!                 ▲       preEnqueue             preFilter … reserve        permit's wait, preBind, bind, postBind
//!                 └──────────────── bound, or failed and unreserved ────────────────────┘
//! ```
//!
//! One loop owns all state that decisions need, so that they take no lock and are made one after another ([`Scheduler::run`]). The decision
//! itself ([`cycle`]) is pure; API calls run after the pod is assumed, for many pods concurrently. How to add a plugin: [`plugin`].
//!
//! A pod that fits on no node is nominated to one where pods of lower priority can make room; it is tried there first, and counts there for
//! pods that are not more important.
//!
//! Several profiles, of one queue and one cache, come from a file ([`Configuration`]).
//!
//! Not here: dynamic resources, extenders.
#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod binding;
pub mod cache;
pub mod config;
pub mod cycle;
pub mod cycle_state;
#[cfg(test)]
mod framework_tests;
pub mod handle;
mod inbox;
pub mod listers;
mod metrics;
pub mod node;
pub mod plugin;
pub mod plugins;
pub mod pod;
pub mod profile;
pub mod queue;
mod report;
mod run;
pub mod search;
pub mod snapshot;
#[cfg(test)]
mod speed_tests;
mod state;
pub mod status;
pub mod tally;
pub mod terms;
#[cfg(test)]
mod testing;
pub mod waiting;

pub use config::Configuration;
pub use cycle_state::CycleState;
pub use handle::{Cycle, Handle};
pub use listers::Listers;
pub use plugin::{Event, Filters, Plugin, Plugins};
pub use plugins::{Strategy, honoured};
pub use profile::{Profile, Profiles};
pub use run::{Options, Scheduler};
pub use snapshot::Snapshot;
pub use status::{Failure, NodeToStatus, Reason, Reasons, Status};
pub use waiting::WaitingPods;
