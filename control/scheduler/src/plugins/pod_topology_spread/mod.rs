//! Pods are spread over the domains of a label of nodes.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

mod counts;
mod defaults;
mod events;
#[cfg(test)]
mod tests;

use self::{
    counts::{Counts, Purpose, has_all_keys, includes},
    events::{node_helps, pod_helps},
};
use crate::{
    cycle_state::CycleState,
    listers::Listers,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin, PreFilter, PreScore},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
    tally::{Memo, Topologies},
    terms::{Constraint, Spread},
};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use parking_lot::Mutex;
use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Which constraints pods without any have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Defaulting {
    /// Upstream's own.
    #[default]
    System,
    /// These.
    List(Vec<TopologySpreadConstraint>),
}

/// Filters by constraints that must be met, scores by those that should.
pub struct PodTopologySpread {
    defaults: Vec<TopologySpreadConstraint>,
    /// Whether `defaults` are upstream's own: nodes without a zone then count as well.
    system: bool,
    listers: Listers,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    topologies: Topologies,
    counts: Memo<Counts>,
}

/// The state of filter.
#[derive(Clone)]
struct Hard {
    /// Instead of the pod's own.
    defaults: Option<Arc<[Constraint]>>,
    counts: Arc<Counts>,
    /// By constraint: what a dry run adds to domains.
    changes: Vec<Vec<(usize, i64)>>,
    /// By constraint: the least count of its domains.
    least: Vec<i64>,
    /// By constraint: whether it selects the pod itself.
    means_itself: Vec<bool>,
}

/// The state of score.
struct Soft {
    constraints: Vec<Constraint>,
    counts: Arc<Counts>,
    /// By constraint: how much a pod weighs.
    weights: Vec<f64>,
    /// Slots of nodes without all labels.
    ignored: BTreeSet<usize>,
}

impl Hard {
    fn constraints<'a>(&'a self, pod: &'a PodInfo) -> &'a [Constraint] {
        self.defaults.as_deref().unwrap_or(&pod.spread.hard)
    }

    /// Adds a pod of `node`, or with `by` -1 takes it away.
    fn change(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        let Some(object) = node.node.as_deref() else { return };
        let defaults = self.defaults.clone();
        let constraints = defaults.as_deref().unwrap_or(&pod.spread.hard);
        if other.namespace() != pod.namespace() || !has_all_keys(constraints, object) {
            return;
        }
        for (index, constraint) in constraints.iter().enumerate() {
            if !constraint.selects(other.labels()) || !includes(constraint, pod, object) {
                continue;
            }
            let Some(domain) = self.counts.domain(index, node.slot) else { continue };
            let changes = &mut self.changes[index];
            match changes.iter_mut().find(|(d, _)| *d == domain) {
                Some((_, more)) => *more += by,
                None => changes.push((domain, by)),
            }
            self.least[index] = self.counts.least(index, constraint.min_domains, changes);
        }
    }
}

impl PodTopologySpread {
    /// With what pods without constraints have.
    pub fn new(defaulting: Defaulting, listers: Listers) -> Self {
        let (defaults, system) = match defaulting {
            Defaulting::System => (defaults::system(), true),
            Defaulting::List(list) => (list, false),
        };
        Self { defaults, system, listers, kept: Mutex::default() }
    }

    /// The constraints of a pod, its own or the default ones.
    fn constraints<'a>(&self, pod: &'a PodInfo) -> (Cow<'a, Spread>, bool) {
        if !pod.spread.is_empty() {
            return (Cow::Borrowed(&pod.spread), true);
        }
        let defaults = defaults::of(&self.defaults, &self.listers, pod);
        (Cow::Owned(defaults.unwrap_or_default()), false)
    }

    fn counts(
        &self,
        purpose: Purpose,
        pod: &PodInfo,
        constraints: &[Constraint],
        require_all: bool,
        snapshot: &Snapshot,
    ) -> Arc<Counts> {
        let Kept { topologies, counts } = &mut *self.kept.lock();
        counts.get(
            counts::name(purpose, pod, constraints, require_all),
            |known| known.update(snapshot, pod, constraints),
            || Counts::new(snapshot, topologies, purpose, pod, constraints, require_all),
        )
    }

    fn has_hard_defaults(&self) -> bool {
        self.defaults.iter().any(|c| c.when_unsatisfiable == "DoNotSchedule")
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn honours(&self) -> &'static [&'static str] {
        &["pod.spec.topologySpreadConstraints"]
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        if pod.spread.is_empty() && !self.has_hard_defaults() {
            return PreFilter::Skip;
        }
        let (spread, own) = self.constraints(pod);
        if spread.hard.is_empty() {
            return PreFilter::Skip;
        }
        let constraints = &spread.hard;
        let counts = self.counts(Purpose::Filter, pod, constraints, true, snapshot);
        let least = |(index, c): (usize, &Constraint)| counts.least(index, c.min_domains, &[]);
        let least = constraints.iter().enumerate().map(least).collect();
        let means_itself = constraints.iter().map(|c| c.selects(pod.labels())).collect();
        let changes = vec![Vec::new(); constraints.len()];
        let defaults = (!own).then(|| constraints.clone().into());
        state.write(Hard { defaults, counts, changes, least, means_itself });
        PreFilter::AllNodes
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        state.modify(|hard: &mut Hard| hard.change(pod, other, node, 1));
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        state.modify(|hard: &mut Hard| hard.change(pod, other, node, -1));
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(hard) = state.read::<Hard>() else { return Status::Success };
        for (index, constraint) in hard.constraints(pod).iter().enumerate() {
            let Some(domain) = hard.counts.domain(index, node.slot) else {
                return Status::UnschedulableAndUnresolvable(MISSING.into());
            };
            let more = hard.changes[index].iter().find(|(d, _)| *d == domain).map_or(0, |(_, more)| *more);
            let count = hard.counts.count(index, domain) + more + i64::from(hard.means_itself[index]);
            if count - hard.least[index] > constraint.max_skew {
                return Status::Unschedulable(SKEWED.into());
            }
        }
        Status::Success
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of nodes")]
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        let (spread, own) = self.constraints(pod);
        if spread.soft.is_empty() {
            return PreScore::Skip;
        }
        let constraints = spread.into_owned().soft;
        let require_all = own || !self.system;
        let counts = self.counts(Purpose::Score, pod, &constraints, require_all, snapshot);
        let mut ignored = BTreeSet::new();
        if require_all {
            let misses = |node: &&&NodeInfo| (0..constraints.len()).any(|c| counts.domain(c, node.slot).is_none());
            ignored.extend(nodes.iter().filter(misses).map(|node| node.slot));
        }
        let size = |(index, constraint): (usize, &Constraint)| {
            if constraint.topology_key == HOSTNAME {
                return nodes.len() - ignored.len();
            }
            let candidates = nodes.iter().filter(|node| !ignored.contains(&node.slot));
            // nodes without the label are one domain
            candidates.map(|node| counts.domain(index, node.slot)).collect::<BTreeSet<_>>().len()
        };
        let weights = constraints.iter().enumerate().map(|c| ((size(c) + 2) as f64).ln()).collect();
        state.write(Soft { constraints, counts, weights, ignored });
        PreScore::Score
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream rounds")]
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(soft) = state.read::<Soft>() else { return 0 };
        if soft.ignored.contains(&node.slot) {
            return 0;
        }
        let mut score = 0.0;
        for (index, constraint) in soft.constraints.iter().enumerate() {
            let Some(domain) = soft.counts.domain(index, node.slot) else { continue };
            let count = match constraint.topology_key == HOSTNAME {
                true => soft.counts.on_node(index, node.slot),
                false => soft.counts.count(index, domain),
            };
            score += count as f64 * soft.weights[index] + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize_score(&self, state: &CycleState, _: &PodInfo, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let Some(soft) = state.read::<Soft>() else { return };
        let counts = |slot: usize| !soft.ignored.contains(&slot);
        let known = || nodes.iter().zip(scores.iter()).filter(|(node, _)| counts(node.slot)).map(|(_, score)| *score);
        let (min, max) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for (node, score) in nodes.iter().zip(scores) {
            *score = match (counts(node.slot), max) {
                (false, _) => 0,
                (true, 0) => MAX_SCORE,
                (true, max) => MAX_SCORE * (max + min - *score) / max,
            };
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        !matches!(event, Event::VolumesChanged)
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        let (spread, _) = self.constraints(pod);
        let constraints = &spread.hard;
        match event {
            Event::NodeAdded(node) | Event::NodeRemoved(node) => has_all_keys(constraints, node),
            Event::NodeUpdated { old, new } => node_helps(constraints, old, new),
            Event::PodAdded(other) | Event::PodRemoved(other) => pod_helps(constraints, pod, other),
            Event::PodChanged { old, new } => {
                let changes = |c: &Constraint| c.selects(old.labels()) != c.selects(new.labels());
                new.namespace() == pod.namespace() && constraints.iter().any(changes)
            }
            Event::PodUpdated => true,
            Event::VolumesChanged | Event::Timeout => false,
        }
    }
}
