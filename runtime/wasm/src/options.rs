//! What whoever composes the node decides.

use crate::ClientOptions;
use container::{Clock, log};
use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

/// Tells how many bytes guests may have together right now, given how many are charged to them. Asked on the guests' own threads, when
/// they have taken much more than before: it may read a few files of /proc, and must not wait.
pub type Room = Arc<dyn Fn(u64) -> u64 + Send + Sync>;

/// Options of [`crate::Wasmtime`].
#[derive(Clone)]
pub struct Options {
    /// Folder of compiled code. Made if absent, mode 0700; nobody else may write to it.
    pub cache: PathBuf,
    /// Bytes of compiled code to keep there.
    pub cache_bytes: u64,
    /// Authenticates compiled code: see [`crate::key`].
    pub key: [u8; 32],
    /// How to start a compiler.
    pub compiler: Compiler,
    /// Operating system threads that run guests.
    pub threads: usize,
    /// Size of the instance pool.
    pub pool: PoolOptions,
    /// Bytes of guest memory on the whole node, at most.
    pub memory: u64,
    /// What the machine has room for now.
    pub room: Room,
    /// Bounds of HTTP handlers.
    pub http: HttpOptions,
    /// Bounds of each container's log.
    pub log: log::Options,
    /// Writes the logs.
    pub disk: log::Disk,
    /// Wall-clock time for log lines and states.
    pub clock: Clock,
}

impl Options {
    /// Sensible bounds for one node.
    pub fn new(cache: PathBuf, key: [u8; 32], compiler: Compiler, threads: usize, clock: Clock) -> Self {
        Self {
            cache,
            cache_bytes: 2 << 30,
            key,
            compiler,
            threads: threads.max(1),
            pool: PoolOptions::default(),
            memory: 16 << 30,
            room: Arc::new(|_| u64::MAX),
            http: HttpOptions::default(),
            log: log::Options::default(),
            disk: log::Disk::new(),
            clock,
        }
    }
}

/// The child process that compiles: it must call [`crate::compile::child_main`].
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program: this one again.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Bytes of address space it may use.
    pub memory: u64,
    /// CPU time it may use.
    pub cpu: Duration,
    /// Time it may take.
    pub timeout: Duration,
    /// Bytes of Wasm it may be given.
    pub input: u64,
}

impl Compiler {
    /// Bounds that fit the largest programs known (CPython, 18 MiB of Wasm, compiles in 7 s) with room.
    pub fn new(program: PathBuf, args: Vec<OsString>) -> Self {
        Self {
            program,
            args,
            memory: 4 << 30,
            cpu: Duration::from_secs(240),
            timeout: Duration::from_secs(600),
            input: 256 << 20,
        }
    }
}

/// Instances at a time on the node. Each takes 4 GiB of address space (not of memory) and about 7 of `vm.max_map_count`.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// In the pool, whose address space is set aside at the start. Where that is short, the pool is halved until it fits, and given up
    /// below 64 instances.
    pub instances: u32,
    /// Beside the pool, allocated one by one: commands, what does not have the pool's shape, and all when the pool is full.
    pub more: u32,
}

impl PoolOptions {
    /// As many as fit into `maps` memory maps (`vm.max_map_count`), of which the rest of the process keeps 8,192.
    pub fn within(maps: u64) -> Self {
        let instances = Self::default().instances;
        let left = maps.saturating_sub(8_192 + 6 * u64::from(instances)) / 7;
        Self { instances, more: u32::try_from(left).unwrap_or(u32::MAX).clamp(256, 32_768) }
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { instances: 2048, more: 4096 }
    }
}

/// Bounds of each HTTP handler.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Guests of one container that compute at a time. Further requests wait; those that wait for something else do not count.
    pub concurrency: usize,
    /// Bytes that the requests that wait for one container may take. Further ones are answered 503.
    pub queue: usize,
    /// Outgoing requests under way per container.
    pub outgoing: usize,
    /// Bounds of clients, of the whole node.
    pub clients: ClientOptions,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { concurrency: 64, queue: 64 << 20, outgoing: 256, clients: ClientOptions::default() }
    }
}
