//! apiregistration.k8s.io: who serves which version of which group.

pub(crate) mod apiservice;
