//! Splits the cluster's pod address range into one range per node. IPv4 only.

use std::{collections::BTreeSet, net::Ipv4Addr};

/// The pod address range of the cluster, and the prefix length of a node's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCidrs {
    base: u32,
    prefix: u8,
    node_prefix: u8,
}

impl NodeCidrs {
    /// Parses a range such as `10.32.0.0/11`; `node_prefix` is for example 18.
    ///
    /// # Errors
    /// Why the range is invalid.
    pub fn parse(cidr: &str, node_prefix: u8) -> Result<Self, String> {
        let (address, prefix) =
            cidr.split_once('/').ok_or_else(|| format!("{cidr:?} is not a range such as 10.32.0.0/11"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("{address:?} is not an IPv4 address"))?;
        let prefix: u8 =
            prefix.parse().ok().filter(|p| *p <= 30).ok_or_else(|| format!("{prefix:?} is not a prefix length"))?;
        if node_prefix < prefix || node_prefix > 30 {
            return Err(format!("a node's prefix length must be between {prefix} and 30, not {node_prefix}"));
        }
        let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
        Ok(Self { base: u32::from(address) & mask, prefix, node_prefix })
    }

    /// The range with this index, if it exists.
    fn nth(&self, index: u32) -> Option<String> {
        let count = 1u32.checked_shl(u32::from(self.node_prefix - self.prefix)).unwrap_or(u32::MAX);
        let size = 1u32 << (32 - self.node_prefix);
        (index < count).then(|| format!("{}/{}", Ipv4Addr::from(self.base + index * size), self.node_prefix))
    }

    /// The first range that is not in `taken`.
    pub fn free(&self, taken: &BTreeSet<String>) -> Option<String> {
        (0..).map_while(|i| self.nth(i)).find(|c| !taken.contains(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_and_end() {
        let cidrs = NodeCidrs::parse("10.32.0.0/11", 18).expect("a range");
        let mut taken = BTreeSet::new();
        assert_eq!(cidrs.free(&taken).as_deref(), Some("10.32.0.0/18"));
        taken.insert("10.32.0.0/18".to_owned());
        taken.insert("10.32.128.0/18".to_owned());
        assert_eq!(cidrs.free(&taken).as_deref(), Some("10.32.64.0/18"));
        let small = NodeCidrs::parse("10.0.0.77/24", 25).expect("a range");
        let both = ["10.0.0.0/25", "10.0.0.128/25"].map(str::to_owned).into();
        assert_eq!(small.free(&both), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for (cidr, node) in
            [("10.0.0.0", 24), ("x/8", 24), ("10.0.0.0/40", 24), ("10.0.0.0/24", 16), ("10.0.0.0/8", 31)]
        {
            assert!(NodeCidrs::parse(cidr, node).is_err(), "{cidr} {node}");
        }
    }
}
