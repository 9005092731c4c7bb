//! Which slices a Service should have, given its pods and the slices it has. Pure.

use super::{
    hints,
    part::Part,
    topology::{Ratios, Zones},
};
use crate::{
    meta, pods,
    servicepods::{self, HEADLESS, TRIGGER_TIME},
    slices::{MANAGED_BY_LABEL, SERVICE_NAME},
};
use api::annotations::{SCALED_TO_ZERO, WAKE_REQUESTED};
use client::EventType;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The value of [`MANAGED_BY_LABEL`] for slices of this controller.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Most endpoints in a slice.
const MAX_ENDPOINTS: usize = 100;

/// What is known beside the Service, its pods and its slices.
pub(crate) struct Facts<'a> {
    /// The zone of a node; `None` where there is no such node.
    pub zone: &'a dyn Fn(&str) -> Option<Option<String>>,
    /// The time of the change that is written, if there is a new one.
    pub trigger: Option<String>,
    /// The Deployments of the Service that were scaled to zero because they were idle.
    pub asleep: Option<String>,
    /// The share of the CPU that each zone has; `None` where it cannot be said.
    pub ratios: Option<&'a Ratios>,
    /// Whether its slices have hints of zones by their share of CPU.
    pub hinted: bool,
}

/// The writes to slices.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Changed slices.
    pub update: Vec<EndpointSlice>,
    /// Slices that are no longer needed.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Events of the Service, with their reason.
    pub events: Vec<(EventType, &'static str, String)>,
    /// Pods that are left out because their node does not exist, and their nodes.
    pub nodeless: Vec<(String, String)>,
    /// How many endpoints each zone is given, for each family with hints by the share of CPU.
    pub zones: Vec<Zones>,
}

/// Ports in a comparable form: slices hold endpoints with the same ones.
type Ports = Vec<(String, Option<String>, Option<i32>, Option<String>)>;

/// Compares the slices with the pods, for each address family. Correct slices stay untouched; slices that must change anyway are filled
/// first, then one slice with room for the rest, then new ones. What would be deleted is changed into what would be created.
pub(crate) fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>], facts: &Facts<'_>) -> Plan {
    let (mut plan, families) = (Plan::default(), families(service));
    let living = || existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none());
    let mut hinted = facts.hinted;
    for family in &families {
        let slices: Vec<_> = living().filter(|slice| slice.address_type == *family).cloned().collect();
        let mut part = of_family(service, pods, &slices, family, facts, &mut plan.nodeless);
        plan.zones.extend(hints::set(service, family, &mut part, facts.ratios, &mut hinted, &mut plan.events));
        recycle(&mut part, service);
        mark(&mut part, facts.asleep.as_deref());
        for slice in part.create.iter_mut().chain(&mut part.update) {
            stamp(&mut slice.metadata, facts.trigger.as_deref());
        }
        plan.create.append(&mut part.create);
        plan.update.append(&mut part.update);
        plan.delete.append(&mut part.delete);
    }
    plan.delete.extend(living().filter(|slice| !families.contains(&slice.address_type.as_str())).cloned());
    plan.nodeless.sort();
    plan.nodeless.dedup();
    plan
}

#[derive(Default)]
struct Wanted {
    ports: Vec<EndpointPort>,
    /// In the order of the pods.
    endpoints: Vec<Option<Endpoint>>,
    /// By identity, to find them in the existing slices.
    places: HashMap<String, usize>,
}

impl Wanted {
    fn insert(&mut self, endpoint: Endpoint) {
        let place = *self.places.entry(identity(&endpoint)).or_insert(self.endpoints.len());
        if place < self.endpoints.len() {
            self.endpoints[place] = Some(endpoint);
        } else {
            self.endpoints.push(Some(endpoint));
        }
    }

    fn take(&mut self, like: &Endpoint) -> Option<Endpoint> {
        self.endpoints[*self.places.get(&identity(like))?].take()
    }
}

fn of_family(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    family: &'static str,
    facts: &Facts<'_>,
    nodeless: &mut Vec<(String, String)>,
) -> Part {
    let mut desired: BTreeMap<Ports, Wanted> = BTreeMap::new();
    for pod in pods.iter().filter(|p| servicepods::is_endpoint(p)) {
        let node = pods::node_name(pod);
        let zone = (facts.zone)(node);
        if zone.is_none() && !servicepods::publishes_unready(service) {
            nodeless.push((meta::name(&pod.metadata).to_owned(), node.to_owned()));
            continue;
        }
        let endpoint = endpoint(service, pod, family, zone.flatten());
        if endpoint.addresses.is_empty() {
            continue;
        }
        let ports = endpoint_ports(service, pod);
        let wanted = desired.entry(key(&ports)).or_insert_with(|| Wanted { ports, ..Wanted::default() });
        wanted.insert(endpoint);
    }
    let mut part = Part::default();
    let mut by_ports: BTreeMap<Ports, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        if is_owned(slice, service) {
            by_ports.entry(key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice.clone());
        } else {
            part.delete.push(slice.clone());
        }
    }
    for (ports, wanted) in desired {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        pack(service, family, wanted, slices, &mut part);
    }
    let spare: Vec<Arc<EndpointSlice>> = by_ports.into_values().flatten().collect();
    at_least_one(service, family, spare, &mut part);
    part
}

/// Distributes the endpoints with the same ports over their slices.
fn pack(service: &Service, family: &str, mut wanted: Wanted, slices: Vec<Arc<EndpointSlice>>, part: &mut Part) {
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<Arc<EndpointSlice>>) = Default::default();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|e| wanted.take(e)).collect();
        let same = kept.len() == old.len() && kept.iter().zip(old).all(|(a, b)| alike(a, b));
        if kept.is_empty() && !old.is_empty() {
            part.delete.push(slice);
        } else if !same {
            let mut copy = (*slice).clone();
            label(service, &mut copy);
            copy.endpoints = Some(kept);
            changed.push(copy);
        } else {
            let mut copy = (*slice).clone();
            match label(service, &mut copy) {
                true => changed.push(copy),
                false => unchanged.push(slice),
            }
        }
    }
    let mut rest: Vec<Endpoint> = wanted.endpoints.into_iter().flatten().collect();
    let size = |s: &EndpointSlice| s.endpoints.as_ref().map_or(0, Vec::len);
    changed.sort_by_key(|s| std::cmp::Reverse(size(s)));
    for slice in &mut changed {
        let room = MAX_ENDPOINTS.saturating_sub(size(slice)).min(rest.len());
        slice.endpoints.get_or_insert_default().extend(rest.drain(..room));
    }
    while !rest.is_empty() {
        // the fullest slice that has room for all of the rest
        let fits = |s: &Arc<EndpointSlice>| size(s) + rest.len() <= MAX_ENDPOINTS;
        let fullest = (0..unchanged.len()).filter(|i| fits(&unchanged[*i])).max_by_key(|i| size(&unchanged[*i]));
        if let Some(at) = fullest {
            let mut slice = (*unchanged.remove(at)).clone();
            slice.endpoints.get_or_insert_default().append(&mut rest);
            changed.push(slice);
        } else {
            let mut slice = new_slice(service, family, &wanted.ports);
            slice.endpoints = Some(rest.drain(..rest.len().min(MAX_ENDPOINTS)).collect());
            part.create.push(slice);
        }
    }
    part.update.append(&mut changed);
    part.unchanged.append(&mut unchanged);
}

/// One empty slice for a Service without endpoints, so that readers can distinguish "none" from "not reconciled yet".
fn at_least_one(service: &Service, family: &str, mut spare: Vec<Arc<EndpointSlice>>, part: &mut Part) {
    if part.create.is_empty() && part.update.is_empty() && part.unchanged.is_empty() {
        let is_empty = |s: &Arc<EndpointSlice>| {
            s.endpoints.as_ref().is_none_or(Vec::is_empty) && s.ports.as_ref().is_none_or(Vec::is_empty)
        };
        match spare.iter().position(is_empty) {
            Some(at) => {
                let slice = spare.remove(at);
                let mut copy = (*slice).clone();
                match label(service, &mut copy) {
                    true => part.update.push(copy),
                    false => part.unchanged.push(slice),
                }
            }
            None => part.create.push(new_slice(service, family, &[])),
        }
    }
    part.delete.append(&mut spare);
}

/// Turns what would be deleted into what would be created: one write instead of two.
fn recycle(part: &mut Part, service: &Service) {
    let delete = std::mem::take(&mut part.delete);
    for old in delete {
        let Some(mut slice) = is_owned(&old, service).then(|| part.create.pop()).flatten() else {
            part.delete.push(old);
            continue;
        };
        slice.metadata = ObjectMeta { labels: slice.metadata.labels.take(), ..old.metadata.clone() };
        part.update.push(slice);
    }
}

/// Tells on the slices which Deployments are asleep; the request to wake them ends with that.
fn mark(part: &mut Part, asleep: Option<&str>) {
    let is_marked = |meta: &ObjectMeta| {
        meta::annotation(meta, SCALED_TO_ZERO) == asleep
            && (asleep.is_some() || meta::annotation(meta, WAKE_REQUESTED).is_none())
    };
    let (same, other): (Vec<_>, Vec<_>) =
        std::mem::take(&mut part.unchanged).into_iter().partition(|slice| is_marked(&slice.metadata));
    part.unchanged = same;
    part.update.extend(other.into_iter().map(Arc::unwrap_or_clone));
    for slice in part.create.iter_mut().chain(&mut part.update) {
        if is_marked(&slice.metadata) {
            continue;
        }
        let annotations = slice.metadata.annotations.get_or_insert_default();
        match asleep {
            Some(names) => drop(annotations.insert(SCALED_TO_ZERO.to_owned(), names.to_owned())),
            None => annotations.retain(|key, _| key != SCALED_TO_ZERO && key != WAKE_REQUESTED),
        }
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|o| Some(&o.uid) == service.metadata.uid.as_ref() && o.kind == "Service" && o.api_version == "v1")
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let named = |f: &str| match f {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<_> = listed.iter().filter_map(|f| named(f)).collect();
    if !families.is_empty() {
        return families;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        Some(ip) if ip.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let addresses = servicepods::addresses(pod).into_iter().filter(|a| a.contains(':') == (family == "IPv6"));
    let node = Some(pods::node_name(pod)).filter(|n| !n.is_empty());
    Endpoint {
        addresses: addresses.map(str::to_owned).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(servicepods::publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: zone.filter(|zone| !zone.is_empty()),
        node_name: node.map(str::to_owned),
        hostname: servicepods::hostname(pod, service),
        ..Endpoint::default()
    }
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = servicepods::ports(service).iter();
    ports
        .filter_map(|p| {
            Some(EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(servicepods::find_port(pod, p)?),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

fn key(ports: &[EndpointPort]) -> Ports {
    let one =
        |p: &EndpointPort| (p.name.clone().unwrap_or_default(), p.protocol.clone(), p.port, p.app_protocol.clone());
    let mut ports: Ports = ports.iter().map(one).collect();
    ports.sort();
    ports
}

/// The identity of an endpoint across slices.
fn identity(e: &Endpoint) -> String {
    let uid = e.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or("");
    format!("{uid} {}", e.addresses.join(","))
}

/// Whether an endpoint is as it is wanted, its hints aside, which are set afterwards.
fn alike(wanted: &Endpoint, there: &Endpoint) -> bool {
    let plain = |endpoint: &Endpoint| {
        let mut endpoint = Endpoint { hints: None, ..endpoint.clone() };
        if let Some(target) = &mut endpoint.target_ref {
            target.resource_version = None;
        }
        endpoint
    };
    plain(wanted) == plain(there)
}

/// Sets the labels of the Service and the reserved ones on the slice; returns whether that changed anything.
fn label(service: &Service, slice: &mut EndpointSlice) -> bool {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if servicepods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let changed = slice.metadata.labels.as_ref() != Some(&labels);
    slice.metadata.labels = Some(labels);
    changed
}

/// Writes the time of the change; an old one does not stay, since readers measure by it.
fn stamp(meta: &mut ObjectMeta, trigger: Option<&str>) {
    match trigger {
        Some(trigger) => {
            meta.annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), trigger.to_owned());
        }
        None => drop(meta.annotations.as_mut().and_then(|all| all.remove(TRIGGER_TIME))),
    }
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    let name = meta::name(&service.metadata);
    let mut slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(if name.len() < 253 { format!("{name}-") } else { name.to_owned() }),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![meta::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    };
    label(service, &mut slice);
    slice
}
