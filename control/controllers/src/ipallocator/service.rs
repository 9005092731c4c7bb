//! What is wrong with the addresses of a Service.

use super::parent::{names_service, parent, text_of};
use crate::{meta, serviceranges};
use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{IPAddress, ParentReference, ServiceCIDR},
};
use std::{net::IpAddr, sync::Arc};

/// What an event says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What is known of one cluster IP.
pub(super) struct Fact {
    /// None: it is no address.
    pub(super) ip: Option<IpAddr>,
    pub(super) address: Option<Arc<IPAddress>>,
    /// The other Service that the IPAddress names.
    pub(super) owner: Option<Arc<Service>>,
}

/// What is to be done for one cluster IP.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    pub(super) told: Option<Told>,
    /// An IPAddress that is deleted first.
    pub(super) replaced: Option<Arc<IPAddress>>,
    /// The address that gets an IPAddress.
    pub(super) create: Option<IpAddr>,
}

/// The cluster IPs of a Service that has some.
pub(super) fn cluster_ips(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
    let all = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
    all.map(String::as_str).filter(|ip| !matches!(*ip, "" | "None"))
}

/// Whether an IPAddress names another Service than this one.
pub(super) fn is_another(parent: &ParentReference, service: &Service) -> bool {
    let same = text_of(&parent.namespace) == meta::namespace(&service.metadata)
        && parent.name == meta::name(&service.metadata);
    names_service(parent) && !same
}

/// What is to be done for a Service; `facts` are those of [`cluster_ips`].
pub(super) fn steps(service: &Service, ranges: &[Arc<ServiceCIDR>], facts: &[Fact]) -> Vec<Step> {
    facts.iter().filter_map(|fact| step(service, ranges, fact)).collect()
}

fn step(service: &Service, ranges: &[Arc<ServiceCIDR>], fact: &Fact) -> Option<Step> {
    let told = |reason: &'static str, message: String| Some(Told { reason, message });
    let Some(ip) = fact.ip else {
        let text = "Cluster IP <nil> is not a valid IP; please recreate Service".to_owned();
        return Some(Step { told: told("ClusterIPNotValid", text), ..Step::default() });
    };
    let family = serviceranges::family(ip);
    if !ranges.iter().any(|range| serviceranges::contains(range, ip)) {
        let text =
            format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
        return Some(Step { told: told("ClusterIPOutOfRange", text), ..Step::default() });
    }
    let Some(address) = &fact.address else {
        let text = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        return Some(Step { told: told("ClusterIPNotAllocated", text), create: Some(ip), replaced: None });
    };
    let anew = |told| Some(Step { told, replaced: Some(address.clone()), create: Some(ip) });
    let wrong = || {
        let (namespace, name) = (meta::namespace(&service.metadata), meta::name(&service.metadata));
        let text =
            format!("the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing");
        anew(told("ClusterIPNotAllocated", text))
    };
    let parent = parent(address);
    if !names_service(parent) {
        return wrong();
    }
    if is_another(parent, service) {
        let has = |owner: &Arc<Service>| cluster_ips(owner).any(|one| one.parse() == Ok(ip));
        if !fact.owner.as_ref().is_some_and(has) {
            return wrong();
        }
        let text = format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
        return Some(Step { told: told("ClusterIPAlreadyAllocated", text), ..Step::default() });
    }
    let label = |name: &str| address.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let labelled = serviceranges::is_managed(address) && label(serviceranges::FAMILY) == Some(family);
    if labelled { None } else { anew(None) }
}
