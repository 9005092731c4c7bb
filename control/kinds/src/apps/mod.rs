//! `apps`: the workloads, and the history of their templates.

pub(crate) mod controllerrevision;
pub(crate) mod daemonset;
pub(crate) mod deployment;
pub(crate) mod replicaset;
pub(crate) mod statefulset;
pub(crate) mod workload;
