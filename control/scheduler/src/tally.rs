//! Sums over the pods of each topology domain, which plugins keep from one cycle to the next. Pure.
//!
//! A cycle must not look at each pod of the cluster: a [`Tally`] is computed once, and takes over what has changed since ([`Tally::update`]).
//! [`Memo`] holds the last used ones.

use crate::{
    node::NodeInfo,
    pod::PodInfo,
    snapshot::{Base, Snapshot},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Marks a slot whose node has not the label.
const NONE: u32 = u32::MAX;

/// The domains of one label: nodes with equal values are one domain.
#[derive(Debug)]
pub struct Topology {
    /// The label.
    pub key: String,
    by_slot: Vec<u32>,
    values: HashMap<String, u32>,
}

impl Topology {
    /// The domains of the nodes of a snapshot.
    pub fn new(snapshot: &Snapshot, key: &str) -> Self {
        let (mut by_slot, mut values) = (vec![NONE; snapshot.slots()], HashMap::new());
        for node in snapshot.iter() {
            if let Some(value) = node.label(key) {
                let next = u32::try_from(values.len()).unwrap_or(NONE);
                by_slot[node.slot] = *values.entry(value.to_owned()).or_insert(next);
            }
        }
        Self { key: key.to_owned(), by_slot, values }
    }

    /// The domain of a node: a number below [`Topology::count`]; `None` without the label.
    pub fn domain(&self, slot: usize) -> Option<usize> {
        self.by_slot.get(slot).filter(|domain| **domain != NONE).map(|domain| *domain as usize)
    }

    /// How many domains there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }
}

/// How many labels have their domains kept.
const MAX_TOPOLOGIES: usize = 64;

/// The domains of the labels that were asked for, as long as nodes do not change.
#[derive(Debug, Default)]
pub struct Topologies {
    base: Option<Base>,
    by_key: HashMap<String, Arc<Topology>>,
}

impl Topologies {
    /// The domains of a label.
    pub fn get(&mut self, snapshot: &Snapshot, key: &str) -> Arc<Topology> {
        if self.base != Some(snapshot.base()) || self.by_key.len() >= MAX_TOPOLOGIES {
            self.by_key.clear();
            self.base = Some(snapshot.base());
        }
        if let Some(known) = self.by_key.get(key) {
            return known.clone();
        }
        let topology = Arc::new(Topology::new(snapshot, key));
        self.by_key.insert(key.to_owned(), topology.clone());
        topology
    }
}

/// Which pods a [`Tally`] sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All of them.
    All,
    /// Those with affinity or anti-affinity terms.
    WithTerms,
    /// Those with required anti-affinity terms.
    WithAntiAffinity,
}

/// The sums of one label.
#[derive(Clone, Debug)]
struct Part {
    topology: Arc<Topology>,
    by_domain: Vec<i64>,
}

/// Sums of weights by label and domain.
#[derive(Clone, Debug)]
pub struct Tally {
    base: Base,
    generation: u64,
    over: Over,
    parts: Vec<Part>,
    /// How many of all sums are not zero.
    used: usize,
}

/// What a pod adds: the label, and the weight in the domain of the pod's node.
pub type Weigh<'a> = &'a dyn Fn(&PodInfo, &mut dyn FnMut(&str, i64));

impl Tally {
    /// Sums over the pods of a snapshot.
    pub fn new(snapshot: &Snapshot, over: Over, topologies: &mut Topologies, weigh: Weigh<'_>) -> Self {
        let (base, generation) = (snapshot.base(), snapshot.generation());
        let mut tally = Self { base, generation, over, parts: Vec::new(), used: 0 };
        let mut node = |node: &NodeInfo| {
            for pod in node.pods.values().filter(|pod| over.concerns(pod)) {
                tally.add(snapshot, node.slot, pod, 1, topologies, weigh);
            }
        };
        match over {
            Over::All => snapshot.iter().for_each(&mut node),
            Over::WithTerms => snapshot.with_terms().for_each(&mut node),
            Over::WithAntiAffinity => snapshot.with_anti_affinity().for_each(&mut node),
        }
        tally
    }

    /// Takes over what has changed since; false if the sums must be computed anew.
    pub fn update(&mut self, snapshot: &Snapshot, topologies: &mut Topologies, weigh: Weigh<'_>) -> bool {
        if self.base != snapshot.base() {
            return false;
        }
        let Some(changes) = snapshot.changes_since(self.generation) else { return false };
        let over = self.over;
        for change in changes.filter(|change| over.concerns(&change.pod)) {
            let sign = if change.added { 1 } else { -1 };
            self.add(snapshot, change.slot, &change.pod, sign, topologies, weigh);
        }
        self.generation = snapshot.generation();
        true
    }

    /// Whether all sums are zero.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The labels with sums.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.topology.key.as_str())
    }

    /// The sum of a label in the domain of a node.
    pub fn sum(&self, key: &str, slot: usize) -> i64 {
        let part = self.parts.iter().find(|part| part.topology.key == key);
        part.and_then(|part| part.topology.domain(slot).map(|domain| part.by_domain[domain])).unwrap_or(0)
    }

    /// The sum of all labels over the domains of a node.
    pub fn total(&self, slot: usize) -> i64 {
        let of = |part: &Part| part.topology.domain(slot).map_or(0, |domain| part.by_domain[domain]);
        self.parts.iter().map(of).sum()
    }

    /// Whether a sum is positive in one of the domains of a node.
    pub fn any(&self, slot: usize) -> bool {
        let of = |part: &Part| part.topology.domain(slot).is_some_and(|domain| part.by_domain[domain] > 0);
        self.parts.iter().any(of)
    }

    /// The sum of a label in the domain with this value.
    fn sum_of(&self, key: &str, value: &str) -> i64 {
        let part = self.parts.iter().find(|part| part.topology.key == key);
        let sum = |part: &Part| part.topology.values.get(value).map(|domain| part.by_domain[*domain as usize]);
        part.and_then(sum).unwrap_or(0)
    }

    fn add(
        &mut self,
        snapshot: &Snapshot,
        slot: usize,
        pod: &PodInfo,
        sign: i64,
        topologies: &mut Topologies,
        weigh: Weigh<'_>,
    ) {
        if snapshot.at(slot).is_none() {
            return;
        }
        weigh(pod, &mut |key, weight| {
            let index = self.parts.iter().position(|part| part.topology.key == key).unwrap_or_else(|| {
                let topology = topologies.get(snapshot, key);
                self.parts.push(Part { by_domain: vec![0; topology.count()], topology });
                self.parts.len() - 1
            });
            let part = &mut self.parts[index];
            let Some(domain) = part.topology.domain(slot) else { return };
            let sum = &mut part.by_domain[domain];
            let before = *sum;
            *sum += sign * weight;
            self.used = self.used + usize::from(*sum != 0) - usize::from(before != 0);
        });
    }
}

impl Over {
    fn concerns(self, pod: &PodInfo) -> bool {
        match self {
            Self::All => true,
            Self::WithTerms => !pod.terms.is_empty(),
            Self::WithAntiAffinity => !pod.terms.anti_affinity.is_empty(),
        }
    }
}

/// A tally of this cycle, and what a dry run adds to it and takes away.
#[derive(Clone, Debug)]
pub struct Sums {
    tally: Arc<Tally>,
    /// Label, value, weight.
    changes: Vec<(String, String, i64)>,
}

impl Sums {
    /// The sums of a tally.
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { tally, changes: Vec::new() }
    }

    /// Adds a pod of `node`, or with `sign` -1 takes it away.
    pub fn add(&mut self, node: &NodeInfo, pod: &PodInfo, sign: i64, weigh: Weigh<'_>) {
        weigh(pod, &mut |key, weight| {
            let Some(value) = node.label(key) else { return };
            match self.changes.iter_mut().find(|(k, v, _)| k == key && v == value) {
                Some(known) => known.2 += sign * weight,
                None => self.changes.push((key.to_owned(), value.to_owned(), sign * weight)),
            }
        });
        self.changes.retain(|change| change.2 != 0);
    }

    /// The sum of a label in the domain of a node.
    pub fn sum(&self, key: &str, node: &NodeInfo) -> i64 {
        let here = |change: &&(String, String, i64)| change.0 == key && node.label(key) == Some(change.1.as_str());
        self.tally.sum(key, node.slot) + self.changes.iter().filter(here).map(|change| change.2).sum::<i64>()
    }

    /// Whether a sum is positive in one of the domains of a node.
    pub fn any(&self, node: &NodeInfo) -> bool {
        if self.changes.is_empty() {
            return self.tally.any(node.slot);
        }
        let keys = self.tally.keys().chain(self.changes.iter().map(|change| change.0.as_str()));
        keys.into_iter().any(|key| self.sum(key, node) > 0)
    }

    /// Whether all sums are zero.
    pub fn is_empty(&self) -> bool {
        let mut used = self.tally.used;
        for (key, value, weight) in &self.changes {
            let before = self.tally.sum_of(key, value);
            used = used + usize::from(before + weight != 0) - usize::from(before != 0);
        }
        used == 0
    }
}

/// How many values a [`Memo`] keeps.
const MAX_MEMO: usize = 64;

/// The values that were used last, by name. Cheap to ask: a value is shared with who asked for it.
#[derive(Debug)]
pub struct Memo<V> {
    values: BTreeMap<String, (u64, Arc<V>)>,
    clock: u64,
}

impl<V> Default for Memo<V> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), clock: 0 }
    }
}

impl<V: Clone> Memo<V> {
    /// The value of a name: the kept one if `update` can bring it up to date, else a new one.
    pub fn get(&mut self, name: String, update: impl FnOnce(&mut V) -> bool, new: impl FnOnce() -> V) -> Arc<V> {
        self.clock += 1;
        let kept = self.values.remove(&name).map(|(_, value)| value);
        let kept = kept.and_then(|mut value| update(Arc::make_mut(&mut value)).then_some(value));
        let value = kept.unwrap_or_else(|| Arc::new(new()));
        if self.values.len() >= MAX_MEMO {
            let oldest = self.values.iter().min_by_key(|(_, (used, _))| *used).map(|(name, _)| name.clone());
            oldest.map(|oldest| self.values.remove(&oldest));
        }
        self.values.insert(name, (self.clock, value.clone()));
        value
    }
}
