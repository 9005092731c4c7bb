//! Which zones and nodes an endpoint is meant for: by `spec.trafficDistribution`, or by the annotation `topology-mode: Auto`. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/service/#traffic-distribution> and
//! <https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/>. The annotation goes before the field.

use super::{
    part::{Part, is_ready},
    topology::{self, Ratios, Zones},
};
use crate::meta;
use client::EventType;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone},
};
use std::sync::Arc;

/// An event of the Service, with its reason.
type Event = (EventType, &'static str, String);

/// Whether hints follow the share of CPU that zones have.
pub(crate) fn is_auto(service: &Service) -> bool {
    let value = |key: &str| meta::annotation(&service.metadata, key);
    let mode = value("service.kubernetes.io/topology-aware-hints");
    let mode = mode.or_else(|| value("service.kubernetes.io/topology-mode"));
    matches!(mode, Some("Auto" | "auto"))
}

/// Sets the hints of the slices of one family; slices whose hints are right stay unchanged. `hinted` says whether the Service has hints by
/// the share of CPU, before and after. Returns how many endpoints each zone has got then.
pub(super) fn set(
    service: &Service,
    family: &str,
    part: &mut Part,
    ratios: Option<&Ratios>,
    hinted: &mut bool,
    events: &mut Vec<Event>,
) -> Option<Zones> {
    let told = |text: &str| format!("{text}, addressType: {family}");
    if is_auto(service) {
        return match topology::add(part, ratios) {
            Ok(zones) => {
                if !std::mem::replace(hinted, true) {
                    let text = told("Topology Aware Hints has been enabled");
                    events.push((EventType::Normal, "TopologyAwareHintsEnabled", text));
                }
                Some(zones)
            }
            Err(why) => {
                events.push((EventType::Warning, "TopologyAwareHintsDisabled", told(&why)));
                *hinted = false;
                apply(part, &|_| None);
                None
            }
        };
    }
    if std::mem::replace(hinted, false) {
        let text = told("Topology Aware Hints has been disabled");
        events.push((EventType::Warning, "TopologyAwareHintsDisabled", text));
    }
    match service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => apply(part, &|endpoint| own_place(endpoint, false)),
        Some("PreferSameNode") => apply(part, &|endpoint| own_place(endpoint, true)),
        _ => apply(part, &|_| None),
    }
    None
}

/// An endpoint is meant for its own zone, and for its own node where that is asked for.
fn own_place(endpoint: &Endpoint, nodes: bool) -> Option<EndpointHints> {
    if !is_ready(endpoint) {
        return None;
    }
    let for_zones = endpoint.zone.as_ref().map(|name| vec![ForZone { name: name.clone() }]);
    let node = endpoint.node_name.as_ref().filter(|_| nodes);
    let for_nodes = node.map(|name| vec![ForNode { name: name.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// Gives each endpoint its hints.
fn apply(part: &mut Part, hints: &dyn Fn(&Endpoint) -> Option<EndpointHints>) {
    let is_right =
        |slice: &Arc<EndpointSlice>| slice.endpoints.iter().flatten().all(|endpoint| hints(endpoint) == endpoint.hints);
    let (right, wrong): (Vec<_>, Vec<_>) = std::mem::take(&mut part.unchanged).into_iter().partition(is_right);
    part.unchanged = right;
    part.update.extend(wrong.into_iter().map(Arc::unwrap_or_clone));
    for endpoint in
        part.create.iter_mut().chain(&mut part.update).flat_map(|slice| slice.endpoints.iter_mut().flatten())
    {
        endpoint.hints = hints(endpoint);
    }
}
