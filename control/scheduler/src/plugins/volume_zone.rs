//! Zones and regions that the labels of bound volumes name.

use crate::{
    cycle_state::CycleState,
    listers::Listers,
    node::NodeInfo,
    plugin::{Event, Plugin, PreFilter},
    pod::PodInfo,
    snapshot::Snapshot,
    status::Status,
};
use client::{fit::volumes, pod};

const CONFLICT: &str = "node(s) had no available volume zone";
/// The labels, with what the first versions called them.
const LABELS: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

/// Filters by zones of volumes.
pub struct VolumeZone(pub Listers);

/// Index in [`LABELS`], and the values that a node may have.
struct Zones(Vec<(usize, Vec<String>)>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFilter {
        let mut zones = Vec::new();
        for (name, _) in volumes::claims(&pod.pod) {
            // What is missing is what VolumeBinding says.
            let claim = self.0.claim(pod::namespace(&pod.pod), &name);
            let volume = claim.and_then(|claim| self.0.volume(claim.spec.as_ref()?.volume_name.as_deref()?));
            let labels = volume.and_then(|volume| volume.metadata.labels.clone()).unwrap_or_default();
            for (index, (name, old)) in LABELS.iter().enumerate() {
                if let Some(value) = labels.get(*name).or_else(|| labels.get(*old)) {
                    zones.push((index, value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        if zones.is_empty() {
            return PreFilter::Skip;
        }
        state.write(Zones(zones));
        PreFilter::AllNodes
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let label = |index: usize| {
            let (name, old) = LABELS[index];
            labels.and_then(|labels| labels.get(name).or_else(|| labels.get(old)))
        };
        let Some(Zones(zones)) = state.read() else { return Status::Success };
        // A node without any of the labels is in a cluster of one zone.
        if (0..LABELS.len()).all(|index| label(index).is_none())
            || zones.iter().all(|(index, values)| label(*index).is_some_and(|value| values.contains(value)))
        {
            return Status::Success;
        }
        Status::UnschedulableAndUnresolvable(CONFLICT.into())
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::VolumesChanged)
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::PodUpdated | Event::VolumesChanged)
    }
}
