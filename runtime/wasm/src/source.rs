//! Finds the lines of the source where a guest trapped, for its log and its termination message.
//!
//! wasmtime can do so itself, but then it keeps debug information with the compiled code, and reads it on the guest's thread for each frame of
//! each trap and of each exit. Here it is read once for a trap, from the artifact, by a child process ([`crate::compile`], [`crate::dwarf`])
//! with limits of its own; a trap without it only costs the look for it.

use crate::{
    Compiler,
    cache::Cache,
    compile::process::{self, Job, Report, Task},
    dwarf::{Frame, SourceCall},
};
use container::Artifact;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use wasmtime::{Error, WasmBacktrace};

/// Limits of the child.
const MAX_MEMORY: u64 = 2 << 30;
const MAX_CPU_SECONDS: u64 = 5;
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a trap waits until the children of others are done. Without its turn it is reported without lines.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Least time between two children of one container: it may trap at each request, at another place each time.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Traps that are remembered, so that the next one at the same place needs no child.
const REMEMBERED: usize = 64;

/// The calls at each frame of a backtrace, the innermost first; empty where they are not known.
pub(crate) type Calls = Arc<Vec<Vec<SourceCall>>>;

/// Finds lines for all guests of a node.
pub(crate) struct SourceLines {
    compiler: Compiler,
    cache: Cache,
    /// One child at a time.
    turn: Semaphore,
    count: AtomicU64,
    known: Mutex<VecDeque<(Place, Calls)>>,
}

/// Digest of the artifact, and the frames in it.
type Place = (String, Vec<Frame>);

/// When a container last had a child.
#[derive(Default)]
pub(crate) struct LastLookup(Mutex<Option<Instant>>);

impl LastLookup {
    fn may_look(&self) -> bool {
        let mut last = self.0.lock();
        let may = last.is_none_or(|last| last.elapsed() >= MIN_INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

impl SourceLines {
    pub(crate) fn new(compiler: Compiler, cache: Cache) -> Arc<Self> {
        Arc::new(Self { compiler, cache, turn: Semaphore::new(1), count: AtomicU64::new(0), known: Mutex::default() })
    }

    /// Returns the calls of a backtrace; `None` if there is no backtrace, or nothing is found within the limits. Cancel-safe.
    pub(crate) async fn of(&self, error: &Error, artifact: &Artifact, last: &LastLookup) -> Option<Calls> {
        let Artifact::Wasm { path, digest, .. } = artifact else { return None };
        let frames = error.downcast_ref::<WasmBacktrace>()?.frames();
        let place = (digest.clone(), frames.iter().map(Frame::of).collect());
        if let Some(calls) = self.known(&place) {
            return Some(calls);
        }
        if !last.may_look() {
            return None;
        }
        let _turn = tokio::time::timeout(MAX_WAIT, self.turn.acquire()).await.ok()?.ok()?;
        // another container has trapped there meanwhile
        if let Some(calls) = self.known(&place) {
            return Some(calls);
        }
        let job = Job {
            input: std::path::absolute(path).ok()?,
            task: Task::Locate { frames: place.1.clone() },
            report: Default::default(),
            memory: MAX_MEMORY,
            cpu: MAX_CPU_SECONDS,
            threads: 1,
        };
        let found = self.child(job).await.inspect_err(|error| {
            tracing::debug!(%digest, %error, "the lines of a trap are not known");
        });
        // a child that failed would fail again
        let calls = Arc::new(found.unwrap_or_default());
        let mut known = self.known.lock();
        known.push_back((place, calls.clone()));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
        Some(calls)
    }

    fn known(&self, place: &Place) -> Option<Calls> {
        self.known.lock().iter().find(|(known, _)| known == place).map(|(_, calls)| calls.clone())
    }

    async fn child(&self, mut job: Job) -> io::Result<Vec<Vec<SourceCall>>> {
        let scratch = self.cache.scratch(&format!("lines-{}", self.count.fetch_add(1, Relaxed)))?;
        job.report = scratch.path().join("report");
        let run = tokio::time::timeout(TIMEOUT, process::run(&self.compiler, &job));
        let (status, _) = run.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let report = process::read_report(&job.report);
        match report.map_err(|error| io::Error::other(format!("{status}: {error}")))? {
            Report::Located(calls) => Ok(calls),
            Report::Unreadable(text) => Err(io::Error::other(text)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
