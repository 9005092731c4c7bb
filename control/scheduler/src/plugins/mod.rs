//! The scheduling plugins, one per file, with upstream's names, texts and order.
//!
//! To add one: a file here and a line in [`defaults`]; see `plugin.rs`.
//!
//! Not here: limits of volumes per node, dynamic resources.

mod allocation;
mod default_binder;
mod default_preemption;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

pub use allocation::Weighted;
pub use default_binder::DefaultBinder;
pub use default_preemption::{DefaultPreemption, DefaultPreemptionArgs};
pub use image_locality::ImageLocality;
pub use inter_pod_affinity::{InterPodAffinity, InterPodAffinityArgs};
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
pub use node_resources_fit::{NodeResourcesFit, NodeResourcesFitArgs, Strategy};
pub use node_unschedulable::NodeUnschedulable;
pub use pod_topology_spread::{Defaulting, PodTopologySpread};
pub use scheduling_gates::SchedulingGates;
pub use taint_toleration::TaintToleration;
pub use volume_binding::VolumeBinding;
pub use volume_restrictions::VolumeRestrictions;
pub use volume_zone::VolumeZone;

use crate::{
    listers::Listers,
    plugin::{Event, Plugins},
    pod::PodInfo,
};
use k8s_openapi::api::core::v1::Node;

/// The default plugins, in upstream's order.
pub fn defaults(strategy: Strategy, listers: &Listers) -> Plugins {
    Plugins::from(vec![
        Box::new(SchedulingGates) as Box<dyn crate::Plugin>,
        Box::new(NodeUnschedulable),
        Box::new(NodeName),
        Box::new(TaintToleration),
        Box::new(NodeAffinity::default()),
        Box::new(NodePorts),
        Box::new(NodeResourcesFit::new(strategy)),
        Box::new(VolumeRestrictions(listers.clone())),
        Box::new(VolumeBinding::new(listers.clone())),
        Box::new(VolumeZone(listers.clone())),
        Box::new(PodTopologySpread::new(Defaulting::System, listers.clone())),
        Box::new(InterPodAffinity::default()),
        Box::new(NodeResourcesBalancedAllocation::default()),
        Box::new(ImageLocality),
        Box::new(DefaultPreemption::new(DefaultPreemptionArgs::default(), listers.clone())),
        Box::new(DefaultBinder),
    ])
}

/// The fields that these plugins honour; see [`crate::Plugin::honours`].
pub fn honoured() -> Vec<&'static str> {
    defaults(Strategy::default(), &Listers::default()).iter().flat_map(|plugin| plugin.honours()).copied().collect()
}

/// Whether the node of an event is neither cordoned nor tainted for `pod`, and was so before or is new. Both are checked together, because an
/// uncordoned node loses the field first and the taint a moment later: an attempt in between would fail, and the pod would back off for
/// seconds. Upstream's `preCheckForNode`.
fn node_becomes_available(event: &Event<'_>, pod: &PodInfo) -> bool {
    let open = |node: &Node| node_unschedulable::admits(pod, node) && taint_toleration::admits(pod, node);
    match event {
        Event::NodeAdded(node) => open(node),
        Event::NodeUpdated { old, new } => !open(old) && open(new),
        Event::PodUpdated => true,
        _ => false,
    }
}
