//! apiregistration.k8s.io: who serves which version of which group.

pub(crate) mod apiservice;
pub(crate) mod builtin;
pub(crate) mod registered;

/// The group.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// The resource.
pub(crate) const RESOURCE: &str = "apiservices";
