//! The pod addresses of a node. They are allocated in turn, so that a released address is reused as late as possible.

use ipnet::IpNet;
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Allocates the addresses of a range, except the network address, the first host (the node) and the last address.
#[derive(Debug)]
pub struct AddressPool {
    range: IpNet,
    /// Offset of the address to try next.
    next: u128,
    /// Offset beyond the last usable one.
    end: u128,
    taken: HashSet<u128>,
}

/// The first offset for pods: 0 is the network, 1 the node.
const FIRST: u128 = 2;

impl AddressPool {
    /// A range whose addresses are all free.
    pub fn new(range: IpNet) -> Self {
        let bits = u32::from(range.max_prefix_len() - range.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        Self { range, next: FIRST, end: size.saturating_sub(1), taken: HashSet::new() }
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(offset as u32)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(offset)).into(),
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        if !self.range.contains(&address) {
            return None;
        }
        let offset = match (self.range.network(), address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(b) - u32::from(a)),
            (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(b) - u128::from(a),
            _ => return None,
        };
        (FIRST..self.end).contains(&offset).then_some(offset)
    }

    /// The next free address; `None` when all are taken.
    pub fn take(&mut self) -> Option<IpAddr> {
        let free = self.end.saturating_sub(FIRST);
        if self.taken.len() as u128 >= free {
            return None;
        }
        loop {
            let offset = self.next;
            self.next = if offset + 1 >= self.end { FIRST } else { offset + 1 };
            if self.taken.insert(offset) {
                return Some(self.address(offset));
            }
        }
    }

    /// Allocates a given address, after a restart; false if it is allocated or outside of the range. The next allocations follow it.
    pub fn claim(&mut self, address: IpAddr) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        let fresh = self.taken.insert(offset);
        if fresh && offset >= self.next {
            self.next = if offset + 1 >= self.end { FIRST } else { offset + 1 };
        }
        fresh
    }

    /// Releases an address.
    pub fn free(&mut self, address: IpAddr) {
        if let Some(offset) = self.offset(address) {
            self.taken.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str) -> AddressPool {
        AddressPool::new(range.parse().expect("a network"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_come_in_turn_and_freed_ones_last() {
        let mut pool = pool("10.0.0.0/29"); // .2 to .6
        let all: Vec<IpAddr> = (0..5).filter_map(|_| pool.take()).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(ip));
        assert_eq!(pool.take(), None);
        pool.free(ip("10.0.0.3"));
        pool.free(ip("10.0.0.5"));
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(ip("10.0.0.3")), Some(ip("10.0.0.5")), None));
    }

    #[test]
    fn a_freed_address_is_not_reused_at_once() {
        let mut pool = pool("10.0.0.0/24");
        let first = pool.take().expect("free");
        pool.free(first);
        assert!((0..200).all(|_| pool.take() != Some(first)));
    }

    #[test]
    fn claims_take_and_move_on() {
        let mut pool = pool("10.0.0.0/24");
        assert!(pool.claim(ip("10.0.0.9")));
        assert!(!pool.claim(ip("10.0.0.9")));
        for bad in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.4", "::1"] {
            assert!(!pool.claim(ip(bad)), "{bad}");
        }
        assert_eq!(pool.take(), Some(ip("10.0.0.10")));
        pool.free(ip("10.9.9.9"));
    }
}
