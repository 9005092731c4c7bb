//! Which nodes a cycle looks at, and in which order. Pure.

use crate::{
    node::NodeInfo,
    snapshot::{Base, Snapshot},
};
use std::collections::BTreeMap;

/// In a smaller cluster all nodes are looked at. Upstream's `minFeasibleNodesToFind`.
const MIN_NODES: usize = 100;
/// The least share of nodes that is looked for, percent. Upstream's `minFeasibleNodesPercentageToFind`.
const MIN_PERCENTAGE: usize = 5;

/// The search for nodes: it goes around all of them, zone by zone in turn, and ends where enough fit. The next one goes on there, so that all
/// nodes have the same chance.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `percentageOfNodesToScore`, 0 to 100; 0: the larger the cluster, the fewer percent.
    percentage: usize,
    /// Where the next search begins in `order`.
    next: usize,
    /// Slots, one zone after the other in turn.
    order: Vec<usize>,
    /// The nodes that `order` is of.
    base: Option<Base>,
}

impl Search {
    /// With `percentageOfNodesToScore`, at most 100.
    pub fn new(percentage: usize) -> Self {
        Self { percentage: percentage.min(100), ..Self::default() }
    }

    /// How many nodes that fit are enough.
    fn enough(&self, count: usize) -> usize {
        if count < MIN_NODES {
            return count;
        }
        let percentage = match self.percentage {
            0 => 50_usize.saturating_sub(count / 125).max(MIN_PERCENTAGE),
            percentage => percentage,
        };
        (count * percentage / 100).max(MIN_NODES)
    }

    /// Looks at nodes until enough of them fit.
    pub fn run<'a>(&mut self, snapshot: &'a Snapshot, mut fits: impl FnMut(&'a NodeInfo) -> bool) {
        if self.base != Some(snapshot.base()) {
            self.order = in_turn(snapshot);
            self.base = Some(snapshot.base());
        }
        let (enough, count) = (self.enough(snapshot.count()), self.order.len());
        let (mut found, mut seen) = (0, 0);
        while found < enough && seen < count {
            let slot = self.order[(self.next + seen) % count];
            found += usize::from(snapshot.at(slot).is_some_and(&mut fits));
            seen += 1;
        }
        self.next = (self.next + seen) % count.max(1);
    }
}

/// The slots of all nodes: one of each zone, then the next of each.
fn in_turn(snapshot: &Snapshot) -> Vec<usize> {
    let mut zones: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for node in snapshot.iter() {
        let label = |key: &str| node.label(key).unwrap_or("");
        let zone = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        zones.entry(zone).or_default().push(node.slot);
    }
    let longest = zones.values().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|index| zones.values().filter_map(move |zone| zone.get(index).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn cluster(zones: &[(&str, usize)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (zone, count) in zones {
            for number in 0..*count {
                let name = format!("{zone}{number}");
                let value = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
                snapshot.set_node(&name, Arc::new(serde_json::from_value(value).expect("a node")));
            }
        }
        snapshot
    }

    fn looked_at(search: &mut Search, snapshot: &Snapshot, fits: bool) -> Vec<String> {
        let mut seen = Vec::new();
        search.run(snapshot, |node| {
            seen.push(node.name().to_owned());
            fits
        });
        seen
    }

    #[test]
    fn zones_take_turns() {
        let snapshot = cluster(&[("a", 3), ("b", 1), ("c", 2)]);
        assert_eq!(looked_at(&mut Search::default(), &snapshot, true), ["a0", "b0", "c0", "a1", "c1", "a2"]);
    }

    #[test]
    fn a_search_ends_where_enough_fit_and_the_next_goes_on_there() {
        for (percentage, count, enough) in [
            (0, 99, 99),
            (0, 100, 100),
            (0, 1000, 420),
            (0, 5000, 500),
            (0, 6000, 300),
            (30, 1000, 300),
            (3, 1000, 100),
        ] {
            assert_eq!(Search::new(percentage).enough(count), enough, "{percentage} {count}");
        }
        let (snapshot, mut search) = (cluster(&[("a", 500)]), Search::new(40));
        let first = looked_at(&mut search, &snapshot, true);
        assert_eq!((first.len(), first[199].as_str()), (200, "a199"));
        let second = looked_at(&mut search, &snapshot, true);
        assert_eq!((second[0].as_str(), second[199].as_str()), ("a200", "a399"));
        let third = looked_at(&mut search, &snapshot, true);
        assert_eq!((third[0].as_str(), third[199].as_str()), ("a400", "a99"));
        assert_eq!(looked_at(&mut search, &snapshot, false).len(), 500, "all, if none fits");
    }
}
