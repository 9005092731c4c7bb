//! `apps`: the workloads, and the history of their templates.

pub(crate) mod controllerrevision;
pub(crate) mod deployment;
pub(crate) mod replicaset;
