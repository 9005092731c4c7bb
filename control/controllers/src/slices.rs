//! What the controllers that keep EndpointSlices share: whose slice it is, and the writes.

use crate::meta;
use client::{Client, DeleteOptions, Delta, Key};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::sync::Arc;

/// The label with the name of the Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The Service of a slice that `manager` keeps.
pub(crate) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY_LABEL).map(String::as_str) == Some(manager);
    let name = labels.get(SERVICE_NAME).filter(|name| ours && !name.is_empty())?;
    Some(Key::new(meta::namespace(&slice.metadata), name))
}

/// The Services of a slice before and after a change.
pub(crate) fn services_of(delta: &Delta<EndpointSlice>, manager: &str) -> Vec<Key> {
    let old = delta.old().and_then(|old| service_of(old, manager));
    old.into_iter().chain(service_of(delta.object(), manager)).collect()
}

/// Writes to slices, in this order.
pub(crate) struct Changes<'a> {
    /// New ones.
    pub(crate) create: &'a [EndpointSlice],
    /// Those that change.
    pub(crate) update: &'a [EndpointSlice],
    /// Those that are no longer needed.
    pub(crate) delete: &'a [Arc<EndpointSlice>],
}

impl Changes<'_> {
    /// Makes the changes. A namespace that is being deleted gets no new slices, and needs none.
    pub(crate) async fn write(&self, client: &Client) -> client::Result<()> {
        for slice in self.create {
            match client.create(slice).await {
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                other => other.map(|_| ())?,
            }
        }
        for slice in self.update {
            client.update(slice).await?;
        }
        for slice in self.delete {
            let (namespace, name) = (meta::namespace(&slice.metadata), meta::name(&slice.metadata));
            let options = DeleteOptions::uid(meta::uid(&slice.metadata));
            client.delete::<EndpointSlice>(namespace, name, &options).await?;
        }
        Ok(())
    }
}
