//! The service table: the endpoints of an address and port. Pure: it is built from Services and EndpointSlices, and time is passed in. Follows
//! <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use crate::{
    members::{Member, Members, members},
    policy::{self, Candidate, Place},
    slices::{Protocol, addresses, all},
};
use api::annotations::{CROSS_SITE, CROSS_SITE_ALLOW, SCALED_TO_ZERO};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort as ApiPort, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Namespace and name.
pub type Name = (String, String);

/// Most clients that a port with session affinity remembers; beyond that the oldest are forgotten.
const REMEMBERED_CLIENTS: usize = 16 * 1024;

/// One port of a Service with its endpoints.
#[derive(Debug)]
pub struct Port {
    /// The Service, `namespace/name`, for messages.
    pub service: String,
    /// Its name in the Service; empty without one.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    node_port: Option<u16>,
    /// The endpoints that take the traffic of this node.
    endpoints: Vec<SocketAddr>,
    /// Those that take what comes by the node port from outside, where that differs (`externalTrafficPolicy: Local`).
    outside: Option<Vec<SocketAddr>>,
    /// Its Deployments were scaled to zero because they were idle, and do not serve yet: connections wait.
    asleep: bool,
    affinity: Option<Duration>,
    /// Its node port accepts requests from pages of other web sites.
    pub(crate) any_site: bool,
    /// Carried over when the Service changes.
    memory: Arc<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    turn: AtomicUsize,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

impl Port {
    /// The endpoint for a client: round robin, or by session affinity. `None` when none is ready.
    pub fn pick(&self, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        self.choose(&self.endpoints, client, now).map(|chosen| self.endpoints[chosen])
    }

    /// The number of the endpoint for a client.
    fn choose(&self, endpoints: &[SocketAddr], client: IpAddr, now: Instant) -> Option<usize> {
        if endpoints.is_empty() {
            return None;
        }
        let turn = || self.memory.turn.fetch_add(1, Ordering::Relaxed) % endpoints.len();
        let Some(timeout) = self.affinity else { return Some(turn()) };
        let mut clients = self.memory.clients.lock();
        let kept = clients.get(&client).filter(|(_, seen)| now - *seen < timeout);
        let kept = kept.and_then(|(endpoint, _)| endpoints.iter().position(|one| one == endpoint));
        let chosen = kept.unwrap_or_else(turn);
        if clients.len() >= REMEMBERED_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, seen)| now - *seen < timeout);
            if let Some(oldest) = clients.iter().min_by_key(|(_, (_, seen))| *seen).map(|(ip, _)| *ip)
                && clients.len() >= REMEMBERED_CLIENTS
            {
                clients.remove(&oldest);
            }
        }
        clients.insert(client, (endpoints[chosen], now));
        Some(chosen)
    }

    /// The endpoints for a client in the order of attempts: that of [`Port::pick`], then the others. Empty when none is ready. `outside`: the
    /// client came by the node port from outside of the cluster.
    pub fn candidates(&self, client: IpAddr, now: Instant, outside: bool) -> impl Iterator<Item = SocketAddr> {
        let endpoints = self.endpoints(outside);
        let at = self.choose(endpoints, client, now).unwrap_or(0);
        endpoints[at..].iter().chain(&endpoints[..at]).copied()
    }

    /// The endpoints, in the order of their slices: for clients from outside of the cluster, or from inside.
    pub fn endpoints(&self, outside: bool) -> &[SocketAddr] {
        self.outside.as_ref().filter(|_| outside).unwrap_or(&self.endpoints)
    }

    /// How long a client keeps its endpoint.
    pub(crate) fn affinity(&self) -> Option<Duration> {
        self.affinity
    }

    /// Whether nobody is there, and nobody will be soon.
    pub(crate) fn is_free(&self) -> bool {
        self.endpoints.is_empty() && !self.asleep
    }

    /// Whether connections wait: no endpoint is there because the Deployments were scaled to zero while they were idle.
    pub fn is_asleep(&self, outside: bool) -> bool {
        self.asleep && self.endpoints(outside).is_empty()
    }
}

/// The entry of a Service.
#[derive(Debug, Default)]
pub struct Entry {
    /// Cluster IPs, external IPs, load balancer IPs. Empty for headless ones.
    addresses: Vec<IpAddr>,
    /// The cluster IPs, to which its name resolves.
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) headless: bool,
    /// For a headless Service: its ready endpoints.
    pub(crate) members: Members,
    /// The target name of an `ExternalName` Service.
    pub(crate) alias: Option<String>,
    /// What its health check port tells, if it has one.
    health: Option<Health>,
}

/// What the health check port of a Service tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The number of the port, at the address of the node.
    pub number: u16,
    /// Ready endpoints of this node.
    pub local: usize,
    /// Connections wait, and wake the Service.
    pub asleep: bool,
}

/// The resolution of a Service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Addresses; empty for a headless Service without endpoints.
    Addresses(Vec<IpAddr>),
    /// Another name.
    Alias(String),
}

/// A node port and the Service that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the node.
    pub number: u16,
    /// Namespace and name of the Service.
    pub service: Name,
}

/// The table of all Services, updated one Service at a time.
#[derive(Debug, Default)]
pub struct ServiceTable {
    place: Place,
    services: BTreeMap<Name, Entry>,
    by_address: HashMap<(Protocol, SocketAddr), Arc<Port>>,
    by_node_port: HashMap<(Protocol, u16), Arc<Port>>,
    owners: HashMap<IpAddr, Name>,
    /// The headless Services of which an address is a member, each with the number of the member.
    by_member: HashMap<IpAddr, Vec<(Name, usize)>>,
    /// The number of changes.
    changes: u32,
}

/// The result of a look-up.
#[derive(Debug)]
pub enum Found {
    /// A Service's port.
    Port(Arc<Port>),
    /// A Service's address, but no such port.
    NoPort(String),
    /// Not a Service's address.
    Nothing,
}

/// The label of what another proxy serves, on a Service and its slices.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// The endpoints that have a port, each address once.
fn candidates<'a>(port: &ApiPort, protocol: Protocol, slices: &'a [Arc<EndpointSlice>]) -> Vec<Candidate<'a>> {
    let name = port.name.as_deref().unwrap_or_default();
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for (slice, endpoint) in all(slices) {
        let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == name && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        };
        let number = slice.ports.iter().flatten().find(same).and_then(|p| u16::try_from(p.port?).ok());
        let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
        if let (Some(number), Some(address)) = (number, address) {
            let address = SocketAddr::new(address, number);
            if seen.insert(address) {
                found.push(Candidate { address, endpoint });
            }
        }
    }
    found
}

/// The health check port of a Service that has one.
fn health_port(spec: &ServiceSpec) -> Option<u16> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let wanted = local && spec.type_.as_deref() == Some("LoadBalancer");
    let number = spec.health_check_node_port.and_then(|number| u16::try_from(number).ok());
    number.filter(|number| wanted && *number != 0)
}

/// The number of ready addresses of this node, whatever their ports.
fn local_addresses(slices: &[Arc<EndpointSlice>], place: &Place) -> usize {
    let here = all(slices).filter(|(slice, endpoint)| {
        slice.ports.as_ref().is_some_and(|ports| !ports.is_empty())
            && policy::is_ready(endpoint)
            && policy::is_here(endpoint, place)
    });
    let addresses = here.filter_map(|(_, endpoint)| endpoint.addresses.first()?.parse::<IpAddr>().ok());
    addresses.collect::<HashSet<_>>().len()
}

impl ServiceTable {
    /// Where this node is; entries that are there already stay as they were planned.
    pub fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    /// Where this node is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The entry of a Service. The state of the one that is there is carried over: round robin and session affinity.
    pub fn plan(&self, name: &Name, service: &Service, slices: &[Arc<EndpointSlice>]) -> Entry {
        let before = self.get(name);
        let Some(spec) = &service.spec else { return Entry::default() };
        if spec.type_.as_deref() == Some("ExternalName") {
            return Entry { alias: spec.external_name.clone(), ..Entry::default() };
        }
        let meta = &service.metadata;
        let label =
            format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let cluster_ips = addresses(spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()));
        let balancers =
            service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
        let more =
            spec.external_ips.iter().flatten().chain(balancers.into_iter().flatten().filter_map(|i| i.ip.as_ref()));
        let mut all = cluster_ips.clone();
        all.extend(addresses(more));
        let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        let affinity = sticky.then(|| Duration::from_secs(u64::try_from(seconds.unwrap_or(10_800)).unwrap_or(10_800)));
        if meta.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME)) {
            return Entry { cluster_ips, headless, ..Entry::default() };
        }
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let (inside, outside) = (is_local(&spec.internal_traffic_policy), is_local(&spec.external_traffic_policy));
        let marked = |slice: &Arc<EndpointSlice>| client::meta::annotation(&slice.metadata, SCALED_TO_ZERO).is_some();
        let asleep = slices.iter().any(marked);
        let health = health_port(spec).filter(|_| !headless).map(|number| Health {
            number,
            local: local_addresses(slices, &self.place),
            asleep,
        });
        let opened = meta.annotations.as_ref().and_then(|all| all.get(CROSS_SITE));
        let any_site = opened.is_some_and(|value| value == CROSS_SITE_ALLOW);
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            let number = u16::try_from(port.port).ok()?;
            let old = before.and_then(|b| b.ports.iter().find(|p| p.number == number && p.protocol == protocol));
            let all = candidates(port, protocol, slices);
            let of = |local: bool| match local {
                true => policy::local(&all, &self.place),
                false => policy::cluster(&all, &self.place),
            };
            Some(Arc::new(Port {
                service: label.clone(),
                name: port.name.clone().unwrap_or_default(),
                protocol,
                number,
                node_port: port.node_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0),
                endpoints: of(inside),
                outside: (inside != outside).then(|| of(outside)),
                asleep: asleep && protocol == Protocol::Tcp,
                affinity,
                any_site,
                memory: old.map(|old| old.memory.clone()).unwrap_or_default(),
            }))
        });
        let ports = ports.collect();
        let members = if headless { members(slices) } else { Members::default() };
        let addresses = if headless { Vec::new() } else { all };
        Entry { addresses, cluster_ips, ports, headless, members, alias: None, health }
    }

    /// The entry of a Service.
    pub fn get(&self, name: &Name) -> Option<&Entry> {
        self.services.get(name)
    }

    /// Plans and replaces the entry of a Service; `None` removes it.
    pub fn update(&mut self, name: &Name, service: Option<(&Service, &[Arc<EndpointSlice>])>) {
        let entry = service.map(|(service, slices)| self.plan(name, service, slices));
        self.replace(name, entry);
    }

    /// Replaces the entry of a Service; `None` removes it.
    pub fn replace(&mut self, name: &Name, entry: Option<Entry>) {
        self.changes = self.changes.wrapping_add(1);
        if let Some(old) = self.services.remove(name) {
            for member in old.members.all() {
                if let Some(services) = self.by_member.get_mut(&member.address) {
                    services.retain(|(service, _)| service != name);
                    if services.is_empty() {
                        self.by_member.remove(&member.address);
                    }
                }
            }
            for address in &old.addresses {
                if self.owners.get(address) == Some(name) {
                    self.owners.remove(address);
                }
            }
            for port in &old.ports {
                for address in &old.addresses {
                    remove_own(&mut self.by_address, (port.protocol, SocketAddr::new(*address, port.number)), port);
                }
                if let Some(number) = port.node_port {
                    remove_own(&mut self.by_node_port, (port.protocol, number), port);
                }
            }
        }
        let Some(entry) = entry else { return };
        self.owners.extend(entry.addresses.iter().map(|address| (*address, name.clone())));
        for (number, member) in entry.members.all().iter().enumerate() {
            self.by_member.entry(member.address).or_default().push((name.clone(), number));
        }
        for port in &entry.ports {
            for address in &entry.addresses {
                self.by_address.insert((port.protocol, SocketAddr::new(*address, port.number)), port.clone());
            }
            if let Some(number) = port.node_port {
                self.by_node_port.insert((port.protocol, number), port.clone());
            }
        }
        self.services.insert(name.clone(), entry);
    }

    /// The number of changes so far, which wraps around.
    pub(crate) fn changes(&self) -> u32 {
        self.changes
    }

    /// Whether a Service is in the namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.services.range(first..).next().is_some_and(|((of, _), _)| of == namespace)
    }

    /// The Service that has the cluster IP.
    pub(crate) fn of_cluster_ip(&self, address: IpAddr) -> Option<&Name> {
        let owner = self.owners.get(&address)?;
        self.services.get(owner)?.cluster_ips.contains(&address).then_some(owner)
    }

    /// The headless Services that have the address, each with the member there.
    pub(crate) fn of_member(&self, address: IpAddr) -> impl Iterator<Item = (&Name, &Member)> {
        let services = self.by_member.get(&address).into_iter().flatten();
        services.filter_map(|(name, number)| Some((name, self.services.get(name)?.members.all().get(*number)?)))
    }

    /// Looks up an address and port.
    pub fn find(&self, protocol: Protocol, to: SocketAddr) -> Found {
        if let Some(port) = self.by_address.get(&(protocol, to)) {
            return Found::Port(port.clone());
        }
        let owner = self.owners.get(&to.ip());
        owner.map_or(Found::Nothing, |(namespace, name)| Found::NoPort(format!("{namespace}/{name}")))
    }

    /// All ports of Services at each of their addresses.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (Protocol, SocketAddr, &Port)> {
        self.by_address.iter().map(|((protocol, at), port)| (*protocol, *at, &**port))
    }

    /// The service port of a node port.
    pub fn node_port(&self, protocol: Protocol, number: u16) -> Option<Arc<Port>> {
        self.by_node_port.get(&(protocol, number)).cloned()
    }

    /// All node ports, sorted.
    pub fn node_ports(&self) -> Vec<NodePort> {
        let of = |(name, entry): (&Name, &Entry)| -> Vec<NodePort> {
            let ports = entry.ports.iter();
            let node_port =
                |p: &Arc<Port>| Some(NodePort { protocol: p.protocol, number: p.node_port?, service: name.clone() });
            ports.filter_map(node_port).collect()
        };
        let mut all: Vec<NodePort> = self.services.iter().flat_map(of).collect();
        all.sort();
        all
    }

    /// What the health check port of a Service tells; `None` without one.
    pub fn health(&self, name: &Name) -> Option<Health> {
        self.get(name).and_then(|entry| entry.health)
    }

    /// The numbers of all health check ports.
    pub fn health_ports(&self) -> BTreeMap<Name, u16> {
        let of = |(name, entry): (&Name, &Entry)| entry.health.map(|health| (name.clone(), health.number));
        self.services.iter().filter_map(of).collect()
    }

    /// Resolves `name.namespace.svc`, and `host.name.namespace.svc` of a headless Service.
    pub fn resolve(&self, namespace: &str, name: &str, host: Option<&str>) -> Option<Answer> {
        let entry = self.services.get(&(namespace.to_owned(), name.to_owned()))?;
        if let Some(host) = host {
            let found: Vec<IpAddr> = entry.members.of_host(host).map(|member| member.address).collect();
            return (!found.is_empty()).then_some(Answer::Addresses(found));
        }
        Some(match (&entry.alias, entry.headless) {
            (Some(alias), _) => Answer::Alias(alias.clone()),
            (None, true) => Answer::Addresses(entry.members.all().iter().map(|member| member.address).collect()),
            (None, false) => Answer::Addresses(entry.cluster_ips.clone()),
        })
    }
}

/// Removes an entry unless another Service has replaced it.
fn remove_own<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Arc<Port>>, key: K, port: &Arc<Port>) {
    if map.get(&key).is_some_and(|there| Arc::ptr_eq(there, port)) {
        map.remove(&key);
    }
}
