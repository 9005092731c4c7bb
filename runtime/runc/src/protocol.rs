//! What node and shim say to each other. Each connection is one call: a [`Request`], then [`Reply`]s up to [`Reply::Done`]. Who closes the
//! connection early does not want the outcome: a command of an exec is killed, an attached client is disconnected.

use container::{ContainerId, ContainerSpec, ContainerState, Exec, SandboxSpec, log};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// The file of a pod's folder with [`Orders`].
pub(crate) const ORDERS: &str = "pod.json";
/// The socket in a pod's folder.
pub(crate) const SOCKET: &str = "shim.sock";
/// The folder of a pod's folder with one folder for each container.
pub(crate) const CONTAINERS: &str = "containers";
/// The file of a container's folder with [`Known`].
pub(crate) const STATE: &str = "state.json";
/// The folder of a pod's folder in which the OCI runtime keeps its own state.
pub(crate) const RUNTIME_STATE: &str = "runtime";

/// What a shim is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) sandbox: SandboxSpec,
    /// The pod's folder, absolute; the shim is started in it.
    pub(crate) folder: PathBuf,
    pub(crate) tool: Tool,
    pub(crate) log: log::Options,
    /// The path of the pod's cgroup; `None` without cgroups.
    pub(crate) cgroup: Option<String>,
    /// Where cgroups are.
    pub(crate) cgroups: PathBuf,
    /// This program again, for the first process of a shared process namespace.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

/// The OCI runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) path: PathBuf,
    /// How long one call of it may take.
    pub(crate) within: Duration,
}

/// A container, as it is told and kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) id: ContainerId,
    pub(crate) name: String,
    pub(crate) state: ContainerState,
}

/// The streams of a client that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Present {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// A call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Replies with a [`Reply::State`] for each container, [`Reply::Ready`], and then each change.
    Watch,
    Create(Box<ContainerSpec>),
    Start(ContainerId),
    Stop(ContainerId, Duration),
    Remove(ContainerId),
    /// With the ends of its streams, in the order of [`Present`]; with none for a terminal. Replies with [`Reply::Started`] first.
    Exec(ContainerId, Exec, Present),
    /// With the ends of the client's streams. Replies with [`Reply::Started`] first.
    Attach(ContainerId, Present),
    /// Ends and removes all containers; the shim ends after the reply.
    End,
}

/// An answer. `seq` is the number of the last change that the shim has told its watchers when it answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// With the terminal, if there is one.
    Started,
    /// The exit code of an exec, 0 of other calls.
    Done {
        result: Result<i32, CallError>,
        seq: u64,
    },
    State {
        seq: u64,
        container: Known,
    },
    Ready {
        seq: u64,
    },
}

/// An error of the runtime, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CallError {
    Invalid(String),
    NotFound(String),
    Exhausted(String),
    Other(String),
}

impl CallError {
    pub(crate) fn other(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Other(format!("{what}: {error}"))
    }
}

impl From<CallError> for container::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Invalid(text) => Self::Invalid(text),
            CallError::NotFound(text) => Self::NotFound(text),
            CallError::Exhausted(text) => Self::Exhausted(text),
            CallError::Other(text) => Self::Other(anyhow::anyhow!(text)),
        }
    }
}
