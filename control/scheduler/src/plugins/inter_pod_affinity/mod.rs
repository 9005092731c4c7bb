//! Pods run near the pods that they want to be near to, and away from those that they, or that themselves, want to be apart.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>.

mod events;
mod matching;

pub use self::matching::InterPodAffinityArgs;
use self::{
    events::{node_helps, pod_helps},
    matching::{Filtering, Kept, Scoring},
};
use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Event, MAX_SCORE, Plugin, PreFilter, PreScore},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
};
use parking_lot::Mutex;

/// Filters by required and scores by preferred terms, of the pod and of existing pods.
#[derive(Default)]
pub struct InterPodAffinity {
    args: InterPodAffinityArgs,
    kept: Mutex<Kept>,
}

impl InterPodAffinity {
    /// With arguments.
    pub fn new(args: InterPodAffinityArgs) -> Self {
        Self { args, kept: Mutex::default() }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn honours(&self) -> &'static [&'static str] {
        &["pod.spec.affinity.podAffinity", "pod.spec.affinity.podAntiAffinity"]
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        match Filtering::new(&mut self.kept.lock(), pod, snapshot) {
            Some(filtering) => state.write(filtering),
            None => return PreFilter::Skip,
        }
        PreFilter::AllNodes
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        state.modify(|filtering: &mut Filtering| filtering.change(pod, other, node, 1));
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        state.modify(|filtering: &mut Filtering| filtering.change(pod, other, node, -1));
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(filtering) = state.read::<Filtering>() else { return Status::Success };
        if !filtering.affinity_is_met(pod, node) {
            return Status::UnschedulableAndUnresolvable("node(s) didn't match pod affinity rules".into());
        }
        if !filtering.anti_affinity_is_met(pod, node) {
            return Status::Unschedulable("node(s) didn't match pod anti-affinity rules".into());
        }
        if !filtering.existing_anti_affinity_is_met(node) {
            return Status::Unschedulable("node(s) didn't satisfy existing pods anti-affinity rules".into());
        }
        Status::Success
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        match Scoring::new(&mut self.kept.lock(), self.args, pod, snapshot) {
            Some(scoring) => state.write(scoring),
            None => return PreScore::Skip,
        }
        PreScore::Score
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        state.read::<Scoring>().map_or(0, |scoring| scoring.score(node))
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream rounds")]
    fn normalize_score(&self, _: &CycleState, _: &PodInfo, _: &[&NodeInfo], scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            let share = if max > min { (*score - min) as f64 / (max - min) as f64 } else { 0.0 };
            *score = (MAX_SCORE as f64 * share) as i64;
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        !matches!(event, Event::NodeRemoved(_) | Event::VolumesChanged)
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(node) => node_helps(pod, None, node),
            Event::NodeUpdated { old, new } => node_helps(pod, Some(old), new),
            Event::PodAdded(other) => pod_helps(pod, None, Some(other)),
            Event::PodChanged { old, new } => pod_helps(pod, Some(old), Some(new)),
            Event::PodRemoved(other) => pod_helps(pod, Some(other), None),
            Event::PodUpdated => true,
            Event::NodeRemoved(_) | Event::VolumesChanged | Event::Timeout => false,
        }
    }
}

#[cfg(test)]
mod tests;
