//! Which slices stand for an Endpoints object. Pure.

use crate::{
    meta,
    servicepods::TRIGGER_TIME,
    slices::{MANAGED_BY_LABEL, SERVICE_NAME},
};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

/// The value of the label that names who keeps a slice.
pub(super) const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Most addresses that are mirrored of a subset.
pub(super) const MAX_ADDRESSES: usize = 1000;
/// The label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints that are a lock of leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are not copied.
const NOT_COPIED: [&str; 2] = [TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration"];

/// The writes to slices.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Changed slices.
    pub update: Vec<EndpointSlice>,
    /// Slices that are no longer needed.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Warnings about the Endpoints: reason and message.
    pub warnings: Vec<(&'static str, String)>,
}

/// Whether Endpoints may be mirrored.
pub(super) fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skips = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|v| v == "true");
    !skips && meta::annotation(&endpoints.metadata, LEADER).is_none()
}

/// Ports in a comparable form.
type Ports = Vec<(String, String, i32, Option<String>)>;
/// One slice for each: an address family and ports.
type Group = (&'static str, Ports);

fn ports(ports: &[OldPort]) -> Ports {
    let one = |p: &OldPort| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        (p.name.clone().unwrap_or_default(), protocol, p.port, p.app_protocol.clone())
    };
    let mut ports: Ports = ports.iter().map(one).collect();
    ports.sort();
    ports
}

fn group_of(slice: &EndpointSlice) -> Group {
    let one = |p: &EndpointPort| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        (p.name.clone().unwrap_or_default(), protocol, p.port.unwrap_or_default(), p.app_protocol.clone())
    };
    let mut ports: Ports = slice.ports.iter().flatten().map(one).collect();
    ports.sort();
    (if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" }, ports)
}

/// Compares the slices with the Endpoints. What is right stays; what would be deleted is changed into what would be created.
pub(super) fn plan(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let wanted = wanted(endpoints.subsets.as_deref().unwrap_or_default(), &mut plan.warnings);
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        by_group.entry(group_of(slice)).or_default().push(slice);
    }
    for (group, addresses) in wanted {
        let mut slices = by_group.remove(&group).unwrap_or_default().into_iter();
        let first = slices.next();
        plan.delete.extend(slices.cloned());
        let new = slice(endpoints, &group, addresses);
        match first {
            Some(first) if is_same(first, &new) => {}
            Some(first) => plan.update.push(instead_of(first, new)),
            None => plan.create.push(new),
        }
    }
    plan.delete.extend(by_group.into_values().flatten().cloned());
    recycle(&mut plan);
    if endpoints.metadata.deletion_timestamp.is_some() {
        plan.create.clear();
    }
    plan
}

/// The addresses by family and ports; those of a subset up to the limit, ready ones first.
fn wanted(
    subsets: &[EndpointSubset],
    warnings: &mut Vec<(&'static str, String)>,
) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    let mut by_ports: BTreeMap<Ports, Vec<(&EndpointAddress, bool)>> = BTreeMap::new();
    for subset in subsets {
        let all = by_ports.entry(ports(subset.ports.as_deref().unwrap_or_default())).or_default();
        all.extend(subset.addresses.iter().flatten().map(|address| (address, true)));
        all.extend(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
    }
    let (mut invalid, mut skipped) = (0, 0);
    for (ports, mut addresses) in by_ports {
        addresses.sort_by_key(|(_, ready)| !ready);
        let mut added = 0;
        for (address, ready) in &addresses {
            if added == MAX_ADDRESSES {
                break;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            added += 1;
            let group = (if ip.is_ipv6() { "IPv6" } else { "IPv4" }, ports.clone());
            let endpoint = endpoint(address, ip, *ready);
            // ready ones come first: an address that is both is ready
            if let Entry::Vacant(place) = groups.entry(group).or_default().entry(identity(&endpoint)) {
                place.insert(endpoint);
            }
        }
        skipped += addresses.len() - added;
    }
    if invalid > 0 {
        let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        warnings.push(("InvalidIPAddress", text));
    }
    if skipped > invalid {
        let text = format!(
            "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        warnings.push(("TooManyAddressesToMirror", text));
    }
    groups
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        ..Endpoint::default()
    }
}

fn identity(e: &Endpoint) -> String {
    let target = e.target_ref.as_ref();
    let text = |of: fn(&k8s_openapi::api::core::v1::ObjectReference) -> &Option<String>| {
        target.and_then(|r| of(r).as_deref()).unwrap_or_default().to_owned()
    };
    let hostname = e.hostname.as_deref().unwrap_or_default();
    format!(
        "{} {hostname} {}/{} {}",
        e.addresses.join(","),
        text(|r| &r.namespace),
        text(|r| &r.name),
        text(|r| &r.uid)
    )
}

fn slice(endpoints: &Endpoints, (family, ports): &Group, addresses: BTreeMap<String, Endpoint>) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta::name(meta);
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), CONTROLLER.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let port = |(name, protocol, port, app_protocol): &(String, String, i32, Option<String>)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*port),
        app_protocol: app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(if name.len() < 253 { format!("{name}-") } else { name.to_owned() }),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![meta::controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: (*family).to_owned(),
        endpoints: Some(addresses.into_values().take(MAX_ADDRESSES).collect()),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
    }
}

/// Whether a slice is as it is wanted, in whatever order its endpoints are.
fn is_same(there: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let sorted = |slice: &EndpointSlice| {
        let mut all: Vec<(String, Endpoint)> =
            slice.endpoints.iter().flatten().map(|e| (identity(e), e.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    there.metadata.labels == wanted.metadata.labels
        && annotations(there) == annotations(wanted)
        && there.metadata.owner_references == wanted.metadata.owner_references
        && sorted(there) == sorted(wanted)
}

/// A slice with the name of another one.
fn instead_of(old: &EndpointSlice, mut new: EndpointSlice) -> EndpointSlice {
    let (labels, annotations) = (new.metadata.labels.take(), new.metadata.annotations.take());
    let owner_references = new.metadata.owner_references.take();
    new.metadata = ObjectMeta { labels, annotations, owner_references, ..old.metadata.clone() };
    new
}

fn recycle(plan: &mut Plan) {
    let delete = std::mem::take(&mut plan.delete);
    for old in delete {
        match plan.create.iter().position(|new| new.address_type == old.address_type) {
            Some(at) => {
                let new = plan.create.remove(at);
                plan.update.push(instead_of(&old, new));
            }
            None => plan.delete.push(old),
        }
    }
}
