//! What whoever composes the node decides.

use crate::ClientOptions;
use container::{Clock, log};
use std::{ffi::OsString, path::PathBuf, time::Duration};

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
    /// Bytes of guest memory on the whole node.
    pub memory: u64,
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

/// Address space set aside for instances. Where it is short, the pool is halved until it fits, and given up below 64 instances.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Instances at a time. Each takes 4 GiB of address space (not of memory) and about 6 of `vm.max_map_count`.
    pub instances: u32,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { instances: 4096 }
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
