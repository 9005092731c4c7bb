//! EndpointSlices: the addresses of the pods of a Service.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. Mirroring of Endpoints that users write is in
//! `endpointslicemirroring`. Slices of a deleted Service go with their owner (garbage collection). The slices of a Service whose Deployments
//! were scaled to zero because they were idle say so (`scaletozero`).

mod hints;
mod part;
mod plan;
#[cfg(test)]
mod tests;
mod topology;

use self::{
    plan::{Facts, MANAGED_BY, Plan, plan},
    topology::{Ratios, Zones},
};
use crate::{
    Context, scaletozero,
    servicepods::{self, TriggerTimes},
    slices::{Changes, service_of, services_of},
};
use client::{Client, Controller, Delta, EventType, Informer, Key, Next, Recorder, Wakeups, reference};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Index of managed slices by Service. The pod network has another index on the same informer, hence the prefix.
const BY_SERVICE: &str = "endpointslice-controller/service";

/// Keeps EndpointSlices. Upstream's `endpointslice-controller`.
pub(crate) struct EndpointSliceController {
    /// Somebody wakes what sleeps.
    wakes: bool,
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    deployments: Informer<Deployment>,
    triggers: TriggerTimes,
    hinted: Arc<Hinted>,
}

/// Services with hints by the zones' share of CPU.
#[derive(Default)]
struct Hinted {
    /// What each zone was given, for each address family.
    services: Mutex<HashMap<Key, Vec<Zones>>>,
    /// The shares, until a node changes. Made when a Service asks for it.
    ratios: Mutex<Option<Option<Arc<Ratios>>>>,
}

impl EndpointSliceController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (services, pods) = (cx.informers.of(), cx.informers.of());
        servicepods::index(&services, &pods);
        let slices = cx.informers.of::<EndpointSlice>();
        slices.index(BY_SERVICE, |slice| service_of(slice, MANAGED_BY).map(|k| k.to_string()).into_iter().collect());
        let deployments = cx.informers.of();
        scaletozero::index(&deployments);
        Self {
            wakes: scaletozero::wakes(cx),
            client: cx.client.clone(),
            recorder: cx.recorder("endpoint-slice-controller"),
            services,
            pods,
            nodes: cx.informers.of(),
            slices,
            deployments,
            triggers: TriggerTimes::default(),
            hinted: Arc::default(),
        }
    }

    /// The share of the CPU that each zone has.
    fn ratios(&self) -> Option<Arc<Ratios>> {
        if let Some(known) = &*self.hinted.ratios.lock() {
            return known.clone();
        }
        let ratios = topology::ratios(&self.nodes.list()).map(Arc::new);
        *self.hinted.ratios.lock() = Some(ratios.clone());
        ratios
    }

    fn remember(&self, key: &Key, zones: Vec<Zones>) {
        let mut services = self.hinted.services.lock();
        match zones.is_empty() {
            true => drop(services.remove(key)),
            false => drop(services.insert(key.clone(), zones)),
        }
    }

    fn plan(&self, key: &Key, service: &Service) -> Plan {
        let pods = servicepods::selected(service, &self.pods);
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        let zone = |node: &str| self.nodes.get("", node).map(|node| zone(&node).map(str::to_owned));
        let ratios = hints::is_auto(service).then(|| self.ratios()).flatten();
        let facts = Facts {
            zone: &zone,
            trigger: self.triggers.next(key, service, &pods),
            asleep: scaletozero::asleep(service, &self.deployments).filter(|_| self.wakes),
            ratios: ratios.as_deref(),
            hinted: self.hinted.services.lock().contains_key(key),
        };
        plan(service, &pods, &existing, &facts)
    }
}

#[async_trait::async_trait]
impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.services);
        wakeups.on(&self.slices, |delta| services_of(delta, MANAGED_BY));
        let services = self.services.clone();
        wakeups.on(&self.pods, move |delta| servicepods::enqueue_services(delta, &services));
        let services = self.services.clone();
        wakeups.on(&self.nodes, move |delta| enqueue_on_zone_change(delta, &services));
        let (hinted, nodes) = (self.hinted.clone(), self.nodes.clone());
        wakeups.on(&self.nodes, move |delta| hinted.enqueue_overloaded(delta, &nodes));
        let services = self.services.clone();
        wakeups.on(&self.deployments, move |delta| scaletozero::enqueue_services(delta, &services));
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(service) = self.services.find(key) else {
            self.triggers.forget(key);
            self.remember(key, Vec::new());
            return Ok(Next::Done);
        };
        if !servicepods::is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let plan = self.plan(key, &service);
        let owner = reference(&*service);
        let Plan { create, update, delete, .. } = &plan;
        let done = Changes { create, update, delete }.write(&self.client).await;
        if done.is_ok() {
            self.remember(key, plan.zones);
            for (kind, reason, message) in plan.events {
                self.recorder.event(&owner, kind, reason, message);
            }
        }
        let conflict = done.as_ref().is_err_and(|error| error.is_conflict());
        let error = match (done, plan.nodeless.first()) {
            (Ok(()), None) => return Ok(Next::Done),
            (Err(error), _) => anyhow::Error::from(error),
            (Ok(()), Some((pod, node))) => {
                anyhow::anyhow!("skipping Pod {pod} for Service {key}: Node {node} Not Found")
            }
        };
        if !conflict {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.recorder.event(&owner, EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        Err(error)
    }
}

impl Hinted {
    /// When a node changes: Services whose endpoints in a zone have become too few for its share.
    fn enqueue_overloaded(&self, delta: &Delta<Node>, nodes: &Informer<Node>) -> Vec<Key> {
        let node = delta.object();
        let same = delta.old().is_some_and(|old| topology::share(old) == topology::share(node));
        if same && matches!(delta, Delta::Modified { .. }) {
            return Vec::new();
        }
        *self.ratios.lock() = None;
        let services = self.services.lock();
        if services.is_empty() {
            return Vec::new();
        }
        let ratios = topology::ratios(&nodes.list());
        let overloaded = |zones: &Vec<Zones>| zones.iter().any(|zones| topology::is_overloaded(zones, ratios.as_ref()));
        services.iter().filter(|(_, zones)| overloaded(zones)).map(|(key, _)| key.clone()).collect()
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
