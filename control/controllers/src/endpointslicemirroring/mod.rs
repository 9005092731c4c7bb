//! EndpointSlices from Endpoints that a user wrote for a Service without selector, for readers that know slices only.
//!
//! Follows "EndpointSlice mirroring" of <https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>.

mod plan;
#[cfg(test)]
mod tests;

use self::plan::{CONTROLLER, Plan, is_mirrored, plan};
use crate::{
    Context,
    slices::{Changes, service_of, services_of},
};
use client::{Client, Controller, Delta, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use std::sync::Arc;

/// Index of mirrored slices by Service.
const BY_SERVICE: &str = "endpointslicemirroring-controller/service";

/// Mirrors Endpoints. Upstream's `endpointslice-mirroring-controller`.
pub(crate) struct EndpointSliceMirroringController {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

impl EndpointSliceMirroringController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let slices = cx.informers.of::<EndpointSlice>();
        slices.index(BY_SERVICE, |slice| service_of(slice, CONTROLLER).map(|k| k.to_string()).into_iter().collect());
        Self {
            client: cx.client.clone(),
            recorder: cx.recorder("endpoint-slice-mirroring-controller"),
            services: cx.informers.of(),
            endpoints: cx.informers.of(),
            slices,
        }
    }

    /// What is to be mirrored: Endpoints that may be, of a Service without selector.
    fn mirrored(&self, key: &Key) -> Option<Arc<Endpoints>> {
        let endpoints = self.endpoints.find(key).filter(|endpoints| is_mirrored(endpoints))?;
        let service = self.services.find(key)?;
        service.spec.as_ref().is_some_and(|spec| spec.selector.is_none()).then_some(endpoints)
    }
}

/// A Service, when it comes, goes, or gets or loses its selector.
fn enqueue_on_selector(delta: &Delta<Service>) -> Vec<Key> {
    let has = |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    let service = delta.object();
    let concerns = match delta {
        Delta::Modified { old, .. } => has(old) != has(service),
        Delta::Added(_) | Delta::Deleted(_) => !has(service),
    };
    if concerns { vec![Key::of(&**service)] } else { Vec::new() }
}

#[async_trait::async_trait]
impl Controller for EndpointSliceMirroringController {
    const NAME: &'static str = "endpointslice-mirroring-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.services, enqueue_on_selector);
        wakeups.on(&self.endpoints, |delta| {
            let (old, new) = (delta.old(), delta.object());
            let concerns = is_mirrored(new) || old.is_some_and(|old| is_mirrored(old));
            if concerns { vec![Key::of(&**new)] } else { Vec::new() }
        });
        wakeups.on(&self.slices, |delta| services_of(delta, CONTROLLER));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        let Some(endpoints) = self.mirrored(key) else {
            Changes { create: &[], update: &[], delete: &existing }.write(&self.client).await?;
            return Ok(Next::Done);
        };
        let plan = plan(&endpoints, &existing);
        let about = reference(&*endpoints);
        for (reason, message) in &plan.warnings {
            self.recorder.event(&about, EventType::Warning, reason, message.clone());
        }
        let Plan { create, update, delete, .. } = &plan;
        Changes { create, update, delete }.write(&self.client).await?;
        Ok(Next::Done)
    }
}
