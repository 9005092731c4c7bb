//! The composition root: one cluster in one process. Read [`Cluster::start`] from top to bottom to see who is joined to whom.

mod chosen;
mod parts;
mod stored;

use crate::{
    args::{COMPILE_CHILD, UpArgs},
    credentials::{self, Credentials, Signed},
    data_dir::DataDir,
    descriptors::Shares,
    env, images, kubeconfig, machine,
};
use agent::{Agent, Machine, Parts, Runtimes};
use anyhow::{Context, bail};
use api::{Clock, quantity::Quantity};
pub(crate) use chosen::Chosen;
use client::{Client, Informers, Recorder, RecorderOptions};
use container::Runtime;
use ipnet::IpNet;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::api::resource::Quantity as Amount};
use kinds::bootstrap::Bootstrap;
use network::VirtualNetwork;
use parking_lot::Mutex;
use parts::Spawner;
use prometheus_client::registry::Registry;
use server::{Ids, Server, User, pki::Pair};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use store::{LogError, Store};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The store's file in the data directory.
pub(crate) const STORE: &str = "cluster.redb";
/// How long what is not a pod may take to end, each of two times.
const END: Duration = Duration::from_secs(10);
/// How long the first lists may take before a start counts as failed.
const START: Duration = Duration::from_secs(60);
/// How long a start waits until no pod is called ready that does not run yet.
const FIRST_PASS: Duration = Duration::from_secs(10);

/// What was asked for, checked.
pub(crate) struct Config {
    dir: DataDir,
    node: String,
    node_address: IpAddr,
    drain: Duration,
    machine: Machine,
    reserved: BTreeMap<String, Amount>,
    max_pods: u32,
    pod_cidr: IpNet,
    node_cidr: IpNet,
    service_cidr: IpNet,
    allow_egress: Vec<IpNet>,
    tls_san: Vec<String>,
}

impl Config {
    /// Checks everything before a port is bound.
    pub(crate) fn check(args: &UpArgs, dir: &DataDir) -> anyhow::Result<Self> {
        let mut machine = machine::read(dir.path());
        let node = match &args.node.node_name {
            Some(name) => name.clone(),
            None => Chosen::node(dir)?.unwrap_or_else(|| machine::node_name(&machine.hostname)),
        };
        if let Some(problem) = api::names::dns1123_subdomain(&node).first() {
            bail!("--node-name {node:?}: {problem}");
        }
        if let Some(cpu) = &args.node.cpu {
            machine.cpus = u32::try_from(quantity("--cpu", cpu)?.value()).context("--cpu is out of range")?;
        }
        if let Some(memory) = &args.node.memory {
            machine.memory =
                u64::try_from(quantity("--memory", memory)?.value()).context("--memory is out of range")?;
        }
        let mut reserved = BTreeMap::new();
        for (flag, name, text) in [
            ("--reserved-cpu", "cpu", args.node.reserved_cpu()),
            ("--reserved-memory", "memory", args.node.reserved_memory()),
        ] {
            reserved.insert(name.to_owned(), Amount(quantity(flag, text)?.to_string()));
        }
        let pod_cidr = cidr("--pod-cidr", args.pod_cidr())?;
        let service_cidr = cidr("--service-cidr", args.service_cidr())?;
        let length = if pod_cidr.prefix_len() > 18 { pod_cidr.prefix_len() } else { 18 };
        let node_cidr = IpNet::new(pod_cidr.network(), length).context("--pod-cidr is not usable")?;
        let config = Self {
            dir: dir.clone(),
            node,
            node_address: args.node_address(),
            drain: Duration::from_secs(args.drain().into()),
            machine,
            reserved,
            max_pods: args.node.max_pods(),
            pod_cidr,
            node_cidr,
            service_cidr,
            tls_san: args.tls_san.clone(),
            allow_egress: args
                .node
                .allow_egress
                .iter()
                .map(|text| range("--allow-egress", text))
                .collect::<Result<_, _>>()?,
        };
        Chosen::of(&config).check(dir)?;
        Ok(config)
    }

    /// The name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }
}

fn quantity(flag: &str, text: &str) -> anyhow::Result<Quantity> {
    let parsed: Quantity =
        text.parse().map_err(|error| anyhow::anyhow!("{flag} {text:?}: {error}; use for example 2, 500m or 1Gi"))?;
    Ok(parsed)
}

/// A range, or one address as a range of its own.
fn range(flag: &str, text: &str) -> anyhow::Result<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).with_context(|| format!("{flag} {text:?} is not a range such as 10.32.0.0/11"))
}

fn cidr(flag: &str, text: &str) -> anyhow::Result<IpNet> {
    let net = range(flag, text)?;
    if net.addr().is_ipv6() {
        bail!("{flag} {text:?}: only IPv4 ranges are supported");
    }
    Ok(net.trunc())
}

/// A running cluster.
pub(crate) struct Cluster {
    address: SocketAddr,
    credentials: Arc<Credentials>,
    /// The certificates of the start.
    signed: Signed,
    serving: server::tls::Serving,
    clock: Clock,
    administrator: Client,
    store: Store<server::Item>,
    wasm: Arc<wasm::Wasmtime>,
    node: Agent,
    /// How long the agent may take to stop pods at the end.
    drain: Duration,
    /// Ends the node agent, which drains; everything else goes on meanwhile.
    agent: CancellationToken,
    agent_done: TaskTracker,
    /// Ends everything else.
    control: CancellationToken,
    control_done: TaskTracker,
    failure: watch::Receiver<Option<String>>,
}

/// The kubelets' paths of this one node, by function call.
struct LocalNode {
    name: String,
    router: OnceLock<axum::Router>,
}

#[async_trait::async_trait]
impl server::nodes::Nodes for LocalNode {
    async fn call(
        &self,
        node: &str,
        request: http::Request<axum::body::Body>,
    ) -> Result<http::Response<axum::body::Body>, server::nodes::Unreachable> {
        let router = self.router.get().filter(|_| node == self.name);
        let Some(router) = router else {
            return Err(server::nodes::Unreachable(format!("no way to node {node:?}")));
        };
        match tower::ServiceExt::oneshot(router.clone(), request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

impl Cluster {
    /// Starts everything and returns when requests are served and caches are synced.
    pub(crate) async fn start(config: Config, listener: TcpListener) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let clock = env::clock();
        let metrics = Arc::new(Mutex::new(Registry::default()));
        let (control, control_done) = (CancellationToken::new(), TaskTracker::new());
        let (agent_token, agent_done) = (CancellationToken::new(), TaskTracker::new());
        let (failed, failure) = watch::channel(None);

        // The network's plan: where things will be.
        let mut net = network::Config::new(address);
        net.pod_cidr = config.pod_cidr;
        net.node_cidr = config.node_cidr;
        net.service_cidr = config.service_cidr;
        net.node_address = config.node_address;
        net.allow_egress = config.allow_egress.clone();
        let descriptors = Shares::of(env::file_limit());
        net.limits.relayed = descriptors.relayed;
        let node_internal = net.node_internal();

        // Who is who.
        let service_ip = first_address(&config.service_cidr);
        let names = vec![config.node.clone()];
        let mut addresses = vec![service_ip, node_internal];
        match address.ip() {
            // clients come by any of them
            every if every.is_unspecified() => addresses.extend(machine::addresses()),
            one => addresses.push(one),
        }
        // Keys wait for the disk and the store does: beside each other.
        let signing = tokio::task::spawn_blocking({
            let (dir, now, asked) = (config.dir.clone(), clock.now(), config.tls_san.clone());
            move || {
                let asked = credentials::remember(&dir, &asked)?;
                Credentials::open(&dir, now, addresses, [names, asked].concat())
            }
        });

        // The store and the API server.
        let images = images::open(&config.dir)?;
        Chosen::of(&config).at(address).keep(&config.dir)?;
        let store = stored::open(&config.dir).await?;
        let (credentials, signed) = signing.await??;
        let serving = server::tls::Serving::new(&signed.serving)?;
        net.cluster_roots = network::certificates(credentials.authority.certificate.as_bytes());
        let nodes = Arc::new(LocalNode { name: config.node.clone(), router: OnceLock::new() });
        let settings = kinds::Settings {
            service_cidr: config.service_cidr,
            node_ports: 30000..=32767,
            tokens: credentials.tokens.clone(),
            advertise: SocketAddr::new(node_internal, address.port()),
            identity: config.node.clone(),
            image_advice: Some(images::advice(&images)),
            capabilities: kinds::Capabilities::new(agent::HONOURED.iter().copied().chain(scheduler::honoured())),
        };
        let options = server::Options {
            store: store.clone(),
            clock: clock.clone(),
            ids: Ids::new(fastrand::Rng::with_seed(env::seed())),
            nodes: nodes.clone(),
            advertise: settings.advertise,
            shutdown: control.clone(),
            audit: None,
            metrics: metrics.clone(),
        };
        let server = Server::new(options, settings.parts());
        let bootstrap = Bootstrap::new(&server, settings, clock.clone());
        bootstrap.ensure().await.context("cannot start the API server")?;
        let tls = Arc::new(server::tls::config(&serving, &credentials.authority.certificate)?);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = server::tls::Places { connections: descriptors.api, handshakes: descriptors.handshakes };
        let spawn = Spawner { tasks: &control_done, failed: &failed };
        spawn.essential_silent("API server", {
            let (server, token) = (server.clone(), control.clone());
            async move { server.serve(places, listener, tls, token).await }
        });
        spawn.essential_silent("API server's own objects", {
            let token = control.clone();
            async move { bootstrap.run(&token).await }
        });

        spawn.essential_silent("writer of the store", {
            let (store, token) = (store.clone(), control.clone());
            async move {
                tokio::select! { () = token.cancelled() => {}, () = store.ended() => {} }
            }
        });

        // One client per component, by function call; one set of informers for all.
        let client = |user: &str, groups: &[&str]| {
            let groups: Vec<&str> = groups.iter().copied().chain(["system:authenticated"]).collect();
            Client::new(kube::Client::new(server.service_for(User::new(user, &groups)), "default"))
        };
        let administrator = client("kubernetes-admin", &["system:masters"]).named("sampan");
        let controllers = client("system:kube-controller-manager", &[]).named("kube-controller-manager");
        let scheduling = client("system:kube-scheduler", &[]).named("kube-scheduler");
        let kubelet = client(&format!("system:node:{}", config.node), &["system:nodes"]).named("kubelet");
        let informers = Informers::new(controllers.clone(), control.clone(), control_done.clone());
        informers.register(&mut metrics.lock());

        spawn.essential_silent("informers", {
            let informers = informers.clone();
            async move { informers.ended().await }
        });

        // Decide.
        let options = controllers::Options::new(clock.clone(), credentials.authority.certificate.clone());
        options.queues.register(&mut metrics.lock());
        let context = controllers::Context::new(controllers.clone(), informers.clone(), options, control_done.clone());
        controllers::start(&context, &control, &control_done);
        spawn.essential_silent("controllers", {
            let context = context.clone();
            async move { context.ended().await }
        });
        let options = scheduler::Options::new(clock.clone(), env::seed());
        let scheduler = scheduler::Scheduler::new(scheduling, informers.clone(), options);
        scheduler.register(&mut metrics.lock());
        spawn.essential_silent("scheduler", {
            let token = control.clone();
            async move { scheduler.run(token).await }
        });

        // Run.
        let network = VirtualNetwork::new(net, control.clone(), control_done.clone())?;
        network.register(&mut metrics.lock());
        let wasm = Arc::new(wasm::Wasmtime::new(wasm_options(&config)?));
        wasm.register(&mut metrics.lock());
        let recorder = |component: &str| {
            let options = RecorderOptions { component: component.to_owned(), host: Some(config.node.clone()) };
            let (recorder, write) = Recorder::new(kubelet.clone(), clock.clone(), options);
            let token = control.clone();
            control_done.spawn(async move {
                tokio::select! { () = token.cancelled() => {}, () = write => {} }
            });
            recorder
        };
        control_done.spawn({
            // as the kubelet names it: by name, in no namespace
            let node = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(config.node.clone()),
                uid: Some(config.node.clone()),
                ..ObjectReference::default()
            };
            stored::tell(store.clone(), recorder("store"), node, control.clone())
        });
        let agent = Agent::new(
            agent_options(&config, &clock, &store),
            Parts {
                runtimes: Runtimes::new([wasm.clone() as Arc<dyn Runtime>]),
                network: Arc::new(network.clone()),
                dialer: Arc::new(network.clone()),
                images: Arc::new(images),
                client: kubelet.clone(),
                informers: informers.clone(),
                recorder: recorder("kubelet"),
            },
        )?;
        agent.register(&mut metrics.lock());
        let _ = nodes.router.set(agent.router());
        spawn.essential_silent("pod network", {
            let (informers, recorder, token) = (informers.clone(), recorder("kube-proxy"), control.clone());
            async move { network::run(network, informers, Some(recorder), token).await }
        });
        let spawn = Spawner { tasks: &agent_done, failed: &failed };
        spawn.essential("node agent", {
            let (agent, token) = (agent.clone(), agent_token.clone());
            async move { agent.run(token).await }
        });
        agent_done.close();
        control_done.close();

        if tokio::time::timeout(START, informers.synced()).await.is_err() {
            let missing: Vec<String> =
                informers.missing().into_iter().map(|(kind, why)| format!("{kind} ({why})")).collect();
            bail!("these lists were not there after {START:?}: {}", missing.join(", "));
        }
        // what is ready by the last run's word is not; too many pods to say so in time say it later
        if tokio::time::timeout(FIRST_PASS, agent.settled()).await.is_err() {
            tracing::warn!("some pods are still shown as they were before the restart");
        }
        Ok(Self {
            address,
            credentials: Arc::new(credentials),
            signed,
            serving,
            clock,
            administrator,
            store,
            wasm,
            node: agent,
            drain: config.drain,
            agent: agent_token,
            agent_done,
            control,
            control_done,
            failure,
        })
    }

    /// Makes the places for guests, in the background: thousands of changes to the memory map, for which every page fault of a start that
    /// goes on meanwhile would wait. A guest that comes earlier makes them itself.
    pub(crate) fn warm(&self) {
        let (wasm, token) = (self.wasm.clone(), self.control.clone());
        self.control_done.spawn(async move {
            tokio::select! { () = token.cancelled() => {}, _ = wasm.warm() => {} }
        });
    }

    /// A client with the administrator's rights.
    pub(crate) fn client(&self) -> &Client {
        &self.administrator
    }

    /// Hands out what a kubeconfig needs: now, and again whenever the certificates are made anew, which this sees to from now on.
    pub(crate) fn give_access(
        &self,
        mut write: impl FnMut(&kubeconfig::Access<'_>) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (address, credentials, clock) = (self.address, self.credentials.clone(), self.clock.clone());
        let mut show = move |authority: &Pair, signed: &Signed| {
            write(&kubeconfig::Access {
                address,
                ca_pem: &authority.certificate,
                certificate_pem: &signed.administrator.certificate,
                key_pem: &signed.administrator.key,
            })
        };
        show(&credentials.authority, &self.signed)?;
        let (due, serving, token) = (self.signed.due(), self.serving.clone(), self.control.clone());
        self.control_done.spawn(async move {
            let renew = credentials.renew(&clock, due, |signed| {
                serving.replace(&signed.serving)?;
                show(&credentials.authority, &signed)
            });
            tokio::select! { () = token.cancelled() => {}, () = renew => {} }
        });
        Ok(())
    }

    /// Resolves when a part that the cluster cannot be without has ended.
    pub(crate) async fn failed(&self) -> anyhow::Error {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(what) => {
                anyhow::anyhow!("{}, and the cluster cannot be without it", what.as_deref().unwrap_or_default())
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Drains the node, then ends everything else. Changes no API object. Returns how many containers had to be cut.
    pub(crate) async fn stop(self) -> usize {
        self.agent.cancel();
        if tokio::time::timeout(self.drain + END, self.agent_done.wait()).await.is_err() {
            tracing::warn!("the node agent has not drained in time");
        }
        let cut = self.node.cut();
        self.control.cancel();
        if tokio::time::timeout(END, self.control_done.wait()).await.is_err() {
            tracing::warn!("some tasks have not ended in time");
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
        cut
    }
}

fn first_address(range: &IpNet) -> IpAddr {
    range.hosts().next().unwrap_or_else(|| range.addr())
}

fn wasm_options(config: &Config) -> anyhow::Result<wasm::Options> {
    let key = wasm::key::load_or_create(&config.dir.join("compile.key"), |key| key.copy_from_slice(&env::random()))
        .context("cannot read the key of the compile cache")?;
    let program: PathBuf = std::env::current_exe().context("cannot find this program")?;
    let compiler = wasm::Compiler::new(program, vec![COMPILE_CHILD.into()]);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut options = wasm::Options::new(config.dir.join("compiled"), key, compiler, threads, env::system_clock());
    let reserved = config.reserved.get("memory").and_then(|amount| quantity("--reserved-memory", &amount.0).ok());
    let reserved = reserved.map_or(0, |amount| u64::try_from(amount.value()).unwrap_or(0));
    options.memory = config.machine.memory.saturating_sub(reserved);
    let descriptors = Shares::of(env::file_limit());
    options.http.clients.connections = descriptors.guest_connections;
    options.http.clients.per_container = (options.http.clients.connections * 3 / 4).max(1);
    options.room = machine::room(config.machine.memory, reserved);
    options.pool = wasm::PoolOptions::within(machine::memory_maps());
    options.files.open = descriptors.guest_files;
    Ok(options)
}

fn agent_options(config: &Config, clock: &Clock, store: &Store<server::Item>) -> agent::Options {
    let (disk, store) = (config.dir.path().to_owned(), store.clone());
    agent::Options {
        node: config.node.clone(),
        // where its node ports answer: the gateway of the pod network is on no machine, and in a network of 10/8 another's
        addresses: vec![machine::address(config.node_address)],
        machine: config.machine.clone(),
        pressure: Arc::new(move || {
            let mut pressure = agent::Pressure::read(&disk, machine::available_memory());
            // a quota or a limit of file sizes is no less full than a disk
            pressure.disk |= store.failure().is_some_and(|failure| matches!(*failure, LogError::Full(_)));
            pressure
        }),
        pods: config.max_pods,
        reserved: config.reserved.clone(),
        labels: BTreeMap::new(),
        pod_cidr: config.node_cidr.to_string(),
        data_dir: config.dir.join("pods"),
        private: config.dir.path().to_owned(),
        clock: clock.clone(),
        seed: env::seed(),
        drain: config.drain,
        version: server::version::git_version(),
        runtime_version: "wasmtime://48".to_owned(),
        port: None,
    }
}
