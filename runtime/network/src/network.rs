//! The virtual network: attached pods, and the routing of addresses.

use crate::{
    config::Config,
    egress::{self, Egress},
    lookup::Lookups,
    metrics::Metrics,
    names::{self, Known},
    pod::{Bound, Pod},
    pool::AddressPool,
    relay::Relayed,
    table::{Found, Port, Protocol, ServiceTable},
    tls::Tls,
};
use container::net::{Connection, Error, Peer, Result, Stream};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::TcpStream,
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
    pub(crate) table: RwLock<ServiceTable>,
    pub(crate) tls: Tls,
    /// Connections that are relayed byte by byte.
    relayed: Relayed,
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
    egress: Egress,
    pub(crate) pods: RwLock<Pods>,
    pub(crate) pool: Mutex<AddressPool>,
    lookups: Lookups,
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
        let inner = Inner {
            table: RwLock::default(),
            tls: Tls::new(&config),
            relayed: Relayed::new(config.limits.relayed),
            tasks,
            token,
            egress: Egress { inside, allow: config.allow_egress.clone() },
            pods: RwLock::default(),
            pool: Mutex::new(AddressPool::new(config.node_cidr)),
            lookups: Lookups::new(config.limits.lookups),
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
    }

    /// The service table, to read or to change.
    pub fn table(&self) -> &RwLock<ServiceTable> {
        &self.inner.table
    }
}

impl Inner {
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.pods.read().by_address.get(&address).cloned()
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
        match found {
            Found::Port(port) => {
                let route = self.endpoint_of(source, &port, protocol);
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
            let route = port.and_then(|port| self.endpoint_of(source, &port, protocol));
            return route.unwrap_or_else(|| Err(Error::Refused(format!("nothing listens at {to}"))));
        }
        if self.is_node_address(to.ip()) {
            let port = self.table.read().node_port(protocol, to.port());
            if let Some(route) = port.and_then(|port| self.endpoint_of(source, &port, protocol)) {
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
    /// endpoints.
    pub(crate) fn endpoint_of(&self, source: Source<'_>, port: &Port, protocol: Protocol) -> Option<Result<Route>> {
        let takes = |route: &Result<Route>| match route {
            Ok(Route::Pod { pod, port, by_loopback }) => {
                protocol != Protocol::Tcp || pod.tcp(*port, *by_loopback).is_ok()
            }
            Ok(Route::Host { .. }) => true,
            Err(_) => false,
        };
        let mut first = None;
        for endpoint in port.candidates(source.address(), Instant::now()) {
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
            Route::Pod { pod, port, by_loopback } => pod.connect(*port, *by_loopback, peer).await,
            Route::Host { to, .. } => Ok(Box::new(self.open_host(*to).await?)),
        }
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
