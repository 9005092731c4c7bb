//! The networks of ServiceCIDRs, and which of their addresses Services can have. Follows upstream's `pkg/api/servicecidr`.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use std::net::IpAddr;

/// The label by which the allocator knows its IPAddresses, and its value.
pub(crate) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub(crate) const ALLOCATOR: &str = "ipallocator.k8s.io";

/// The label with the family.
pub(crate) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The networks of a ServiceCIDR.
pub(crate) fn networks(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let cidrs = range.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    cidrs.into_iter().flatten().filter_map(|cidr| cidr.parse().ok())
}

/// Whether a network has an address for Services: not its first, and of IPv4 not its last.
pub(crate) fn has(network: &IpNet, ip: IpAddr) -> bool {
    network.contains(&ip) && ip != network.network() && (ip.is_ipv6() || ip != network.broadcast())
}

/// Whether a ServiceCIDR has an address for Services.
pub(crate) fn contains(range: &ServiceCIDR, ip: IpAddr) -> bool {
    networks(range).any(|network| has(&network, ip))
}

/// The family of an address, as labels and messages name it.
pub(crate) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether the allocator made an IPAddress, or somebody in its name.
pub(crate) fn is_managed(address: &IPAddress) -> bool {
    address.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == ALLOCATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_and_the_last_of_ipv4_are_nobodys() {
        for (network, ip, expected) in [
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.254", true),
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "10.0.1.1", false),
            ("fd00::/120", "fd00::ff", true),
            ("fd00::/120", "fd00::", false),
            ("fd00::/120", "10.0.0.1", false),
        ] {
            let (network, ip): (IpNet, IpAddr) = (network.parse().expect("a network"), ip.parse().expect("an address"));
            assert_eq!(has(&network, ip), expected, "{network} {ip}");
        }
    }
}
