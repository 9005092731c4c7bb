//! What an agent is told at its start.

use crate::{pressure::Pressure, readings::Usage};
use api::Clock;
use container::{Artifact, Runtime};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

/// How an agent is set up. All of it is decided by the composition root.
#[derive(Clone)]
pub struct Options {
    /// The Node's name.
    pub node: String,
    /// The node's addresses, the primary first: `InternalIP`, and `hostIPs` of pods. They are the machine's own, where its node ports
    /// answer.
    pub addresses: Vec<IpAddr>,
    /// The machine.
    pub machine: Machine,
    /// How full the machine is; asked on a thread that may block.
    pub pressure: Arc<dyn Fn() -> Pressure + Send + Sync>,
    /// What this process uses; cheap.
    pub usage: Arc<dyn Fn() -> Usage + Send + Sync>,
    /// Pods that may run at a time.
    pub pods: u32,
    /// Amounts of the machine that pods do not get: `cpu`, `memory`, `ephemeral-storage`.
    pub reserved: BTreeMap<String, Quantity>,
    /// Labels of the Node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// The pod address range of this node, for `spec.podCIDR`; empty when unknown.
    pub pod_cidr: String,
    /// Where state, volumes and logs are: `DIR/{state,volumes,logs}`. Must be private to the user.
    pub data_dir: PathBuf,
    /// The folder of which no pod may see anything by a hostPath: it holds the cluster's keys and store.
    pub private: PathBuf,
    /// Wall clock.
    pub clock: Clock,
    /// Seed of ids and jitter.
    pub seed: u64,
    /// How long stopping may take when the process ends.
    pub drain: Duration,
    /// `v1.36.0+sampan`: `kubeletVersion`.
    pub version: String,
    /// `wasmtime://48.0.8`: `containerRuntimeVersion`.
    pub runtime_version: String,
    /// The port on which the agent's paths are served, if any: `daemonEndpoints`.
    pub port: Option<u16>,
}

/// What the machine is, as read by the composition root.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// `linux`.
    pub operating_system: String,
    /// `amd64`.
    pub architecture: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// `6.1.0-18-amd64`.
    pub kernel: String,
    /// Three ids, as the machine gives them; may be empty.
    pub machine_id: String,
    /// See `machine_id`.
    pub system_uuid: String,
    /// See `machine_id`.
    pub boot_id: String,
    /// Cores.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the disk that holds the data folder.
    pub storage: u64,
    /// Host name.
    pub hostname: String,
}

/// The runtimes of a node, by handler: `wasmtime`, `runc`.
#[derive(Clone)]
pub struct Runtimes {
    by_handler: BTreeMap<String, Arc<dyn Runtime>>,
}

impl Runtimes {
    /// Each under its own name.
    pub fn new(runtimes: impl IntoIterator<Item = Arc<dyn Runtime>>) -> Self {
        Self { by_handler: runtimes.into_iter().map(|r| (r.name().to_owned(), r)).collect() }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Runtime>> {
        self.by_handler.values()
    }

    /// By handler.
    pub fn get(&self, handler: &str) -> Option<&Arc<dyn Runtime>> {
        self.by_handler.get(handler)
    }

    /// The runtime for an artifact; a RuntimeClass's handler forces one. The error is for the user.
    pub fn choose(
        &self,
        artifact: &Artifact,
        handler: Option<&str>,
        platform: &str,
    ) -> Result<&Arc<dyn Runtime>, String> {
        if let Some(handler) = handler {
            return self.get(handler).ok_or_else(|| {
                let known: Vec<_> = self.by_handler.keys().map(|name| format!("{name:?}")).collect();
                format!("no runtime for {handler:?} is configured: this node has {}", known.join(", "))
            });
        }
        let (handler, what) = match artifact {
            Artifact::Wasm { .. } => ("wasmtime", "a WebAssembly image"),
            Artifact::Linux { .. } => ("runc", "a Linux image"),
        };
        self.get(handler).ok_or_else(|| {
            let on = if platform.is_empty() { String::new() } else { format!(" ({platform})") };
            format!("this is {what}{on}, and this node has no runtime for it yet: it runs WebAssembly modules and components")
        })
    }
}
