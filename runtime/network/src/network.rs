//! The virtual network: attached pods, and the routing of addresses.

use crate::{
    clients::Clients,
    config::Config,
    dns::Dns,
    egress::{self, Egress},
    hold::{Bounds, Holds},
    kernel::state::Kernel,
    lookup::Lookups,
    metrics::Metrics,
    names::{self, Known},
    pod::{Bound, Pod},
    policy::Place,
    pool::AddressPool,
    relay::Relayed,
    slices::Protocol,
    table::{Found, Port, ServiceTable},
    tls::Tls,
    unavailable,
};
use container::net::{Connection, Error, Peer, Result, Stream};
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::TcpStream,
    sync::{Notify, OnceCell, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most ExternalName Services in a chain.
const MAX_ALIASES: usize = 5;

/// The virtual network of a node. Cheap to clone. [`crate::run`] keeps its service table up to date.
#[derive(Clone)]
pub struct VirtualNetwork {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) table: Arc<RwLock<ServiceTable>>,
    pub(crate) tls: Tls,
    /// Connections that are relayed byte by byte.
    pub(crate) relayed: Relayed,
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
    pub(crate) egress: Egress,
    pub(crate) pods: RwLock<Pods>,
    /// The addresses of pods in this process, and of those with a namespace.
    pub(crate) pools: [Mutex<AddressPool>; 2],
    /// The network namespace of the node, once a pod needed it.
    pub(crate) kernel: OnceCell<Arc<Kernel>>,
    /// Told when ports of pods change.
    pub(crate) ports_changed: Arc<Notify>,
    /// Told when Services change.
    pub(crate) services_changed: Notify,
    lookups: Lookups,
    /// The server of DNS, if there is one.
    pub(crate) dns: Option<Arc<Dns>>,
    /// Connections that wait for Services that are scaled to zero.
    pub(crate) holds: Holds,
    /// Clients of UDP ports of the host, to whom guests answer.
    pub(crate) clients: Arc<Clients>,
    /// Connections that are told why they are refused.
    pub(crate) refusing: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
pub(crate) struct Pods {
    pub(crate) by_address: HashMap<IpAddr, Arc<Pod>>,
    pub(crate) by_id: HashMap<Arc<str>, Arc<Pod>>,
}

/// The source of a connection.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A guest, to which the egress rules apply.
    Pod(&'a Arc<Pod>),
    /// The cluster, or a client of a node port.
    Cluster(IpAddr),
}

impl Source<'_> {
    fn address(self) -> IpAddr {
        match self {
            Self::Pod(pod) => pod.address,
            Self::Cluster(address) => address,
        }
    }
}

/// The route to an address.
#[derive(Clone)]
pub(crate) enum Route {
    /// A port of a pod here.
    Pod { pod: Arc<Pod>, port: u16, by_loopback: bool },
    /// A socket of the host: the API server, or an outside address that the egress rules allow.
    Host { to: SocketAddr, inside: bool },
    /// The DNS server of this process.
    Dns(Arc<Dns>),
}

impl VirtualNetwork {
    /// A network without pods and Services. Connections that it relays are tracked in `tasks` and end with `token`.
    ///
    /// # Errors
    /// The address ranges of the configuration are invalid.
    pub fn new(config: Config, token: CancellationToken, tasks: TaskTracker) -> Result<Self> {
        config.check()?;
        let inside =
            [config.pod_cidr, config.service_cidr].into_iter().chain(config.undialled.iter().copied()).collect();
        let mut table = ServiceTable::default();
        table.set_place(Place { node: config.node.clone(), zone: None });
        let table = Arc::new(RwLock::new(table));
        let limits = &config.limits;
        let (held, of_service) = (limits.held.min(limits.relayed), limits.held_of_service);
        let inner = Inner {
            holds: Holds::new(Bounds { all: held, of_service, time: limits.hold }),
            tls: Tls::new(&config),
            relayed: Relayed::new(config.limits.relayed),
            tasks,
            token,
            egress: Egress { inside, allow: config.allow_egress.clone() },
            pods: RwLock::default(),
            pools: pools(&config),
            kernel: OnceCell::new(),
            ports_changed: Arc::default(),
            services_changed: Notify::new(),
            clients: Arc::default(),
            refusing: Arc::new(Semaphore::new(unavailable::MOST)),
            lookups: Lookups::new(config.limits.lookups),
            dns: Dns::new(&config, table.clone())?,
            table,
            metrics: Metrics::default(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The node's own address on the pod network.
    pub fn node_internal(&self) -> IpAddr {
        self.inner.config.node_internal()
    }

    /// Registers the metrics. To be called once.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        let this = Arc::downgrade(&self.inner);
        let what = ("sampan_network_connections", "Open connections that are relayed");
        client::metrics::gauge(registry, what, "", move || {
            let Some(this) = this.upgrade() else { return Vec::new() };
            vec![("", i64::try_from(this.relayed.open()).unwrap_or(i64::MAX))]
        });
        let this = Arc::downgrade(&self.inner);
        let what = ("sampan_network_held", "Connections that wait for Services that are scaled to zero");
        client::metrics::gauge(registry, what, "", move || {
            let Some(this) = this.upgrade() else { return Vec::new() };
            vec![("", i64::try_from(this.holds.held()).unwrap_or(i64::MAX))]
        });
    }

    /// The service table, to read or to change. After a change, [`VirtualNetwork::services_changed`] is due.
    pub fn table(&self) -> &RwLock<ServiceTable> {
        &self.inner.table
    }

    /// Brings the rules of the node's network namespace, if there is one, up to the service table.
    pub fn services_changed(&self) {
        self.inner.services_changed.notify_one();
    }
}

impl Inner {
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.pods.read().by_address.get(&address).cloned()
    }

    /// As [`Inner::route`], of TCP; where the Service is scaled to zero it waits until it serves.
    ///
    /// # Errors
    /// Also when too many wait, or it has waited for as long as it may.
    pub(crate) async fn route_awake(&self, source: Source<'_>, to: SocketAddr) -> Result<Route> {
        match self.route(source, to, Protocol::Tcp) {
            Err(Error::Refused(why)) => {
                let waited = self.awake(false, || self.service_port(source, to)).await?;
                if waited { self.route(source, to, Protocol::Tcp) } else { Err(Error::Refused(why)) }
            }
            route => route,
        }
    }

    /// The port of a Service that an address is of, seen from inside.
    fn service_port(&self, source: Source<'_>, to: SocketAddr) -> Option<Arc<Port>> {
        let to = SocketAddr::new(egress::unmap(to.ip()), to.port());
        if matches!(source, Source::Pod(pod) if pod.is_self(to.ip())) {
            return None;
        }
        let table = self.table.read();
        match table.find(Protocol::Tcp, to) {
            Found::Port(port) => Some(port),
            Found::Nothing if to.ip() == self.config.node_internal() || self.is_node_address(to.ip()) => {
                table.node_port(Protocol::Tcp, to.port())
            }
            _ => None,
        }
    }

    /// Waits while a port is asleep; says whether it was. `outside` as in [`Port::endpoints`].
    ///
    /// # Errors
    /// Too many wait, or it has waited for as long as it may.
    pub(crate) async fn awake(&self, outside: bool, port: impl Fn() -> Option<Arc<Port>>) -> Result<bool> {
        let asleep = || port().filter(|port| port.is_asleep(outside));
        let Some(first) = asleep() else { return Ok(false) };
        let refused = |_: &Error| {
            self.metrics.not_held.inc();
        };
        let held = self.holds.enter(&first.service).inspect_err(refused)?;
        self.metrics.held.inc();
        loop {
            let change = held.next_change();
            if asleep().is_none() {
                return Ok(true);
            }
            held.wait(change).await.inspect_err(refused)?;
        }
    }

    /// The route to `to`: the pod itself, an endpoint of a Service, the API, another pod, or the outside.
    pub(crate) fn route(&self, source: Source<'_>, to: SocketAddr, protocol: Protocol) -> Result<Route> {
        let to = SocketAddr::new(egress::unmap(to.ip()), to.port());
        if let Source::Pod(pod) = source
            && pod.is_self(to.ip())
        {
            let by_loopback = to.ip() != pod.address;
            return Ok(Route::Pod { pod: pod.clone(), port: to.port(), by_loopback });
        }
        let found = self.table.read().find(protocol, to);
        if let Some(dns) = self.dns.as_ref().filter(|dns| dns.address() == to && is_free(&found)) {
            return Ok(Route::Dns(dns.clone()));
        }
        match found {
            Found::Port(port) => {
                let route = self.endpoint_of(source, &port, protocol, false);
                let none = || {
                    self.metrics.no_endpoint.inc();
                    Error::Refused(format!("no endpoints available for service \"{}\"", port.service))
                };
                let route = route.ok_or_else(none)?;
                self.metrics.endpoint.inc();
                route
            }
            Found::NoPort(service) => {
                self.metrics.no_port.inc();
                Err(Error::Refused(format!("service \"{service}\" has no port {}", to.port())))
            }
            Found::Nothing => self.endpoint_or_node_port(source, to, protocol),
        }
    }

    fn endpoint_or_node_port(&self, source: Source<'_>, to: SocketAddr, protocol: Protocol) -> Result<Route> {
        if to.ip() == self.config.node_internal() && to.port() != self.config.api.port {
            let port = self.table.read().node_port(protocol, to.port());
            let route = port.and_then(|port| self.endpoint_of(source, &port, protocol, false));
            return route.unwrap_or_else(|| Err(Error::Refused(format!("nothing listens at {to}"))));
        }
        if self.is_node_address(to.ip()) {
            let port = self.table.read().node_port(protocol, to.port());
            if let Some(route) = port.and_then(|port| self.endpoint_of(source, &port, protocol, false)) {
                return route;
            }
        }
        self.endpoint(source, to, false)
    }

    /// Whether the address is that of the node in its status and in `hostIP`, where node ports are reachable from inside too. A loopback
    /// address is always the pod's own.
    fn is_node_address(&self, address: IpAddr) -> bool {
        let node = self.config.node_address;
        let named = node == address || node.is_unspecified() && egress::is_host_address(address);
        named && !egress::unmap(address).is_loopback()
    }

    /// The route to the first endpoint of a port that accepts a connection, in their order for this client: a stopped one stays in the
    /// table until the EndpointSlice update arrives. If none accepts, the route to the first one, whose error is returned. `None` without
    /// endpoints. `outside` as in [`Port::endpoints`].
    pub(crate) fn endpoint_of(
        &self,
        source: Source<'_>,
        port: &Port,
        protocol: Protocol,
        outside: bool,
    ) -> Option<Result<Route>> {
        let takes = |route: &Result<Route>| match route {
            Ok(Route::Pod { pod, port, by_loopback }) => {
                protocol != Protocol::Tcp || pod.tcp(*port, *by_loopback).is_ok()
            }
            Ok(Route::Host { .. } | Route::Dns(_)) => true,
            Err(_) => false,
        };
        let mut first = None;
        for endpoint in port.candidates(source.address(), Instant::now(), outside) {
            let route = self.endpoint(source, endpoint, true);
            if takes(&route) {
                return Some(route);
            }
            first.get_or_insert(route);
        }
        first
    }

    /// The route to an address that is not a Service's. The endpoints of a Service are `chosen_by_user`: the egress rules apply to them from any
    /// source, because otherwise a user who may write EndpointSlices could reach the host through the cluster's own dialer.
    pub(crate) fn endpoint(&self, source: Source<'_>, to: SocketAddr, chosen_by_user: bool) -> Result<Route> {
        let to = SocketAddr::new(egress::unmap(to.ip()), to.port());
        let config = &self.config;
        if let Some(pod) = self.pod_at(to.ip()) {
            return Ok(Route::Pod { pod, port: to.port(), by_loopback: false });
        }
        if to.ip() == config.node_internal() {
            return match to.port() == config.api.port {
                true => Ok(Route::Host { to: config.api.address, inside: true }),
                false => Err(Error::Refused(format!("nothing listens at {to}"))),
            };
        }
        if config.pod_cidr.contains(&to.ip()) {
            return Err(Error::Unreachable(format!("no pod has the address {}", to.ip())));
        }
        if config.service_cidr.contains(&to.ip()) {
            return Err(Error::Unreachable(format!("no service has the address {}", to.ip())));
        }
        if config.undialled.iter().any(|range| range.contains(&to.ip())) {
            return Err(Error::Unreachable(format!("{} is an address of a hollow node, where nothing runs", to.ip())));
        }
        if matches!(source, Source::Cluster(_)) && !chosen_by_user {
            return Ok(Route::Host { to, inside: false });
        }
        let ip = self.egress.check(to.ip(), egress::is_host_address)?;
        Ok(Route::Host { to: SocketAddr::new(ip, to.port()), inside: false })
    }

    /// Opens a byte stream along a route.
    pub(crate) async fn open(&self, route: &Route, peer: Peer) -> Result<Stream> {
        match route {
            Route::Pod { pod, port, by_loopback } => match pod.tcp(*port, *by_loopback)? {
                Bound::Kernel => self.dial(pod, *port, *by_loopback, peer.address).await,
                _ => pod.connect(*port, *by_loopback, peer).await,
            },
            Route::Host { to, .. } => Ok(Box::new(self.open_host(*to).await?)),
            Route::Dns(dns) => self.open_dns(dns, peer.address.ip()),
        }
    }

    /// A connection to the DNS server.
    fn open_dns(&self, dns: &Arc<Dns>, client: IpAddr) -> Result<Stream> {
        let full = || Error::Exhausted("all connections of the DNS server are busy".into());
        let place = dns.enter(client).ok_or_else(full)?;
        let (ours, theirs) = tokio::io::duplex(self.config.limits.buffer);
        let dns = dns.clone();
        self.run(async move {
            let _place = place;
            // an error is the client's end
            let _ = dns.serve(theirs, client).await;
        });
        Ok(Box::new(ours))
    }

    pub(crate) async fn open_host(&self, to: SocketAddr) -> Result<TcpStream> {
        match timeout(self.config.limits.connect_timeout, TcpStream::connect(to)).await {
            Err(_) => Err(Error::TimedOut(format!("connect to {to}"))),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => Err(Error::Refused(to.to_string())),
            Ok(Err(e)) => Err(Error::Unreachable(format!("{to}: {e}"))),
            Ok(Ok(stream)) => {
                // Small writes must not be delayed; a socket without the option still works.
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
        }
    }

    /// All addresses of a name, as a pod sees it.
    pub(crate) async fn resolve(&self, name: &str, pod: &Pod) -> Result<Vec<IpAddr>> {
        let mut name = name.to_owned();
        for _ in 0..MAX_ALIASES {
            let known = names::lookup(&name, &pod.spec, pod.address, &self.config.domain, &self.table.read());
            match known {
                Known::Addresses(addresses) => {
                    return match addresses.is_empty() {
                        true => Err(Error::NoSuchHost(name)),
                        false => Ok(v4_first(addresses)),
                    };
                }
                Known::Alias(other) => name = format!("{}.", other.trim_end_matches('.')),
                Known::Missing => return Err(Error::NoSuchHost(name)),
                Known::Outside(plain) => return self.look_up(&plain, pod).await,
            }
        }
        Err(Error::NoSuchHost(format!("{name}: too many aliases")))
    }

    async fn look_up(&self, name: &str, pod: &Pod) -> Result<Vec<IpAddr>> {
        let ask = async { self.lookups.addresses(name, &pod.lookups).await.map(v4_first) };
        let limit = self.config.limits.connect_timeout;
        timeout(limit, ask).await.unwrap_or_else(|_| Err(Error::TimedOut(format!("looking up {name}"))))
    }
}

/// One pool, or two where half of the range is of pods with a namespace.
fn pools(config: &Config) -> [Mutex<AddressPool>; 2] {
    let halves = config.layout().map(|layout| [layout.local, layout.routed].map(IpNet::V4));
    halves.unwrap_or([config.node_cidr; 2]).map(|range| Mutex::new(AddressPool::new(range)))
}

/// Whether nobody's endpoints are at an address.
fn is_free(found: &Found) -> bool {
    match found {
        Found::Port(port) => port.is_free(),
        Found::NoPort(_) | Found::Nothing => true,
    }
}

fn v4_first(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

impl Inner {
    /// Passes a connection to the end of a route: whole to an HTTP handler, else byte by byte.
    pub(crate) async fn hand_over(&self, connection: Connection, peer: Peer, route: &Route) -> Result<()> {
        if let Route::Pod { pod, port, by_loopback } = route
            && let Bound::Http(handler) = pod.tcp(*port, *by_loopback)?
        {
            handler.serve(connection, peer);
            return Ok(());
        }
        let full =
            || Error::Exhausted(format!("{} connections are relayed, and all are busy", self.config.limits.relayed));
        let place = self.relayed.enter().ok_or_else(full)?;
        let theirs = self.open(route, peer).await?;
        let ours: Stream = match connection {
            Connection::Stream(stream) => stream,
            Connection::Tcp(socket) => {
                Box::new(TcpStream::from_std(socket).map_err(|e| Error::Reset(format!("the connection: {e}")))?)
            }
        };
        let token = self.token.clone();
        self.tasks.spawn(async move { token.run_until_cancelled(place.copy(ours, theirs)).await });
        Ok(())
    }
}
