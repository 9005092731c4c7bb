//! `node.k8s.io`: what runs containers.

pub(crate) mod runtimeclass;
