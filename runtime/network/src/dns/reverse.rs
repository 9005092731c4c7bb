//! Names of addresses, below `in-addr.arpa` (RFC 1035) and `ip6.arpa` (RFC 3596). Pure.

use hickory_proto::rr::Name;
use ipnet::IpNet;
use std::net::IpAddr;

/// The addresses that a name is of: one, or all that begin alike. `None` for other names, and for addresses that are not written as they should be.
pub(crate) fn network(name: &Name) -> Option<IpNet> {
    let network = name.parse_arpa_name().ok()?;
    let whole = network.prefix_len() == network.max_prefix_len();
    // such as 010 and +1 for 10 and 1
    (!whole || Name::from(network.addr()) == *name).then_some(network)
}

/// The address, if it is one.
pub(crate) fn address(network: &IpNet) -> Option<IpAddr> {
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// The zone that has the name: of the labels that a range has in common, or the name itself.
pub(crate) fn zone(name: &Name, range: Option<&IpNet>) -> Name {
    match range {
        Some(IpNet::V4(range)) => name.trim_to(2 + usize::from(range.prefix_len().div_ceil(8))),
        Some(IpNet::V6(range)) => name.trim_to(2 + usize::from(range.prefix_len().div_ceil(4))),
        None => name.clone(),
    }
}
