//! The Node object and its Lease.

use crate::{options::Options, shared::Shared};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// What pods may use of the machine.
pub fn allocatable(options: &Options) -> BTreeMap<String, Quantity> {
    let _ = options;
    BTreeMap::new()
}

pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let _ = shared;
    token.cancelled().await;
}
