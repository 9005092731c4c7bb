//! EndpointSlices: the addresses of the pods of a Service.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. Not here: topology hints, and mirroring of Endpoints
//! that users write. Slices of a deleted Service go with their owner (garbage collection).

mod plan;

pub(crate) use plan::{MANAGED_BY, Plan, SERVICE_NAME, plan};

use crate::{Context, meta, servicepods};
use client::{Client, Controller, DeleteOptions, Delta, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use std::sync::Arc;

/// Index of managed slices by Service. The pod network has another index on the same informer, hence the prefix.
const BY_SERVICE: &str = "endpointslice-controller/service";

/// Keeps EndpointSlices. Upstream's `endpointslice-controller`.
pub(crate) struct EndpointSliceController {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
}

impl EndpointSliceController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (services, pods) = (cx.informers.of(), cx.informers.of());
        servicepods::index(&services, &pods);
        let slices = cx.informers.of::<EndpointSlice>();
        slices.index(BY_SERVICE, |slice| service_key(slice).map(|k| k.to_string()).into_iter().collect());
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("endpoint-slice-controller"),
            services,
            pods,
            nodes: cx.informers.of(),
            slices,
        }
    }

    async fn act(&self, service: &Service, plan: &Plan) -> Result<(), client::Error> {
        for slice in &plan.create {
            match self.client.create(slice).await {
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                other => other.map(|_| ())?,
            }
        }
        for slice in &plan.update {
            self.client.update(slice).await?;
        }
        for slice in &plan.delete {
            let options = DeleteOptions::uid(meta::uid(&slice.metadata));
            let name = meta::name(&slice.metadata);
            self.client.delete::<EndpointSlice>(meta::namespace(&service.metadata), name, &options).await?;
        }
        Ok(())
    }
}

/// The Service of a managed slice.
fn service_key(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get("endpointslice.kubernetes.io/managed-by").map(String::as_str) == Some(MANAGED_BY);
    let name = labels.get(SERVICE_NAME).filter(|n| ours && !n.is_empty())?;
    Some(Key::new(meta::namespace(&slice.metadata), name))
}

#[async_trait::async_trait]
impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.services);
        wakeups.on(&self.slices, |delta| {
            let old = delta.old().and_then(|o| service_key(o));
            old.into_iter().chain(service_key(delta.object())).collect()
        });
        let services = self.services.clone();
        wakeups.on(&self.pods, move |delta| servicepods::enqueue_services(delta, &services));
        let services = self.services.clone();
        wakeups.on(&self.nodes, move |delta| enqueue_on_zone_change(delta, &services));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(service) = self.services.find(key) else { return Ok(Next::Done) };
        if !servicepods::is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let pods = servicepods::selected(&service, &self.pods);
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        let zone = |node: &str| zone(self.nodes.get("", node).as_deref()?).map(str::to_owned);
        let plan = plan(&service, &pods, &existing, &zone);
        if let Err(error) = self.act(&service, &plan).await {
            if !error.is_conflict() {
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                self.recorder.event(&reference(&*service), EventType::Warning, "FailedToUpdateEndpointSlices", message);
            }
            return Err(error.into());
        }
        Ok(Next::Done)
    }
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").map(String::as_str)
}

/// All Services, when a node moves to another zone: its endpoints change, and that is rare.
fn enqueue_on_zone_change(delta: &Delta<Node>, services: &Informer<Service>) -> Vec<Key> {
    let new = zone(delta.object());
    let moved = match delta {
        Delta::Modified { old, .. } => zone(old) != new,
        Delta::Added(_) => new.is_some(),
        Delta::Deleted(_) => false,
    };
    if !moved {
        return Vec::new();
    }
    services.list().iter().map(|s: &Arc<Service>| Key::of(&**s)).collect()
}
