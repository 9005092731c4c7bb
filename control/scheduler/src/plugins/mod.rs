//! The scheduling rules, one per file, with upstream's names, words and order.
//!
//! Not here: pod affinity and topology spread, volumes, dynamic resources, image locality, preemption.

mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod scheduling_gates;
mod taint_toleration;

pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_fit::{NodeResourcesFit, Strategy};
pub use node_unschedulable::NodeUnschedulable;
pub use scheduling_gates::SchedulingGates;
pub use taint_toleration::TaintToleration;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::plugin::Plugins;

/// Upstream's default order.
pub fn defaults(strategy: Strategy) -> Plugins {
    Plugins::from(vec![
        Box::new(SchedulingGates) as Box<dyn crate::Plugin>,
        Box::new(NodeUnschedulable),
        Box::new(NodeName),
        Box::new(TaintToleration),
        Box::new(NodeAffinity),
        Box::new(NodePorts),
        Box::new(NodeResourcesFit::new(strategy)),
    ])
}

/// Whether `toleration` covers `taint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &'_ Option<String>| t.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}
