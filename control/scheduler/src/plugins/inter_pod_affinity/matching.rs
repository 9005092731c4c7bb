//! The sums of matching pods by topology domain, for one pod. Pure.

use crate::{
    node::NodeInfo,
    pod::PodInfo,
    snapshot::Snapshot,
    tally::{Memo, Over, Sums, Tally, Topologies, Weigh},
    terms::{Labels, Term},
};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

/// What a configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterPodAffinityArgs {
    /// The weight in scores of required affinity of existing pods, 0 to 100.
    pub hard_pod_affinity_weight: i64,
    /// Whether preferred terms of existing pods do not count for pods that have none themselves.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// What is kept from one cycle to the next.
#[derive(Debug, Default)]
pub(super) struct Kept {
    topologies: Topologies,
    tallies: Memo<Tally>,
}

impl Kept {
    fn get(&mut self, name: String, snapshot: &Snapshot, over: Over, weigh: Weigh<'_>) -> Arc<Tally> {
        let topologies = std::cell::RefCell::new(&mut self.topologies);
        self.tallies.get(
            name,
            |tally| tally.update(snapshot, &mut topologies.borrow_mut(), weigh),
            || Tally::new(snapshot, over, &mut topologies.borrow_mut(), weigh),
        )
    }
}

/// How the labels of a namespace are known.
type Namespaces<'a> = &'a dyn Fn(&str) -> Option<&'a Labels>;

/// What terms of existing pods say about a pod depends on these of it.
fn identity(kind: &str, pod: &PodInfo) -> String {
    format!("{kind}|{}|{:?}", pod.namespace(), pod.labels())
}

/// The name of what own terms say.
fn own<'a>(kind: &str, terms: impl Iterator<Item = &'a Term>) -> String {
    terms.fold(kind.to_owned(), |mut name, term| {
        _ = write!(name, "|{}", term.text);
        name
    })
}

/// Adds 1 for each required anti-affinity term of `other` that means `pod`.
fn weigh_existing(pod: &PodInfo, labels: Option<&Labels>, other: &PodInfo, add: &mut dyn FnMut(&str, i64)) {
    for term in other.terms.anti_affinity.iter().filter(|term| term.matches(&pod.pod, labels)) {
        add(&term.topology_key, 1);
    }
}

/// Adds 1 for each required anti-affinity term of `pod` that means `other`.
fn weigh_anti(pod: &PodInfo, namespaces: Namespaces<'_>, other: &PodInfo, add: &mut dyn FnMut(&str, i64)) {
    let labels = namespaces(other.namespace());
    for term in pod.terms.anti_affinity.iter().filter(|term| term.matches(&other.pod, labels)) {
        add(&term.topology_key, 1);
    }
}

/// Whether all required affinity terms of `pod`, of which there is one, mean `other`.
fn all_match(pod: &PodInfo, labels: Option<&Labels>, other: &PodInfo) -> bool {
    !pod.terms.affinity.is_empty() && pod.terms.affinity.iter().all(|term| term.matches(&other.pod, labels))
}

/// Adds 1 for each required affinity term of `pod` if all of them mean `other`.
fn weigh_affinity(pod: &PodInfo, namespaces: Namespaces<'_>, other: &PodInfo, add: &mut dyn FnMut(&str, i64)) {
    if all_match(pod, namespaces(other.namespace()), other) {
        pod.terms.affinity.iter().for_each(|term| add(&term.topology_key, 1));
    }
}

/// The sums for filter.
#[derive(Clone)]
pub(super) struct Filtering {
    /// Required anti-affinity terms of existing pods that mean the pod.
    existing: Option<Sums>,
    /// Pods that required anti-affinity terms of the pod mean.
    anti_affinity: Option<Sums>,
    /// Pods that all required affinity terms of the pod mean.
    affinity: Option<Sums>,
    /// Whether the pod's required affinity terms mean the pod itself.
    means_itself: bool,
    /// Labels of namespaces, for dry runs.
    namespaces: Arc<BTreeMap<String, Labels>>,
}

impl Filtering {
    /// The sums for a pod; `None` if no term concerns it.
    pub(super) fn new(kept: &mut Kept, pod: &PodInfo, snapshot: &Snapshot) -> Option<Self> {
        let labels = snapshot.namespace_labels(pod.namespace());
        let namespaces = |name: &str| snapshot.namespace_labels(name);
        let existing = (snapshot.with_anti_affinity().next().is_some())
            .then(|| {
                let weigh = |other: &PodInfo, add: &mut dyn FnMut(&str, i64)| weigh_existing(pod, labels, other, add);
                kept.get(identity("existing", pod), snapshot, Over::WithAntiAffinity, &weigh)
            })
            .filter(|tally| !tally.is_empty())
            .map(Sums::new);
        if existing.is_none() && pod.terms.affinity.is_empty() && pod.terms.anti_affinity.is_empty() {
            return None;
        }
        let anti_affinity = (!pod.terms.anti_affinity.is_empty()).then(|| {
            let weigh = |other: &PodInfo, add: &mut dyn FnMut(&str, i64)| weigh_anti(pod, &namespaces, other, add);
            Sums::new(kept.get(own("anti", pod.terms.anti_affinity.iter()), snapshot, Over::All, &weigh))
        });
        let affinity = (!pod.terms.affinity.is_empty()).then(|| {
            let weigh = |other: &PodInfo, add: &mut dyn FnMut(&str, i64)| weigh_affinity(pod, &namespaces, other, add);
            Sums::new(kept.get(own("affinity", pod.terms.affinity.iter()), snapshot, Over::All, &weigh))
        });
        let means_itself = all_match(pod, labels, pod);
        Some(Self { existing, anti_affinity, affinity, means_itself, namespaces: snapshot.namespaces() })
    }

    /// Adds a pod of `node`, or with `sign` -1 takes it away.
    pub(super) fn change(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, sign: i64) {
        let all = self.namespaces.clone();
        let labels = all.get(pod.namespace());
        let namespaces = |name: &str| all.get(name);
        if let Some(sums) = &mut self.existing {
            sums.add(node, other, sign, &|other, add| weigh_existing(pod, labels, other, add));
        }
        if let Some(sums) = &mut self.anti_affinity {
            sums.add(node, other, sign, &|other, add| weigh_anti(pod, &namespaces, other, add));
        }
        if let Some(sums) = &mut self.affinity {
            sums.add(node, other, sign, &|other, add| weigh_affinity(pod, &namespaces, other, add));
        }
    }

    /// Whether each affinity term of the pod has a pod in the domain of the node. The first pod of a group that wants to be together, which
    /// has nobody to be near to yet, may go anywhere.
    pub(super) fn affinity_is_met(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let Some(sums) = &self.affinity else { return true };
        let mut found = true;
        for term in &pod.terms.affinity {
            if node.label(&term.topology_key).is_none() {
                return false;
            }
            found &= sums.sum(&term.topology_key, node) > 0;
        }
        found || (self.means_itself && sums.is_empty())
    }

    /// Whether no anti-affinity term of the pod has a pod in the domain of the node.
    pub(super) fn anti_affinity_is_met(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let Some(sums) = &self.anti_affinity else { return true };
        pod.terms.anti_affinity.iter().all(|term| sums.sum(&term.topology_key, node) <= 0)
    }

    /// Whether no anti-affinity term of an existing pod keeps the pod from the domain of the node.
    pub(super) fn existing_anti_affinity_is_met(&self, node: &NodeInfo) -> bool {
        self.existing.as_ref().is_none_or(|sums| !sums.any(node))
    }
}

/// The sums for score.
pub(super) struct Scoring(Arc<Tally>);

impl Scoring {
    /// The sums for a pod; `None` if no term concerns it.
    pub(super) fn new(kept: &mut Kept, args: InterPodAffinityArgs, pod: &PodInfo, snapshot: &Snapshot) -> Option<Self> {
        let prefers = pod.terms.prefers();
        if !prefers && (args.ignore_preferred_terms_of_existing_pods || snapshot.with_terms().next().is_none()) {
            return None;
        }
        let labels = snapshot.namespace_labels(pod.namespace());
        let weigh = |other: &PodInfo, add: &mut dyn FnMut(&str, i64)| {
            if prefers {
                let theirs = snapshot.namespace_labels(other.namespace());
                let weighted = |terms: &[(i64, Term)], sign: i64, add: &mut dyn FnMut(&str, i64)| {
                    for (weight, term) in terms.iter().filter(|(_, term)| term.matches(&other.pod, theirs)) {
                        add(&term.topology_key, sign * weight);
                    }
                };
                weighted(&pod.terms.preferred, 1, add);
                weighted(&pod.terms.preferred_anti, -1, add);
            }
            if args.hard_pod_affinity_weight > 0 {
                for term in other.terms.affinity.iter().filter(|term| term.matches(&pod.pod, labels)) {
                    add(&term.topology_key, args.hard_pod_affinity_weight);
                }
            }
            for (terms, sign) in [(&other.terms.preferred, 1), (&other.terms.preferred_anti, -1)] {
                for (weight, term) in terms.iter().filter(|(_, term)| term.matches(&pod.pod, labels)) {
                    add(&term.topology_key, sign * weight);
                }
            }
        };
        let mut name = identity("score", pod);
        for (kind, terms) in [("+", &pod.terms.preferred), ("-", &pod.terms.preferred_anti)] {
            for (weight, term) in terms {
                _ = write!(name, "|{kind}{weight}{}", term.text);
            }
        }
        let over = if prefers { Over::All } else { Over::WithTerms };
        let tally = kept.get(name, snapshot, over, &weigh);
        (!tally.is_empty()).then_some(Self(tally))
    }

    /// The sum over the domains of a node.
    pub(super) fn score(&self, node: &NodeInfo) -> i64 {
        self.0.total(node.slot)
    }
}
