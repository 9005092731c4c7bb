//! `scheduling.k8s.io`: PriorityClass.

pub(crate) mod priorityclass;
