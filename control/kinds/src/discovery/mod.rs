//! `discovery.k8s.io`: the endpoints of Services.

pub(crate) mod endpointslice;
