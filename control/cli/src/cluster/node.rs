//! The node of a cluster: the node agent with its runtimes, network and images. It accesses the control plane like any node, through
//! clients, informers and the kubelet API.

use super::{
    config::Config,
    parts::{Group, Process},
    stored,
};
use crate::{
    args::{ISOLATED_CHILD, NETWORK_HELPER, RUNC_SHIM},
    descriptors::Shares,
    env, machine, precompile,
};
use agent::{Agent, Dependencies, Runtimes, resolver::ClusterDns};
use anyhow::Context;
use client::{Client, Informers, Recorder, RecorderOptions};
use container::Runtime;
use image::Images;
use isolated::Isolated;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::api::resource::Quantity as Amount};
use network::{VirtualNetwork, Waker};
use runc::Runc;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    sync::{Arc, OnceLock},
    time::Duration,
};
use store::{LogError, Store};
use wasm::Wasmtime;

/// A running node.
pub(super) struct Node {
    pub(super) agent: Agent,
}

/// What a node needs from the control plane.
pub(super) struct NodeDependencies<'a> {
    /// A client with the node's rights.
    pub(super) client: Client,
    /// The informers of the process.
    pub(super) informers: &'a Informers,
    /// The store, whose failures are reported as events of the node.
    pub(super) store: &'a Store<server::Item>,
    /// The certificate authority for guests' `https` requests inside the cluster.
    pub(super) authority: &'a str,
}

/// Connects to the kubelet API of this node in memory, and to its pods. Fails until the agent is started.
pub(super) struct LocalNode {
    name: String,
    router: OnceLock<axum::Router>,
    network: OnceLock<VirtualNetwork>,
}

impl LocalNode {
    pub(super) fn new(config: &Config) -> Self {
        Self { name: config.node.clone(), router: OnceLock::new(), network: OnceLock::new() }
    }
}

#[async_trait::async_trait]
impl server::nodes::Nodes for LocalNode {
    async fn open(&self, node: &str) -> Result<container::net::Stream, server::nodes::Unreachable> {
        let router = self.router.get().filter(|_| node == self.name);
        router.cloned().map(server::nodes::piped).ok_or_else(|| server::nodes::no_way(node))
    }
}

#[async_trait::async_trait]
impl server::dialer::Dialer for LocalNode {
    async fn connect(&self, to: SocketAddr) -> io::Result<server::dialer::Stream> {
        let Some(network) = self.network.get() else {
            return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, format!("no way to {to} yet")));
        };
        container::net::Dialer::connect(network, to).await.map_err(io::Error::other)
    }
}

/// The configuration of the pod network. `api` is the address of the API.
pub(super) fn plan_network(config: &Config, api: SocketAddr) -> network::Config {
    let mut plan = network::Config::new(api);
    plan.node.clone_from(&config.node);
    plan.pod_cidr = config.pod_cidr;
    plan.node_cidr = config.node_cidr;
    plan.service_cidr = config.service_cidr;
    plan.dns = kinds::bootstrap::dns_address(&config.service_cidr);
    plan.node_address = config.node_address;
    plan.undialled = vec![config.hollow_cidr.into()];
    plan.allow_egress.clone_from(&config.allow_egress);
    plan.limits.relayed = Shares::of(env::file_limit()).relayed;
    plan
}

impl Node {
    /// Starts the node: the agent in the group `draining`, which stops first, and everything else in `group`.
    pub(super) fn start(
        config: &Config,
        process: &Process,
        (group, draining): (&Group, &Group),
        dependencies: NodeDependencies<'_>,
        mut plan: network::Config,
        images: Images,
        local: &LocalNode,
    ) -> anyhow::Result<Self> {
        plan.kernel = Some(network::KernelMode {
            program: std::env::current_exe().context("cannot find this program")?,
            args: vec![NETWORK_HELPER.into()],
            folder: Some(config.dir.join("netns")),
        });
        plan.cluster_roots = network::certificates(dependencies.authority.as_bytes());
        let network = VirtualNetwork::new(plan, group.token.clone(), group.tasks.clone())?;
        network.register(&mut process.metrics.lock());
        let wasm = Arc::new(Wasmtime::new(wasm_options(config)?));
        wasm.register(&mut process.metrics.lock());
        let isolated = Arc::new(Isolated::new(isolated_options(config)?, wasm.clone()));
        let runc = Arc::new(Runc::new(runc_options(config)?));
        let recorder = |component: &str| recorder(config, process, group, &dependencies.client, component);
        group.spawn(stored::record_events(dependencies.store.clone(), recorder("store"), reference(config)));
        let agent_dependencies = Dependencies {
            runtimes: Runtimes::new([wasm.clone() as Arc<dyn Runtime>, isolated, runc]),
            network: Arc::new(network.clone()),
            dialer: Arc::new(network.clone()),
            images: Arc::new(images),
            client: dependencies.client.clone(),
            informers: dependencies.informers.clone(),
            recorder: recorder("kubelet"),
        };
        let agent = Agent::new(agent_options(config, process, dependencies.store, &*wasm), agent_dependencies)?;
        agent.register(&mut process.metrics.lock());
        let _ = local.router.set(agent.router());
        let _ = local.network.set(network.clone());
        group.essential_silent("pod network", {
            let (informers, recorder, token) =
                (dependencies.informers.clone(), recorder("kube-proxy"), group.token.clone());
            let waker = Waker { client: dependencies.client.clone(), clock: process.clock.clone() };
            async move { network::run(network, informers, Some(recorder), Some(waker), token).await }
        });
        draining.essential("node agent", {
            let (agent, token) = (agent.clone(), draining.token.clone());
            async move { agent.run(token).await }
        });
        Ok(Self { agent })
    }
}

/// Starts the hollow nodes, and removes those of an earlier start that had more.
pub(super) fn start_hollow(config: &Config, process: &Process, group: &Group, client: Client, informers: &Informers) {
    let options = hollow::Options {
        nodes: config.hollow_nodes,
        cidr: config.hollow_cidr,
        version: server::version::git_version(),
        clock: process.clock.clone(),
    };
    let (informers, token) = (informers.clone(), group.token.clone());
    group.spawn(async move { hollow::run(client, &informers, options, token).await });
}

/// The reference to the node in events, like the kubelet's: by name, without a namespace.
fn reference(config: &Config) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(config.node.clone()),
        uid: Some(config.node.clone()),
        ..ObjectReference::default()
    }
}

fn recorder(config: &Config, process: &Process, group: &Group, client: &Client, component: &str) -> Recorder {
    let options = RecorderOptions { component: component.to_owned(), host: Some(config.node.clone()) };
    let (recorder, write) = Recorder::new(client.clone(), process.clock.clone(), options);
    group.spawn(write);
    recorder
}

fn wasm_options(config: &Config) -> anyhow::Result<wasm::Options> {
    let mut options = precompile::wasm_options(&config.dir)?;
    let reserved = u64::try_from(config.reserved_memory.value()).unwrap_or(0);
    options.memory = config.machine.memory.saturating_sub(reserved);
    let descriptors = Shares::of(env::file_limit());
    options.http.clients.connections = descriptors.guest_connections;
    options.http.clients.per_container = (options.http.clients.connections * 3 / 4).max(1);
    options.memory_probe = machine::guest_limit(config.machine.memory, reserved);
    options.pool = wasm::PoolOptions::within(machine::memory_maps());
    options.files.max_open = descriptors.guest_files;
    Ok(options)
}

/// Most threads that run the guests of one isolated pod.
const MAX_ISOLATED_THREADS: usize = 4;
/// Most open files of the guests of one isolated pod, whose process has descriptors of its own.
const ISOLATED_FILES: usize = 1024;
/// Most connections of HTTP clients to one isolated pod.
const ISOLATED_CONNECTIONS: usize = 2048;

fn isolated_options(config: &Config) -> anyhow::Result<isolated::Options> {
    let reserved = u64::try_from(config.reserved_memory.value()).unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(isolated::Options {
        program: std::env::current_exe().context("cannot find this program")?,
        args: vec![ISOLATED_CHILD.into()],
        memory: config.machine.memory.saturating_sub(reserved),
        threads: threads.min(MAX_ISOLATED_THREADS),
        files: ISOLATED_FILES,
        connections: ISOLATED_CONNECTIONS,
        streams: Shares::of(env::file_limit()).relayed,
        log: container::log::Options::default(),
        clock: env::system_clock(),
        random: Arc::new(env::random),
    })
}

/// How long one call of the OCI runtime may take.
const OCI_CALL: Duration = Duration::from_secs(60);

fn runc_options(config: &Config) -> anyhow::Result<runc::Options> {
    // Another for each data directory, and the same at each start.
    let folder = std::fs::metadata(config.dir.path())?;
    Ok(runc::Options {
        program: std::env::current_exe().context("cannot find this program")?,
        args: vec![RUNC_SHIM.into()],
        folder: config.dir.join("runc"),
        oci_runtime: config.oci_runtime.clone(),
        call_timeout: OCI_CALL,
        cgroup: format!("/sampan-{:x}-{:x}", folder.dev(), folder.ino()),
        log: container::log::Options::default(),
        clock: env::system_clock(),
    })
}

fn agent_options(
    config: &Config,
    process: &Process,
    store: &Store<server::Item>,
    runtime: &dyn Runtime,
) -> agent::Options {
    let (disk, store) = (config.dir.path().to_owned(), store.clone());
    let reserved = [("cpu", config.reserved_cpu), ("memory", config.reserved_memory)];
    agent::Options {
        node: config.node.clone(),
        // The addresses where node ports listen. The gateway of the pod network is on no interface, and may be another host's in a network
        // of 10/8.
        addresses: vec![machine::address(config.node_address)],
        machine: config.machine.clone(),
        pressure: Arc::new(move || {
            let mut pressure = agent::Pressure::read(&disk, machine::available_memory());
            // an exceeded quota or file size limit counts as a full disk
            pressure.disk |= store.failure().is_some_and(|failure| matches!(*failure, LogError::Full(_)));
            pressure
        }),
        usage: Arc::new(machine::usage),
        pods: config.max_pods,
        reserved: reserved.map(|(name, amount)| (name.to_owned(), Amount(amount.to_string()))).into(),
        labels: BTreeMap::new(),
        pod_cidr: config.node_cidr.to_string(),
        dns: ClusterDns {
            servers: kinds::bootstrap::dns_address(&config.service_cidr).map(Into::into).into_iter().collect(),
            domain: network::DOMAIN.into(),
        },
        resolver: Arc::new(machine::resolver),
        data_dir: config.dir.join("pods"),
        private: config.dir.path().to_owned(),
        clock: process.clock.clone(),
        seed: env::seed(),
        drain: config.drain,
        version: server::version::git_version(),
        runtime_version: format!("{}://{}", runtime.name(), wasm::VERSION),
        port: None,
    }
}
