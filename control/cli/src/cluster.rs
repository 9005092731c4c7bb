//! The composition root: a cluster in one process. [`control_plane`] has the control plane, [`node`] the node, and [`Cluster::start`]
//! connects them.

mod chosen;
mod config;
mod control_plane;
mod node;
mod parts;
mod stored;

use crate::{env, image_advice::Advice, images, kubeconfig};
use anyhow::bail;
pub(crate) use chosen::Chosen;
use client::Client;
pub(crate) use config::Config;
use control_plane::{ControlPlane, ControlPlaneDependencies};
use node::{LocalNode, Node, NodeDependencies};
use parts::{Group, Process};
use server::pki::Pair;
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Timeout of the shutdown of all parts other than pods; it applies twice.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first lists may take at start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a start waits until no pod of the previous run is shown as ready that does not run.
const FIRST_PASS_TIMEOUT: Duration = Duration::from_secs(10);

/// A running cluster.
pub(crate) struct Cluster {
    address: SocketAddr,
    process: Process,
    plane: ControlPlane,
    node: Node,
    administrator: Client,
    /// How long the agent may take to stop pods.
    drain: Duration,
    /// The node agent, which drains first while everything else continues.
    draining: Group,
    /// Everything else.
    group: Group,
    failure: watch::Receiver<Option<String>>,
}

impl Cluster {
    /// Starts everything. Returns when requests are served and caches are synced.
    pub(crate) async fn start(config: Config, listener: TcpListener) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let process = Process { clock: env::clock(), metrics: Arc::default() };
        let (failed, failure) = watch::channel(None);
        let (group, draining) = (Group::new(failed.clone()), Group::new(failed));

        let plan = node::plan_network(&config, address);
        let signing = control_plane::sign(&config, &process, address, plan.node_internal());
        let images = images::open(&config.dir)?;
        let local = Arc::new(LocalNode::new(&config));
        let dependencies = ControlPlaneDependencies {
            listener,
            advertise: SocketAddr::new(plan.node_internal(), address.port()),
            nodes: local.clone(),
            dialer: local.clone(),
            image_advice: Arc::new(Advice::new(images.clone(), config.oci_runtime.clone())),
            signing,
        };
        let plane = ControlPlane::start(&config, &process, &group, dependencies).await?;
        let dependencies = NodeDependencies {
            client: plane.client(&format!("system:node:{}", config.node), &["system:nodes"]).named("kubelet"),
            informers: &plane.informers,
            store: &plane.store,
            authority: &plane.credentials.authority.certificate,
        };
        let node = Node::start(&config, &process, (&group, &draining), dependencies, plan, images, &local)?;
        let hollow = plane.client("sampan:hollow", &[]).named("hollow");
        node::start_hollow(&config, &process, &group, hollow, &plane.informers);
        let administrator = plane.client("kubernetes-admin", &["system:masters"]).named("sampan");
        let drain = config.drain;
        let cluster = Self { address, process, plane, node, administrator, drain, draining, group, failure };
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Waits until caches are synced, the Node is registered, and no pod of the previous run is shown as ready that does not run; of very many, until the first run again.
    async fn ready(&self) -> anyhow::Result<()> {
        let informers = &self.plane.informers;
        if tokio::time::timeout(START_TIMEOUT, informers.synced()).await.is_err() {
            let missing: Vec<String> =
                informers.missing().into_iter().map(|(kind, why)| format!("{kind} ({why})")).collect();
            bail!("these lists were not there after {START_TIMEOUT:?}: {}", missing.join(", "));
        }
        let agent = &self.node.agent;
        if tokio::time::timeout(FIRST_PASS_TIMEOUT, agent.node_is_registered()).await.is_err() {
            tracing::warn!("the Node is not registered yet");
        }
        if tokio::time::timeout(FIRST_PASS_TIMEOUT, agent.pods_return()).await.is_err() {
            tracing::warn!("some pods are still shown as they were before the restart");
        }
        Ok(())
    }

    /// A client with the administrator's rights.
    pub(crate) fn client(&self) -> &Client {
        &self.administrator
    }

    /// Calls `show` with the content for kubeconfigs, now and whenever the certificates are renewed.
    pub(crate) fn give_access(
        &self,
        mut write: impl FnMut(&kubeconfig::Access<'_>) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (address, credentials, clock) = (self.address, self.plane.credentials.clone(), self.process.clock.clone());
        let mut show = move |authority: &Pair, administrator: &Pair| {
            write(&kubeconfig::Access {
                address,
                ca_pem: &authority.certificate,
                certificate_pem: &administrator.certificate,
                key_pem: &administrator.key,
            })
        };
        show(&credentials.authority, &self.plane.signed.administrator)?;
        let (due, serving) = (self.plane.signed.due(), self.plane.serving.clone());
        self.group.spawn(async move {
            let renewed = credentials.renew(&clock, due, |signed| {
                serving.replace(&signed.serving)?;
                show(&credentials.authority, &signed.administrator)
            });
            renewed.await;
        });
        Ok(())
    }

    /// Resolves when an essential part of the cluster has ended.
    pub(crate) async fn failed(&self) -> anyhow::Error {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(what) => {
                anyhow::anyhow!("{}, and the cluster cannot be without it", what.as_deref().unwrap_or_default())
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Drains the node, then stops everything else. The only API objects that change are the Leases of controllers and scheduler, which are
    /// released. Returns how many containers had to be killed.
    pub(crate) async fn stop(self) -> usize {
        if !self.draining.end(self.drain + SHUTDOWN_TIMEOUT).await {
            tracing::warn!("the node agent has not drained in time");
        }
        let cut = self.node.agent.killed_containers();
        if !self.group.end(SHUTDOWN_TIMEOUT).await {
            tracing::warn!("some tasks have not ended in time");
        }
        if let Err(error) = self.plane.store.close().await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
        cut
    }
}
