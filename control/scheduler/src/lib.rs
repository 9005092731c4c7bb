//! The scheduler: gives every pod without a node the best node that fits.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/> and the scheduling framework (KEP-624), with upstream's
//! plugin names, order, weights and words. The decision itself ([`cycle`]) is pure and takes the whole cluster from memory ([`node`],
//! [`queue`]); only binding and reporting are calls, many at a time ([`Scheduler::run`]).
//!
//! Not here: preemption (a pod that needs it waits, and its condition says so), pod affinity and topology spread, volumes, extenders,
//! several profiles. What a pod asks for among these is not enforced.

pub mod cache;
pub mod cycle;
mod metrics;
pub mod node;
pub mod plugin;
pub mod plugins;
pub mod pod;
pub mod queue;
mod run;
pub mod snapshot;

pub use plugin::{Event, Plugin, Plugins, Verdict};
pub use plugins::Strategy;
pub use run::{Options, Scheduler};
