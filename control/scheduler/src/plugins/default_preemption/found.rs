//! What dry runs found, kept for the next pod that asks for the same. Pure.

use super::choice::Candidate;
use crate::{
    node::NodeInfo,
    pod::PodInfo,
    snapshot::{Base, Snapshot},
    status::Status,
};
use client::fit::{ports::HostPort, resources::Resources};
use k8s_openapi::api::core::v1::{NodeAffinity, Toleration};
use std::{collections::BTreeMap, sync::Arc};

/// A candidate, or why the node is none.
pub(super) type Outcome = Result<Arc<Candidate>, Status>;

/// The outcomes for pods that are equal in all that local filters look at, by slot.
#[derive(Default)]
pub(super) struct Found {
    of: Option<Signature>,
    /// With the generation of the node.
    by_slot: Vec<Option<(u64, Outcome)>>,
}

/// What local filters ([`crate::Plugin::is_local`]) and victims depend on.
#[derive(PartialEq)]
struct Signature {
    base: Base,
    priority: i32,
    requests: Resources,
    ports: Vec<HostPort>,
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    node_affinity: Option<NodeAffinity>,
    tolerations: Vec<Toleration>,
}

impl Found {
    /// Forgets what was found for another kind of pod.
    pub(super) fn begin(&mut self, pod: &PodInfo, snapshot: &Snapshot) {
        let spec = pod.pod.spec.as_ref();
        let signature = Signature {
            base: snapshot.base(),
            priority: pod.priority,
            requests: pod.requests.clone(),
            ports: pod.ports.clone(),
            node_name: spec.and_then(|s| s.node_name.clone()),
            node_selector: spec.and_then(|s| s.node_selector.clone()),
            node_affinity: spec.and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.clone()),
            tolerations: pod.tolerations().to_vec(),
        };
        if self.of.as_ref() != Some(&signature) {
            self.by_slot.clear();
            self.of = Some(signature);
        }
        self.by_slot.resize_with(snapshot.slots(), || None);
    }

    /// The outcome for a node; a new one if it has changed.
    pub(super) fn get(&mut self, node: &NodeInfo, new: impl FnOnce() -> Outcome) -> Outcome {
        let Some(known) = self.by_slot.get_mut(node.slot) else { return new() };
        if let Some((_, outcome)) = known.as_ref().filter(|(generation, _)| *generation == node.generation) {
            return outcome.clone();
        }
        let outcome = new();
        *known = Some((node.generation, outcome.clone()));
        outcome
    }
}
