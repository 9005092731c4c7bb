//! Which addresses outside of the cluster a guest may reach (see `runtime/README.md`). One function checks the address that is dialled,
//! after names are resolved: for connects, UDP, HTTP, redirects and hostAliases.

use container::net::Error;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The egress rules.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// The ranges of the cluster, which are never dialled, whatever is allowed: their addresses are looked up before, or are unused.
    pub inside: Vec<IpNet>,
    /// Networks that are always allowed.
    pub allow: Vec<IpNet>,
}

/// Unmaps an IPv4-mapped IPv6 address.
pub fn unmap(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// IPv4 addresses that gateways reach through an IPv6 one: NAT64, 6to4 and the deprecated compatible form.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let part = |at: usize| {
        let o = v6.octets();
        Ipv4Addr::new(o[at], o[at + 1], o[at + 2], o[at + 3])
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(part(12)),
        [0x2002, ..] => Some(part(2)),
        [0, 0, 0, 0, 0, 0, a, b] if (a, b) != (0, 0) && (a, b) != (0, 1) => Some(part(12)),
        _ => None,
    }
}

/// Metadata services of clouds outside of the link-local range: Alibaba, Azure, Oracle, AWS, Google.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address is refused, by the address alone.
fn kind(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if METADATA.contains(&address) => Some("a metadata service"),
        IpAddr::V4(v4) if v4.is_loopback() => Some("a loopback address of the host"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some("a multicast or broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an unspecified address"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_loopback() => Some("a loopback address of the host"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("an unspecified address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast or broadcast address"),
        // Which IPv4 address is meant depends on the gateway's configuration.
        IpAddr::V6(v6) if v6.segments()[..3] == [0x64, 0xff9b, 1] => Some("an address of a local NAT64 gateway"),
        IpAddr::V6(v6) => embedded(v6).and_then(|v4| kind(v4.into())),
    }
}

impl Egress {
    /// The address to dial for `to`, or why it is refused. `is_host` returns whether an interface of the host has an address.
    pub fn check(&self, to: IpAddr, is_host: impl FnOnce(IpAddr) -> bool) -> Result<IpAddr, Error> {
        let to = unmap(to);
        let meant = match to {
            IpAddr::V6(v6) => embedded(v6).map_or(to, IpAddr::V4),
            IpAddr::V4(_) => to,
        };
        if self.inside.iter().any(|net| net.contains(&meant)) {
            return Err(Error::Unreachable(format!("{to} is of the cluster's own ranges, and nobody has it")));
        }
        if self.allow.iter().any(|net| net.contains(&to)) {
            return Ok(to);
        }
        let what = match kind(to) {
            Some(what) => what,
            None if is_host(to) => "an address of the host",
            None => return Ok(to),
        };
        let prefix = if to.is_ipv4() { 32 } else { 128 };
        Err(Error::Denied(format!(
            "pods may not reach {to}: it is {what}; to allow it, start with --allow-egress {to}/{prefix}"
        )))
    }

    /// Ranges of IPv4 whose addresses are all refused: the kernel may say so at once. What a flag allows in part is not among them.
    pub(crate) fn refused(&self) -> Vec<Ipv4Net> {
        let nets =
            [([127, 0, 0, 0], 8), ([169, 254, 0, 0], 16), ([224, 0, 0, 0], 4), ([0, 0, 0, 0], 8), ([240, 0, 0, 0], 4)];
        let nets = nets.into_iter().filter_map(|(address, prefix)| Ipv4Net::new(address.into(), prefix).ok());
        let allowed = |net: &Ipv4Net| {
            let net = IpNet::V4(*net);
            self.allow.iter().any(|allowed| allowed.contains(&net) || net.contains(allowed))
        };
        nets.filter(|net| !allowed(net)).collect()
    }
}

/// Whether an interface of this host has the address: only then can a socket be bound to it.
pub fn is_host_address(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_the_hosts_or_local_is_refused() {
        let rules = Egress::default();
        for bad in [
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "240.0.0.1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "64:ff9b::6464:64c8",
            "2002:a83f:8110::",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
            "192.0.2.7",
        ] {
            let is_host = |address| address == ip("192.0.2.7");
            assert!(matches!(rules.check(ip(bad), is_host), Err(Error::Denied(_))), "{bad}");
        }
    }

    #[test]
    fn the_outside_is_open_and_unmapped() {
        let rules = Egress::default();
        for (to, dialled) in [
            ("1.1.1.1", "1.1.1.1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
            ("192.168.1.1", "192.168.1.1"),
            ("2606::1", "2606::1"),
            ("100.100.100.201", "100.100.100.201"),
            ("64:ff9b:2::1", "64:ff9b:2::1"),
        ] {
            assert_eq!(rules.check(ip(to), |_| false), Ok(ip(dialled)));
        }
    }

    #[test]
    fn allowed_ranges_are_open_and_the_refusal_names_the_flag() {
        let rules = Egress { allow: vec!["127.0.0.1/32".parse().expect("a network")], ..Egress::default() };
        assert_eq!(rules.check(ip("::ffff:127.0.0.1"), |_| true), Ok(ip("127.0.0.1")));
        let denied = rules.check(ip("127.0.0.2"), |_| true).expect_err("denied");
        assert_eq!(
            denied.to_string(),
            "pods may not reach 127.0.0.2: it is a loopback address of the host; to allow it, start with --allow-egress 127.0.0.2/32"
        );
    }

    #[test]
    fn the_clusters_own_ranges_are_never_outside() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        let rules = Egress { inside: nets(&["10.32.0.0/11", "10.96.0.0/16"]), allow: nets(&["10.0.0.0/8", "::/0"]) };
        for inside in
            ["10.32.0.7", "10.63.255.255", "10.96.3.4", "::ffff:10.32.0.7", "64:ff9b::10.32.0.7", "2002:0a20:0007::"]
        {
            assert!(matches!(rules.check(ip(inside), |_| false), Err(Error::Unreachable(_))), "{inside}");
        }
        for outside in ["10.64.0.1", "10.97.0.1", "64:ff9b::10.64.0.1"] {
            assert_eq!(rules.check(ip(outside), |_| false), Ok(ip(outside)));
        }
    }

    #[test]
    fn ranges_that_are_refused_whole_are_known() {
        for (net, rules) in [("127.0.0.0/8", Egress::default()), ("169.254.0.0/16", Egress::default())] {
            let net: Ipv4Net = net.parse().expect("a network");
            assert!(rules.refused().contains(&net));
            let allow = vec![IpNet::V4(Ipv4Net::new(net.addr(), 32).expect("an address"))];
            assert!(!Egress { allow, ..Egress::default() }.refused().contains(&net), "a part is allowed");
            for address in [net.network(), net.broadcast()] {
                assert!(rules.check(address.into(), |_| false).is_err());
            }
        }
    }

    #[test]
    fn the_hosts_addresses_are_known() {
        assert!(is_host_address(ip("127.0.0.1")));
        assert!(!is_host_address(ip("192.0.2.1")), "a documentation address");
    }
}
