//! The options of the runtime, set by the node's composition root.

use container::{Clock, log};
use std::{ffi::OsString, path::PathBuf, sync::Arc};

/// Options of [`crate::Isolated`].
#[derive(Clone)]
pub struct Options {
    /// The program of the children, which is this one; it must call [`crate::child_main`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Most bytes of guest memory of a pod without a limit of its own.
    pub memory: u64,
    /// Most threads that run the guests of a pod.
    pub threads: usize,
    /// Most open files of the guests of a pod.
    pub files: usize,
    /// Most connections of HTTP clients to a pod.
    pub connections: usize,
    /// Most streams of all pods that go through this process: each takes a descriptor of it. A pod takes a quarter.
    pub streams: usize,
    /// Limits of each container's log.
    pub log: log::Options,
    /// Wall-clock time for states.
    pub clock: Clock,
    /// Random bytes, for trace ids.
    pub random: Arc<dyn Fn() -> [u8; 32] + Send + Sync>,
}
