//! What the service table says to a question. Pure.
//!
//! Follows [Kubernetes DNS-Based Service Discovery](https://github.com/kubernetes/dns/blob/master/docs/specification.md), and where that is silent
//! CoreDNS's plugin `kubernetes` with `pods insecure`:
//!
//! | name below the domain | what is there |
//! | --- | --- |
//! | `dns-version` | TXT, the version of the specification |
//! | `SERVICE.NAMESPACE.svc` | A, AAAA of the cluster IPs or of the ready endpoints of a headless Service, SRV of all its ports, or a CNAME (ExternalName) |
//! | `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc` | SRV of a named port |
//! | `HOST.SERVICE.NAMESPACE.svc` | A, AAAA of an endpoint of a headless Service: by its host name, or by its address with dashes |
//! | `1-2-3-4.NAMESPACE.pod` | A, AAAA of this address, whoever has it |
//! | the domain itself, `ns.dns` | SOA, NS; the server's A |
//!
//! And below `in-addr.arpa` and `ip6.arpa`: PTR of cluster IPs and of endpoints of headless Services. What the ranges of the cluster do not have
//! is missing; other addresses are asked for outside.
//!
//! A name that exists with other types is answered without records, one that does not with NXDOMAIN, both with the SOA by which the absence may be
//! remembered (RFC 2308). A headless Service without ready endpoints does not exist, as the specification says.

use super::reverse;
use crate::{
    members::{Member, MemberPort},
    names::pod_address,
    slices::Protocol,
    table::{Entry, Name as ServiceName, ServiceTable},
};
use container::net::Error;
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
    },
};
use ipnet::IpNet;
use std::net::IpAddr;

/// Seconds for which answers of the table, and absences, may be remembered: CoreDNS's default.
pub(crate) const TTL: u32 = 5;

/// The version of the specification, as CoreDNS says it.
const VERSION: &str = "1.1.0";

/// Most ExternalName Services in a chain.
const MAX_ALIASES: usize = 5;

/// Most labels of a name below the domain that can exist.
const MAX_LABELS: usize = 5;

/// The answer to a question, of whomever.
#[derive(Debug, PartialEq)]
pub(crate) struct Answers {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    /// Whoever was asked says that it has verified it.
    pub(crate) authentic: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Answers {
    /// Nothing but a code.
    pub(crate) fn only(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// What the table says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// All there is to say.
    Here(Answers),
    /// The name is not the cluster's. These aliases lead to it.
    Elsewhere { aliases: Vec<Record>, name: Name },
}

/// How much is answered, and who comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Most records: as many as fit into the reply and one more, which shows that there are more.
    pub(crate) most: usize,
    /// The first record of several changes with this number.
    pub(crate) turn: usize,
}

impl View {
    /// For a reply of so many bytes. No record has less than 16.
    pub(crate) fn of(bytes: usize, turn: usize) -> Self {
        Self { most: bytes / 16 + 1, turn }
    }

    /// All of them, from another one each time.
    fn turned<'a, T>(&self, all: &'a [T]) -> impl Iterator<Item = &'a T> {
        let (before, after) = all.split_at(if all.is_empty() { 0 } else { self.turn % all.len() });
        after.iter().chain(before)
    }
}

/// The names that are the cluster's.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: Name,
    /// The server's own name.
    server: Name,
    address: IpAddr,
    ranges: Vec<IpNet>,
}

/// What is at a name.
enum At {
    Outside,
    Alias(Name),
    /// In the zone of this name. `None` does not exist.
    Here(Name, Option<Found>),
}

/// The records of a name that are of the type that is asked for; there may be others.
#[derive(Default)]
struct Found {
    records: Vec<RData>,
    additionals: Vec<Record>,
}

/// A record with the time of the table.
fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

/// An address, if it is of the type.
fn of_type(address: IpAddr, kind: RecordType) -> Option<RData> {
    match (address, kind) {
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A(v4.into())),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(v6.into())),
        _ => None,
    }
}

fn any_address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

/// Of several that are equal each has its share, as CoreDNS has it.
fn weight(all: usize) -> u16 {
    u16::try_from(100 / all.max(1)).unwrap_or(0).max(1)
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        _ => None,
    }
}

impl Found {
    fn addresses(all: impl Iterator<Item = IpAddr>, kind: RecordType, view: View) -> Self {
        Self { records: all.filter_map(|ip| of_type(ip, kind)).take(view.most).collect(), ..Self::default() }
    }

    fn one(data: RData, kind: RecordType) -> Self {
        let records = if data.record_type() == kind { vec![data] } else { Vec::new() };
        Self { records, ..Self::default() }
    }
}

impl Zone {
    /// The zone of a domain, with the server at an address. `ranges` are the addresses of the cluster.
    ///
    /// # Errors
    /// The domain is not a name.
    pub(crate) fn new(domain: &str, address: IpAddr, ranges: Vec<IpNet>) -> Result<Self, Error> {
        let wrong = |error| Error::Unsupported(format!("the domain {domain:?}: {error}"));
        let domain = Name::from_ascii(format!("{}.", domain.trim_end_matches('.'))).map_err(wrong)?.to_lowercase();
        let server = Name::from_labels([&b"ns"[..], b"dns"]).and_then(|name| name.append_domain(&domain));
        Ok(Self { server: server.map_err(wrong)?, domain, address, ranges })
    }

    /// Answers a question of class IN.
    pub(crate) fn answer(&self, query: &Query, table: &ServiceTable, view: View) -> Said {
        let (kind, mut name, mut aliases) = (query.query_type(), query.name().clone(), Vec::new());
        let here = |code, answers, found: Found, authorities| {
            let (authoritative, authentic, additionals) = (true, false, found.additionals);
            Said::Here(Answers { code, authoritative, authentic, answers, authorities, additionals })
        };
        for _ in 0..=MAX_ALIASES {
            match self.at(&name, kind, table, view) {
                At::Outside => return Said::Elsewhere { aliases, name },
                At::Alias(target) => {
                    aliases.push(record(&name, RData::CNAME(CNAME(target.clone()))));
                    name = target;
                }
                At::Here(zone, found) => {
                    let code = if found.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
                    let mut found = found.unwrap_or_default();
                    let absent = found.records.is_empty();
                    aliases.extend(found.records.drain(..).map(|data| record(&name, data)));
                    let soa = absent.then(|| record(&zone, self.soa(table)));
                    return here(code, aliases, found, soa.into_iter().collect());
                }
            }
        }
        here(ResponseCode::ServFail, aliases, Found::default(), Vec::new())
    }

    fn soa(&self, table: &ServiceTable) -> RData {
        let person = Name::from_labels([&b"hostmaster"[..]]).and_then(|name| name.append_domain(&self.domain));
        let person = person.unwrap_or_else(|_| self.domain.clone());
        RData::SOA(SOA::new(self.server.clone(), person, table.changes(), 7200, 1800, 86_400, TTL))
    }

    fn at(&self, name: &Name, kind: RecordType, table: &ServiceTable, view: View) -> At {
        if self.domain.zone_of(name) {
            return self.in_domain(name, kind, table, view);
        }
        let Some(asked) = reverse::network(name) else { return At::Outside };
        let found = reverse::address(&asked).and_then(|address| self.pointers(address, kind, table, view));
        let range = self.ranges.iter().find(|range| range.contains(&asked));
        let is_part = reverse::address(&asked).is_none();
        match (found, range) {
            (None, None) => At::Outside,
            // a part of an address has others below it
            (None, Some(_)) if is_part => At::Here(reverse::zone(name, range), Some(Found::default())),
            (found, _) => At::Here(reverse::zone(name, range), found),
        }
    }

    /// The names of an address: that of the Service, or those of its endpoints.
    fn pointers(&self, address: IpAddr, kind: RecordType, table: &ServiceTable, view: View) -> Option<Found> {
        let of_service = table.of_cluster_ip(address).and_then(|service| self.service_name(service));
        let names: Vec<Name> = match of_service {
            Some(name) => vec![name],
            None => {
                let members = table.of_member(address).take(view.most);
                members.filter_map(|(service, member)| self.host_name(&member.host, service)).collect()
            }
        };
        let mut records: Vec<RData> = names.into_iter().map(|name| RData::PTR(PTR(name))).collect();
        let exists = !records.is_empty();
        records.retain(|record| record.record_type() == kind);
        exists.then_some(Found { records, ..Found::default() })
    }

    fn in_domain(&self, name: &Name, kind: RecordType, table: &ServiceTable, view: View) -> At {
        let here = |found| At::Here(self.domain.clone(), found);
        let labels = name.iter().len() - self.domain.iter().len();
        if labels > MAX_LABELS {
            return here(None);
        }
        let text = |label: &[u8]| String::from_utf8(label.to_ascii_lowercase());
        let Ok(labels) = name.iter().take(labels).map(text).collect::<Result<Vec<_>, _>>() else { return here(None) };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let (nothing, exists) = (None, Some(Found::default()));
        here(match labels[..] {
            [] => Some(self.apex(kind, table)),
            ["dns-version"] => Some(Found::one(RData::TXT(TXT::new(vec![VERSION.into()])), kind)),
            ["ns", "dns"] => Some(Found::one(any_address(self.address), kind)),
            ["dns" | "svc" | "pod"] | [_, "pod"] => exists,
            [namespace, "svc"] => exists.filter(|_| table.has_namespace(namespace)),
            [address, _, "pod"] => pod_address(address).map(|address| Found::one(any_address(address), kind)),
            [service, namespace, "svc"] => {
                let service = (namespace.to_owned(), service.to_owned());
                let Some(entry) = table.get(&service) else { return here(nothing) };
                match entry.alias.as_deref().map(external) {
                    Some(Some(target)) if kind == RecordType::CNAME => {
                        Some(Found::one(RData::CNAME(CNAME(target)), kind))
                    }
                    Some(Some(target)) => return At::Alias(target),
                    Some(None) => nothing,
                    None => self.service(&service, entry, kind, view),
                }
            }
            [label, service, namespace, "svc"] => {
                let entry = table.get(&(namespace.to_owned(), service.to_owned()));
                entry.and_then(|entry| match protocol(label) {
                    Some(protocol) => exists.filter(|_| has_port(entry, protocol, None)),
                    None => {
                        let all: Vec<IpAddr> = entry.members.of_host(label).map(|member| member.address).collect();
                        let found = Found::addresses(all.iter().copied(), kind, view);
                        (!all.is_empty()).then_some(found)
                    }
                })
            }
            [port, transport, service, namespace, "svc"] => {
                let service = (namespace.to_owned(), service.to_owned());
                let wanted = port.strip_prefix('_').filter(|port| !port.is_empty()).zip(protocol(transport));
                table.get(&service).zip(wanted).and_then(|(entry, (port, protocol))| {
                    let found = || self.ports(&service, entry, Some((port, protocol)), kind, view);
                    has_port(entry, protocol, Some(port)).then(found)
                })
            }
            _ => nothing,
        })
    }

    fn apex(&self, kind: RecordType, table: &ServiceTable) -> Found {
        match kind {
            RecordType::SOA => Found::one(self.soa(table), kind),
            RecordType::NS => Found {
                records: vec![RData::NS(NS(self.server.clone()))],
                additionals: vec![record(&self.server, any_address(self.address))],
            },
            _ => Found::default(),
        }
    }

    /// The records of a Service's name. `None` for a headless one without endpoints.
    fn service(&self, service: &ServiceName, entry: &Entry, kind: RecordType, view: View) -> Option<Found> {
        match (entry.headless, kind) {
            (true, _) if entry.members.all().is_empty() => None,
            (_, RecordType::SRV) => Some(self.ports(service, entry, None, kind, view)),
            (true, _) => {
                let members = view.turned(entry.members.all()).map(|member| member.address);
                Some(Found::addresses(members, kind, view))
            }
            (false, _) => Some(Found::addresses(entry.cluster_ips.iter().copied(), kind, view)),
        }
    }

    /// SRV of a port, or of all, with the addresses of their targets.
    fn ports(
        &self,
        service: &ServiceName,
        entry: &Entry,
        wanted: Option<(&str, Protocol)>,
        kind: RecordType,
        view: View,
    ) -> Found {
        let mut found = Found::default();
        if kind != RecordType::SRV {
            return found;
        }
        let is_wanted = |name: &str, of| wanted.is_none_or(|wanted| wanted == (name, of));
        if !entry.headless {
            let Some(target) = self.service_name(service) else { return found };
            let ports = entry.ports.iter().filter(|port| is_wanted(&port.name, port.protocol));
            let srv = |port: u16| RData::SRV(SRV::new(0, weight(1), port, target.clone()));
            found.records = ports.take(view.most).map(|port| srv(port.number)).collect();
            found.additionals = entry.cluster_ips.iter().map(|ip| record(&target, any_address(*ip))).collect();
            return found;
        }
        let weight = weight(entry.members.all().len());
        for member in view.turned(entry.members.all()) {
            let Some(target) = self.host_name(&member.host, service) else { continue };
            let ports = member.ports.iter().filter(|port| is_wanted(&port.name, port.protocol));
            let before = found.records.len();
            found.records.extend(ports.map(|port| RData::SRV(SRV::new(0, weight, port.number, target.clone()))));
            if found.records.len() > before {
                found.additionals.push(record(&target, any_address(member.address)));
            }
            if found.records.len() >= view.most {
                break;
            }
        }
        found
    }

    /// `SERVICE.NAMESPACE.svc` in the domain; `None` if that is too long.
    fn service_name(&self, (namespace, service): &ServiceName) -> Option<Name> {
        self.below([service.as_bytes(), namespace.as_bytes(), b"svc"])
    }

    fn host_name(&self, host: &str, (namespace, service): &ServiceName) -> Option<Name> {
        self.below([host.as_bytes(), service.as_bytes(), namespace.as_bytes(), b"svc"])
    }

    fn below<const N: usize>(&self, labels: [&[u8]; N]) -> Option<Name> {
        Name::from_labels(labels).and_then(|name| name.append_domain(&self.domain)).ok()
    }
}

/// Whether an entry has a port with this name, or with any.
fn has_port(entry: &Entry, protocol: Protocol, name: Option<&str>) -> bool {
    let is_it = |of: Protocol, its: &str| of == protocol && !its.is_empty() && name.is_none_or(|name| name == its);
    match entry.headless {
        true => {
            let of_member =
                |member: &Member| member.ports.iter().any(|port: &MemberPort| is_it(port.protocol, &port.name));
            entry.members.all().iter().any(of_member)
        }
        false => entry.ports.iter().any(|port| is_it(port.protocol, &port.name)),
    }
}

/// The name of an ExternalName Service. An address is none, as in CoreDNS.
fn external(alias: &str) -> Option<Name> {
    let plain = alias.trim_end_matches('.');
    if plain.is_empty() || plain.parse::<IpAddr>().is_ok() {
        return None;
    }
    Name::from_ascii(format!("{plain}.")).ok()
}
