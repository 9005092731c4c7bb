//! What is to be done with a ServiceCIDR.

use crate::{
    meta,
    serviceranges::{contains, is_managed, networks},
};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use std::{net::IpAddr, sync::Arc, time::Duration};

pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// How long one stays after its deletion in any case: the writes on their way that have an address of it end meanwhile.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// The condition `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

const READY: Condition = Condition { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const TERMINATING: Condition = Condition {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

/// What is to be done. A condition is one that the status does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It stays.
    Keep { add_finalizer: bool, condition: Option<Condition> },
    /// It is deleted and still needed.
    Hold(Option<Condition>),
    /// It is deleted and goes after this time.
    Wait(Duration),
    /// It is deleted and goes.
    Release,
}

/// Decides. `all` are all ServiceCIDRs; the addresses are asked for where they count.
pub(super) fn plan(
    range: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: impl FnOnce() -> Vec<Arc<IPAddress>>,
    now: Timestamp,
) -> Plan {
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        let add_finalizer = !meta::has_finalizer(&range.metadata, FINALIZER);
        return Plan::Keep { add_finalizer, condition: news(range, READY) };
    };
    if !meta::has_finalizer(&range.metadata, FINALIZER) {
        return Plan::Hold(None);
    }
    // What is deleted itself holds nothing: of two that contain each other's addresses, one must stay for them.
    let is_other =
        |other: &&Arc<ServiceCIDR>| other.metadata.name != range.metadata.name && !meta::is_deleting(&other.metadata);
    let others: Vec<&ServiceCIDR> = all.iter().filter(is_other).map(|other| &**other).collect();
    let is_within_another = networks(range).all(|network| others.iter().any(|other| covers(other, &network)));
    if !is_within_another && addresses().iter().any(|address| needs(address, range, &others)) {
        return Plan::Hold(news(range, TERMINATING));
    }
    match meta::non_negative(GRACE - now.duration_since(deleted.0)) {
        Duration::ZERO => Plan::Release,
        rest => Plan::Wait(rest),
    }
}

/// The condition, if the status does not have it.
fn news(range: &ServiceCIDR, condition: Condition) -> Option<Condition> {
    let conditions = range.status.as_ref().and_then(|status| status.conditions.as_ref());
    let current = conditions.into_iter().flatten().find(|one| one.type_ == "Ready");
    let same = current.is_some_and(|one| {
        one.status == condition.status && one.reason == condition.reason && one.message == condition.message
    });
    (!same).then_some(condition)
}

/// Whether a ServiceCIDR has a network that contains this one.
fn covers(range: &ServiceCIDR, network: &IpNet) -> bool {
    networks(range).any(|other| other.contains(network))
}

/// Whether two share addresses.
pub(super) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    networks(one).any(|network| networks(other).any(|other| network.contains(&other) || other.contains(&network)))
}

/// Whether an address of the allocator is in this range and in no other.
fn needs(address: &IPAddress, range: &ServiceCIDR, others: &[&ServiceCIDR]) -> bool {
    let Ok(ip) = meta::name(&address.metadata).parse::<IpAddr>() else { return false };
    is_managed(address) && contains(range, ip) && !others.iter().any(|other| contains(other, ip))
}
