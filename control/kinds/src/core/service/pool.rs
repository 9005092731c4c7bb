//! The pools of cluster IPs and node ports. Both have two bands: dynamic allocations come from the upper one first, so that the lower one
//! is likely free for static ones (KEP-3070, KEP-3668). They are in memory only, and rebuilt from the stored Services when the server
//! starts.

use ipnet::IpNet;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

/// Why an allocation failed. The texts are upstream's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Refused {
    /// The range is exhausted.
    #[error("range is full")]
    Full,
    /// Another Service has the address.
    #[error("provided IP is already allocated")]
    AddressTaken,
    /// The address is outside of the Service CIDR.
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    OtherNetwork(IpAddr, IpNet),
    /// Another Service has the port.
    #[error("provided port is already allocated")]
    PortTaken,
    /// The port is outside of the node port range, which the message names.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotANodePort(String),
}

/// The numbers below `size`, some of them allocated.
#[derive(Debug)]
struct Numbers {
    size: u64,
    /// Where the upper band begins.
    offset: u64,
    taken: HashSet<u64>,
}

impl Numbers {
    fn next(&mut self, pick: &dyn Fn(u64) -> u64) -> Option<u64> {
        self.next_in(self.offset..self.size, pick).or_else(|| self.next_in(0..self.offset, pick))
    }

    /// The first free number of the band from a random one on, wrapping around.
    fn next_in(&mut self, band: std::ops::Range<u64>, pick: &dyn Fn(u64) -> u64) -> Option<u64> {
        if band.is_empty() {
            return None;
        }
        let start = band.start + pick(band.end - band.start);
        let found = (start..band.end).chain(band.start..start).find(|n| !self.taken.contains(n))?;
        self.taken.insert(found);
        Some(found)
    }
}

/// The size of the lower band: a part of the range, within limits.
fn lower_band(size: u64, part: u64, max: u64) -> u64 {
    const MIN: u64 = 16;
    if size <= MIN { 0 } else { (size / part).clamp(MIN, max) }
}

/// The cluster IPs of Services.
#[derive(Debug)]
pub(super) struct Addresses {
    cidr: IpNet,
    numbers: Mutex<Numbers>,
}

impl Addresses {
    /// All addresses of a network except the first (and, for IPv4, the last).
    pub(super) fn new(cidr: IpNet) -> Self {
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(62);
        let all = 1u64 << bits;
        let size = if cidr.addr().is_ipv4() { all.saturating_sub(2) } else { all - 1 };
        let offset = lower_band(all, 16, 256).min(size);
        Self { cidr, numbers: Mutex::new(Numbers { size, offset, taken: HashSet::new() }) }
    }

    /// The network.
    pub(super) fn cidr(&self) -> IpNet {
        self.cidr
    }

    fn number(&self, ip: IpAddr) -> Option<u64> {
        let offset = match (ip, self.cidr.network()) {
            (IpAddr::V4(ip), IpAddr::V4(base)) => u64::from(u32::from(ip)).checked_sub(u64::from(u32::from(base)))?,
            (IpAddr::V6(ip), IpAddr::V6(base)) => u64::try_from(u128::from(ip).checked_sub(u128::from(base))?).ok()?,
            _ => return None,
        };
        let number = offset.checked_sub(1)?;
        (number < self.numbers.lock().size).then_some(number)
    }

    fn address(&self, number: u64) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(base) => {
                IpAddr::V4(Ipv4Addr::from(u32::from(base) + u32::try_from(number).unwrap_or(u32::MAX) + 1))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) + u128::from(number) + 1)),
        }
    }

    /// Allocates this address.
    pub(super) fn take(&self, ip: IpAddr) -> Result<(), Refused> {
        let number = self.number(ip).ok_or(Refused::OtherNetwork(ip, self.cidr))?;
        if self.numbers.lock().taken.insert(number) { Ok(()) } else { Err(Refused::AddressTaken) }
    }

    /// Allocates any address; `pick` returns a random number below its argument.
    pub(super) fn take_any(&self, pick: &dyn Fn(u64) -> u64) -> Result<IpAddr, Refused> {
        let number = self.numbers.lock().next(pick).ok_or(Refused::Full)?;
        Ok(self.address(number))
    }

    /// Releases an address.
    pub(super) fn release(&self, ip: IpAddr) {
        if let Some(number) = self.number(ip) {
            self.numbers.lock().taken.remove(&number);
        }
    }

    /// Marks the address of a stored Service as allocated.
    pub(super) fn mark(&self, ip: IpAddr) {
        let _ = self.take(ip);
    }
}

/// The node ports of Services.
#[derive(Debug)]
pub(super) struct NodePorts {
    first: u16,
    last: u16,
    numbers: Mutex<Numbers>,
}

impl NodePorts {
    /// The ports of a range.
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let size = (u64::from(*range.end()) + 1).saturating_sub(u64::from(*range.start()));
        let offset = lower_band(size, 32, 128);
        Self {
            first: *range.start(),
            last: *range.end(),
            numbers: Mutex::new(Numbers { size, offset, taken: HashSet::new() }),
        }
    }

    /// Allocates this port.
    pub(super) fn take(&self, port: u16) -> Result<(), Refused> {
        if !(self.first..=self.last).contains(&port) {
            return Err(Refused::NotANodePort(format!("{}-{}", self.first, self.last)));
        }
        let number = u64::from(port - self.first);
        if self.numbers.lock().taken.insert(number) { Ok(()) } else { Err(Refused::PortTaken) }
    }

    /// Allocates any port; `pick` returns a random number below its argument.
    pub(super) fn take_any(&self, pick: &dyn Fn(u64) -> u64) -> Result<u16, Refused> {
        let number = self.numbers.lock().next(pick).ok_or(Refused::Full)?;
        Ok(self.first + u16::try_from(number).expect("the range has only ports"))
    }

    /// Releases a port.
    pub(super) fn release(&self, port: u16) {
        if let Some(number) = port.checked_sub(self.first) {
            self.numbers.lock().taken.remove(&u64::from(number));
        }
    }

    /// Marks the port of a stored Service as allocated.
    pub(super) fn mark(&self, port: u16) {
        let _ = self.take(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_upper_band_first() {
        let pool = Addresses::new("10.96.0.0/24".parse().unwrap());
        let mut seen = HashSet::new();
        for i in 0..238 {
            let ip = pool.take_any(&|bound| (i * 31) % bound).unwrap();
            let IpAddr::V4(v4) = ip else { panic!("{ip}") };
            assert!(v4.octets()[3] > 16, "{ip} is of the lower band");
            assert!(seen.insert(ip));
        }
        for _ in 0..16 {
            let IpAddr::V4(v4) = pool.take_any(&|_| 0).unwrap() else { panic!() };
            assert!((1..=16).contains(&v4.octets()[3]), "{v4}");
        }
        assert_eq!(pool.take_any(&|_| 0), Err(Refused::Full));
        pool.release("10.96.0.7".parse().unwrap());
        assert_eq!(pool.take_any(&|_| 0), Ok("10.96.0.7".parse().unwrap()));
    }

    #[test]
    fn asked_for_addresses_are_checked() {
        let pool = Addresses::new("10.96.0.0/16".parse().unwrap());
        assert_eq!(pool.take("10.96.0.1".parse().unwrap()), Ok(()));
        assert_eq!(pool.take("10.96.0.1".parse().unwrap()), Err(Refused::AddressTaken));
        for outside in ["10.95.255.255", "10.96.0.0", "10.96.255.255", "10.97.0.1", "::1"] {
            let ip = outside.parse().unwrap();
            assert_eq!(pool.take(ip), Err(Refused::OtherNetwork(ip, pool.cidr)), "{outside}");
        }
    }

    #[test]
    fn small_and_large_networks_work() {
        let pool = Addresses::new("10.0.0.0/30".parse().unwrap());
        assert_eq!(pool.take_any(&|_| 0), Ok("10.0.0.1".parse().unwrap()));
        assert_eq!(pool.take_any(&|_| 0), Ok("10.0.0.2".parse().unwrap()));
        assert_eq!(pool.take_any(&|_| 0), Err(Refused::Full));
        let six = Addresses::new("fd00::/64".parse().unwrap());
        assert_eq!(six.take_any(&|_| 0), Ok("fd00::101".parse().unwrap()));
    }

    #[test]
    fn node_ports_stay_in_their_range() {
        let pool = NodePorts::new(30000..=32767);
        assert_eq!(pool.take_any(&|_| 0), Ok(30086));
        assert_eq!(pool.take(30000), Ok(()));
        assert_eq!(pool.take(30000), Err(Refused::PortTaken));
        let refused = pool.take(80).unwrap_err().to_string();
        assert_eq!(refused, "provided port is not in the valid range. The range of valid ports is 30000-32767");
    }
}
