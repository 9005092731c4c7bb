//! Hints of zones by the share of the CPU that each zone has: `topology-mode: Auto`. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/>: an endpoint is meant for its own zone first, and
//! zones with more endpoints than their share give some to zones with fewer.

use super::part::{Part, is_ready};
use crate::meta;
use api::quantity::Quantity;
use k8s_openapi::api::{
    core::v1::Node,
    discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone},
};
use std::{collections::BTreeMap, sync::Arc};

/// By how much an endpoint may be overloaded.
const OVERLOAD: f64 = 0.2;
/// Nodes with one of these labels have no part in it.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// The share of the CPU, by zone: more than one zone.
pub(crate) type Ratios = BTreeMap<String, f64>;
/// How many endpoints each zone is given.
pub(crate) type Zones = BTreeMap<String, usize>;

/// How many endpoints a zone should be given.
struct Allocation {
    maximum: usize,
    desired: f64,
}

/// What of a node counts: its zone and its CPU in thousandths; `None`: the node does not count.
pub(crate) fn share(node: &Node) -> Option<(Option<&str>, i64)> {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    if meta::is_deleting(&node.metadata) || EXCLUDED.iter().any(|key| label(key).is_some()) {
        return None;
    }
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready")?;
    let cpu = status.allocatable.as_ref().and_then(|all| all.get("cpu"));
    let cpu = cpu.and_then(|cpu| Quantity::parse(&cpu.0).ok()).map_or(0, |cpu| cpu.milli_value());
    let zone = label("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty());
    (ready.status == "True").then_some((zone, cpu))
}

/// The share of the CPU of each zone; `None` where a node says too little, or there is one zone only.
pub(crate) fn ratios(nodes: &[Arc<Node>]) -> Option<Ratios> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in nodes.iter().filter_map(|node| share(node)) {
        if cpu <= 0 {
            return None;
        }
        let sum = by_zone.entry(zone?.to_owned()).or_default();
        *sum = sum.saturating_add(cpu);
    }
    let total: f64 = by_zone.values().map(|cpu| *cpu as f64).sum();
    (by_zone.len() > 1).then(|| by_zone.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total)).collect())
}

fn allocations(ready: usize, ratios: Option<&Ratios>) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(ratios) = ratios else {
        let text = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
        return Err(text.to_owned());
    };
    let count = |text: &str| Err(format!("{text} ({ready} endpoints, {} zones)", ratios.len()));
    if ratios.len() > ready {
        return count("Insufficient number of endpoints");
    }
    let least = |ratio: f64| (ratio * ready as f64 * (1.0 / (1.0 + OVERLOAD))).ceil() as usize;
    let total: usize = ratios.values().map(|ratio| least(*ratio)).sum();
    if total > ready {
        return count(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold",
        );
    }
    let one = |(zone, ratio): (&String, &f64)| {
        let minimum = least(*ratio);
        let desired = (ratio * ready as f64).max(minimum as f64);
        (zone.clone(), Allocation { maximum: minimum + ready - total, desired })
    };
    Ok(ratios.iter().map(one).collect())
}

fn ready_of(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint))
}

/// The hints that a slice has already; `None` where they cannot stay.
fn kept(slice: &EndpointSlice, given: &Zones, allocations: &BTreeMap<String, Allocation>) -> Option<Zones> {
    let mut zones = Zones::new();
    for endpoint in ready_of(slice) {
        let hints = endpoint.hints.as_ref().and_then(|h| h.for_zones.as_ref()).filter(|zones| !zones.is_empty())?;
        for zone in hints {
            allocations.get(&zone.name)?;
            *zones.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, n): (&String, &usize)| n + given.get(zone).unwrap_or(&0) <= allocations[zone].maximum;
    zones.iter().all(fits).then_some(zones)
}

/// How many endpoints zones give, and how many they receive.
fn exchange(allocations: &BTreeMap<String, Allocation>, given: &Zones) -> (Zones, Zones) {
    let (mut too_many, mut too_few): (BTreeMap<&str, f64>, BTreeMap<&str, f64>) = Default::default();
    for (zone, allocation) in allocations {
        let more = *given.get(zone).unwrap_or(&0) as f64 - allocation.desired;
        if more > 0.0 {
            too_many.insert(zone, more);
        } else if more < 0.0 {
            too_few.insert(zone, -more);
        }
    }
    fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
        let greater = |best: Option<(&'a str, f64)>, (zone, n): (&&'a str, &f64)| match best {
            Some((_, most)) if *n <= most => best,
            _ if *n > 0.0 => Some((*zone, *n)),
            _ => best,
        };
        zones.iter().fold(None, greater)
    }
    let (mut giving, mut receiving) = (Zones::new(), Zones::new());
    while let (Some((from, more)), Some((to, fewer))) = (most(&too_many), most(&too_few)) {
        if more < 1.0 && fewer < 1.0 || more < 0.5 || fewer < 0.5 {
            break;
        }
        *giving.entry(from.to_owned()).or_default() += 1;
        *receiving.entry(to.to_owned()).or_default() += 1;
        too_many.insert(from, more - 1.0);
        too_few.insert(to, fewer - 1.0);
    }
    (giving, receiving)
}

fn hint(zone: &str) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone.to_owned() }]), ..EndpointHints::default() })
}

/// Adds the hints. Slices whose hints can stay are left alone.
///
/// # Errors
/// Why there can be no hints, in upstream's words.
pub(super) fn add(part: &mut Part, ratios: Option<&Ratios>) -> Result<Zones, String> {
    let changing = part.create.iter().chain(&part.update);
    let ready = changing.chain(part.unchanged.iter().map(|slice| &**slice)).map(|slice| ready_of(slice).count()).sum();
    let allocations = allocations(ready, ratios)?;
    let mut given = Zones::new();
    for slice in std::mem::take(&mut part.unchanged) {
        match kept(&slice, &given, &allocations) {
            Some(zones) => {
                zones.into_iter().for_each(|(zone, n)| *given.entry(zone).or_default() += n);
                part.unchanged.push(slice);
            }
            None => part.update.push(Arc::unwrap_or_clone(slice)),
        }
    }
    let slices = || part.create.iter().chain(&part.update).flat_map(ready_of);
    if slices().any(|endpoint| endpoint.zone.is_none()) {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    }
    for zone in slices().filter_map(|endpoint| endpoint.zone.clone()) {
        *given.entry(zone).or_default() += 1;
    }
    let (mut giving, mut receiving) = exchange(&allocations, &given);
    let take = |zones: &mut Zones, zone: &str| {
        let left = zones.get_mut(zone).filter(|left| **left > 0)?;
        *left -= 1;
        Some(())
    };
    for slice in part.create.iter_mut().chain(&mut part.update) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            let Some(zone) = endpoint.zone.clone().filter(|_| is_ready(endpoint)) else {
                endpoint.hints = None;
                continue;
            };
            let to = receiving.iter().find(|(_, left)| **left > 0).map(|(to, _)| to.clone());
            let moved =
                to.filter(|to| giving.get(&zone).is_some_and(|left| *left > 0) && take(&mut receiving, to).is_some());
            if let Some(to) = &moved {
                take(&mut giving, &zone);
                given.entry(zone.clone()).and_modify(|n| *n -= 1);
                *given.entry(to.clone()).or_default() += 1;
            }
            endpoint.hints = hint(moved.as_deref().unwrap_or(&zone));
        }
    }
    given.retain(|_, n| *n > 0);
    if given.is_empty() { Err("No hints allocated for zones".to_owned()) } else { Ok(given) }
}

/// Whether a zone has too few of the endpoints that were given.
pub(crate) fn is_overloaded(zones: &Zones, ratios: Option<&Ratios>) -> bool {
    let Some(ratios) = ratios else { return !zones.is_empty() };
    let total: usize = zones.values().sum();
    let least = |ratio: f64| (total as f64 * ratio * (1.0 / (1.0 + OVERLOAD))).ceil() as usize;
    !zones.is_empty() && ratios.iter().any(|(zone, ratio)| zones.get(zone).is_none_or(|n| *n < least(*ratio)))
}
