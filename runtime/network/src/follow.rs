//! Updates the service table and the node ports from Services and EndpointSlices.

use crate::{
    health::{HealthPorts, HealthReport},
    network::VirtualNetwork,
    nodeport::{NodePorts, Report},
    policy::Place,
    table::Name,
    wake::Waker,
};
use client::{EventType, Informer, Informers, Recorder, Target, reference};
use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use std::{collections::HashSet, sync::Arc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index by Service. The prefix is its user, because informers are shared and another index has other slices.
const BY_SERVICE: &str = "pod-network/service";

fn slice_service(slice: &EndpointSlice) -> Option<Name> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), service.clone()))
}

fn slice_index(slice: &EndpointSlice) -> Vec<String> {
    slice_service(slice).map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
}

fn name_of(meta: &ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Services that changed since the last update. Bounded by the number of Services.
#[derive(Default)]
struct Changed {
    names: Mutex<HashSet<Name>>,
    some: Notify,
}

impl Changed {
    fn note(&self, name: Name) {
        self.names.lock().insert(name);
        self.some.notify_one();
    }
}

/// Follows Services, EndpointSlices and the zone of this node until `token` is cancelled. A node port that cannot be opened is logged and, with
/// a recorder, reported by an Event on its Service. With a waker, Services that are scaled to zero are asked for when a connection waits.
pub async fn run(
    network: VirtualNetwork,
    informers: Informers,
    recorder: Option<Recorder>,
    waker: Option<Waker>,
    token: CancellationToken,
) {
    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    let node = network.inner.config.node.clone();
    let nodes = informers.over(Target::of::<Node>().named("", &node));
    let (followed, found) = (network.clone(), slices.clone());
    let waking = async {
        match &waker {
            Some(waker) => {
                let of = |name: &Name| found.by_index(BY_SERVICE, &format!("{}/{}", name.0, name.1));
                waker.run(&followed, of).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = follow(network, services, slices, nodes, recorder, token) => {}
        () = waking => {}
    }
}

/// The zone of a node.
fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).cloned()
}

pub(crate) async fn follow(
    network: VirtualNetwork,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    recorder: Option<Recorder>,
    token: CancellationToken,
) {
    slices.index(BY_SERVICE, slice_index);
    let changed = Arc::new(Changed::default());
    let noted = changed.clone();
    services.subscribe(move |delta| noted.note(name_of(&delta.object().metadata)));
    let noted = changed.clone();
    slices.subscribe(move |delta| {
        let both = [delta.old(), Some(delta.object())];
        both.into_iter().flatten().filter_map(|slice| slice_service(slice)).for_each(|name| noted.note(name));
    });
    // Hints are of zones: in another one all Services are looked at again.
    let (noted, all, placed) = (changed.clone(), services.clone(), network.clone());
    nodes.subscribe(move |delta| {
        let (node, zone) = (placed.inner.config.node.clone(), zone(delta.object()));
        let place = Place { node, zone };
        if *placed.table().read().place() != place {
            placed.table().write().set_place(place);
            all.list().iter().for_each(|service| noted.note(name_of(&service.metadata)));
        }
    });
    let (told, events) = (services.clone(), recorder.clone());
    let report: Report = Arc::new(move |port, error| {
        let (namespace, name) = &port.service;
        // Not a warning, because the Event below is one.
        tracing::info!(service = %format_args!("{namespace}/{name}"), port = port.number, %error, "node port not open");
        if let (Some(recorder), Some(service)) = (&events, told.get(namespace, name)) {
            let message = format!("node port {} cannot be opened, will be tried again: {error}", port.number);
            recorder.event(&reference(&*service), EventType::Warning, "NodePortUnavailable", message);
        }
    });
    let mut node_ports = NodePorts::new(network.clone(), report);
    let (told, node) = (services.clone(), network.inner.config.node.clone());
    let report: HealthReport = Arc::new(move |(namespace, name), number, error| {
        let message =
            format!("node {node} failed to start healthcheck \"{namespace}/{name}\" on port {number}: {error}");
        tracing::info!("{message}");
        if let (Some(recorder), Some(service)) = (&recorder, told.get(namespace, name)) {
            recorder.event(&reference(&*service), EventType::Warning, "FailedToStartServiceHealthcheck", message);
        }
    });
    let mut health_ports = HealthPorts::new(network.clone(), report);
    let work = async {
        services.synced().await;
        slices.synced().await;
        nodes.synced().await;
        loop {
            let names = std::mem::take(&mut *changed.names.lock());
            if !names.is_empty() {
                update(&network, &services, &slices, names);
                let wanted = network.table().read().node_ports();
                node_ports.sync(&wanted);
                health_ports.sync();
            }
            changed.some.notified().await;
        }
    };
    token.run_until_cancelled(work).await;
}

fn update(
    network: &VirtualNetwork,
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    names: HashSet<Name>,
) {
    for name in names {
        let service = services.get(&name.0, &name.1);
        let slices = slices.by_index(BY_SERVICE, &format!("{}/{}", name.0, name.1));
        // planned under the lock for readers only: a Service of thousands of pods takes a while
        let plan = |service: &Service| network.table().read().plan(&name, service, &slices);
        let entry = service.as_deref().map(plan);
        network.table().write().replace(&name, entry);
        network.inner.holds.changed(&format!("{}/{}", name.0, name.1));
    }
    network.services_changed();
}
