//! `node.k8s.io`: RuntimeClass.

pub(crate) mod runtimeclass;
