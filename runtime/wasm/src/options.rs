//! The options of the runtime, set by the node's composition root.

use crate::{ClientOptions, MachineRoots};
use container::{Clock, log};
use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

/// Returns how many bytes all guests may use now, given the bytes that are charged to them. Called on guest threads whenever their memory has
/// grown considerably: it may read a few files of /proc, and must not block.
pub type MemoryProbe = Arc<dyn Fn(u64) -> u64 + Send + Sync>;

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
    /// Most bytes of guest memory on the node.
    pub memory: u64,
    /// Memory that is available on the machine.
    pub memory_probe: MemoryProbe,
    /// Limits of HTTP handlers.
    pub http: HttpOptions,
    /// Limits of files and disk.
    pub files: FileOptions,
    /// The authorities of TLS connections whose container names no others.
    pub roots: MachineRoots,
    /// Limits of each container's log.
    pub log: log::Options,
    /// Writes the logs.
    pub disk: log::Disk,
    /// Wall-clock time for log lines and states.
    pub clock: Clock,
}

impl Options {
    /// Default limits for one node.
    pub fn new(cache: PathBuf, key: [u8; 32], compiler: Compiler, threads: usize, clock: Clock) -> Self {
        let files = FileOptions::new(cache.clone());
        Self {
            cache,
            cache_bytes: 2 << 30,
            key,
            compiler,
            threads: threads.max(1),
            pool: PoolOptions::default(),
            memory: 16 << 30,
            memory_probe: Arc::new(|_| u64::MAX),
            http: HttpOptions::default(),
            files,
            roots: MachineRoots::default(),
            log: log::Options::default(),
            disk: log::Disk::new(),
            clock,
        }
    }
}

/// Most threads of one compiler by default.
const MAX_COMPILER_THREADS: usize = 16;

/// The compiler's child process, which must call [`crate::compile::child_main`].
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program, which is this one.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Most bytes of address space.
    pub memory: u64,
    /// Most CPU time.
    pub cpu: Duration,
    /// Most wall-clock time.
    pub timeout: Duration,
    /// Most bytes of Wasm.
    pub input: u64,
    /// Threads of one compiler. Each reserves a stack of the address space that the compiler may use.
    pub threads: usize,
}

impl Compiler {
    /// Limits that exceed the needs of the largest known programs (CPython, 18 MiB of Wasm, compiles in 7 s).
    pub fn new(program: PathBuf, args: Vec<OsString>) -> Self {
        Self {
            program,
            args,
            memory: 4 << 30,
            cpu: Duration::from_secs(240),
            timeout: Duration::from_secs(600),
            input: 256 << 20,
            threads: std::thread::available_parallelism().map_or(1, Into::into).min(MAX_COMPILER_THREADS),
        }
    }
}

/// Most concurrent instances on the node. Each takes 4 GiB of address space (not of memory) and about 7 of `vm.max_map_count`.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Instances in the pool, whose address space is reserved at the start. Where address space is short, the pool is halved until it fits; below
    /// 64 instances there is no pool. 0: no pool.
    pub pooled: u32,
    /// Instances outside the pool, allocated on demand: commands, guests that exceed the pool's per-instance limits, and all guests when the pool
    /// is full.
    pub unpooled: u32,
}

impl PoolOptions {
    /// The limits for `maps` memory maps (`vm.max_map_count`), of which 8,192 are reserved for the rest of the process.
    pub fn within(maps: u64) -> Self {
        let pooled = Self::default().pooled;
        let left = maps.saturating_sub(8_192 + 6 * u64::from(pooled)) / 7;
        Self { pooled, unpooled: u32::try_from(left).unwrap_or(u32::MAX).clamp(256, 32_768) }
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { pooled: 2048, unpooled: 4096 }
    }
}

/// Limits of each HTTP handler.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Most concurrently running instances of one container. Further requests wait. Instances that wait for I/O do not count.
    pub concurrency: usize,
    /// Most bytes of the queued requests of one container. Further requests are answered 503.
    pub queue: usize,
    /// Most concurrent outgoing requests of one container.
    pub outgoing: usize,
    /// Limits of HTTP clients on the node.
    pub clients: ClientOptions,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { concurrency: 64, queue: 64 << 20, outgoing: 256, clients: ClientOptions::default() }
    }
}

/// Limits of the files and the disk that guests use.
#[derive(Clone)]
pub struct FileOptions {
    /// Most open files of all guests: well below the limit of the process, which also needs descriptors for connections, logs and the store.
    pub max_open: usize,
    /// Returns how many more bytes all guests may write to the node's disk. Called once in some megabytes, on threads that may block.
    pub writable_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Most bytes of a disk that guests leave free (of a small disk a twentieth), for the store, logs and images until pods are evicted.
const MIN_FREE: u64 = 256 << 20;

impl FileOptions {
    /// Few open files, and the free space of the disk of `folder`.
    fn new(folder: PathBuf) -> Self {
        let writable = move || rustix::fs::statvfs(&folder).map_or(0, |disk| writable_bytes(&disk));
        Self { max_open: 512, writable_bytes: Arc::new(writable) }
    }
}

fn writable_bytes(disk: &rustix::fs::StatVfs) -> u64 {
    // file systems without an inode table report 0
    if disk.f_files > 0 && disk.f_favail < disk.f_files / 50 {
        return 0;
    }
    let usable = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_add(disk.f_bavail);
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    bytes(disk.f_bavail).saturating_sub(MIN_FREE.min(bytes(usable) / 20))
}
