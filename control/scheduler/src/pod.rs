//! A pod with everything that the scheduler compares, computed once. Pure.

use crate::terms::{Labels, Spread, Terms};
use client::fit::{
    affinity::{Preferred, Required},
    ports::{HostPort, host_ports},
    resources::{self, Amount, Resources},
};
pub use client::pod::{is_finished, node_name, uid};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use std::sync::Arc;

/// A pod and what is computed from its spec.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// Its requests.
    pub requests: Resources,
    /// Its CPU and memory in scores.
    pub scored: (Amount, Amount),
    /// Its host ports.
    pub ports: Vec<HostPort>,
    /// Its priority; higher is scheduled first.
    pub priority: i32,
    /// Its node selector and required node affinity.
    pub required: Required,
    /// Its preferred node affinity.
    pub preferred: Preferred,
    /// Its affinity and anti-affinity to other pods.
    pub terms: Terms,
    /// Its topology spread constraints.
    pub spread: Spread,
    /// The uid as a key that is cheap to copy.
    pub(crate) key: Arc<str>,
}

impl PodInfo {
    /// Computes what `pod` needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let scored = resources::non_zero_requests(&pod);
        Self {
            requests: resources::pod_requests(&pod),
            scored: (scored.cpu, scored.memory),
            ports: host_ports(&pod),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            required: spec.map(Required::of).unwrap_or_default(),
            preferred: spec.map(Preferred::of).unwrap_or_default(),
            terms: spec.map(|s| Terms::of(client::pod::namespace(&pod), s)).unwrap_or_default(),
            spread: Spread::of(&pod),
            key: uid(&pod).into(),
            pod,
        }
    }

    /// The uid.
    pub fn uid(&self) -> &str {
        uid(&self.pod)
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        client::pod::namespace(&self.pod)
    }

    /// Its labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// Whether deletion has begun.
    pub fn is_deleting(&self) -> bool {
        client::pod::is_deleting(&self.pod)
    }

    /// The node that the pod's status nominates, or empty.
    pub fn nominated_node(&self) -> &str {
        self.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("")
    }

    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        client::pod::tolerations(&self.pod)
    }
}
