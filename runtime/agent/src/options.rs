//! The options of an agent.

use crate::{pressure::Pressure, readings::Usage, resolver::ClusterDns};
use api::Clock;
use container::{Artifact, Runtime};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

/// The options of an agent. The composition root sets all of them.
#[derive(Clone)]
pub struct Options {
    /// The name of the Node.
    pub node: String,
    /// The node's addresses, the primary first: `InternalIP` of the Node and `hostIPs` of pods. They are the machine's own addresses, on
    /// which node ports listen.
    pub addresses: Vec<IpAddr>,
    /// The machine's properties.
    pub machine: Machine,
    /// Reads the machine's pressure. Called on a thread that may block.
    pub pressure: Arc<dyn Fn() -> Pressure + Send + Sync>,
    /// Reads the CPU and memory usage of this process. Must not block.
    pub usage: Arc<dyn Fn() -> Usage + Send + Sync>,
    /// The maximum number of pods.
    pub pods: u32,
    /// Resources that are reserved for the system: `cpu`, `memory`, `ephemeral-storage`.
    pub reserved: BTreeMap<String, Quantity>,
    /// Labels of the Node in addition to the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// The pod CIDR of this node, for `spec.podCIDR`. Empty if unknown.
    pub pod_cidr: String,
    /// The names of the cluster, for Linux containers.
    pub dns: ClusterDns,
    /// Reads the text of the node's own resolver file. Called on a thread that may block.
    pub resolver: Arc<dyn Fn() -> String + Send + Sync>,
    /// The folder of state, volumes and logs: `DIR/{state,volumes,logs}`. Must be accessible to the user only.
    pub data_dir: PathBuf,
    /// The folder with the cluster's keys and store. No hostPath volume may expose any of it.
    pub private: PathBuf,
    /// The wall clock.
    pub clock: Clock,
    /// The seed of container ids and jitter.
    pub seed: u64,
    /// How long containers may take to stop when the process ends.
    pub drain: Duration,
    /// `kubeletVersion` of the Node, such as `v1.36.0+sampan`.
    pub version: String,
    /// `containerRuntimeVersion` of the Node, such as `wasmtime://48.0.8`.
    pub runtime_version: String,
    /// The port of the kubelet API, for `daemonEndpoints`. `None` if it is not served on a port.
    pub port: Option<u16>,
}

/// The machine's properties, as the composition root reads them.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Such as `linux`.
    pub operating_system: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// Identifiers of the machine and its boot. May be empty.
    pub machine_id: String,
    /// See `machine_id`.
    pub system_uuid: String,
    /// See `machine_id`.
    pub boot_id: String,
    /// The number of CPU cores.
    pub cpus: u32,
    /// Total memory in bytes.
    pub memory: u64,
    /// The size of the file system with the data folder, in bytes.
    pub storage: u64,
    /// The host name.
    pub hostname: String,
}

/// The handler of the runtime of Linux images.
const LINUX: &str = "runc";

/// The container runtimes of a node by handler, such as `wasmtime` or `runc`.
#[derive(Clone)]
pub struct Runtimes {
    by_handler: BTreeMap<String, Arc<dyn Runtime>>,
}

impl Runtimes {
    /// Registers each runtime under its own name.
    pub fn new(runtimes: impl IntoIterator<Item = Arc<dyn Runtime>>) -> Self {
        Self { by_handler: runtimes.into_iter().map(|r| (r.name().to_owned(), r)).collect() }
    }

    /// All runtimes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Runtime>> {
        self.by_handler.values()
    }

    /// The runtime with this handler.
    pub fn get(&self, handler: &str) -> Option<&Arc<dyn Runtime>> {
        self.by_handler.get(handler)
    }

    /// The runtime of Linux images, if there is one.
    pub fn linux(&self) -> Option<&Arc<dyn Runtime>> {
        self.get(LINUX)
    }

    /// Whether it is the runtime of Linux images.
    pub(crate) fn is_linux(&self, runtime: &Arc<dyn Runtime>) -> bool {
        self.linux().is_some_and(|linux| Arc::ptr_eq(linux, runtime))
    }

    /// Chooses the runtime for an artifact. A RuntimeClass may require a handler. The error is the message for the user.
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
            Artifact::Linux { .. } => (LINUX, "a Linux image"),
        };
        self.get(handler).ok_or_else(|| {
            let on = if platform.is_empty() { String::new() } else { format!(" ({platform})") };
            format!("this is {what}{on}, and this node has no runtime for it yet: it runs WebAssembly modules and components")
        })
    }
}
