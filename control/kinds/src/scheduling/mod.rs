//! `scheduling.k8s.io`: who goes first.

pub(crate) mod priorityclass;
