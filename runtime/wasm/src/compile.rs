//! Compiling, in a child process: what a hostile module can do to a compiler (eat memory, take for ever, crash it) stays there.
//!
//! The child is this program again, started with the arguments in [`Compiler::args`] and nothing in its environment; it must call
//! [`child_main`], which lowers its own limits before it looks at the input. A child uses all cores that nobody else wants; how many run at
//! a time, and which is next, [`Queue`] decides. Orders go in over
//! standard input, the code and a small report come back as files in a folder that only this node's user can enter.

use crate::{
    Compiler,
    cache::{Cache, Found, Scratch},
    config,
    image::Image,
    inspect,
    metrics::Metrics,
    pool::{LazyPool, NICE, Pool},
    queue::Queue,
};
use container::{Artifact, Error, Progress, Result};
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// Stack of the compiling thread: deeply nested functions recurse in the compiler.
const STACK: usize = 32 << 20;

/// Compilers at a time, and threads of each.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Bytes kept of what a dying child says.
const LAST_WORDS: u64 = 16 << 10;

/// Magic number of a Wasm binary.
const MAGIC: &[u8] = b"\0asm";

#[derive(Serialize, Deserialize)]
struct Order {
    input: PathBuf,
    /// Hexadecimal SHA-256 that the input must have.
    digest: String,
    output: PathBuf,
    report: PathBuf,
    memory: u64,
    cpu: u64,
}

#[derive(Serialize, Deserialize)]
enum Report {
    Compiled {
        compatibility: String,
    },
    Invalid(String),
    /// What it exports or imports can never run, so it was not compiled.
    NeverRuns(String),
    /// The input is not what its digest says, or could not be read.
    Unreadable(String),
}

/// Turns artifacts into images: from the cache, or by a child.
pub(crate) struct Compilers {
    options: Compiler,
    pub(crate) cache: Cache,
    queue: Arc<Queue>,
    count: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Compilers {
    pub(crate) fn new(options: Compiler, cache: Cache, metrics: Arc<Metrics>) -> Self {
        Self { queue: Queue::new(threads()), options, cache, count: AtomicU64::new(0), metrics }
    }

    /// The image of an artifact. Cancel-safe: a child whose order is no longer wanted is killed. The pool may be made meanwhile.
    ///
    /// `compatibility` is that of this node's engines ([`config::compatibility`]).
    pub(crate) async fn image(
        &self,
        compatibility: &str,
        pool: &LazyPool,
        artifact: &Artifact,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image> {
        let Artifact::Wasm { path, digest } = artifact else {
            return Err(Error::Unsupported("a Linux image does not run on wasmtime".into()));
        };
        let hash = digest
            .strip_prefix("sha256:")
            .filter(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(hash) = hash else {
            return Err(Error::Invalid(format!("{digest} is not a sha256 digest")));
        };
        let name = format!("{hash}.{compatibility}");
        if self.cache.has(&name)
            && let Found::Image(image) = self.cached(pool.get().await?, &name, artifact).await?
        {
            self.metrics.cached.inc();
            return image.map(|image| *image);
        }
        let bytes = self.check(path).inspect_err(|_| {
            self.metrics.failed.inc();
        })?;
        let _place = self.queue.place(bytes, || progress(Progress::Queued)).await;
        progress(Progress::Compiling { bytes });
        let scratch = {
            let (cache, number) = (self.cache.clone(), self.count.fetch_add(1, Relaxed));
            let name = format!("{hash}-{number}");
            blocking(move || cache.scratch(&name).map_err(cache_error)).await?
        };
        let compiled = async {
            let begin = tokio::time::Instant::now();
            let compiled = self.compile(path, hash, &scratch, compatibility).await;
            self.metrics.compile_seconds.observe(begin.elapsed().as_secs_f64());
            if compiled.is_ok() { &self.metrics.compiled } else { &self.metrics.failed }.inc();
            compiled
        };
        let (compiled, pool) = tokio::join!(compiled, pool.get());
        compiled?;
        let pool = pool?;
        let (cache, code) = (self.cache.clone(), scratch.path().join("code"));
        let taken = name.clone();
        blocking(move || cache.take(&taken, &code).map_err(cache_error)).await?;
        match self.cached(pool, &name, artifact).await? {
            Found::Image(image) => image.map(|image| *image),
            Found::Absent => {
                Err(Error::Exhausted(format!("the compiled code of {digest} could not be read back from the cache")))
            }
            // Compiling the same bytes again would make the same code.
            Found::Unfit(error) => Err(Error::Invalid(format!("this node cannot run it: {error:#}"))),
        }
    }

    async fn cached(&self, pool: &Arc<Pool>, name: &str, artifact: &Artifact) -> Result<Found> {
        let (cache, pool, name, artifact) = (self.cache.clone(), pool.clone(), name.to_string(), artifact.clone());
        blocking(move || Ok(cache.load(&pool, &name, &artifact))).await
    }

    /// Refuses at once what no compiler needs to see. Returns the size.
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

    async fn compile(&self, input: &Path, hash: &str, scratch: &Scratch, compatibility: &str) -> Result<()> {
        let options = &self.options;
        let order = Order {
            input: std::path::absolute(input).map_err(|error| Error::Other(error.into()))?,
            digest: hash.to_string(),
            output: scratch.path().join("code"),
            report: scratch.path().join("report"),
            memory: options.memory,
            cpu: options.cpu.as_secs().max(1),
        };
        let (status, words) = match tokio::time::timeout(options.timeout, run(options, &order)).await {
            Ok(done) => done.map_err(|error| {
                Error::Exhausted(format!("the compiler {} cannot be started: {error}", options.program.display()))
            })?,
            Err(_) => {
                return Err(Error::Exhausted(format!("not compiled after {} s: given up", options.timeout.as_secs())));
            }
        };
        let report = std::fs::read(&order.report).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match report {
            Some(Report::Compiled { compatibility: of_child }) if of_child == compatibility => Ok(()),
            Some(Report::Compiled { .. }) => Err(Error::Exhausted(
                "the compiler is another version than this node (was the program replaced while running?): restart it"
                    .into(),
            )),
            Some(Report::Invalid(text)) => Err(Error::Invalid(format!("it does not compile: {text}"))),
            Some(Report::NeverRuns(text)) => Err(Error::Invalid(text)),
            Some(Report::Unreadable(text)) => Err(Error::Exhausted(text)),
            None => Err(died(options, status, &words)),
        }
    }
}

async fn run(options: &Compiler, order: &Order) -> io::Result<(ExitStatus, String)> {
    let mut child = Command::new(&options.program)
        .args(&options.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut order = serde_json::to_vec(order)?;
    order.push(b'\n');
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died before it read its order is told by its status.
        let _ = stdin.write_all(&order).await;
    }
    let mut words = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        (&mut stderr).take(LAST_WORDS).read_to_end(&mut words).await?;
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    }
    let status = child.wait().await?;
    Ok((status, String::from_utf8_lossy(&words).into_owned()))
}

/// What it means that a child ended without a report.
fn died(options: &Compiler, status: ExitStatus, words: &str) -> Error {
    let signal = status.signal().and_then(Signal::from_named_raw);
    if signal == Some(Signal::XCPU) {
        let allowed = options.cpu.as_secs();
        return Error::Exhausted(format!("compiling it takes more than the allowed {allowed} s of CPU time"));
    }
    if signal == Some(Signal::KILL) {
        return Error::Exhausted("the compiler was killed: this machine is out of memory, or somebody did it".into());
    }
    if words.contains("memory allocation of") || words.contains("annot allocate memory") {
        return Error::Exhausted(format!("compiling it takes more than the allowed {} MiB", options.memory >> 20));
    }
    let last = words.trim().lines().last().unwrap_or_default();
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

/// The compiler: reads one order from standard input, limits itself, compiles. For a hidden subcommand of the node's program.
///
/// Its outcome is the report file, not the exit code.
pub fn child_main() -> ExitCode {
    let mut text = String::new();
    let read = io::stdin().take(64 << 10).read_to_string(&mut text);
    let order = read.and_then(|_| Ok(serde_json::from_str::<Order>(&text)?));
    let order = match order {
        Ok(order) => order,
        Err(error) => return fail(&format!("no order on standard input: {error}")),
    };
    if let Err(error) = limit(&order) {
        return fail(&format!("cannot limit itself: {error}"));
    }
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads()).stack_size(STACK).build_global() {
        return fail(&format!("cannot start threads: {error}"));
    }
    let worker = std::thread::Builder::new().stack_size(STACK).spawn(move || obey(&order));
    match worker.map(|worker| worker.join()) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => fail(&format!("cannot write its result: {error}")),
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => fail(&format!("cannot start a thread: {error}")),
    }
}

fn fail(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

fn limit(order: &Order) -> io::Result<()> {
    let bound = |value| Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(Resource::As, bound(order.memory))?;
    rustix::process::setrlimit(Resource::Cpu, Rlimit { current: Some(order.cpu), maximum: Some(order.cpu + 5) })?;
    rustix::process::setrlimit(Resource::Core, bound(0))?;
    rustix::process::setrlimit(Resource::Fsize, bound(2 << 30))?;
    // Nothing is started from here on, and nothing outlives the node.
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::nice(NICE)?;
    Ok(())
}

fn obey(order: &Order) -> io::Result<()> {
    let report = match compile(order) {
        Ok(compatibility) => Report::Compiled { compatibility },
        Err(report) => report,
    };
    std::fs::write(&order.report, serde_json::to_vec(&report)?)
}

fn compile(order: &Order) -> std::result::Result<String, Report> {
    let unreadable = |error: &dyn std::fmt::Display| Report::Unreadable(format!("{}: {error}", order.input.display()));
    let wasm = std::fs::read(&order.input).map_err(|error| unreadable(&error))?;
    if hex::encode(Sha256::digest(&wasm)) != order.digest.to_ascii_lowercase() {
        return Err(unreadable(&format!("is not what its digest sha256:{} says", order.digest)));
    }
    if let Some(why) = inspect::never_runs(&wasm) {
        return Err(Report::NeverRuns(why));
    }
    let invalid = |error: wasmtime::Error| Report::Invalid(format!("{error:#}"));
    let engine = config::compiler().map_err(invalid)?;
    // Byte 4 to 8: the version and layer; a component is layer 1.
    let code = match wasm.get(4..8) {
        Some([1, 0, 0, 0]) => engine.precompile_module(&wasm).map_err(invalid)?,
        Some([_, _, 1, 0]) => engine.precompile_component(&wasm).map_err(invalid)?,
        version => return Err(Report::Invalid(format!("unknown version of WebAssembly: {version:x?}"))),
    };
    std::fs::write(&order.output, code).map_err(|error| unreadable(&error))?;
    Ok(config::compatibility(&engine))
}
