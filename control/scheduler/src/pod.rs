//! A pod as the scheduler sees it: everything it compares, worked out once. Pure.

use client::fit::{
    affinity::{Preferred, Required},
    resources::{self, Amount, Resources},
};
pub use client::pod::{is_finished, node_name, uid};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use std::sync::Arc;

/// A port that a container takes on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address; empty is all.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A pod and what follows from its spec.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory that it counts for in scores.
    pub scored: (Amount, Amount),
    /// Ports it takes on its node.
    pub ports: Vec<HostPort>,
    /// Higher goes first.
    pub priority: i32,
    /// The nodes it must have.
    pub required: Required,
    /// The nodes it would like.
    pub preferred: Preferred,
}

impl PodInfo {
    /// Works out what `pod` needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let scored = spec.map(resources::non_zero_requests).unwrap_or_default();
        Self {
            requests: spec.map(resources::requests).unwrap_or_default(),
            scored: (scored.cpu, scored.memory),
            ports: host_ports(&pod),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            required: spec.map(Required::of).unwrap_or_default(),
            preferred: spec.map(Preferred::of).unwrap_or_default(),
            pod,
        }
    }

    /// Unique in time.
    pub fn uid(&self) -> &str {
        uid(&self.pod)
    }

    /// What it tolerates.
    pub fn tolerations(&self) -> &[Toleration] {
        client::pod::tolerations(&self.pod)
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = client::pod::lasting_containers(pod).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(HostPort {
                port: p.host_port.filter(|n| *n > 0)?,
                ip: p.host_ip.clone().unwrap_or_default(),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
        })
        .collect()
}
