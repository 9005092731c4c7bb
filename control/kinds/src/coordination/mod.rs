//! `coordination.k8s.io`: heartbeats and elections.

pub(crate) mod lease;
