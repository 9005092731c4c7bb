//! The thread pool and the wasmtime engines of the guests.

use crate::{
    Options, async_handler,
    clients::Clients,
    config, guest, limits,
    long_polls::LongPolls,
    priority,
    slots::{InstanceSlots, SlotKind},
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

/// Most built-in tools that run at the same time on the node.
pub(crate) const MAX_TOOLS: usize = 64;

/// Most concurrent file operations per guest thread.
pub(crate) const BLOCKING_CALLS_PER_THREAD: usize = 8;

/// The [`Pool`] of this node, created at the first use.
pub(crate) struct LazyPool {
    options: Options,
    pool: OnceCell<Arc<Pool>>,
}

impl LazyPool {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, pool: OnceCell::new() }
    }

    /// Returns the pool. The first caller creates it.
    ///
    /// # Errors
    /// An engine or its threads cannot be created. The next call tries again.
    pub(crate) async fn get(&self) -> Result<&Arc<Pool>> {
        let make = async || {
            let options = self.options.clone();
            blocking(move || Ok(Arc::new(Pool::new(&options)?))).await
        };
        self.pool.get_or_try_init(make).await
    }

    /// Returns the pool if it exists.
    pub(crate) fn made(&self) -> Option<&Arc<Pool>> {
        self.pool.get()
    }
}

/// Runs a blocking function on a thread of the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    make: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(make).await.map_err(anyhow::Error::from)?.map_err(Error::Other)
}

/// Everything that running a guest needs. There is one per node, in a [`LazyPool`].
pub(crate) struct Pool {
    /// For as many instances in pool slots as it has permits. `None` without memory that stays resident.
    resident: Option<ResidentPool>,
    /// For instances in pool slots. `None` without pooling allocation.
    pool: Option<EngineLinkers>,
    /// For instances that are allocated on demand.
    pub(crate) single: EngineLinkers,
    pub(crate) slots: Arc<InstanceSlots>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) clients: Arc<Clients>,
    /// One permit per running built-in tool, at most [`MAX_TOOLS`].
    pub(crate) tools: Arc<Semaphore>,
    problem: Option<String>,
    handle: Handle,
    runtime: Option<Runtime>,
}

/// The pool whose memory stays resident. It is small, so that all handlers of a node share it, request by request.
pub(crate) struct ResidentPool {
    pub(crate) side: EngineLinkers,
    /// One permit per instance.
    pub(crate) permits: Arc<Semaphore>,
}

impl ResidentPool {
    /// Bytes that stay resident for the next instances.
    pub(crate) fn bytes(&self) -> u64 {
        let metrics = self.side.engine.pooling_allocator_metrics();
        metrics.map_or(0, |it| (it.unused_memory_bytes_resident() + it.unused_table_bytes_resident()) as u64)
    }
}

/// An engine and the host functions that guests may import.
pub(crate) struct EngineLinkers {
    pub(crate) engine: Engine,
    pub(crate) components: component::Linker<guest::Guest>,
    pub(crate) modules: wasmtime::Linker<guest::CoreGuest>,
}

impl EngineLinkers {
    fn new(engine: Engine) -> wasmtime::Result<Self> {
        let components = async_handler::components(limits::components(guest::components(&engine)?)?)?;
        let modules = unstable::add_to_linker(limits::modules(guest::modules(&engine)?)?)?;
        Ok(Self { components, modules, engine })
    }
}

impl Pool {
    /// Blocks for about 50 ms in system calls, so it must not run on an asynchronous thread.
    pub(crate) fn new(options: &Options) -> wasmtime::Result<Self> {
        let engines = config::engines(options.pool)?;
        let nice = rustix::process::getpriority_process(None)?.saturating_add(config::NICE);
        // `event_interval(1)`: with tokio's default of 61, two guests that compute delay each socket event by 61 ticks.
        let runtime = Builder::new_multi_thread()
            .thread_name("guest")
            .worker_threads(options.threads)
            // the file calls, one more per thread for work before it waits for a file call, and those who take over during long polls
            .max_blocking_threads(
                options.threads.saturating_mul(BLOCKING_CALLS_PER_THREAD * 2 + 2)
                    + LongPolls::blocking_threads(options.threads),
            )
            .event_interval(1)
            // On Linux, the priority applies to the calling thread only. It is absolute, because a thread inherits its parent's.
            .on_thread_start(move || {
                let _ = rustix::process::setpriority_process(None, nice);
                priority::serve();
            })
            .enable_all()
            .build()?;
        let clients = Clients::new(options.http.clients);
        runtime.spawn(Clients::watch(Arc::downgrade(&clients)));
        let pooled = engines.pool.as_ref().map_or(0, |(_, instances)| *instances);
        // Without a pool, all instances are allocated on demand.
        let single = options.pool.unpooled + if pooled == 0 { options.pool.pooled } else { 0 };
        let pools = engines.resident.iter().chain(&engines.pool).map(|(engine, _)| engine.weak());
        let weak = pools.chain([engines.single.weak()]).collect();
        let resident = |(engine, instances)| -> wasmtime::Result<_> {
            Ok(ResidentPool {
                side: EngineLinkers::new(engine)?,
                permits: Arc::new(Semaphore::new(instances as usize)),
            })
        };
        Ok(Self {
            resident: engines.resident.map(resident).transpose()?,
            pool: engines.pool.map(|(engine, _)| EngineLinkers::new(engine)).transpose()?,
            single: EngineLinkers::new(engines.single)?,
            slots: InstanceSlots::new(pooled as usize, single as usize),
            ticker: Ticker::start(weak, options.threads)?,
            clients,
            tools: Arc::new(Semaphore::new(MAX_TOOLS)),
            problem: engines.problem,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// The engine for a kind of slot. `None` if this node has no such slots.
    pub(crate) fn side(&self, kind: SlotKind) -> Option<&EngineLinkers> {
        match kind {
            SlotKind::Pool => self.pool.as_ref(),
            SlotKind::Single => Some(&self.single),
        }
    }

    /// The pool whose memory stays resident, if this node has one.
    pub(crate) fn resident(&self) -> Option<&ResidentPool> {
        self.resident.as_ref()
    }

    /// Describes a problem that limits how the node runs Wasm, if there is one. The text does not change while the problem persists.
    pub(crate) fn problem(&self) -> Option<String> {
        let short = self.slots.is_short().then(|| {
            let all = self.slots.count().0;
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
            // The pool may be dropped on an asynchronous thread, which must not block.
            runtime.shutdown_background();
        }
    }
}
