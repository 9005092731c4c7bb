//! The guests' own threads, their engine, and the clock that makes them give way.

use crate::{Options, config, guest, limits};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};
use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime::{Engine, EngineWeak, component};

/// How often a running guest gives way.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without a running guest after which the ticker sleeps, so that neither a busy handler wakes it per request nor an idle
/// node ticks.
const IDLE_TICKS: u32 = 50;

/// Everything that running a guest needs. Made once, not before the first use.
pub(crate) struct Pool {
    pub(crate) engine: Engine,
    pub(crate) compatibility: String,
    pub(crate) components: component::Linker<guest::Guest>,
    pub(crate) modules: wasmtime::Linker<guest::CoreGuest>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) problem: Option<String>,
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Pool {
    /// Takes some 50 ms of system calls: not for a thread that others wait for.
    pub(crate) fn new(options: &Options) -> wasmtime::Result<Self> {
        let (engine, problem) = config::engine(options.pool)?;
        // `event_interval(1)`: with tokio's default, two spinning guests delay every socket by 61 ticks.
        let runtime = Builder::new_multi_thread()
            .thread_name("guest")
            .worker_threads(options.threads)
            .max_blocking_threads(options.threads.saturating_mul(8))
            .event_interval(1)
            .enable_all()
            .build()?;
        Ok(Self {
            compatibility: config::compatibility(&engine),
            components: limits::components(guest::components(&engine)?)?,
            modules: limits::modules(guest::modules(&engine)?)?,
            ticker: Ticker::start(engine.weak())?,
            engine,
            problem,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.ticker.stop();
        if let Some(runtime) = self.runtime.take() {
            // May be dropped on an asynchronous thread, which must not block.
            runtime.shutdown_background();
        }
    }
}

/// Advances the epoch every [`TICK`] while any guest is being polled.
pub(crate) struct Ticker {
    active: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    thread: parking_lot::Mutex<Option<Thread>>,
}

/// A guest is being polled until this is dropped.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    fn start(engine: EngineWeak) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            active: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: parking_lot::Mutex::new(None),
        });
        let thread: JoinHandle<()> = thread::Builder::new().name("guest-epoch".into()).spawn({
            let ticker = ticker.clone();
            move || ticker.tick(&engine)
        })?;
        *ticker.thread.lock() = Some(thread.thread().clone());
        Ok(ticker)
    }

    fn tick(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.stopped.load(SeqCst) {
            thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
            drop(engine);
            idle = if self.active.load(SeqCst) == 0 { idle + 1 } else { 0 };
            if idle < IDLE_TICKS {
                continue;
            }
            // Either this sees a guest that came in meanwhile, or the guest sees `parked` and wakes this.
            self.parked.store(true, SeqCst);
            while self.active.load(SeqCst) == 0 && !self.stopped.load(SeqCst) && self.parked.load(SeqCst) {
                thread::park();
            }
            self.parked.store(false, SeqCst);
            idle = 0;
        }
    }

    pub(crate) fn run(&self) -> Running<'_> {
        if self.active.fetch_add(1, SeqCst) == 0 && self.parked.swap(false, SeqCst) {
            self.wake();
        }
        Running(self)
    }

    fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
    }
}
