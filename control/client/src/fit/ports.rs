//! Ports of the node that pods ask for (`hostPort`).

use crate::pod;
use k8s_openapi::api::core::v1::Pod;

/// A host port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address; empty is all.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Number.
    pub port: i32,
    /// The number of the container's port.
    pub target: i32,
}

impl HostPort {
    /// Whether one node cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// The host ports of a pod.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod::lasting_containers(pod).flat_map(|container| container.ports.iter().flatten());
    let of = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(HostPort {
            port: port.host_port.filter(|number| *number > 0)?,
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            target: port.container_port,
        })
    };
    ports.filter_map(of).collect()
}
