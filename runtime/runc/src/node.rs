//! What the node knows of its pods and containers.

use crate::{
    cgroup::{Cgroups, ROOT},
    options::Options,
    protocol::{Known, Tool},
};
use container::{ContainerId, ContainerState, Error, Event, Result, SandboxId};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{OnceCell, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Most queued events. A slower receiver gets a lag error and lists again.
const EVENT_QUEUE: usize = 1024;
/// Calls of the OCI runtime that one call of a shim may make one after the other.
const CALLS: u32 = 3;
/// How long it may take besides.
const SLACK: Duration = Duration::from_secs(10);

/// A pod.
pub(crate) struct Pod {
    pub(crate) id: SandboxId,
    pub(crate) folder: PathBuf,
    /// The path of its cgroup.
    pub(crate) cgroup: Option<String>,
    /// Held while a shim is started or ended.
    pub(crate) shim: tokio::sync::Mutex<Option<Arc<Shim>>>,
}

/// A shim that lives, or did.
pub(crate) struct Shim {
    /// The number of the last change that it told.
    pub(crate) told: watch::Receiver<u64>,
    /// Cancelled when it has ended, and nothing of its containers is left.
    pub(crate) gone: CancellationToken,
}

impl Shim {
    pub(crate) fn is_alive(&self) -> bool {
        !self.gone.is_cancelled()
    }

    /// Waits until the node knows a change.
    pub(crate) async fn knows(&self, seq: u64) {
        let mut told = self.told.clone();
        tokio::select! {
            _ = told.wait_for(|told| *told >= seq) => {}
            () = self.gone.cancelled() => {}
        }
    }
}

/// The state of the runtime.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) cgroups_root: PathBuf,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) pods: Mutex<BTreeMap<SandboxId, Arc<Pod>>>,
    pub(crate) containers: Mutex<BTreeMap<ContainerId, Container>>,
    pub(crate) events: broadcast::Sender<Event>,
    /// Set when the pods of a former process are found.
    pub(crate) found: OnceCell<()>,
}

/// A container as it was told last.
pub(crate) struct Container {
    pub(crate) sandbox: SandboxId,
    pub(crate) name: String,
    pub(crate) state: ContainerState,
}

/// The progress of a container, which is never undone.
fn rank(state: &ContainerState) -> u8 {
    match state {
        ContainerState::Created => 1,
        ContainerState::Running { .. } => 2,
        ContainerState::Exited(_) => 3,
    }
}

impl Inner {
    pub(crate) fn new(options: Options) -> Self {
        let root = Path::new(ROOT);
        let may = rustix::process::geteuid().is_root();
        let cgroups = may.then(|| Cgroups::at(root)).filter(|all| all.is_v2() || root.join("memory").is_dir());
        Self {
            options,
            cgroups_root: root.to_owned(),
            cgroups,
            pods: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
            found: OnceCell::new(),
        }
    }

    pub(crate) fn tool(&self) -> Result<Tool> {
        self.options.tool().map_err(Error::Unsupported)
    }

    /// How long a shim may take for a call.
    pub(crate) fn patience(&self) -> Duration {
        self.options.call_timeout * CALLS + SLACK
    }

    /// Takes what a shim tells of a container, as far as it is news.
    pub(crate) fn set_state(&self, sandbox: &SandboxId, known: Known) {
        let Known { id, name, state } = known;
        let mut containers = self.containers.lock();
        if containers.get(&id).is_some_and(|old| old.sandbox != *sandbox || rank(&state) <= rank(&old.state)) {
            return;
        }
        containers.insert(id.clone(), Container { sandbox: sandbox.clone(), name, state: state.clone() });
        // while locked, so that events have the order of the states
        let _ = self.events.send(Event { id, sandbox: sandbox.clone(), state });
    }
}
