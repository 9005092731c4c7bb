//! What is behind the addresses of Services, as rules of nftables. Pure.
//!
//! A packet of a pod comes by its link and meets two chains. `balance` looks its destination up in one map, whatever the number of Services,
//! and goes to the chain of the Service, which translates the address to that of an endpoint: at random by weight, or the one that the client had.
//! `divert` then lets pass what is for a pod of this node or for a socket here, refuses what is for nobody, and gives everything else to the
//! sockets of [`crate::Egress`]. A pod that reaches itself by a Service sees the node's address, since it would answer itself directly otherwise.

use crate::{
    Layout,
    table::{Elements, Table},
};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

/// Where [`crate::Egress`] listens in the node's namespace: at a loopback address, which no pod reaches.
pub(crate) const EGRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 15001);

/// Most clients that a Service remembers for one endpoint. They are pods of this node.
const MAX_CLIENTS: u32 = 65_535;

/// How what may not be reached is refused.
const REFUSE: &str = "reject with icmp admin-prohibited";

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a Service at one of its addresses. Of several with the same address, port and protocol the last one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its address and port.
    pub at: SocketAddrV4,
    /// Its protocol.
    pub protocol: Protocol,
    /// What is there.
    pub behind: Behind,
}

/// What is behind a Service, seen by the pods of this node: traffic policies have chosen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nobody: connections are refused.
    Nobody,
    /// [`crate::Egress`] is given what comes, with the address of the Service.
    Egress,
    /// A socket in the node's namespace that is bound to the address itself ([`crate::Node::listen`], [`crate::Node::bind_udp`]).
    Socket,
    /// These endpoints. None are [`Behind::Nobody`].
    Endpoints {
        /// Those that take connections.
        endpoints: Vec<Endpoint>,
        /// How long a client that is silent keeps its endpoint; without, each connection is balanced.
        affinity: Option<Duration>,
    },
}

/// An endpoint of a Service. One that is no pod of this node is reached by way of [`crate::Egress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address and port.
    pub at: SocketAddrV4,
    /// Its share of the connections, relative to the others. 0 is none, but to clients that have it already.
    pub weight: u16,
}

/// All Services, and what is refused at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The Services.
    pub services: Vec<Service>,
    /// What pods may not reach outside: refused by the kernel, so that a connection fails at once.
    pub refused: Vec<Ipv4Net>,
}

impl Rules {
    /// The table that the kernel shall have.
    pub(crate) fn table(&self, layout: &Layout) -> Table {
        let mut table = Table::default();
        let service = "type ipv4_addr . inet_proto . inet_service";
        table.set("map", "services", format!("{service} : verdict;"));
        table.set("set", "diverted", format!("{service};"));
        table.set("set", "unserved", format!("{service};"));
        table.set("set", "bound", format!("{service};"));
        table.set("set", "itself", "type ipv4_addr . ipv4_addr;".into());
        table.chain(
            "balance",
            Some("type nat hook prerouting priority dstnat; policy accept;"),
            vec!["ip daddr . meta l4proto . th dport vmap @services".into()],
        );
        table.chain("unserved", None, vec!["meta l4proto tcp reject with tcp reset".into(), "reject".into()]);
        table.chain(
            "outside",
            None,
            vec![format!("meta l4proto {{ tcp, udp }} tproxy to {EGRESS} accept"), REFUSE.into()],
        );
        table.chain(
            "divert",
            Some("type filter hook prerouting priority dstnat + 10; policy drop;"),
            self.divert(layout),
        );
        table.chain(
            "hide",
            Some("type nat hook postrouting priority srcnat; policy accept;"),
            vec![format!("ip saddr . ip daddr @itself snat to {}", layout.node)],
        );
        let last: BTreeMap<_, _> =
            self.services.iter().map(|service| ((service.at, service.protocol), service)).collect();
        for service in last.values() {
            service.add_to(&mut table, layout);
        }
        table
    }

    fn divert(&self, layout: &Layout) -> Vec<String> {
        let mut rules = vec![
            // first what is most, and with the least work: between pods. What is for others is not forwarded, since there is no other link.
            format!("ip daddr {} accept", layout.routed),
            "iif lo accept".into(),
            // the node's own address is served as an address elsewhere; answers to what the node dialled are answers
            format!("ip daddr {} ct direction original goto outside", layout.node),
            format!("ip daddr {} accept", layout.local),
            "ip daddr . meta l4proto . th dport @bound accept".into(),
            "ip daddr . meta l4proto . th dport @unserved goto unserved".into(),
            "ip daddr . meta l4proto . th dport @diverted goto outside".into(),
            format!("ip daddr {} goto unserved", layout.services),
        ];
        let refused: Vec<String> = Ipv4Net::aggregate(&self.refused).iter().map(Ipv4Net::to_string).collect();
        if !refused.is_empty() {
            rules.push(format!("ip daddr {{ {} }} {REFUSE}", refused.join(", ")));
        }
        rules.push("goto outside".into());
        rules
    }
}

impl Service {
    fn key(&self) -> String {
        format!("{} . {} . {}", self.at.ip(), self.protocol, self.at.port())
    }

    fn name(&self) -> String {
        format!("{}-{}-{}", self.at.ip(), self.protocol, self.at.port())
    }

    fn add_to(&self, table: &mut Table, layout: &Layout) {
        let Self { protocol, behind, .. } = self;
        let (endpoints, affinity) = match behind {
            Behind::Endpoints { endpoints, affinity } if !endpoints.is_empty() => (endpoints, *affinity),
            Behind::Egress => return table.element("diverted", self.key(), None),
            Behind::Socket => return table.element("bound", self.key(), None),
            Behind::Nobody | Behind::Endpoints { .. } => return table.element("unserved", self.key(), None),
        };
        let chain = format!("service-{}", self.name());
        table.element("services", self.key(), Some(format!("goto {chain}")));
        let mine: BTreeSet<Ipv4Addr> =
            endpoints.iter().map(|one| *one.at.ip()).filter(|ip| layout.routed.contains(ip)).collect();
        for address in mine {
            table.element("itself", format!("{address} . {address}"), None);
        }
        let to = |at: SocketAddrV4| format!("meta l4proto {protocol} dnat ip to {at}");
        let rules = match affinity {
            None => match endpoints.as_slice() {
                [only] => vec![to(only.at)],
                many => vec![shares(many, &|at| format!("{} . {}", at.ip(), at.port()), |number, map| {
                    format!("meta l4proto {protocol} dnat ip to {number} map {map}")
                })],
            },
            Some(time) => {
                let seconds = time.as_secs().max(1);
                let of = |at: SocketAddrV4| format!("{}-{}-{}", self.name(), at.ip(), at.port());
                let mut rules = Vec::new();
                for at in endpoints.iter().map(|one| one.at) {
                    let (clients, endpoint) = (format!("clients-{}-{seconds}", of(at)), format!("endpoint-{}", of(at)));
                    let kind =
                        format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size {MAX_CLIENTS};");
                    table.set("set", &clients, kind);
                    table.chain(&endpoint, None, vec![format!("update @{clients} {{ ip saddr }}"), to(at)]);
                    rules.push(format!("ip saddr @{clients} goto {endpoint}"));
                }
                let verdict = |at| format!("goto endpoint-{}", of(at));
                rules.push(shares(endpoints, &verdict, |number, map| format!("{number} vmap {map}")));
                rules
            }
        };
        table.chain(&chain, None, rules);
    }
}

/// A random choice by weight: `rule` of the random number and of the map that says what each number means. Where all weights are 0 they are equal.
fn shares(
    endpoints: &[Endpoint],
    value: &dyn Fn(SocketAddrV4) -> String,
    rule: impl FnOnce(String, String) -> String,
) -> String {
    let all_zero = endpoints.iter().all(|one| one.weight == 0);
    let (mut sum, mut elements) = (0u64, Elements::default());
    for one in endpoints {
        let weight = if all_zero { 1 } else { u64::from(one.weight) };
        let range = match weight {
            0 => continue,
            1 => sum.to_string(),
            _ => format!("{sum}-{}", sum + weight - 1),
        };
        sum += weight;
        elements.push(range, Some(value(one.at)));
    }
    rule(format!("numgen random mod {sum}"), elements.braced())
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
