//! The control plane of a cluster: the store, the API server, the controllers and the scheduler. It accesses nodes only through its
//! [`ControlPlaneDependencies`].

use super::{
    config::Config,
    parts::{Group, Process},
    stored,
};
use crate::{
    credentials::{self, Credentials, Signed},
    descriptors::Shares,
    env, machine,
};
use anyhow::Context;
use client::{Client, Elector, ElectorOptions, Informers};
use kinds::bootstrap::Bootstrap;
use scheduler::Scheduler;
use server::{Ids, Server, User, dialer::Dialer, nodes::Nodes, tls::Serving};
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use store::Store;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the Leases are renewed. Upstream renews them every 2 s. Here no other candidate waits for them to expire, and each renewal is
/// a durable write of an otherwise idle cluster. A Lease is valid for 15 s.
const RENEWAL: Duration = Duration::from_secs(10);

/// The dependencies of a control plane.
pub(super) struct ControlPlaneDependencies {
    /// The listener of the API.
    pub(super) listener: TcpListener,
    /// The address of the API for pods.
    pub(super) advertise: SocketAddr,
    /// Connects to the kubelets.
    pub(super) nodes: Arc<dyn Nodes>,
    /// Connects to pods.
    pub(super) dialer: Arc<dyn Dialer>,
    /// Information about images, for warnings.
    pub(super) image_advice: Arc<dyn kinds::ImageAdvice>,
    /// The keys, which are being created.
    pub(super) signing: Signing,
}

/// A running control plane.
pub(super) struct ControlPlane {
    pub(super) store: Store<server::Item>,
    pub(super) credentials: Arc<Credentials>,
    /// The certificates at the start.
    pub(super) signed: Signed,
    pub(super) serving: Serving,
    /// The informers of all components of the process.
    pub(super) informers: Informers,
    server: Server,
}

/// Keys and certificates that are being created.
pub(super) type Signing = JoinHandle<anyhow::Result<(Credentials, Signed)>>;

/// Creates the keys on a blocking thread: this waits for the disk while the store is being opened, which does too. `address` is that of the
/// API, `node_internal` the address of the API for pods.
pub(super) fn sign(config: &Config, process: &Process, address: SocketAddr, node_internal: IpAddr) -> Signing {
    let service = config.service_cidr.hosts().next().unwrap_or_else(|| config.service_cidr.addr());
    let mut addresses = vec![service, node_internal];
    match address.ip() {
        // clients use any of them
        every if every.is_unspecified() => addresses.extend(machine::addresses()),
        one => addresses.push(one),
    }
    let (dir, now, asked) = (config.dir.clone(), process.clock.now(), config.tls_san.clone());
    let node = config.node.clone();
    tokio::task::spawn_blocking(move || {
        let names = std::iter::once(node).chain(credentials::remember(&dir, &asked)?).collect();
        Credentials::open(&dir, now, addresses, names)
    })
}

/// What the kinds need of this cluster.
fn settings(
    config: &Config,
    credentials: &Credentials,
    advertise: SocketAddr,
    image_advice: Arc<dyn kinds::ImageAdvice>,
    dialer: Arc<dyn Dialer>,
) -> kinds::Settings {
    kinds::Settings {
        service_cidr: config.service_cidr,
        node_ports: 30000..=32767,
        tokens: credentials.tokens.clone(),
        advertise,
        identity: config.node.clone(),
        image_advice: Some(image_advice),
        runtimes: [wasm::NAME, isolated::NAME, runc::NAME].map(str::to_owned).into(),
        local_volumes: Some(agent::LOCAL_VOLUMES.to_owned()),
        dns: kinds::bootstrap::dns_address(&config.service_cidr),
        capabilities: kinds::Capabilities::new(
            agent::HONOURED.iter().chain(network::HONOURED).copied().chain(scheduler::honoured()),
        ),
        rbac: kinds::Rbac::default(),
        front_proxy: credentials.front_proxy.clone(),
        client_authority: credentials.authority.certificate.clone(),
        webhooks: kinds::webhooks_by(dialer),
    }
}

impl ControlPlane {
    /// Starts the control plane in a group. Returns when requests are served and the components have started to read.
    pub(super) async fn start(
        config: &Config,
        process: &Process,
        group: &Group,
        dependencies: ControlPlaneDependencies,
    ) -> anyhow::Result<Self> {
        let ControlPlaneDependencies { listener, advertise, nodes, dialer, image_advice, signing } = dependencies;
        let address = listener.local_addr()?;
        let mut chosen = config.chosen();
        chosen.listen = Some(address);
        chosen.keep(&config.dir)?;
        let store = stored::open(&config.dir).await?;
        let (credentials, signed) = signing.await??;
        let serving = Serving::new(&signed.serving)?;
        let settings = settings(config, &credentials, advertise, image_advice, dialer.clone());
        let options = server::Options {
            store: store.clone(),
            clock: process.clock.clone(),
            ids: Arc::new(Ids::new(fastrand::Rng::with_seed(env::seed()))),
            nodes,
            dialer,
            advertise: settings.advertise,
            shutdown: group.token.clone(),
            audit: None,
            metrics: process.metrics.clone(),
        };
        let server = Server::new(options, settings.parts());
        let bootstrap = Bootstrap::new(&server, settings, process.clock.clone());
        bootstrap.ensure().await.context("cannot start the API server")?;
        let tls = server::tls::config(&serving, &credentials.authority.certificate)?;
        serve(group, &server, listener, tls)?;
        group.essential_silent("writer of the store", {
            let (store, token) = (store.clone(), group.token.clone());
            async move {
                tokio::select! { () = token.cancelled() => {}, () = store.ended() => {} }
            }
        });
        // One set of informers for all components: they read as the controller manager, who may list and watch everything.
        let manager = as_user(&server, "system:kube-controller-manager", &[]).named("kube-controller-manager");
        let informers = Informers::new(manager.clone(), group.token.clone(), group.tasks.clone());
        informers.register(&mut process.metrics.lock());
        group.essential_silent("informers", {
            let informers = informers.clone();
            async move { informers.ended().await }
        });
        let plane = Self { store, credentials: Arc::new(credentials), signed, serving, informers, server };
        plane.control(config, process, group, manager).await;
        plane.schedule(config, process, group).await;
        group.essential_silent("API server's own objects", {
            let (token, informers) = (group.token.clone(), plane.informers.clone());
            async move { bootstrap.run(async move { informers.synced().await }, &token).await }
        });
        Ok(plane)
    }

    /// An in-process client. Each component has one with its own rights.
    pub(super) fn client(&self, user: &str, groups: &[&str]) -> Client {
        as_user(&self.server, user, groups)
    }

    /// Starts the controllers.
    async fn control(&self, config: &Config, process: &Process, group: &Group, client: Client) {
        let mut options =
            controllers::Options::new(process.clock.clone(), self.credentials.authority.certificate.clone());
        options.selection = config.controllers.clone();
        options.keys = Some(self.credentials.clone());
        options.local_volumes = Some(agent::LOCAL_VOLUMES.to_owned());
        options.queues.register(&mut process.metrics.lock());
        let elector = elector(config, process, &client, "kube-controller-manager");
        let (informers, server) = (self.informers.clone(), self.server.clone());
        let accounts: controllers::Accounts = Arc::new(move |account: &str| match account {
            "" => client.clone(),
            account => as_account(&server, account),
        });
        lead(group, "controllers", elector, move |token| {
            let tasks = TaskTracker::new();
            let context = controllers::Context::new(accounts, informers, options, tasks.clone());
            controllers::start(&context, &token, &tasks);
            tasks.close();
            async move {
                context.ended().await;
                // A controller that ends stops the others.
                token.cancel();
                drop(context);
                tasks.wait().await;
            }
        })
        .await;
    }

    /// Starts the scheduler.
    async fn schedule(&self, config: &Config, process: &Process, group: &Group) {
        let client = self.client("system:kube-scheduler", &[]).named("kube-scheduler");
        let elector = elector(config, process, &client, "kube-scheduler");
        let mut options = scheduler::Options::new(process.clock.clone(), env::seed());
        options.configuration = config.scheduler.clone();
        let ignored = options.configuration.ignored();
        if !ignored.is_empty() {
            tracing::warn!("--scheduler-config: {} make no difference in sampan", ignored.join(", "));
        }
        let scheduler = Scheduler::new(client, self.informers.clone(), options);
        scheduler.register(&mut process.metrics.lock());
        lead(group, "scheduler", elector, |token| async move { scheduler.run(token).await }).await;
    }
}

/// A client of a controller: it has the rights of its ServiceAccount, which needs not exist.
fn as_account(server: &Server, account: &str) -> Client {
    let user = format!("system:serviceaccount:kube-system:{account}");
    as_user(server, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
}

fn as_user(server: &Server, user: &str, groups: &[&str]) -> Client {
    let groups: Vec<&str> = groups.iter().copied().chain(["system:authenticated"]).collect();
    Client::new(kube::Client::new(server.service_for(User::new(user, &groups)), "default"))
}

/// Serves the API on its port.
fn serve(group: &Group, server: &Server, listener: TcpListener, tls: rustls::ServerConfig) -> anyhow::Result<()> {
    let descriptors = Shares::of(env::file_limit());
    let limits = server::tls::ConnectionLimits { connections: descriptors.api, handshakes: descriptors.handshakes };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    group.essential_silent("API server", {
        let (server, token) = (server.clone(), group.token.clone());
        async move { server.serve(limits, listener, Arc::new(tls), token).await }
    });
    Ok(())
}

/// A candidate for a Lease of leader election. The lock of the data directory proves that this process is the only candidate.
fn elector(config: &Config, process: &Process, client: &Client, lease: &str) -> Elector {
    let options = ElectorOptions::new("kube-system", lease, &config.node);
    let options = ElectorOptions { alone: true, retry_period: RENEWAL, ..options };
    Elector::new(client.clone(), process.clock.clone(), options)
}

/// Runs a component while it is the leader. Returns when it has started, which is immediate without other candidates. `begin` starts the
/// component and returns a future that resolves when it has ended. Like upstream's, a component that loses its Lease ends the process, so
/// that no state of a former leader remains.
async fn lead<Work: Future<Output = ()> + Send>(
    group: &Group,
    name: &'static str,
    elector: Elector,
    begin: impl FnOnce(CancellationToken) -> Work + Send + 'static,
) {
    let (began, begun) = oneshot::channel();
    let token = group.token.clone();
    group.essential(name, async move {
        let lost = elector.run(token, |leading| {
            let work = begin(leading);
            let _ = began.send(());
            work
        });
        if lost.await {
            anyhow::bail!("another process leads");
        }
        Ok(())
    });
    // This fails if the component failed, which the group reports.
    let _ = begun.await;
}
