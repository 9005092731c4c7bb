//! Claims that one pod at a time may use (`ReadWriteOncePod`).

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
use std::collections::{HashMap, HashSet};

const CONFLICT: &str =
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// Filters by claims for one pod.
pub struct VolumeRestrictions(pub Listers);

/// The pod's claims for one pod, and how many other pods use them, by node.
struct Exclusive {
    claims: HashSet<String>,
    users: HashMap<String, usize>,
}

fn count(node: &NodeInfo, namespace: &str, claims: &HashSet<String>) -> usize {
    node.pods.values().filter(|other| uses(other, namespace, claims)).count()
}

fn uses(pod: &PodInfo, namespace: &str, claims: &HashSet<String>) -> bool {
    pod::namespace(&pod.pod) == namespace && volumes::claims(&pod.pod).any(|(name, _)| claims.contains(&*name))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, nodes: &Snapshot) -> PreFilter {
        let mut exclusive = HashSet::new();
        for (name, _) in volumes::claims(&pod.pod) {
            let claim = self.0.claim(pod::namespace(&pod.pod), &name);
            let modes = claim.and_then(|claim| claim.spec.as_ref()?.access_modes.clone()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                exclusive.insert(name.into_owned());
            }
        }
        if exclusive.is_empty() {
            return PreFilter::Skip;
        }
        let namespace = pod::namespace(&pod.pod);
        let users = nodes.iter().map(|node| (node.name().to_owned(), count(node, namespace, &exclusive)));
        let users = users.filter(|(_, count)| *count > 0).collect();
        state.write(Exclusive { claims: exclusive, users });
        PreFilter::AllNodes
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(Exclusive { claims, users }) = state.read() else { return Status::Success };
        // On this node they may be gone by preemption; those of other nodes are not.
        let elsewhere = users.iter().any(|(name, _)| name != node.name());
        match elsewhere || count(node, pod::namespace(&pod.pod), claims) > 0 {
            true => Status::Unschedulable(CONFLICT.into()),
            false => Status::Success,
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        matches!(event, Event::PodRemoved(_) | Event::VolumesChanged)
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        match event {
            Event::PodRemoved(other) => pod::namespace(&other.pod) == pod::namespace(&pod.pod),
            Event::PodUpdated | Event::VolumesChanged => true,
            _ => false,
        }
    }
}
