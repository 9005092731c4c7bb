//! Compilation in a child process, which contains what a hostile module does to the compiler: excessive memory or time, or a crash.
//!
//! The child is this program, started with the arguments [`Compiler::args`] and an empty environment; it must call [`child_main`], which reads
//! a job from standard input, lowers its own limits, opens the files that the job names, and gives up all others and the network before it
//! reads the input. It writes the code and a report to files in a folder that only this node's user can enter. Children also read the debug
//! information of guests (`source`), which is as hostile. A child uses all idle cores; a queue decides how many children run, and
//! which job is next.

mod child;
mod initialise;
pub(crate) mod process;

pub use child::child_main;

use crate::{
    Compiler, Options,
    cache::{CODE, Cache, FUNCTIONS, Scratch},
    config, functions,
    image::Image,
    load::Lookup,
    metrics::Metrics,
    pool::{LazyPool, Pool},
    queue::CompileQueue,
};
use container::{Artifact, Error, Progress, Result};
use process::{FunctionFiles, Job, Report, Task};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Most compilers that run at a time: each may use as much memory as [`Compiler::memory`] says.
const MAX_COMPILERS: usize = 4;

/// Returns how many threads the machine runs at a time.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The name of a scope's functions in the cache.
fn scope_name(scope: &str, compatibility: &str) -> String {
    format!("{}.{compatibility}", hex::encode(Sha256::digest(scope)))
}

/// Magic number of a Wasm binary.
const MAGIC: &[u8] = b"\0asm";

/// A Wasm artifact.
struct Wasm<'a> {
    path: &'a Path,
    /// Its SHA-256 in hexadecimal.
    hash: &'a str,
}

impl<'a> Wasm<'a> {
    fn of(artifact: &'a Artifact) -> Result<Self> {
        let Artifact::Wasm { path, digest, .. } = artifact else {
            return Err(Error::Unsupported("a Linux image does not run on wasmtime".into()));
        };
        let hash = digest
            .strip_prefix("sha256:")
            .filter(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        match hash {
            Some(hash) => Ok(Self { path, hash }),
            None => Err(Error::Invalid(format!("{digest} is not a sha256 digest"))),
        }
    }

    /// The name of its code in the cache.
    fn name(&self, compatibility: &str) -> String {
        format!("{}.{compatibility}", self.hash)
    }
}

/// Compiles an artifact into a cache that a node may use at the same time. Returns whether that was necessary. `scope` is that of
/// [`container::Runtime::prepare`].
///
/// # Errors
/// It is not a Wasm artifact, does not compile within the limits, or the cache cannot be written.
pub async fn precompile(options: &Options, artifact: &Artifact, scope: &str) -> Result<bool> {
    let cache = Cache::new(options.cache.clone(), options.key, options.cache_bytes, options.clock.clone());
    let compilers = Compilers::new(options.compiler.clone(), cache.clone(), Arc::default());
    let compatibility =
        || Ok(config::compatibility(&config::compiler(None).map_err(|error| Error::Other(error.into()))?));
    let compatibility = blocking(compatibility).await?;
    let wasm = Wasm::of(artifact)?;
    let name = wasm.name(&compatibility);
    let is_compiled = blocking(move || {
        cache.create().map_err(cache_error)?;
        Ok(cache.verified(&name, CODE).is_some())
    });
    if is_compiled.await? {
        return Ok(false);
    }
    compilers.compile_to_cache(&wasm, &compatibility, scope, &|_| ()).await?;
    Ok(true)
}

/// Produces the images of artifacts, from the cache or by a child process.
pub(crate) struct Compilers {
    options: Compiler,
    pub(crate) cache: Cache,
    queue: Arc<CompileQueue>,
    count: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Compilers {
    pub(crate) fn new(options: Compiler, cache: Cache, metrics: Arc<Metrics>) -> Self {
        Self { queue: CompileQueue::new(cores().min(MAX_COMPILERS)), options, cache, count: AtomicU64::new(0), metrics }
    }

    /// Returns the image of an artifact. Cancel-safe: dropping the future kills the child. Creates the pool during the compilation.
    ///
    /// `compatibility` identifies the code of this node's engines ([`config::compatibility`]).
    pub(crate) async fn image(
        &self,
        compatibility: &str,
        pool: &LazyPool,
        artifact: &Artifact,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image> {
        let wasm = Wasm::of(artifact)?;
        let name = wasm.name(compatibility);
        if self.cache.contains(&name)
            && let Lookup::Image(image) = self.cached(pool.get().await?, &name, artifact).await?
        {
            self.metrics.cached.inc();
            return image.map(|image| *image);
        }
        let (compiled, pool) = tokio::join!(self.compile_to_cache(&wasm, compatibility, scope, progress), pool.get());
        compiled?;
        match self.cached(pool?, &name, artifact).await? {
            Lookup::Image(image) => image.map(|image| *image),
            Lookup::Absent => Err(Error::Exhausted(format!(
                "the compiled code of {} could not be read back from the cache",
                artifact.digest()
            ))),
            // compiling the same bytes again would produce the same code
            Lookup::Incompatible(error) => Err(Error::Invalid(format!("this node cannot run it: {error:#}"))),
        }
    }

    /// The code of an artifact that was compiled before, as [`Cache::sealed`]. `compatibility` is that of [`Compilers::image`].
    pub(crate) async fn sealed(&self, compatibility: &str, artifact: &Artifact) -> Result<OwnedFd> {
        let name = Wasm::of(artifact)?.name(compatibility);
        let cache = self.cache.clone();
        let sealed = blocking(move || cache.sealed(&name).map_err(|error| Error::Exhausted(error.to_string()))).await?;
        sealed.ok_or_else(|| {
            Error::Exhausted(format!(
                "the compiled code of {} could not be read back from the cache",
                artifact.digest()
            ))
        })
    }

    /// Compiles an artifact, and adds its code to the cache.
    async fn compile_to_cache(
        &self,
        wasm: &Wasm<'_>,
        compatibility: &str,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<()> {
        let bytes = self.check(wasm.path).inspect_err(|_| {
            self.metrics.failed.inc();
        })?;
        let _permit = self.queue.acquire(bytes, || progress(Progress::Queued)).await;
        progress(Progress::Compiling { bytes });
        let scratch = {
            let (cache, number) = (self.cache.clone(), self.count.fetch_add(1, Relaxed));
            // `precompile` may run in another process at the same time
            let name = format!("{}-{}-{number}", wasm.hash, std::process::id());
            blocking(move || cache.scratch(&name).map_err(cache_error)).await?
        };
        let scope = (bytes >= functions::MIN_INPUT && !scope.is_empty()).then(|| scope_name(scope, compatibility));
        let begin = tokio::time::Instant::now();
        let compiled = self.compile(wasm, &scratch, compatibility, scope.as_deref()).await;
        self.metrics.compile_seconds.observe(begin.elapsed().as_secs_f64());
        if compiled.is_ok() { &self.metrics.compiled } else { &self.metrics.failed }.inc();
        compiled?;
        let (cache, name) = (self.cache.clone(), wasm.name(compatibility));
        let insert = move || {
            if let Some(scope) = scope
                && let Err(error) = cache.insert(&scope, FUNCTIONS, &scratch.path().join("functions"))
            {
                tracing::warn!(%error, "compiled functions cannot be stored: the next version compiles in full");
            }
            cache.insert(&name, CODE, &scratch.path().join("code")).map_err(cache_error)
        };
        blocking(insert).await
    }

    async fn cached(&self, pool: &Arc<Pool>, name: &str, artifact: &Artifact) -> Result<Lookup> {
        let (cache, pool, name, artifact) = (self.cache.clone(), pool.clone(), name.to_string(), artifact.clone());
        blocking(move || Ok(cache.load(&pool, &name, &artifact))).await
    }

    /// Refuses files that are no Wasm or too large. Returns the size.
    fn check(&self, path: &Path) -> Result<u64> {
        let unreadable = |error: io::Error| Error::Exhausted(format!("{} cannot be read: {error}", path.display()));
        let mut file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut head = [0; 4];
        if size < 8 || file.read_exact(&mut head).is_err() || head != MAGIC {
            return Err(Error::Invalid(not_wasm(&head)));
        }
        if size > self.options.input {
            let text = format!("{size} bytes of Wasm are more than the {} this node compiles", self.options.input);
            return Err(Error::Invalid(text));
        }
        Ok(size)
    }

    /// Compiles to files in `scratch`: with the functions of `scope`, if there is one.
    async fn compile(
        &self,
        wasm: &Wasm<'_>,
        scratch: &Scratch,
        compatibility: &str,
        scope: Option<&str>,
    ) -> Result<()> {
        let options = &self.options;
        let functions = match scope.map(str::to_owned) {
            Some(scope) => {
                let cache = self.cache.clone();
                let last = blocking(move || Ok(cache.verified(&scope, FUNCTIONS))).await?;
                Some(FunctionFiles { last, present: scratch.path().join("functions") })
            }
            None => None,
        };
        let job = Job {
            input: std::path::absolute(wasm.path).map_err(|error| Error::Other(error.into()))?,
            task: Task::Compile { digest: wasm.hash.to_string(), output: scratch.path().join("code"), functions },
            report: scratch.path().join("report"),
            memory: options.memory,
            cpu: options.cpu.as_secs().max(1),
            threads: options.threads,
        };
        let (status, stderr_text) = match tokio::time::timeout(options.timeout, process::run(options, &job)).await {
            Ok(done) => done.map_err(|error| {
                Error::Exhausted(format!("the compiler {} cannot be started: {error}", options.program.display()))
            })?,
            Err(_) => {
                return Err(Error::Exhausted(format!("not compiled after {} s: given up", options.timeout.as_secs())));
            }
        };
        match process::read_report(&job.report).ok() {
            Some(Report::Compiled { compatibility: of_child, functions_cached, functions_compiled })
                if of_child == compatibility =>
            {
                self.metrics.functions_cached.inc_by(functions_cached);
                self.metrics.functions_compiled.inc_by(functions_compiled);
                Ok(())
            }
            Some(Report::Compiled { .. } | Report::Located(_)) => Err(Error::Exhausted(
                "the compiler is another version than this node (was the program replaced while running?): restart it"
                    .into(),
            )),
            Some(Report::Invalid(text)) => Err(Error::Invalid(format!("it does not compile: {text}"))),
            Some(Report::NeverRuns(text)) => Err(Error::Invalid(text)),
            Some(Report::Unreadable(text)) => Err(Error::Exhausted(text)),
            None => Err(child_error(options, status, &stderr_text)),
        }
    }
}

/// The error of a child that ended without a report.
fn child_error(options: &Compiler, status: ExitStatus, stderr_text: &str) -> Error {
    let signal = status.signal().and_then(Signal::from_named_raw);
    if signal == Some(Signal::XCPU) {
        let allowed = options.cpu.as_secs();
        return Error::Exhausted(format!("compiling it takes more than the allowed {allowed} s of CPU time"));
    }
    if signal == Some(Signal::KILL) {
        return Error::Exhausted("the compiler was killed: this machine is out of memory, or somebody did it".into());
    }
    if stderr_text.contains("memory allocation of") || stderr_text.contains("annot allocate memory") {
        return Error::Exhausted(format!("compiling it takes more than the allowed {} MiB", options.memory >> 20));
    }
    let last = stderr_text.trim().lines().last().unwrap_or_default();
    if signal.is_some() {
        return Error::Invalid(format!("the compiler crashed on it ({status}): {last}"));
    }
    Error::Exhausted(format!("the compiler ended without a result ({status}): {last}"))
}

fn cache_error(error: io::Error) -> Error {
    Error::Exhausted(format!("compiled code cannot be stored: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Other(error.into())),
    }
}

fn not_wasm(head: &[u8]) -> String {
    let found = match head {
        b"\x7fELF" => "a Linux program (ELF)",
        b"PK\x03\x04" => "a zip archive",
        [0x1f, 0x8b, ..] => "gzip data",
        [b'#', b'!', ..] => "a script",
        [b'(', ..] => "text (compile .wat files first)",
        [0, 0, 0, 0] => "empty or too short",
        _ => "something else",
    };
    format!("not WebAssembly: the file does not begin with \\0asm; it is {found}")
}
