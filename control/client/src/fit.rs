//! What a pod requires of its node. Pure. It is here because both the scheduler (before a pod is bound) and the node agent (at admission)
//! check it, and neither may use the other.

pub mod affinity;
pub mod resources;
mod taints;

pub use taints::tolerates;
