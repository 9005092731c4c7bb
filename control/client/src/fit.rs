//! What a pod requires of its node, and a claim of its volume. Pure. It is here because the scheduler (before a pod is bound), the node agent
//! (at admission) and controllers check it, and none of them may use another.

pub mod affinity;
pub mod ports;
pub mod resources;
mod taints;
pub mod volumes;

pub use taints::tolerates;
