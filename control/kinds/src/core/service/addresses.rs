//! The cluster IPs of Services (KEP-1880). Which there are say the ServiceCIDRs, and which are taken the IPAddresses, so that both count from the
//! write that is acknowledged. An IPAddress is written and deleted with its Service, in one transaction: none leaks, and of two API servers one is
//! refused by the store. What is kept here are the addresses of writes on their way, and of Services that have no IPAddress yet.
//!
//! Follows upstream's `registry/core/service/ipallocator`; the texts are upstream's.

use super::pool::{Refused, lower_band};
use crate::{
    address::parse_cidr,
    networking::{ipaddress, servicecidr},
};
use api::Object;
use ipnet::IpNet;
use parking_lot::Mutex;
use server::{Derived, Objects, strategy::Companion};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    sync::Arc,
};

/// The networks of the stored ServiceCIDRs from which addresses are given, the default first.
#[derive(Default)]
struct Stored {
    /// Whether the default one is stored.
    has_default: bool,
    networks: Vec<IpNet>,
}

fn networks(objects: Vec<Arc<Object>>) -> Stored {
    let is_default = |object: &Arc<Object>| object.name() == servicecidr::DEFAULT;
    let (first, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_default);
    let has_default = !first.is_empty();
    let mut networks = Vec::new();
    for object in first.iter().chain(&others).filter(|object| servicecidr::is_ready(object)) {
        let cidrs = object.list_at(&["spec", "cidrs"]).iter();
        for network in cidrs.filter_map(|cidr| parse_cidr(cidr.as_str()?)) {
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
    }
    Stored { has_default, networks }
}

/// The cluster IPs of Services.
pub(super) struct Addresses {
    /// The range of the settings. It says the family, and counts as that of the default ServiceCIDR until that is stored.
    range: IpNet,
    stored: Derived<Stored>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Those of writes on their way.
    reserved: HashSet<IpAddr>,
    /// Those of Services that were stored without an IPAddress, by an older version, until they have one.
    unrecorded: HashSet<IpAddr>,
}

impl Kept {
    fn is_free(&self, objects: &dyn Objects, ip: IpAddr) -> bool {
        !self.reserved.contains(&ip) && !self.unrecorded.contains(&ip) && !ipaddress::exists(objects, ip)
    }
}

impl Addresses {
    /// Those of the settings' range and of the stored ServiceCIDRs.
    pub(super) fn new(range: IpNet) -> Self {
        let stored = Derived::new(servicecidr::GROUP, servicecidr::RESOURCE, networks);
        Self { range, stored, kept: Mutex::default() }
    }

    /// The family of Services.
    pub(super) fn family(&self) -> &'static str {
        ipaddress::family(self.range.addr())
    }

    /// The networks from which addresses are given.
    fn networks(&self, objects: &dyn Objects) -> Vec<Network> {
        let stored = self.stored.read(objects);
        let default = (!stored.has_default).then_some(self.range);
        let is_own = |network: &&IpNet| network.addr().is_ipv4() == self.range.addr().is_ipv4();
        default.iter().chain(stored.networks.iter().filter(is_own)).map(|network| Network::new(*network)).collect()
    }

    /// Reserves this address for a write.
    pub(super) fn take(&self, objects: &dyn Objects, ip: IpAddr) -> Result<(), Refused> {
        if !self.networks(objects).iter().any(|network| network.contains(ip)) {
            return Err(Refused::OtherNetwork);
        }
        let mut kept = self.kept();
        if !kept.is_free(objects, ip) {
            return Err(Refused::AddressTaken);
        }
        kept.reserved.insert(ip);
        Ok(())
    }

    /// Reserves any address for a write; `pick` returns a random number below its argument.
    pub(super) fn take_any(&self, objects: &dyn Objects, pick: &dyn Fn(u64) -> u64) -> Result<IpAddr, Refused> {
        let networks = self.networks(objects);
        let mut kept = self.kept();
        // Only once, and not for each address: most often there are none.
        kept.unrecorded.retain(|ip| !ipaddress::exists(objects, *ip));
        let found = networks.iter().find_map(|network| network.next(pick, |ip| kept.is_free(objects, ip)));
        let ip = found.ok_or(Refused::Full)?;
        kept.reserved.insert(ip);
        Ok(ip)
    }

    /// Ends a reservation: the write was not stored, or it was and the IPAddress with it.
    pub(super) fn forget(&self, ip: IpAddr) {
        self.kept().reserved.remove(&ip);
    }

    /// A Service that had the address is gone.
    pub(super) fn release(&self, ip: IpAddr) {
        self.kept().unrecorded.remove(&ip);
    }

    /// A Service with the address was stored when the server started.
    pub(super) fn load(&self, ip: IpAddr) {
        self.kept().unrecorded.insert(ip);
    }

    fn kept(&self) -> parking_lot::MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

/// The IPAddress of a Service that gets an address.
pub(super) fn created(service: &Object, ip: IpAddr) -> Companion {
    let object = ipaddress::of_service(ip, service.namespace(), service.name());
    Companion::Create((ipaddress::GROUP, ipaddress::RESOURCE), object)
}

/// The IPAddress of a Service that loses its address. One of somebody else stays, and one that a finalizer keeps: that is deleted afterwards.
pub(super) fn deleted(objects: &dyn Objects, service: &Object, ip: IpAddr) -> Option<Companion> {
    let object = objects.get(ipaddress::GROUP, ipaddress::RESOURCE, "", &ip.to_string())?;
    let is_own = ipaddress::is_of_service(&object, service.namespace(), service.name());
    (is_own && object.finalizers().is_empty())
        .then_some(Companion::Delete((ipaddress::GROUP, ipaddress::RESOURCE), object))
}

/// The addresses of a network, numbered from 0: all but the first and, for IPv4, the last. Any is given of the upper band before any of the
/// lower, which is likely free for those who ask for one (KEP-3070).
struct Network {
    base: IpAddr,
    size: u64,
    /// Where the upper band begins.
    offset: u64,
}

impl Network {
    fn new(cidr: IpNet) -> Self {
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(62);
        let all = 1u64 << bits;
        let size = if cidr.addr().is_ipv4() { all.saturating_sub(2) } else { all - 1 };
        Self { base: cidr.network(), size, offset: lower_band(all, 16, 256).min(size) }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let offset = match (ip, self.base) {
            (IpAddr::V4(ip), IpAddr::V4(base)) => u64::from(u32::from(ip)).checked_sub(u64::from(u32::from(base))),
            (IpAddr::V6(ip), IpAddr::V6(base)) => {
                u128::from(ip).checked_sub(u128::from(base)).and_then(|offset| u64::try_from(offset).ok())
            }
            _ => None,
        };
        offset.is_some_and(|offset| (1..=self.size).contains(&offset))
    }

    fn address(&self, number: u64) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => {
                IpAddr::V4(Ipv4Addr::from(u32::from(base) + u32::try_from(number).unwrap_or(u32::MAX - 1) + 1))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) + u128::from(number) + 1)),
        }
    }

    fn next(&self, pick: &dyn Fn(u64) -> u64, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let bands = [self.offset..self.size, 0..self.offset];
        bands.into_iter().find_map(|band| self.next_in(band, pick, &is_free))
    }

    /// The first free address of the band from a random one on, wrapping around.
    fn next_in(&self, band: Range<u64>, pick: &dyn Fn(u64) -> u64, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        if band.is_empty() {
            return None;
        }
        let start = band.start + pick(band.end - band.start);
        (start..band.end).chain(band.start..start).map(|number| self.address(number)).find(|ip| is_free(*ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Stored as Objects;

    fn cidr(name: &str, network: &str, more: &str) -> String {
        format!("{{metadata: {{name: {name}{more}}}, spec: {{cidrs: [{network}]}}}}")
    }

    fn with(cidrs: &[String]) -> Objects {
        let add = |all: Objects, text: &String| all.with(servicecidr::GROUP, servicecidr::RESOURCE, text);
        cidrs.iter().fold(Objects::default(), add)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn addresses(range: &str) -> Addresses {
        Addresses::new(range.parse().expect("a network"))
    }

    #[test]
    fn addresses_come_from_the_upper_band_first() {
        let (all, none) = (addresses("10.96.0.0/24"), Objects::default());
        let mut seen = HashSet::new();
        for i in 0..238 {
            let ip = all.take_any(&none, &|bound| (i * 31) % bound).unwrap();
            let IpAddr::V4(v4) = ip else { panic!("{ip}") };
            assert!(v4.octets()[3] > 16, "{ip} is of the lower band");
            assert!(seen.insert(ip));
        }
        for _ in 0..16 {
            let IpAddr::V4(v4) = all.take_any(&none, &|_| 0).unwrap() else { panic!() };
            assert!((1..=16).contains(&v4.octets()[3]), "{v4}");
        }
        assert_eq!(all.take_any(&none, &|_| 0), Err(Refused::Full));
        all.forget(ip("10.96.0.7"));
        assert_eq!(all.take_any(&none, &|_| 0), Ok(ip("10.96.0.7")));
    }

    #[test]
    fn small_and_large_networks_work() {
        let none = Objects::default();
        let all = addresses("10.0.0.0/30");
        assert_eq!(all.take_any(&none, &|_| 0), Ok(ip("10.0.0.1")));
        assert_eq!(all.take_any(&none, &|_| 0), Ok(ip("10.0.0.2")));
        assert_eq!(all.take_any(&none, &|_| 0), Err(Refused::Full));
        assert_eq!(addresses("10.0.0.0/32").take_any(&none, &|_| 0), Err(Refused::Full));
        assert_eq!(addresses("255.255.255.0/24").take_any(&none, &|bound| bound - 1), Ok(ip("255.255.255.254")));
        let six = addresses("fd00::/64");
        assert_eq!(six.take_any(&none, &|_| 0), Ok(ip("fd00::101")));
        assert_eq!(six.family(), "IPv6");
    }

    #[test]
    fn asked_for_addresses_are_checked() {
        let taken = Objects::default().with(
            ipaddress::GROUP,
            ipaddress::RESOURCE,
            "{metadata: {name: 10.96.0.2}, spec: {parentRef: {group: g, resource: gateways, name: x}}}",
        );
        let all = addresses("10.96.0.0/16");
        assert_eq!(all.take(&taken, ip("10.96.0.1")), Ok(()));
        assert_eq!(all.take(&taken, ip("10.96.0.1")), Err(Refused::AddressTaken), "a write is on its way");
        assert_eq!(all.take(&taken, ip("10.96.0.2")), Err(Refused::AddressTaken), "whoever has it");
        for outside in ["10.95.255.255", "10.96.0.0", "10.96.255.255", "10.97.0.1", "::1"] {
            assert_eq!(all.take(&taken, ip(outside)), Err(Refused::OtherNetwork), "{outside}");
        }
    }

    #[test]
    fn networks_are_those_of_ready_ranges_of_the_family() {
        let condition = |status: &str| {
            format!(
                "{{metadata: {{name: c}}, spec: {{cidrs: [10.3.0.0/24]}}, status: {{conditions: [{{type: Ready, status: '{status}'}}]}}}}"
            )
        };
        let deleting = cidr("d", "10.4.0.0/24", ", deletionTimestamp: '2026-01-01T00:00:00Z'");
        for (stored, asked, expected) in [
            (vec![], "10.1.0.9", true),
            (vec![cidr("a", "10.2.0.0/24", "")], "10.1.0.9", true),
            (vec![cidr("a", "10.2.0.0/24", "")], "10.2.0.9", true),
            (vec![cidr("kubernetes", "10.2.0.0/24", "")], "10.1.0.9", false),
            (vec![cidr("kubernetes", "10.2.0.0/24", "")], "10.2.0.9", true),
            (vec![condition("True")], "10.3.0.9", true),
            (vec![condition("False")], "10.3.0.9", false),
            (vec![condition("Unknown")], "10.3.0.9", false),
            (vec![deleting.clone()], "10.4.0.9", false),
            (vec![deleting, cidr("e", "10.4.0.0/16", "")], "10.4.0.9", true),
            (vec![cidr("six", "'fd00::/64'", "")], "fd00::9", false),
        ] {
            let taken = addresses("10.1.0.0/24").take(&with(&stored), ip(asked));
            assert_eq!(taken, if expected { Ok(()) } else { Err(Refused::OtherNetwork) }, "{stored:?} {asked}");
        }
        // The default one is used up before others are begun.
        let all = with(&[cidr("a", "10.9.0.0/30", ""), cidr("kubernetes", "10.1.0.0/30", "")]);
        let own = addresses("10.1.0.0/30");
        let taken: Vec<String> = (0..4).map(|_| own.take_any(&all, &|_| 0).unwrap().to_string()).collect();
        assert_eq!(taken.join(" "), "10.1.0.1 10.1.0.2 10.9.0.1 10.9.0.2");
        assert_eq!(own.take_any(&all, &|_| 0), Err(Refused::Full));
    }

    #[test]
    fn an_address_of_an_older_version_is_taken_until_it_is_recorded() {
        let (all, none) = (addresses("10.0.0.0/30"), Objects::default());
        all.load(ip("10.0.0.1"));
        assert_eq!(all.take(&none, ip("10.0.0.1")), Err(Refused::AddressTaken));
        assert_eq!(all.take_any(&none, &|_| 0), Ok(ip("10.0.0.2")));
        all.forget(ip("10.0.0.2"));
        let recorded = Objects::default().with(ipaddress::GROUP, ipaddress::RESOURCE, "{metadata: {name: 10.0.0.1}}");
        assert_eq!(all.take_any(&recorded, &|_| 0), Ok(ip("10.0.0.2")));
        assert_eq!(all.take(&none, ip("10.0.0.1")), Ok(()), "the IPAddress alone counts from then on");
        all.load(ip("10.0.0.3"));
        all.release(ip("10.0.0.3"));
        assert!(all.kept().unrecorded.is_empty());
    }
}
