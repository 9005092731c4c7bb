//! The host side of one instance: what it may see and use.

use crate::{
    exit, files,
    host::{self, Scales},
    memory::{Memory, Share},
    metrics::Metrics,
    outgoing::Outgoing,
    places::Held,
    quota::Quota,
    stdio::Output,
};
use container::{
    ContainerSpec,
    log::{Log, Source},
    net::Sockets,
};
use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use tokio::sync::Semaphore;
use wasmtime::{Engine, Store, component::Linker};
use wasmtime_wasi::{I32Exit, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Host resources (streams, requests, pollables, files) that an instance may hold. An open file is a descriptor of this process, of which
/// there may be 20,000 or fewer: no instance may come near that.
const RESOURCES: usize = 4_096;

/// The same of an instance that answers one request.
const REQUEST_RESOURCES: usize = 1_024;

/// Bytes that one call may copy out of the guest (`from-list`, a write to a file): the copy is the host's for the time of the call.
const CALL: usize = 32 << 20;

/// Bytes of randomness in one call.
const RANDOM: u64 = 16 << 20;

/// The same of a core module, which holds files and little else.
const FILES: usize = 1_024;

/// Handles in the guest's own tables.
const HANDLES: usize = 65_536;

/// What all instances of one container share.
pub(crate) struct Shared {
    pub(crate) spec: ContainerSpec,
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) log: Log,
    pub(crate) memory: Arc<Memory>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) outgoing: Arc<Semaphore>,
    pub(crate) places: Arc<Held>,
    pub(crate) instances: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
}

/// An instance is counted as live until this is dropped.
struct Live(Arc<Shared>);

impl Live {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.instances.fetch_add(1, Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Relaxed);
    }
}

/// How an instance that answers a request went: its body's reader must tell an end from a cut.
#[derive(Default)]
pub(crate) struct Ending {
    /// The guest returned.
    pub(crate) returned: AtomicBool,
    /// The instance is gone, or going.
    pub(crate) gone: AtomicBool,
}

/// Tells that the instance is going. Declared before the table in [`Guest`], so dropped before the body's sender.
struct Going(Option<Arc<Ending>>);

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(ending) = &self.0 {
            ending.gone.store(true, SeqCst);
        }
    }
}

/// The state of a component instance.
pub(crate) struct Guest {
    _going: Going,
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    share: Share,
    scales: Scales,
    live: Live,
}

/// The state of a core module's instance.
pub(crate) struct CoreGuest {
    wasi: WasiP1Ctx,
    share: Share,
    _live: Live,
}

impl Guest {
    /// What its folders are opened from, and where they go.
    pub(crate) fn files(&mut self) -> (&Shared, &mut ResourceTable) {
        (&self.live.0, &mut self.table)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.scales.pass(&mut self.table, &mut self.share);
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.scales.pass(&mut self.table, &mut self.share);
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// What components may import: WASI 0.2 and wasi:http.
pub(crate) fn components(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    files::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// What core modules may import: WASI preview 1.
pub(crate) fn modules(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<CoreGuest>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut CoreGuest| &mut guest.wasi)?;
    // wasmtime's makes a trap of 126 and above; a process may end with these.
    linker.allow_shadowing(true);
    let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", exit)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

impl Guest {
    /// The error that ended the guest, with what was behind it.
    pub(crate) fn blame(&self, error: wasmtime::Error) -> wasmtime::Error {
        blame(error, &self.share, self.scales.refused)
    }
}

impl CoreGuest {
    /// The error that ended the guest, with what was behind it.
    pub(crate) fn blame(&self, error: wasmtime::Error) -> wasmtime::Error {
        blame(error, &self.share, false)
    }
}

/// Where the account refused memory and the guest only saw what came of it, the refusal is the reason.
fn blame(error: wasmtime::Error, share: &Share, table_gone: bool) -> wasmtime::Error {
    match share.refused() {
        Some(full) if table_gone || exit::is_full_heap(&error) => error.context(full),
        _ => error,
    }
}

/// A store for the one component instance of a command.
pub(crate) fn store(engine: &Engine, shared: &Arc<Shared>) -> wasmtime::Result<Store<Guest>> {
    files::check(&shared.spec.mounts)?;
    component_store(engine, shared, Share::new(shared.memory.clone()), None)
}

/// A store for a component instance that answers one request.
pub(crate) fn request_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    share: Share,
    ending: Arc<Ending>,
) -> wasmtime::Result<Store<Guest>> {
    component_store(engine, shared, share, Some(ending))
}

fn component_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    share: Share,
    ending: Option<Arc<Ending>>,
) -> wasmtime::Result<Store<Guest>> {
    let mut table = ResourceTable::new();
    table.set_max_capacity(if ending.is_some() { REQUEST_RESOURCES } else { RESOURCES });
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(host::FIELDS);
    let guest = Guest {
        wasi: wasi(shared, ending.is_some()).build(),
        _going: Going(ending),
        table,
        http,
        outgoing: Outgoing {
            sockets: shared.sockets.clone(),
            log: shared.log.clone(),
            permits: shared.outgoing.clone(),
        },
        share,
        scales: Scales::default(),
        live: Live::new(shared),
    };
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.share);
    store.set_max_component_handles(HANDLES);
    store.set_hostcall_fuel(CALL);
    give_way(&mut store);
    Ok(store)
}

/// A store for a core module.
pub(crate) fn core_store(engine: &Engine, shared: &Arc<Shared>) -> wasmtime::Result<Store<CoreGuest>> {
    let mut builder = wasi(shared, false);
    files::preopen(&mut builder, &shared.spec.mounts)?;
    let mut wasi = builder.build_p1();
    wasi.ctx().table.set_max_capacity(FILES);
    let guest = CoreGuest { wasi, share: Share::new(shared.memory.clone()), _live: Live::new(shared) };
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.share);
    store.set_hostcall_fuel(CALL);
    give_way(&mut store);
    Ok(store)
}

fn give_way<T>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
}

fn wasi(shared: &Shared, request: bool) -> WasiCtxBuilder {
    let spec = &shared.spec;
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdout(Output::new(&shared.log, Source::Stdout, request))
        .stderr(Output::new(&shared.log, Source::Stderr, request))
        .args(&spec.args)
        .envs(&spec.env)
        .max_random_size(RANDOM);
    if spec.args.is_empty() {
        builder.arg(&spec.name);
    }
    if let Some(cwd) = &spec.cwd {
        builder.initial_cwd(cwd);
    }
    builder
}
