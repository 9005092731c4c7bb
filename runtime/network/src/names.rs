//! Names inside the cluster, as a pod's resolver sees them (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>).
//! Pure: outside names are looked up elsewhere.

use crate::table::{Answer, ServiceTable};
use container::net::PodNetwork;
use std::net::{IpAddr, Ipv4Addr};

/// Names with at least so many dots are tried as they are before the search path, as `ndots:5` says.
const NDOTS: usize = 5;

/// What is known about a name without asking outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// Ask for this other name instead, as it is (ExternalName).
    Alias(String),
    /// It is a name of the cluster, and there is no such.
    Missing,
    /// Not the cluster's: ask outside for exactly this.
    Outside(String),
}

/// Looks a name up for a pod.
pub fn lookup(name: &str, pod: &PodNetwork, own: IpAddr, domain: &str, table: &ServiceTable) -> Known {
    if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse() {
        return Known::Addresses(vec![address]);
    }
    let lower = name.to_ascii_lowercase();
    let absolute = lower.ends_with('.');
    let plain = lower.strip_suffix('.').unwrap_or(&lower);
    if plain.is_empty() || plain.len() > 253 || plain.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Known::Missing;
    }
    if plain == "localhost" || plain.ends_with(".localhost") {
        return Known::Addresses(vec![Ipv4Addr::LOCALHOST.into()]);
    }
    let aliases = pod.host_aliases.iter().filter(|(_, names)| names.iter().any(|n| n.eq_ignore_ascii_case(plain)));
    let aliased: Vec<IpAddr> = aliases.map(|(address, _)| *address).collect();
    if !aliased.is_empty() {
        return Known::Addresses(aliased);
    }
    if plain.eq_ignore_ascii_case(&pod.hostname) {
        return Known::Addresses(vec![own]);
    }
    let labels: Vec<&str> = plain.split('.').collect();
    let search = [&[pod.namespace.as_str(), "svc"][..], &["svc"], &[]];
    let searched = || {
        search.iter().find_map(|suffix| {
            let full: Vec<&str> = labels.iter().chain(suffix.iter()).copied().collect();
            in_domain(&full, table)
        })
    };
    let inside = plain.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.'));
    let direct = || inside.and_then(|rest| in_domain(&rest.split('.').collect::<Vec<_>>(), table));
    let found = match (absolute, labels.len() > NDOTS) {
        (true, _) => direct(),
        (false, true) => direct().or_else(searched),
        (false, false) => searched().or_else(direct),
    };
    match found {
        Some(Answer::Addresses(addresses)) => Known::Addresses(addresses),
        Some(Answer::Alias(alias)) => Known::Alias(alias),
        None if inside.is_some() || plain == domain => Known::Missing,
        None => Known::Outside(plain.to_owned()),
    }
}

/// Labels below the cluster's domain: `svc.ns.svc`, `host.svc.ns.svc`, `1-2-3-4.ns.pod`.
fn in_domain(labels: &[&str], table: &ServiceTable) -> Option<Answer> {
    match labels {
        [service, namespace, "svc"] => table.resolve(namespace, service, None),
        [host, service, namespace, "svc"] => table.resolve(namespace, service, Some(host)),
        [address, _, "pod"] => Some(Answer::Addresses(vec![pod_address(address)?])),
        _ => None,
    }
}

/// The address that a label has with dashes.
pub(crate) fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok();
    v4.or_else(|| label.replace('-', ":").parse().ok())
}
