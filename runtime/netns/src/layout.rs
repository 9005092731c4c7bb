//! The addresses of a node's network namespace.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The largest packet of a link between the node and a pod, in bytes: what programs expect of a network. The kernel moves segments of 64 KiB
/// through such links whole, so that a larger one gains little.
const MTU: u32 = 1500;

/// Which addresses are whose in the network namespace of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The node's own address: the source of what the cluster dials.
    pub node: Ipv4Addr,
    /// The pods that this process serves. Any of these addresses can be bound without a device.
    pub local: Ipv4Net,
    /// The pods that have a network namespace, each with a route to it.
    pub routed: Ipv4Net,
    /// The addresses of Services.
    pub services: Ipv4Net,
    /// The largest packet of a link to a pod, in bytes.
    pub mtu: u32,
}

impl Layout {
    /// The halves of a node's range: the lower one is local and begins with the node's own address, the upper one is routed. `None` if the
    /// range cannot be halved.
    pub fn halves(range: Ipv4Net, services: Ipv4Net) -> Option<Self> {
        let mut halves = range.subnets(range.prefix_len().checked_add(1)?).ok()?;
        let (local, routed) = (halves.next()?, halves.next()?);
        let node = Ipv4Addr::from(u32::from(range.network()).checked_add(1)?);
        local.contains(&node).then_some(Self { node, local, routed, services, mtu: MTU })
    }

    /// Whether an address is of a pod of this node.
    pub fn is_of_node(&self, address: Ipv4Addr) -> bool {
        self.local.contains(&address) || self.routed.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_halved_and_a_single_address_is_not() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let layout = Layout::halves(net("10.32.0.0/16"), net("10.96.0.0/16")).unwrap();
        assert_eq!((layout.local, layout.routed), (net("10.32.0.0/17"), net("10.32.128.0/17")));
        assert_eq!(layout.node, Ipv4Addr::new(10, 32, 0, 1));
        assert!(layout.is_of_node(Ipv4Addr::new(10, 32, 200, 1)) && !layout.is_of_node(Ipv4Addr::new(10, 33, 0, 1)));
        assert_eq!(Layout::halves(net("10.32.0.0/32"), net("10.96.0.0/16")), None);
        assert_eq!(Layout::halves(net("10.32.0.0/31"), net("10.96.0.0/16")), None, "the node would be routed");
    }
}
