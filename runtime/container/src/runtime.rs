//! [`Runtime`]: what runs the containers of a node.

use crate::{
    HttpPolicy, Mount,
    net::{Sandbox, Sockets},
};
use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, mpsc},
};

/// Where an HTTP handler listens when its container declares no TCP port.
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// What a runtime can be asked to run: an image after it was pulled and recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// One Wasm module or component on disk.
    Wasm {
        /// The file's bytes, immutable.
        path: PathBuf,
        /// `sha256:…` of the file: the name under which it is compiled and cached.
        digest: String,
    },
    /// A Linux root file system, as layers on disk from the lowest to the highest.
    Linux {
        /// Unpacked layer folders.
        layers: Vec<PathBuf>,
        /// Digest of the image configuration.
        digest: String,
    },
}

impl Artifact {
    /// The digest that names the artifact.
    pub fn digest(&self) -> &str {
        match self {
            Self::Wasm { digest, .. } | Self::Linux { digest, .. } => digest,
        }
    }
}

/// Identifies a sandbox: the pod's uid.
pub type SandboxId = Arc<str>;

/// Identifies one attempt of one container, unique on the node and across restarts.
pub type ContainerId = Arc<str>;

/// A pod, as far as a runtime needs to know.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The pod's uid.
    pub id: SandboxId,
    /// The pod's host name, which a guest may ask for.
    pub hostname: String,
    /// Labels for logs and metrics: pod and namespace names.
    pub labels: BTreeMap<String, String>,
    /// Limits for the whole pod, besides those of each container.
    pub limits: Limits,
    /// Where its network is, as the pod's attachment says.
    pub network: Sandbox,
}

/// Resource limits. `None` is no limit of its own (the node's bounds always hold).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a CPU core.
    pub cpu_millis: Option<u64>,
    /// Bytes of linear memory (Wasm) or of the cgroup (Linux).
    pub memory_bytes: Option<u64>,
}

/// Transport protocol of a declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that the container declares. Informative for commands, the listening port for HTTP handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, possibly empty.
    pub name: String,
    /// 1 to 65535.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What a container's program reads as its standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: it has ended from the start.
    #[default]
    Empty,
    /// What those write who attach, one after the other; it never ends.
    Open,
    /// What the first writes who attaches, and it ends with that.
    Once,
}

/// One attempt of one container.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Identity of this attempt.
    pub id: ContainerId,
    /// The container's name in its pod.
    pub name: String,
    /// What to run; `prepare` was called for it before.
    pub artifact: Artifact,
    /// Arguments, the program's own name first. Empty: the runtime chooses the name.
    pub args: Vec<String>,
    /// Environment, later entries win.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Folders of the host to show.
    pub mounts: Vec<Mount>,
    /// Declared ports, in order.
    pub ports: Vec<Port>,
    /// Limits of this container.
    pub limits: Limits,
    /// The file for standard output and error in CRI log format; it and its folder are made on the first byte.
    pub log: PathBuf,
    /// How it is served, if it is an HTTP handler.
    pub http: HttpPolicy,
    /// What its program reads.
    pub stdin: Stdin,
    /// Whether it is meant for a terminal: then who attaches gets its errors with its output.
    pub tty: bool,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// A non-zero exit code, a trap or a failure to start.
    Error,
    /// It asked for more memory than its limit.
    OomKilled,
    /// Its code could not be started (wrong imports, unknown entry point).
    ContainerCannotRun,
    /// Another handler of the pod holds its port.
    AddressInUse,
}

/// The end of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255: 134 for a trap, 137 when killed or out of memory, 143 when a stop ended it, 0 when it ended by itself or a server
    /// finished its requests after a stop, 128 if it never started.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// For people: the trap with its symbolised backtrace, or what is wrong with the image. At most 4 KiB.
    pub message: String,
    /// When it was started; absent if it never was.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: SystemTime,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started. An HTTP handler counts as running once its port is bound, though no instance may exist.
    Running {
        /// When.
        started_at: SystemTime,
    },
    /// Ended, and all that it logged is on the disk; kept until removed.
    Exited(Exit),
}

/// One container as the runtime sees it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The attempt.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// Its name in the pod.
    pub name: String,
    /// Its state.
    pub state: ContainerState,
}

/// Something that happened to a container. Lossy (a slow receiver is told that it lagged): re-read [`Runtime::list`] then.
#[derive(Clone, Debug)]
pub struct Event {
    /// The attempt.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// The state it entered.
    pub state: ContainerState,
}

/// Progress of [`Runtime::prepare`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Waiting for a compiler.
    Queued,
    /// Compiling this many bytes of Wasm.
    Compiling {
        /// Size of the input.
        bytes: u64,
    },
    /// Unpacking layers.
    Unpacking,
}

/// A prepared artifact. Holding it keeps the compiled code in memory; dropping the last one lets the runtime forget it.
pub trait Prepared: Send + Sync + fmt::Debug {
    /// What it was made from.
    fn artifact(&self) -> &Artifact;
    /// One word for what it is, for status and logs: `http`, `command`, `core`, `linux`.
    fn target(&self) -> &'static str;
    /// Advice for the user, given as a Warning: e.g. that the default port was taken since none is declared.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a container uses now. Cumulative where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the start, in nanoseconds, cumulative.
    pub cpu_nanos: u64,
    /// Linear memory (Wasm) or working set (Linux) in bytes.
    pub memory_bytes: u64,
    /// Live instances (1 for a command, 0 or more for an HTTP handler).
    pub instances: u64,
    /// Requests served since the start, cumulative (HTTP handlers).
    pub requests: u64,
    /// Times the CPU limit held it back, cumulative.
    pub throttled: u64,
}

/// A command to run in a container beside its own program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Whether it gets a terminal: then its errors come with its output.
    pub tty: bool,
}

/// The streams of whoever runs a command or looks on. Those that are `None` were not asked for.
#[derive(Default)]
pub struct Streams {
    /// Standard input; its end is the program's.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard output.
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Columns and rows of the terminal, whenever they change.
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
}

/// What can go wrong when asked something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artifact cannot run here, now or later: not Wasm, unknown imports, does not compile. A retry does not help.
    #[error("{0}")]
    Invalid(String),
    /// No such sandbox or container.
    #[error("not found: {0}")]
    NotFound(String),
    /// This runtime does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// A limit of the node is reached (memory, instances, compile time). A retry may help.
    #[error("{0}")]
    Exhausted(String),
    /// Anything else, with its story.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Result of a [`Runtime`] call.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs containers. One value per node and kind of runtime, shared by all pods.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// `wasmtime` or `runc`: the scheme of `containerID` in a pod's status.
    fn name(&self) -> &'static str;

    /// Compiles or unpacks an artifact, once however many ask at the same time. Cancel-safe.
    async fn prepare(
        &self,
        artifact: &Artifact,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>>;

    /// Makes the room in which a pod's containers run. Idempotent by id.
    async fn sandbox(&self, spec: SandboxSpec, sockets: Arc<dyn Sockets>) -> Result<()>;

    /// Stops and removes everything in a sandbox, and it. Idempotent.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()>;

    /// Makes a container without starting it.
    async fn create(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<()>;

    /// Starts a container. Returns when it runs (an HTTP handler: when its port is bound) or has already ended; the outcome is
    /// in [`Runtime::list`] and [`Runtime::events`], never only in the error.
    async fn start(&self, id: &ContainerId) -> Result<()>;

    /// The container is about to be stopped: it goes on serving, and asks whoever is connected to go elsewhere once what is under way is
    /// done. A stop that follows waits a moment for those to leave. Idempotent; nothing where there is nobody to ask.
    fn retire(&self, _id: &ContainerId) {}

    /// Asks a container to end and ends it after `grace`. An HTTP handler stops accepting and finishes its requests. Returns
    /// when it has ended. Idempotent.
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()>;

    /// Forgets an ended container (ends it if it runs). Idempotent.
    async fn remove(&self, id: &ContainerId) -> Result<()>;

    /// All containers that are not removed: the truth after any restart or lag.
    async fn list(&self) -> Result<Vec<Status>>;

    /// State changes from now on.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// What a container uses now.
    async fn stats(&self, id: &ContainerId) -> Result<Stats>;

    /// Changes the limits of a running container in place.
    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()>;

    /// Runs a command in a running container and returns its exit code once it has ended and all its output is written. Dropping the
    /// future ends it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a container that does not run; [`Error::Unsupported`] where no second program can be run in it.
    async fn exec(&self, id: &ContainerId, _exec: Exec, _streams: Streams) -> Result<i32> {
        Err(cannot(self, id, "run a command in").await)
    }

    /// Joins the streams of a running container's own program, from now on, until it ends or the streams do. Dropping the future leaves it.
    ///
    /// # Errors
    /// As of [`Runtime::exec`].
    async fn attach(&self, id: &ContainerId, _streams: Streams) -> Result<()> {
        Err(cannot(self, id, "attach to").await)
    }

    /// What is wrong with the node's ability to run this kind of container, if anything: shown as a condition of the Node.
    fn health(&self) -> Option<String> {
        None
    }

    /// Whether containers outlive this process.
    fn survives_restart(&self) -> bool {
        false
    }
}

/// Why something cannot be done with a container: it does not run, or the runtime does not do it.
async fn cannot<R: Runtime + ?Sized>(runtime: &R, id: &ContainerId, what: &str) -> Error {
    let list = runtime.list().await.unwrap_or_default();
    match list.iter().any(|s| s.id == *id && matches!(s.state, ContainerState::Running { .. })) {
        true => Error::Unsupported(format!("{} cannot {what} a container", runtime.name())),
        false => Error::NotFound(format!("container {id} is not running")),
    }
}
