//! What a pod asks of its node. Pure. Here because two who may not know each other judge by it: the scheduler before a pod is bound,
//! and the node's agent after it.

pub mod affinity;
pub mod resources;
mod taints;

pub use taints::tolerates;
