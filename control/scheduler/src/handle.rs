//! The handle that plugins get once a pod is assumed.

use crate::{cycle_state::CycleState, metrics::Metrics, pod::PodInfo, waiting::WaitingPods};
use api::Clock;
use client::{Client, Informers, Recorder};
use std::sync::Arc;

/// Client, informers and waiting pods. `framework.Handle` upstream; here only the extension points after a pod is assumed get it, so that those
/// before are pure. A plugin must not keep a clone, because a stopping scheduler waits until its recorder is dropped. [`WaitingPods`] may be
/// kept.
#[derive(Clone)]
pub struct Handle {
    /// A client with the scheduler's identity.
    pub client: Client,
    /// The informers that all components share. An informer ends when it is no longer held, so that a plugin gets its informers once and keeps
    /// them.
    pub informers: Informers,
    /// The event recorder.
    pub recorder: Recorder,
    /// Wall-clock time.
    pub clock: Clock,
    /// The pods that wait for permit.
    pub waiting_pods: WaitingPods,
    pub(crate) metrics: Metrics,
}

/// A cycle whose node is chosen, as the extension points after that see it.
pub struct Cycle {
    /// The pod. Its `spec.nodeName` is not set yet.
    pub pod: Arc<PodInfo>,
    /// The chosen node; for [`crate::Plugin::preempt`] the nominated node.
    pub node: String,
    /// The state of the plugins.
    pub state: CycleState,
}

impl Cycle {
    /// Namespace and name of the pod.
    pub fn key(&self) -> (&str, &str) {
        let meta = &self.pod.pod.metadata;
        (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}
