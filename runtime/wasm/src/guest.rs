//! The host side of one instance: what it may see and use.

use crate::{
    exit,
    files::{self, Folders, budget},
    host::{self, Scales},
    memory::{Memory, Share},
    metrics::Metrics,
    outgoing::Outgoing,
    places::Held,
    quota::Quota,
    stdio::Output,
};
use container::{
    ContainerSpec, Mount,
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
use wasmtime::{
    Engine, Store,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    HostMonotonicClock, I32Exit, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    clocks::MonotonicClock,
    filesystem::{Descriptor, Dir, WasiFilesystemCtxView, WasiFilesystemView},
    p1::WasiP1Ctx,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Host resources (streams, requests, pollables, files) that an instance may hold. Open files have a bound of their own, far below it.
const RESOURCES: usize = 4_096;

/// The same of an instance that answers one request.
const REQUEST_RESOURCES: usize = 1_024;

/// Bytes that one call may copy out of the guest (`from-list`, a write to a file): the copy is the host's for the time of the call.
const CALL: usize = 32 << 20;

/// Bytes of randomness in one call.
const RANDOM: u64 = 16 << 20;

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
    pub(crate) files: Arc<budget::Pod>,
    pub(crate) space: Arc<budget::Space>,
    /// What a command is shown of its folders until it uses one; `None`: they are opened when it begins.
    pub(crate) nowhere: Option<Dir>,
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
    /// After the table: what it holds is closed first.
    files: budget::Held,
    /// Its folders, once it asked for them.
    pub(crate) folders: Option<Folders>,
    /// Folders that it was shown and has not used: the handle, and the number of the mount.
    pub(crate) unopened: Vec<(u32, usize)>,
    /// Answers one request, and is gone soon.
    request: bool,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    share: Share,
    scales: Scales,
    live: Live,
}

/// The state of a core module's instance.
pub(crate) struct CoreGuest {
    wasi: WasiP1Ctx,
    /// What goes on when its folders are opened; `None` once they are.
    unopened: Option<Standard>,
    /// After the files themselves: they are closed first.
    files: budget::Held,
    /// The guest has closed a standard stream: its number may be a file's by now.
    pub(crate) moved: bool,
    share: Share,
    live: Live,
}

impl Guest {
    /// Its folders, opened or not: a command's are when it uses one of them.
    pub(crate) fn folders(&mut self) -> wasmtime::Result<Folders> {
        if self.folders.is_none() {
            let shared = self.live.0.clone();
            match shared.nowhere.as_ref().filter(|_| !self.request) {
                Some(nowhere) => return Ok(files::unopened(&shared.spec.mounts, nowhere)),
                None => self.open_folders()?,
            }
        }
        // handed out again, they are the same open folders
        Ok(self.folders.clone().unwrap_or_default())
    }

    /// Opens its folders, if it was shown some that are not.
    pub(crate) fn open_shown(&mut self) -> wasmtime::Result<()> {
        if self.unopened.is_empty() {
            return Ok(());
        }
        self.open_folders()?;
        let folders = self.folders.clone().unwrap_or_default();
        for (handle, mount) in std::mem::take(&mut self.unopened) {
            *self.table.get_mut(&Resource::new_borrow(handle))? = Descriptor::Dir(folders[mount].0.clone());
        }
        Ok(())
    }

    fn open_folders(&mut self) -> wasmtime::Result<()> {
        let mounts = &self.live.0.spec.mounts;
        self.folders = Some(files::folders(mounts, &mut self.files, || files::count(&mut self.table))?);
        Ok(())
    }

    /// The way to its files, for functions that have no word of their own for what keeps its folders from being opened.
    pub(crate) fn files(&mut self) -> WasiFilesystemCtxView<'_> {
        if let Err(error) = self.open_shown() {
            tell(&self.live.0.log, &error);
        }
        self.filesystem()
    }

    pub(crate) fn space(&self) -> &Arc<budget::Space> {
        &self.live.0.space
    }

    /// Its share of the node's open files, and where it holds them.
    pub(crate) fn held(&mut self) -> (&mut budget::Held, &mut ResourceTable) {
        (&mut self.files, &mut self.table)
    }
}

impl CoreGuest {
    /// For functions that touch no folder.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Its folders as long as they are not open: the first is number 3.
    pub(crate) fn unopened(&self) -> Option<&[Mount]> {
        self.unopened.as_ref().map(|_| self.live.0.spec.mounts.as_slice())
    }

    /// Opens its folders, unless they are. Nothing but standard streams is open until then, and these stay as they are.
    pub(crate) fn open_folders(&mut self) -> wasmtime::Result<()> {
        let Some(standard) = &self.unopened else { return Ok(()) };
        let shared = &self.live.0;
        let mut builder = wasi(shared, standard);
        files::preopen(&mut builder, &shared.spec.mounts, &mut self.files)?;
        self.wasi = core_wasi(builder);
        self.unopened = None;
        Ok(())
    }

    /// For functions that have no word of their own for what keeps its folders from being opened.
    fn with_folders(&mut self) -> &mut WasiP1Ctx {
        if let Err(error) = self.open_folders() {
            tell(&self.live.0.log, &error);
        }
        &mut self.wasi
    }

    pub(crate) fn space(&self) -> &Arc<budget::Space> {
        &self.live.0.space
    }

    /// Its share of the node's open files, and where it holds them.
    pub(crate) fn held(&mut self) -> (&mut budget::Held, &mut ResourceTable) {
        (&mut self.files, self.wasi.ctx().table)
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

/// Says in the container's log what its program cannot be told.
fn tell(log: &Log, error: &wasmtime::Error) {
    let mut writer = log.writer(Source::Stderr);
    writer.write(format!("sampan: {}\n", exit::story(error)).as_bytes());
    writer.finish(true);
}

/// What components may import: WASI 0.2 and wasi:http.
pub(crate) fn components(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

const MODULE: &str = "wasi_snapshot_preview1";

/// Where functions lie while others take their place.
const ASIDE: &str = "sampan:aside";

/// Functions of preview 1 that touch no folder, but for those of `limits.rs`: a program that calls no others holds none open.
const WITHOUT_FOLDERS: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "poll_oneoff",
    "random_get",
    "sched_yield",
];

/// What core modules may import: WASI preview 1.
pub(crate) fn modules(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<CoreGuest>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut CoreGuest| &mut guest.wasi)?;
    for name in WITHOUT_FOLDERS {
        linker.alias(MODULE, name, ASIDE, name)?;
    }
    linker.allow_shadowing(true);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, CoreGuest::with_folders)?;
    for name in WITHOUT_FOLDERS {
        linker.alias(ASIDE, name, MODULE, name)?;
    }
    // wasmtime's makes a trap of 126 and above; a process may end with these.
    let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap(MODULE, "proc_exit", exit)?;
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
        wasi: wasi(shared, &Standard::new(shared, ending.is_some())).build(),
        request: ending.is_some(),
        _going: Going(ending),
        table,
        files: budget::Held::new(shared.files.clone()),
        folders: None,
        unopened: Vec::new(),
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
    files::check(&shared.spec.mounts)?;
    let standard = Standard::new(shared, false);
    let wasi = core_wasi(wasi(shared, &standard));
    let share = Share::new(shared.memory.clone());
    let files = budget::Held::new(shared.files.clone());
    let mut guest = CoreGuest { wasi, unopened: Some(standard), files, moved: false, share, live: Live::new(shared) };
    if shared.nowhere.is_none() {
        guest.open_folders()?;
    }
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

fn core_wasi(mut builder: WasiCtxBuilder) -> WasiP1Ctx {
    let mut wasi = builder.build_p1();
    wasi.ctx().table.set_max_capacity(RESOURCES);
    wasi
}

/// What of an instance's WASI has a state: its standard streams, and the beginning of its clock.
struct Standard {
    out: Output,
    error: Output,
    clock: Clock,
}

impl Standard {
    fn new(shared: &Shared, request: bool) -> Self {
        let output = |source| Output::new(&shared.log, source, request);
        Self { out: output(Source::Stdout), error: output(Source::Stderr), clock: Clock(Arc::default()) }
    }
}

#[derive(Clone)]
struct Clock(Arc<MonotonicClock>);

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        self.0.resolution()
    }

    fn now(&self) -> u64 {
        self.0.now()
    }
}

fn wasi(shared: &Shared, standard: &Standard) -> WasiCtxBuilder {
    let spec = &shared.spec;
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdout(standard.out.clone())
        .stderr(standard.error.clone())
        .monotonic_clock(standard.clock.clone())
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
