//! Pods with `spec.schedulingGates` wait until the last gate is removed.

use crate::{
    plugin::{Event, Plugin},
    pod::PodInfo,
};

/// Holds gated pods back.
pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn honours(&self) -> &'static [&'static str] {
        &["pod.spec.schedulingGates"]
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> bool {
        pod.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_none_or(Vec::is_empty)
    }

    fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
        matches!(event, Event::PodUpdated)
    }
}
