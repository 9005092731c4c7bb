//! The endpoints of a headless Service, by which its name resolves. Pure.

use crate::{
    policy,
    slices::{Protocol, addresses, all},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// A port of an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemberPort {
    /// Empty without a name.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

/// An endpoint of a headless Service.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) address: IpAddr,
    /// Its label below the Service's name: the host name, or without one its address with dashes, as CoreDNS has it.
    pub(crate) host: String,
    /// Shared by all of a slice.
    pub(crate) ports: Arc<[MemberPort]>,
}

/// The endpoints of a headless Service, each address once.
#[derive(Debug, Default)]
pub(crate) struct Members {
    all: Vec<Member>,
    /// The numbers of those that have a host name; several families of a pod have the same.
    by_host: BTreeMap<String, Vec<usize>>,
}

impl Members {
    fn push(&mut self, member: Member) {
        self.by_host.entry(member.host.clone()).or_default().push(self.all.len());
        self.all.push(member);
    }

    /// In the order of their slices.
    pub(crate) fn all(&self) -> &[Member] {
        &self.all
    }

    /// Those that have this label, in lower case.
    pub(crate) fn of_host(&self, host: &str) -> impl Iterator<Item = &Member> {
        self.by_host.get(host).into_iter().flatten().filter_map(|number| self.all.get(*number))
    }
}

/// An address as a label.
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The endpoints that a headless Service's name has: the ready ones; if there are none, those that are serving and terminating.
pub(crate) fn members(slices: &[Arc<EndpointSlice>]) -> Members {
    let is_any_ready = all(slices).any(|(_, endpoint)| policy::is_ready(endpoint));
    let is_usable = if is_any_ready { policy::is_ready } else { policy::is_ending };
    let (mut members, mut seen) = (Members::default(), HashSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports: Arc<[MemberPort]> = ports(slice).collect();
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_usable(endpoint)) {
            for address in addresses(&endpoint.addresses) {
                if seen.insert(address) {
                    let host = endpoint.hostname.as_ref().filter(|host| !host.is_empty());
                    let host = host.map_or_else(|| dashed(address), |host| host.to_ascii_lowercase());
                    members.push(Member { address, host, ports: ports.clone() });
                }
            }
        }
    }
    members
}

fn ports(slice: &EndpointSlice) -> impl Iterator<Item = MemberPort> {
    slice.ports.iter().flatten().filter_map(|port| {
        Some(MemberPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            number: u16::try_from(port.port?).ok()?,
        })
    })
}
