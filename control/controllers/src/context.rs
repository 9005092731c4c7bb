//! Options and shared handles of the controllers.

use crate::{
    nodecidrs::NodeCidrs,
    selection::{Selection, account, program},
};
use api::{Clock, csr::Request};
use client::{Client, Informers, QueueMetrics, Recorder, RecorderOptions};
use jiff::Timestamp;
use std::{fmt, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The keys of the cluster, for controllers that sign: they see none of them.
pub trait Keys: fmt::Debug + Send + Sync + 'static {
    /// The token of a Secret of this namespace, for the account with this name and uid.
    ///
    /// # Errors
    /// The library cannot sign.
    fn token(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> anyhow::Result<String>;

    /// The certificate for a request, in PEM, for these usages and between these times, but not beyond the end of the authority.
    ///
    /// # Errors
    /// The authority has ended, a usage is unknown, or the library cannot sign.
    fn certificate(
        &self,
        request: &Request,
        usages: &[String],
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<String>;
}

/// What the composition root decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Wall-clock time.
    pub clock: Clock,
    /// The certificate that clients in pods trust, in PEM: published as ConfigMap `kube-root-ca.crt` in each namespace.
    pub root_ca_pem: String,
    /// The cluster CIDR, from which each node gets its pod CIDR; `None`: `spec.podCIDR` is not allocated.
    pub node_cidrs: Option<NodeCidrs>,
    /// How long a node may send no heartbeat before its conditions become Unknown. Upstream's default is 50 s.
    pub node_grace: std::time::Duration,
    /// How many finished pods are kept before the oldest are collected. Upstream's default is 12,500.
    pub terminated_pods: usize,
    /// The provisioner, and driver, of volumes that are folders of nodes; `None`: there are none.
    pub local_volumes: Option<String>,
    /// The keys of the cluster; `None`: no tokens and no certificates are made, as upstream without the files of its keys.
    pub keys: Option<Arc<dyn Keys>>,
    /// Which controllers run.
    pub selection: Selection,
    /// The metrics of the controllers' work queues.
    pub queues: QueueMetrics,
}

impl Options {
    /// Upstream's defaults.
    pub fn new(clock: Clock, root_ca_pem: String) -> Self {
        Self {
            clock,
            root_ca_pem,
            node_cidrs: None,
            node_grace: std::time::Duration::from_secs(50),
            terminated_pods: 12_500,
            keys: None,
            selection: Selection::default(),
            local_volumes: None,
            queues: QueueMetrics::default(),
        }
    }
}

/// The clients of the controllers, by the ServiceAccount in `kube-system` as which one writes; an empty name is the controller manager.
pub type Accounts = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// The handles that all controllers share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// A client with the identity of the controller. The caches are read as the controller manager, once for all.
    pub client: Client,
    accounts: Accounts,
    /// One cache per kind, shared with the other components of the process.
    pub informers: Informers,
    /// What the composition root decided.
    pub options: Arc<Options>,
    /// Owner of the background tasks.
    pub tasks: TaskTracker,
    /// Cancelled when any controller ends.
    pub(crate) ended: CancellationToken,
}

impl Context {
    /// The handles for one process.
    pub fn new(accounts: Accounts, informers: Informers, options: Options, tasks: TaskTracker) -> Self {
        let (client, ended) = (accounts(""), CancellationToken::new());
        Self { client, accounts, informers, options: Arc::new(options), tasks, ended }
    }

    /// The handles of one controller: it writes as its own ServiceAccount, and its fields have upstream's manager.
    pub(crate) fn of(&self, controller: &str) -> Self {
        Self { client: (self.accounts)(account(controller)).named(program(controller)), ..self.clone() }
    }

    /// Resolves when any controller has ended: cancelled, or by a panic.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// A recorder of events whose source is `component`. It writes in the background until the last clone is dropped.
    pub fn recorder(&self, component: &str) -> Recorder {
        let options = RecorderOptions { component: component.to_owned(), host: None };
        let (recorder, write) = Recorder::new(self.client.clone(), self.options.clock.clone(), options);
        self.tasks.spawn(write);
        recorder
    }
}
