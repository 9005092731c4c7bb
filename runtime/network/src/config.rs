//! The configuration of the virtual network: addresses, limits and timeouts.

use container::net::Error;
use ipnet::IpNet;
use netns::Layout;
use rustls::pki_types::CertificateDer;
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// The configuration of the virtual network, which [`crate::VirtualNetwork::new`] checks.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses of all pods of the cluster: never dialled outside.
    pub pod_cidr: IpNet,
    /// The part of this node; its first address is the node's own.
    pub node_cidr: IpNet,
    /// The addresses of Services: never dialled outside.
    pub service_cidr: IpNet,
    /// Other ranges of the cluster that are never dialled: their pods run nowhere.
    pub undialled: Vec<IpNet>,
    /// `cluster.local`.
    pub domain: String,
    /// The address of Service `kube-system/kube-dns`, where this process answers questions of DNS. None is answered without it.
    pub dns: Option<Ipv4Addr>,
    /// Who is asked for names that are not the cluster's.
    pub upstreams: Upstreams,
    /// The name of this node, for endpoints of this node only and for hints of nodes.
    pub node: String,
    /// The address of the host where node ports listen.
    pub node_address: IpAddr,
    /// The API server.
    pub api: Api,
    /// Networks that guests may reach although they are the host's own, link-local, multicast or unspecified.
    pub allow_egress: Vec<IpNet>,
    /// Trusted authorities of `https` requests inside the cluster: the cluster's own.
    pub cluster_roots: Vec<CertificateDer<'static>>,
    /// Trusted authorities of `https` requests outside of the cluster.
    pub roots: Roots,
    /// The network namespace of the node, for pods that need the kernel's network. It is made when the first one comes. Half of the node's
    /// range is theirs.
    pub kernel: Option<KernelMode>,
    /// Bounds.
    pub limits: Limits,
}

/// How the helper of the node's network namespace is started.
#[derive(Clone, Debug)]
pub struct KernelMode {
    /// The program that calls [`netns::helper::main`] with these arguments.
    pub program: PathBuf,
    /// See `program`.
    pub args: Vec<OsString>,
    /// A private folder, in which a later process finds the namespaces of pods that outlive this one.
    pub folder: Option<PathBuf>,
}

/// Where the API server is.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The port on the node's internal address at which Service `kubernetes` points.
    pub port: u16,
    /// Its listener on the host.
    pub address: SocketAddr,
}

/// Trusted certificate authorities.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// Those of the system, read from the usual bundle files on first use.
    #[default]
    System,
    /// These.
    Given(Vec<CertificateDer<'static>>),
}

/// The name servers for what is not the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// Those of a file such as `/etc/resolv.conf`, which is read again when it changes.
    File(PathBuf),
    /// These, the first one first.
    Given(Vec<SocketAddr>),
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}

/// Limits of the network. What exceeds them waits or is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Listeners, UDP sockets and open connections of one pod.
    pub sockets_per_pod: usize,
    /// Connections that wait for accept; further ones wait in connect.
    pub backlog: usize,
    /// Bytes in flight per direction of an in-memory connection.
    pub buffer: usize,
    /// Datagrams queued at a UDP socket; further ones are lost.
    pub datagrams: usize,
    /// Bytes queued at a UDP socket; datagrams above them are lost. At least the largest datagram.
    pub datagram_bytes: usize,
    /// Connections through all node ports, and relayed ones of the dialer.
    pub relayed: usize,
    /// Concurrent look-ups of outside names.
    pub lookups: usize,
    /// Concurrent look-ups of one pod.
    pub lookups_per_pod: usize,
    /// Connections that wait for Services that are scaled to zero, of this node; further ones are refused.
    pub held: usize,
    /// Connections that wait for one such Service.
    pub held_of_service: usize,
    /// How long a connection waits for such a Service.
    pub hold: Duration,
    /// Time to establish a connection, or to look up an outside name.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets_per_pod: 1024,
            backlog: 128,
            buffer: 64 * 1024,
            datagrams: 256,
            datagram_bytes: 64 * 1024,
            relayed: 8192,
            lookups: 32,
            lookups_per_pod: 4,
            held: 1024,
            held_of_service: 256,
            hold: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// The default layout: pods in 10.32.0.0/11 with the first /16 for this node, Services in 10.96.0.0/16, node ports on loopback.
    pub fn new(api: SocketAddr) -> Self {
        let net = |a, b, prefix| IpNet::new_assert(Ipv4Addr::new(a, b, 0, 0).into(), prefix);
        Self {
            pod_cidr: net(10, 32, 11),
            node_cidr: net(10, 32, 16),
            service_cidr: net(10, 96, 16),
            undialled: Vec::new(),
            domain: DOMAIN.into(),
            dns: None,
            upstreams: Upstreams::default(),
            node: String::new(),
            node_address: Ipv4Addr::LOCALHOST.into(),
            api: Api { port: api.port(), address: api },
            allow_egress: Vec::new(),
            cluster_roots: Vec::new(),
            roots: Roots::default(),
            kernel: None,
            limits: Limits::default(),
        }
    }

    /// The node's own address on the pod network, the first of its range: where Service `kubernetes` points.
    pub fn node_internal(&self) -> IpAddr {
        match self.node_cidr.network() {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + 1).into(),
            IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6) + 1).into(),
        }
    }

    /// The addresses of the node's network namespace, if it may have one: the range must be of IPv4.
    pub(crate) fn layout(&self) -> Option<Layout> {
        match (self.kernel.is_some(), self.node_cidr, self.service_cidr) {
            (true, IpNet::V4(range), IpNet::V4(services)) => Layout::halves(range.trunc(), services.trunc()),
            _ => None,
        }
    }

    /// Checks the address ranges.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Unsupported(text));
        if !self.pod_cidr.contains(&self.node_cidr) {
            return wrong(format!("the node's range {} is not within the pod range {}", self.node_cidr, self.pod_cidr));
        }
        if self.pod_cidr.contains(&self.service_cidr) || self.service_cidr.contains(&self.pod_cidr) {
            return wrong(format!(
                "the pod range {} and the service range {} overlap",
                self.pod_cidr, self.service_cidr
            ));
        }
        if let Some(dns) = self.dns.filter(|dns| !self.service_cidr.contains(&IpAddr::V4(*dns))) {
            return wrong(format!(
                "the DNS server's address {dns} is not within the service range {}",
                self.service_cidr
            ));
        }
        if self.node_cidr.prefix_len() + 2 > self.node_cidr.max_prefix_len() {
            return wrong(format!("the node's range {} is too small", self.node_cidr));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_is_sound_and_bad_ones_are_named() {
        let config = Config::new("127.0.0.1:6443".parse().expect("an address"));
        config.check().expect("sound");
        assert_eq!(config.node_internal().to_string(), "10.32.0.1");
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        for bad in [
            Config { node_cidr: net("10.0.0.0/18"), ..config.clone() },
            Config { service_cidr: net("10.32.5.0/24"), ..config.clone() },
            Config { node_cidr: net("10.32.0.0/31"), ..config.clone() },
            Config { dns: Some(Ipv4Addr::new(10, 97, 0, 10)), ..config.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
