//! The addresses of hollow nodes and their pods. Each node has a /24 of the range: its first address is the node's own, the others are for
//! pods.

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use std::{collections::HashMap, net::Ipv4Addr};

/// The prefix length of a node's range.
const NODE_PREFIX: u8 = 24;
/// The addresses of a node's range that pods can have: not the range's own, the node's, and the broadcast address.
const POD_HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// The most nodes that a range has addresses for.
pub(crate) fn most_nodes(cidr: &Ipv4Net) -> u32 {
    match NODE_PREFIX.checked_sub(cidr.prefix_len()) {
        Some(bits) => 1u32.checked_shl(bits.into()).unwrap_or(u32::MAX),
        None => 0,
    }
}

/// The range of a node.
pub(crate) fn node_range(cidr: &Ipv4Net, node: u32) -> Ipv4Net {
    let first = u32::from(cidr.network()).wrapping_add(node << (32 - NODE_PREFIX));
    Ipv4Net::new_assert(Ipv4Addr::from(first), NODE_PREFIX)
}

/// An address of a node's range.
fn host(cidr: &Ipv4Net, node: u32, host: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(node_range(cidr, node).network()) | u32::from(host))
}

/// The address of a node.
pub(crate) fn of_node(cidr: &Ipv4Net, node: u32) -> Ipv4Addr {
    host(cidr, node, 1)
}

/// Which pod has which address.
pub(crate) struct Addresses {
    cidr: Ipv4Net,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// The pods that have an address, by uid.
    pods: HashMap<String, Ipv4Addr>,
    /// A bit for each address of a node's range, by node.
    nodes: HashMap<u32, [u64; 4]>,
}

impl Addresses {
    /// Without any pod.
    pub(crate) fn new(cidr: Ipv4Net) -> Self {
        Self { cidr, taken: Mutex::default() }
    }

    /// The range.
    pub(crate) fn cidr(&self) -> &Ipv4Net {
        &self.cidr
    }

    /// Records the address that the status of a pod shows. Others are not of this range, and are ignored.
    pub(crate) fn keep(&self, uid: &str, address: Ipv4Addr) {
        if !self.cidr.contains(&address) {
            return;
        }
        let mut taken = self.taken.lock();
        taken.pods.insert(uid.to_owned(), address);
        let (node, bit) = self.place(address);
        taken.nodes.entry(node).or_default()[usize::from(bit / 64)] |= 1 << (bit % 64);
    }

    /// The address of a pod of a node: the one that it has, else the lowest free one, if there is one.
    pub(crate) fn give(&self, uid: &str, node: u32) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock();
        if let Some(address) = taken.pods.get(uid) {
            return Some(*address);
        }
        let bits = taken.nodes.entry(node).or_default();
        let free = POD_HOSTS.into_iter().find(|bit| bits[usize::from(bit / 64)] & (1 << (bit % 64)) == 0)?;
        bits[usize::from(free / 64)] |= 1 << (free % 64);
        let address = host(&self.cidr, node, free);
        taken.pods.insert(uid.to_owned(), address);
        Some(address)
    }

    /// Frees the address of a pod that is gone.
    pub(crate) fn free(&self, uid: &str) {
        let mut taken = self.taken.lock();
        if let Some(address) = taken.pods.remove(uid) {
            let (node, bit) = self.place(address);
            if let Some(bits) = taken.nodes.get_mut(&node) {
                bits[usize::from(bit / 64)] &= !(1 << (bit % 64));
            }
        }
    }

    /// The node of an address, and its number there.
    fn place(&self, address: Ipv4Addr) -> (u32, u8) {
        let offset = u32::from(address) - u32::from(self.cidr.network());
        (offset >> (32 - NODE_PREFIX), address.octets()[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn each_node_has_a_range_of_its_own() {
        let cidr = net("240.0.0.0/8");
        assert_eq!(most_nodes(&cidr), 65_536);
        assert_eq!((node_range(&cidr, 0), of_node(&cidr, 0)), (net("240.0.0.0/24"), "240.0.0.1".parse().unwrap()));
        assert_eq!(node_range(&cidr, 5000), net("240.19.136.0/24"));
        assert_eq!(of_node(&cidr, 65_535), Ipv4Addr::new(240, 255, 255, 1));
        assert_eq!((most_nodes(&net("10.0.0.0/24")), most_nodes(&net("10.0.0.0/25"))), (1, 0));
    }

    #[test]
    fn an_address_is_one_pods_until_it_is_gone() {
        let all = Addresses::new(net("240.0.0.0/16"));
        let at = |text: &str| Some(text.parse::<Ipv4Addr>().expect("an address"));
        all.keep("old", Ipv4Addr::new(240, 0, 3, 2));
        all.keep("elsewhere", Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!((all.give("old", 3), all.give("a", 3)), (at("240.0.3.2"), at("240.0.3.3")));
        assert_eq!((all.give("a", 3), all.give("b", 4)), (at("240.0.3.3"), at("240.0.4.2")));
        all.free("old");
        all.free("nobody");
        assert_eq!(all.give("c", 3), at("240.0.3.2"));
        let more = (0..).take_while(|n| all.give(&format!("p{n}"), 3).is_some()).count();
        assert_eq!(more, POD_HOSTS.count() - 2, "then the node has none left");
    }
}
