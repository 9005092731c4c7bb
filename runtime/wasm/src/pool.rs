//! The guests' own threads and their engines.

use crate::{
    Options,
    clients::Clients,
    config, guest, limits,
    places::{Places, Seat},
    ticker::Ticker,
    unstable,
};
use container::{Error, Result};
use std::sync::Arc;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{OnceCell, Semaphore},
};
use wasmtime::{Engine, component};

/// Built-in tools that may run at a time on the node.
pub(crate) const MAX_TOOLS: usize = 64;

/// Calls of files at a time, for each thread of guests.
pub(crate) const BLOCKING_CALLS_PER_THREAD: usize = 8;

/// How far the threads of guests, and the compiler, are below the rest of the node. The same for both: a new image gets its half of the
/// cores beside guests that never end.
pub(crate) const NICE: i32 = 5;

/// The pool of this node, made at the first use.
pub(crate) struct LazyPool {
    options: Options,
    pool: OnceCell<Arc<Pool>>,
}

impl LazyPool {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, pool: OnceCell::new() }
    }

    /// The pool; whoever comes first makes it.
    ///
    /// # Errors
    /// When an engine or its threads cannot be made. The next caller tries again.
    pub(crate) async fn get(&self) -> Result<&Arc<Pool>> {
        let make = async || {
            let options = self.options.clone();
            blocking(move || Ok(Arc::new(Pool::new(&options)?))).await
        };
        self.pool.get_or_try_init(make).await
    }

    /// The pool if it is made.
    pub(crate) fn made(&self) -> Option<&Arc<Pool>> {
        self.pool.get()
    }
}

/// Makes something on a thread that others do not wait for.
pub(crate) async fn blocking<T: Send + 'static>(
    make: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(make).await.map_err(anyhow::Error::from)?.map_err(Error::Other)
}

/// Everything that running a guest needs. There is one ([`LazyPool`]).
pub(crate) struct Pool {
    /// Instances from the pool, where there is one.
    pool: Option<EngineLinkers>,
    /// Instances allocated one by one.
    pub(crate) single: EngineLinkers,
    pub(crate) places: Arc<Places>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) clients: Arc<Clients>,
    /// Built-in tools that may run.
    pub(crate) tools: Arc<Semaphore>,
    problem: Option<String>,
    handle: Handle,
    runtime: Option<Runtime>,
}

/// An engine and what guests may import there.
pub(crate) struct EngineLinkers {
    pub(crate) engine: Engine,
    pub(crate) components: component::Linker<guest::Guest>,
    pub(crate) modules: wasmtime::Linker<guest::CoreGuest>,
}

impl EngineLinkers {
    fn new(engine: Engine) -> wasmtime::Result<Self> {
        let components = limits::components(guest::components(&engine)?)?;
        let modules = unstable::add_to_linker(limits::modules(guest::modules(&engine)?)?)?;
        Ok(Self { components, modules, engine })
    }
}

impl Pool {
    /// Takes some 50 ms of system calls: not for a thread that others wait for.
    pub(crate) fn new(options: &Options) -> wasmtime::Result<Self> {
        let engines = config::engines(options.pool)?;
        let priority = rustix::process::getpriority_process(None)?.saturating_add(NICE);
        // `event_interval(1)`: with tokio's default, two spinning guests delay every socket by 61 ticks.
        let runtime = Builder::new_multi_thread()
            .thread_name("guest")
            .worker_threads(options.threads)
            // those of files, and one more for what a thread had to do before it waits for one
            .max_blocking_threads(options.threads.saturating_mul(BLOCKING_CALLS_PER_THREAD * 2 + 2))
            .event_interval(1)
            // On Linux the priority is the thread's alone. It is set, not lowered: a thread begins with that of the thread that starts it.
            .on_thread_start(move || {
                let _ = rustix::process::setpriority_process(None, priority);
            })
            .enable_all()
            .build()?;
        let clients = Clients::new(options.http.clients);
        runtime.spawn(Clients::watch(Arc::downgrade(&clients)));
        let pooled = engines.pool.as_ref().map_or(0, |(_, instances)| *instances);
        // Without a pool all are allocated one by one.
        let single = options.pool.unpooled + if pooled == 0 { options.pool.pooled } else { 0 };
        let weak = engines.pool.iter().map(|(engine, _)| engine.weak()).chain([engines.single.weak()]).collect();
        Ok(Self {
            pool: engines.pool.map(|(engine, _)| EngineLinkers::new(engine)).transpose()?,
            single: EngineLinkers::new(engines.single)?,
            places: Places::new(pooled as usize, single as usize),
            ticker: Ticker::start(weak)?,
            clients,
            tools: Arc::new(Semaphore::new(MAX_TOOLS)),
            problem: engines.problem,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn side(&self, seat: Seat) -> Option<&EngineLinkers> {
        match seat {
            Seat::Pool => self.pool.as_ref(),
            Seat::Single => Some(&self.single),
        }
    }

    /// What is wrong with the node's ability to run Wasm, if anything. The text stays the same as long as the trouble does.
    pub(crate) fn problem(&self) -> Option<String> {
        let short = self.places.is_short().then(|| {
            let all = self.places.count().0;
            format!(
                "more than 90% of the places for {all} Wasm instances are taken: when all are, commands do not start and HTTP \
                 guests answer 503 (run fewer, or raise vm.max_map_count)"
            )
        });
        let all: Vec<_> = self.problem.iter().cloned().chain(short).collect();
        (!all.is_empty()).then(|| all.join("; "))
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
