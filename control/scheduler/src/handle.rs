//! What plugins have at hand once a pod was given a node.

use crate::{cycle_state::CycleState, pod::PodInfo, waiting::WaitingPods};
use api::Clock;
use client::{Client, Informers, Recorder};
use std::sync::Arc;

/// The way to the API and to the pods that wait. `framework.Handle` upstream; here only the extension points after a pod was assumed get it,
/// so that those before cannot but be pure. A plugin must not keep a clone: a scheduler that stops waits until its recorder is dropped.
/// [`WaitingPods`] may be kept.
#[derive(Clone)]
pub struct Handle {
    /// With the scheduler's identity.
    pub client: Client,
    /// The caches that all components share. One lives as long as somebody holds it: a plugin asks for its informers once.
    pub informers: Informers,
    /// Writes events.
    pub recorder: Recorder,
    /// Wall-clock time.
    pub clock: Clock,
    /// The pods that permit plugins made wait.
    pub waiting_pods: WaitingPods,
}

/// A cycle whose node is chosen: what the extension points after that are about.
pub struct Cycle {
    /// The pod. Its `spec.nodeName` is not set yet.
    pub pod: Arc<PodInfo>,
    /// The node that it was given, or for [`crate::Plugin::preempt`] the node that is to be made free for it.
    pub node: String,
    /// What plugins remember.
    pub state: CycleState,
}

impl Cycle {
    /// Namespace and name of the pod.
    pub fn key(&self) -> (&str, &str) {
        let meta = &self.pod.pod.metadata;
        (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}
