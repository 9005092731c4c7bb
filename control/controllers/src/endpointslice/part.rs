//! The slices of one address family, sorted by what is to be done with them.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::sync::Arc;

/// The slices of one address family.
#[derive(Default)]
pub(super) struct Part {
    /// New ones.
    pub create: Vec<EndpointSlice>,
    /// Those that change.
    pub update: Vec<EndpointSlice>,
    /// Those that are no longer needed.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Those that are right.
    pub unchanged: Vec<Arc<EndpointSlice>>,
}

/// Whether an endpoint is ready to take traffic.
pub(super) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}
