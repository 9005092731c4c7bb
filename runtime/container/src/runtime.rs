//! [`Runtime`], which runs the containers of a node.

use crate::{
    HttpPolicy, LinuxContainer, LinuxSandbox, Mount,
    net::{Protocol, Sandbox, Sockets},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, mpsc},
};

/// The port of an HTTP handler whose container declares no TCP port.
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// A pulled image whose kind is known, which a runtime can run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Artifact {
    /// One Wasm module or component on disk.
    Wasm {
        /// The file's bytes, immutable.
        path: PathBuf,
        /// `sha256:…` of the file: the name under which it is compiled and cached.
        digest: String,
        /// A folder with all files of its image, which nobody changes; `None` if it is no image of files.
        files: Option<PathBuf>,
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

/// The parts of a pod that a runtime needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod's uid.
    pub id: SandboxId,
    /// The pod's host name.
    pub hostname: String,
    /// Labels for logs and metrics: pod and namespace names.
    pub labels: BTreeMap<String, String>,
    /// Limits for the whole pod, besides those of each container.
    pub limits: Limits,
    /// The kind of its network, from the pod's attachment.
    pub network: Sandbox,
    /// The folders of the host that its containers use: those that hold the roots of their mounts, and their logs. A runtime that confines
    /// pods to them allows no other.
    pub folders: Vec<Folder>,
    /// What its Linux containers share.
    pub linux: LinuxSandbox,
}

/// A folder of the host that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Its absolute path. Where it does not exist and is not read-only, it may be created.
    pub path: PathBuf,
    /// No container of the pod may write to it.
    pub read_only: bool,
    /// Symbolic links may be made in it. Not where the node opens files by their paths.
    pub links: bool,
}

/// Resource limits, and what is requested. `None` is no separate limit; the limits of the node always apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a CPU core.
    pub cpu_millis: Option<u64>,
    /// Bytes of linear memory (Wasm) or of the cgroup (Linux).
    pub memory_bytes: Option<u64>,
    /// No limit: thousandths of a CPU core that the container requests, which are its weight when the CPUs are not enough for all.
    pub cpu_request_millis: Option<u64>,
}

/// A port that the container declares. Informative for commands, the listening port for HTTP handlers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name, possibly empty.
    pub name: String,
    /// 1 to 65535.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The standard input of a container's program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// Empty: the program reads end of file.
    #[default]
    Empty,
    /// The input of all attached clients, one after the other; it never ends.
    Open,
    /// The input of the first attached client; it ends with that client's input.
    Once,
}

/// The root folder of a container, below its mounts: the files of its image, or an empty folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFolder {
    /// It has none: its program sees the mounts only.
    #[default]
    Absent,
    /// Writes are refused.
    ReadOnly,
    /// Before the first write, the runtime makes this folder and copies the image's files to it; a Linux container's holds what differs from
    /// the image. The caller counts it as the container's, and removes it after the container.
    Writable(PathBuf),
}

/// One attempt of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Its root folder.
    pub root: RootFolder,
    /// Folders of the host to mount; for a Linux container also files.
    pub mounts: Vec<Mount>,
    /// Declared ports, in order.
    pub ports: Vec<Port>,
    /// Limits of this container.
    pub limits: Limits,
    /// The file for standard output and error in CRI log format; the first byte creates it and its folder.
    pub log: PathBuf,
    /// Whether a trap leaves a core dump in the file [`core_dump_file`] of the log. Only WebAssembly has them.
    pub core_dump: bool,
    /// How it is served, if it is an HTTP handler.
    pub http: HttpPolicy,
    /// Its standard input.
    pub stdin: Stdin,
    /// Whether it has a terminal: then attached clients get standard error with standard output.
    pub tty: bool,
    /// What only a Linux container has; `None` is the default.
    pub linux: Option<Box<LinuxContainer>>,
}

/// The file for the core dump of the container whose log is `log`: beside it, since the two are kept, counted and removed together.
pub fn core_dump_file(log: &Path) -> PathBuf {
    log.with_extension("core")
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// A non-zero exit code, a trap or a failure to start.
    Error,
    /// It asked for more memory than its limit.
    OomKilled,
    /// Its code cannot start (wrong imports, no entry point).
    ContainerCannotRun,
    /// Its program cannot be started (a Linux container): it does not exist, or is no program.
    StartError,
    /// Another handler of the pod holds its port.
    AddressInUse,
}

/// The end of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255: 134 for a trap, 137 when killed or out of memory, 143 when a stop ended it, 0 when it ended by itself or a server
    /// finished its requests after a stop, 128 if it never started.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// Message for users: the trap with its symbolised backtrace, or the error of the image. At most 4 KiB.
    pub message: String,
    /// When it was started; absent if it never was.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: SystemTime,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Created, not started.
    Created,
    /// Started. An HTTP handler counts as running once its port is bound, though no instance may exist.
    Running {
        /// When.
        started_at: SystemTime,
    },
    /// Ended, with its log on disk; kept until removed.
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

/// A change of a container's state. Lossy: a slow receiver gets a lag error, and reads [`Runtime::list`] again.
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

/// A prepared artifact. The compiled code stays in memory while a reference exists.
pub trait Prepared: Send + Sync + fmt::Debug {
    /// The artifact that was prepared.
    fn artifact(&self) -> &Artifact;
    /// Its kind, for status and logs: `http`, `command`, `core`, `linux`.
    fn target(&self) -> &'static str;
    /// Advice for the user, recorded as a Warning event: for example that the default port is used because none is declared.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Resource use of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used since the start, in nanoseconds, cumulative.
    pub cpu_nanos: u64,
    /// Linear memory (Wasm) or working set (Linux) in bytes.
    pub memory_bytes: u64,
    /// Live instances (1 for a command, 0 or more for an HTTP handler).
    pub instances: u64,
    /// Requests served since the start, cumulative (HTTP handlers).
    pub requests: u64,
    /// Instances that serve a request at this moment (HTTP handlers).
    pub busy: u64,
    /// Whether it is an HTTP handler.
    pub serves_http: bool,
    /// How often the CPU limit throttled it, cumulative.
    pub throttled: u64,
}

/// A command to run in a container in addition to its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Whether it gets a terminal: then standard error is part of standard output.
    pub tty: bool,
}

/// The client's streams of an exec or an attach. `None` for streams that were not requested.
#[derive(Default)]
pub struct Streams {
    /// Standard input; its end ends the program's input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard output.
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Columns and rows of the terminal, after each change.
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
}

/// An error of a runtime call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artifact cannot run here, now or later: not Wasm, unknown imports, does not compile. A retry does not help.
    #[error("{0}")]
    Invalid(String),
    /// No such sandbox or container.
    #[error("not found: {0}")]
    NotFound(String),
    /// This runtime does not support the call.
    #[error("{0}")]
    Unsupported(String),
    /// A limit of the node is reached (memory, instances, compile time). A retry may help.
    #[error("{0}")]
    Exhausted(String),
    /// Any other error, with its causes.
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

    /// Compiles or unpacks an artifact, once for concurrent calls. Cancel-safe.
    ///
    /// `scope` says whose artifact it is (`NAMESPACE/REPOSITORY`): artifacts of one scope may share parts of their preparation, artifacts of
    /// different scopes never do. Empty: it shares nothing.
    async fn prepare(
        &self,
        artifact: &Artifact,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>>;

    /// Creates the sandbox in which a pod's containers run. Idempotent by id.
    async fn sandbox(&self, spec: SandboxSpec, sockets: Arc<dyn Sockets>) -> Result<()>;

    /// Stops and removes the containers of a sandbox, and the sandbox. Idempotent.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()>;

    /// Creates a container without starting it.
    async fn create(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<()>;

    /// Starts a container. Returns when it runs (an HTTP handler: when its port is bound) or has already ended; the outcome is
    /// in [`Runtime::list`] and [`Runtime::events`], never only in the error.
    async fn start(&self, id: &ContainerId) -> Result<()>;

    /// Announces a stop: the container continues to serve, and asks clients to close their connections after the requests in progress. A following
    /// stop waits a moment for these clients. Idempotent; does nothing for a container without connections.
    fn retire(&self, _id: &ContainerId) {}

    /// Asks a container to end and ends it after `grace`. An HTTP handler stops accepting and finishes its requests. Returns
    /// when it has ended. Idempotent.
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()>;

    /// Removes a container, and ends it if it runs. Idempotent.
    async fn remove(&self, id: &ContainerId) -> Result<()>;

    /// All containers that are not removed. Authoritative after a restart or a lag.
    async fn list(&self) -> Result<Vec<Status>>;

    /// State changes from now on.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// The resource use of a container.
    async fn stats(&self, id: &ContainerId) -> Result<Stats>;

    /// Changes the limits of a running container in place.
    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()>;

    /// Runs a command in a running container, and returns its exit code after it has ended and its output is written. Dropping the
    /// future ends the command.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container does not run; [`Error::Unsupported`] if it cannot run a second program.
    async fn exec(&self, id: &ContainerId, _exec: Exec, _streams: Streams) -> Result<i32> {
        Err(cannot(self, id, "run a command in").await)
    }

    /// Connects to the streams of a running container's program until the program ends or the client disconnects. Dropping the future disconnects,
    /// and does not end the program.
    ///
    /// # Errors
    /// As [`Runtime::exec`].
    async fn attach(&self, id: &ContainerId, _streams: Streams) -> Result<()> {
        Err(cannot(self, id, "attach to").await)
    }

    /// Why the node's ability to run this kind of container is impaired, for a condition of the Node; `None` if it is not.
    fn health(&self) -> Option<String> {
        None
    }
}

/// The error of a call on a container: it does not run, or the runtime does not support the call.
async fn cannot<R: Runtime + ?Sized>(runtime: &R, id: &ContainerId, what: &str) -> Error {
    let list = runtime.list().await.unwrap_or_default();
    match list.iter().any(|s| s.id == *id && matches!(s.state, ContainerState::Running { .. })) {
        true => Error::Unsupported(format!("{} cannot {what} a container", runtime.name())),
        false => Error::NotFound(format!("container {id} is not running")),
    }
}
