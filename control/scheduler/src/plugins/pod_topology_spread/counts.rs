//! How many matching pods each domain has. Pure.

use crate::{
    plugins::taint_toleration::admits,
    pod::PodInfo,
    snapshot::{Base, Snapshot},
    tally::{Topologies, Topology},
    terms::Constraint,
};
use k8s_openapi::api::core::v1::Node;
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

/// What the counts are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Filter: the least count of all domains is needed.
    Filter,
    /// Score: the counts of single nodes are needed.
    Score,
}

/// The counts of one constraint.
#[derive(Clone, Debug)]
struct Counted {
    topology: Arc<Topology>,
    /// By slot: whether the node's pods count.
    eligible: Arc<Vec<bool>>,
    /// By domain: whether it has an eligible node.
    present: Arc<Vec<bool>>,
    by_domain: Vec<i64>,
    /// For filter: how many present domains have a count.
    domains: BTreeMap<i64, usize>,
    /// For score: by slot, whether it is eligible or not.
    by_slot: Vec<u32>,
}

/// The counts of some constraints.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    base: Base,
    generation: u64,
    purpose: Purpose,
    parts: Vec<Counted>,
}

/// Whether `other` is counted for a pod in `namespace`. One that terminates is not; nor is any if the selector is empty.
fn counts(namespace: &str, constraint: &Constraint, other: &PodInfo) -> bool {
    !constraint.selector.is_empty()
        && other.namespace() == namespace
        && !other.is_deleting()
        && constraint.selects(other.labels())
}

/// Whether the policies of a constraint include a node.
pub(super) fn includes(constraint: &Constraint, pod: &PodInfo, node: &Node) -> bool {
    (!constraint.honours_affinity || pod.required.matches(node)) && (!constraint.honours_taints || admits(pod, node))
}

/// Whether a node has the labels of all constraints.
pub(super) fn has_all_keys(constraints: &[Constraint], node: &Node) -> bool {
    let has = |c: &Constraint| node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(&c.topology_key));
    constraints.iter().all(has)
}

/// A name that is equal for equal counts only.
pub(super) fn name(purpose: Purpose, pod: &PodInfo, constraints: &[Constraint], require_all: bool) -> String {
    let mut name = format!("{purpose:?}|{require_all}|{}", pod.namespace());
    for constraint in constraints {
        _ = write!(name, "|{}", constraint.text);
    }
    if constraints.iter().any(|c| c.honours_affinity) && !pod.required.is_empty() {
        let spec = pod.pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        let wanted = (spec.map(|s| &s.node_selector), affinity);
        _ = write!(name, "|{}", serde_json::to_string(&wanted).unwrap_or_default());
    }
    if constraints.iter().any(|c| c.honours_taints) {
        _ = write!(name, "|{}", serde_json::to_string(pod.tolerations()).unwrap_or_default());
    }
    name
}

impl Counts {
    /// Counts the pods of all nodes. `require_all`: only on nodes that have the labels of all constraints.
    pub(super) fn new(
        snapshot: &Snapshot,
        topologies: &mut Topologies,
        purpose: Purpose,
        pod: &PodInfo,
        constraints: &[Constraint],
        require_all: bool,
    ) -> Self {
        let part = |constraint: &Constraint| {
            let topology = topologies.get(snapshot, &constraint.topology_key);
            let mut eligible = vec![false; snapshot.slots()];
            let mut present = vec![false; topology.count()];
            let mut by_domain = vec![0; topology.count()];
            let mut by_slot = vec![0; if purpose == Purpose::Score { snapshot.slots() } else { 0 }];
            for node in snapshot.iter() {
                let Some(object) = node.node.as_deref() else { continue };
                let keys = !require_all || has_all_keys(constraints, object);
                let is_eligible = keys && includes(constraint, pod, object);
                let domain = topology.domain(node.slot).filter(|_| is_eligible);
                eligible[node.slot] = is_eligible;
                if let Some(domain) = domain {
                    present[domain] = true;
                }
                if domain.is_none() && by_slot.is_empty() {
                    continue;
                }
                let count = node.pods.values().filter(|other| counts(pod.namespace(), constraint, other)).count();
                if let Some(domain) = domain {
                    by_domain[domain] += i64::try_from(count).unwrap_or(i64::MAX);
                }
                if let Some(at) = by_slot.get_mut(node.slot) {
                    *at = u32::try_from(count).unwrap_or(u32::MAX);
                }
            }
            let mut domains = BTreeMap::new();
            if purpose == Purpose::Filter {
                for (count, _) in by_domain.iter().zip(&present).filter(|(_, present)| **present) {
                    *domains.entry(*count).or_insert(0) += 1;
                }
            }
            let (eligible, present) = (Arc::new(eligible), Arc::new(present));
            Counted { topology, eligible, present, by_domain, domains, by_slot }
        };
        let parts = constraints.iter().map(part).collect();
        Self { base: snapshot.base(), generation: snapshot.generation(), purpose, parts }
    }

    /// Takes over what has changed since; false if the pods must be counted anew.
    pub(super) fn update(&mut self, snapshot: &Snapshot, pod: &PodInfo, constraints: &[Constraint]) -> bool {
        if self.base != snapshot.base() {
            return false;
        }
        let Some(changes) = snapshot.changes_since(self.generation) else { return false };
        for change in changes {
            for (constraint, part) in constraints.iter().zip(&mut self.parts) {
                if counts(pod.namespace(), constraint, &change.pod) {
                    part.change(change.slot, if change.added { 1 } else { -1 }, self.purpose);
                }
            }
        }
        self.generation = snapshot.generation();
        true
    }

    /// The domain of a node, by the constraint's index.
    pub(super) fn domain(&self, constraint: usize, slot: usize) -> Option<usize> {
        self.parts[constraint].topology.domain(slot)
    }

    /// The count of a domain.
    pub(super) fn count(&self, constraint: usize, domain: usize) -> i64 {
        self.parts[constraint].by_domain[domain]
    }

    /// The count of a node alone; for score.
    pub(super) fn on_node(&self, constraint: usize, slot: usize) -> i64 {
        self.parts[constraint].by_slot.get(slot).map_or(0, |count| i64::from(*count))
    }

    /// The least count of the domains, if those of `changes` have so many pods more; 0 with fewer domains than `min_domains`. For filter.
    pub(super) fn least(&self, constraint: usize, min_domains: usize, changes: &[(usize, i64)]) -> i64 {
        let part = &self.parts[constraint];
        let present: usize = part.domains.values().sum();
        if present < min_domains {
            return 0;
        }
        let changed = || changes.iter().filter(|(domain, _)| part.present[*domain]);
        let unchanged = part.domains.iter().find(|(count, domains)| {
            changed().filter(|(domain, _)| part.by_domain[*domain] == **count).count() < **domains
        });
        let changed = changed().map(|(domain, more)| part.by_domain[*domain] + more).min();
        unchanged.map(|(count, _)| *count).into_iter().chain(changed).min().unwrap_or(0)
    }
}

impl Counted {
    fn change(&mut self, slot: usize, by: i64, purpose: Purpose) {
        if let Some(count) = self.by_slot.get_mut(slot) {
            *count = if by > 0 { *count + 1 } else { count.saturating_sub(1) };
        }
        if !self.eligible.get(slot).copied().unwrap_or(false) {
            return;
        }
        let Some(domain) = self.topology.domain(slot) else { return };
        let before = self.by_domain[domain];
        self.by_domain[domain] += by;
        if purpose == Purpose::Filter {
            if let Some(domains) = self.domains.get_mut(&before) {
                *domains -= 1;
                if *domains == 0 {
                    self.domains.remove(&before);
                }
            }
            *self.domains.entry(before + by).or_insert(0) += 1;
        }
    }
}
