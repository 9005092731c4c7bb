//! The host side of one instance: what it may see and use.

use crate::{
    attach::{Attached, Input},
    exit,
    files::{self, Refused, Unopened, budget},
    host::{self, Scales},
    keyvalue::{self, Pairs},
    memory::{Memory, Share},
    metrics::Metrics,
    outgoing::Outgoing,
    places::Held,
    preview::PREVIEW_1,
    quota::Quota,
    sockets,
    stdio::{self, Output},
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
use tokio::{io::DuplexStream, sync::Semaphore};
use wasmtime::{
    Engine, Store,
    component::{HasData, Linker, Resource},
};
use wasmtime_wasi::{
    I32Exit, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    filesystem::{Descriptor, Dir, WasiFilesystemCtx},
    p1::WasiP1Ctx,
    p3,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Host resources (streams, requests, sockets, pollables, files) that an instance may hold. Open files have a bound of their own, far below
/// it, and so have the connections of a pod, each of which is four: the socket, its streams and a pollable.
const RESOURCES: usize = 8_192;

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
    /// Of all containers of its pod.
    pub(crate) pairs: Arc<Pairs>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) outgoing: Arc<Semaphore>,
    pub(crate) files: Arc<budget::Pod>,
    pub(crate) space: Arc<budget::Space>,
    /// What a command is shown of its folders until it uses one; `None`: they are opened when it begins.
    pub(crate) nowhere: Option<Dir>,
    /// A folder could not be opened, and the container's log says so.
    pub(crate) told: AtomicBool,
    /// Who looks on.
    pub(crate) attached: Arc<Attached>,
    /// What its program reads, if anything.
    pub(crate) input: Option<Input>,
    /// Of all guests: calls of files under way on threads that block.
    pub(crate) blocking: Arc<Semaphore>,
    /// With it, a file that is opened blocks who uses it.
    pub(crate) in_place: WasiFilesystemCtx,
    /// Commands that may be run beside its program.
    pub(crate) commands: Arc<Semaphore>,
    pub(crate) places: Arc<Held>,
    pub(crate) instances: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
}

/// An instance is counted as live until this is dropped.
struct Live(Arc<Shared>);

impl Live {
    /// Says in the container's log, once, why a folder is not opened: programs learn a number at best.
    fn tell(&self, refused: &Refused) {
        if !self.0.told.swap(true, Relaxed) {
            let mut writer = self.0.log.writer(Source::Stderr);
            writer.write(format!("sampan: {refused}\n").as_bytes());
            writer.finish(true);
        }
    }

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
    /// Its folders, those that are open.
    folders: Vec<Option<Dir>>,
    /// Those that it was shown and has not used.
    unopened: Vec<Unopened>,
    /// Answers one request, and is gone soon.
    request: bool,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    share: Share,
    scales: Scales,
    live: Live,
}

/// What host functions of our own see of a component instance.
pub(crate) struct View<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) shared: &'a Arc<Shared>,
}

/// Names [`View`] for wasmtime.
pub(crate) struct Here;

impl HasData for Here {
    type Data<'a> = View<'a>;
}

/// The state of a core module's instance.
pub(crate) struct CoreGuest {
    wasi: WasiP1Ctx,
    /// Folders that it was shown and has not used.
    unopened: Vec<Unopened>,
    /// After the files themselves: they are closed first.
    files: budget::Held,
    /// The guest has closed a standard stream: its number may be a file's by now.
    pub(crate) moved: bool,
    share: Share,
    live: Live,
}

impl Guest {
    pub(crate) fn view(&mut self) -> View<'_> {
        self.scales.pass(&mut self.table, &mut self.share);
        View { table: &mut self.table, shared: &self.live.0 }
    }

    /// Lists its folders, opened or not: each of a command's is when it uses it.
    pub(crate) fn show(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let shared = self.live.0.clone();
        let mut shown = Vec::new();
        for (mount, one) in shared.spec.mounts.iter().enumerate() {
            // listed again, those that are open are the same
            let dir = match (&self.folders[mount], &shared.nowhere) {
                (None, Some(nowhere)) if !self.request => nowhere.clone(),
                (_, nowhere) => match (self.open(mount), nowhere) {
                    // there may be room when it is used, or an error then
                    (Err(Refused::Full), Some(nowhere)) => nowhere.clone(),
                    (opened, _) => opened?,
                },
            };
            let handle = self.ctx().table.push(Descriptor::Dir(dir))?;
            if self.folders[mount].is_none() {
                self.unopened.push(Unopened { number: 0, entry: handle.rep(), mount });
            }
            shown.push((handle, one.target.clone()));
        }
        Ok(shown)
    }

    /// Opens what it uses now, if that is a folder that is not.
    pub(crate) fn open_used(&mut self, entry: u32) -> Result<(), Refused> {
        let Some(at) = self.unopened.iter().position(|folder| folder.entry == entry) else { return Ok(()) };
        let dir = self.open(self.unopened[at].mount).inspect_err(|refused| self.live.tell(refused))?;
        files::put(&mut self.table, entry, dir);
        self.unopened.swap_remove(at);
        Ok(())
    }

    /// The entry is another's from now on.
    pub(crate) fn forget(&mut self, entry: u32) {
        self.unopened.retain(|folder| folder.entry != entry);
    }

    fn open(&mut self, mount: usize) -> Result<Dir, Refused> {
        if let Some(dir) = &self.folders[mount] {
            return Ok(dir.clone());
        }
        let (held, count) = (&mut self.files, files::count(&mut self.table).saturating_sub(self.unopened.len()));
        let dir = files::folder(&self.live.0.spec.mounts[mount], false, held, || count)?;
        self.folders[mount] = Some(dir.clone());
        Ok(dir)
    }

    pub(crate) fn space(&self) -> &Arc<budget::Space> {
        &self.live.0.space
    }

    /// Whether it may open one more file.
    pub(crate) fn may_open(&mut self) -> bool {
        let (table, unopened) = (&mut self.table, self.unopened.len());
        self.files.open(1, || files::count(table).saturating_sub(unopened))
    }
}

impl CoreGuest {
    /// For functions that touch no folder.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Opens what it uses now, if that is a folder that is not.
    pub(crate) fn open_used(&mut self, number: i32) -> Result<(), Refused> {
        let Some(at) = self.unopened.iter().position(|folder| folder.number == number) else { return Ok(()) };
        let Unopened { entry, mount, .. } = self.unopened[at];
        let (table, unopened) = (self.wasi.ctx().table, self.unopened.len());
        let count = || descriptors(table).saturating_sub(unopened);
        let dir = files::folder(&self.live.0.spec.mounts[mount], true, &mut self.files, count);
        let dir = dir.inspect_err(|refused| self.live.tell(refused))?;
        files::put(self.wasi.ctx().table, entry, dir);
        self.unopened.swap_remove(at);
        Ok(())
    }

    /// Calls of files that may block at a time.
    pub(crate) fn blocking(&self) -> Arc<Semaphore> {
        self.live.0.blocking.clone()
    }

    /// Files that are opened while it `opens` block who uses them. It does not hold for all it does: a sleep would block as well.
    pub(crate) fn opens(&mut self, opens: bool) {
        let shared = &self.live.0;
        if shared.nowhere.is_some() {
            let context = if opens { shared.in_place.clone() } else { WasiFilesystemCtx::default() };
            *self.wasi.ctx().ctx.filesystem() = context;
        }
    }

    /// The number is closed, or another's from now on.
    pub(crate) fn forget(&mut self, number: i32) {
        self.unopened.retain(|folder| folder.number != number);
    }

    pub(crate) fn space(&self) -> &Arc<budget::Space> {
        &self.live.0.space
    }

    /// Whether it may open one more file.
    pub(crate) fn may_open(&mut self) -> bool {
        let (table, unopened) = (self.wasi.ctx().table, self.unopened.len());
        self.files.open(1, || descriptors(table).saturating_sub(unopened))
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

/// What components may import: WASI 0.2 and 0.3, both with wasi:http, wasi:config and wasi:keyvalue.
pub(crate) fn components(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    sockets::p2::add_to_linker(&mut linker, Guest::view)?;
    linker.allow_shadowing(false);
    p3::cli::add_to_linker(&mut linker)?;
    p3::clocks::add_to_linker(&mut linker)?;
    p3::random::add_to_linker(&mut linker)?;
    // without folders: those of the pod are for 0.2, whose functions are held to its limits
    p3::filesystem::add_to_linker(&mut linker)?;
    sockets::p3::add_to_linker(&mut linker, Guest::view)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker, Guest::view)?;
    Ok(linker)
}

/// What core modules may import: WASI preview 1.
pub(crate) fn modules(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<CoreGuest>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut CoreGuest| &mut guest.wasi)?;
    linker.allow_shadowing(true);
    // wasmtime's makes a trap of 126 and above; a process may end with these.
    let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap(PREVIEW_1, "proc_exit", exit)?;
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

/// What one run of a program is given.
pub(crate) struct Io {
    /// Its arguments, the program's own name first.
    pub(crate) args: Vec<String>,
    /// The exported function to call in place of the program.
    pub(crate) function: Option<String>,
    /// Its input, and whether that is a terminal.
    pub(crate) stdin: Option<(DuplexStream, bool)>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Io {
    /// Of the container's own program. `request`: of an instance that answers one.
    pub(crate) fn own(shared: &Shared, request: bool) -> Self {
        let spec = &shared.spec;
        let output = |source| Output::new(&shared.log, &shared.attached, source, request);
        let args = if spec.args.is_empty() { vec![spec.name.clone()] } else { spec.args.clone() };
        let input = shared.input.as_ref().filter(|_| !request);
        Self {
            args,
            function: None,
            stdin: input.and_then(|input| Some((input.take()?, spec.tty))),
            stdout: output(Source::Stdout),
            stderr: output(Source::Stderr),
        }
    }
}

/// A store for the one component instance of a command.
pub(crate) fn store(engine: &Engine, shared: &Arc<Shared>, io: Io) -> wasmtime::Result<Store<Guest>> {
    files::check(&shared.spec.mounts)?;
    component_store(engine, shared, Share::new(shared.memory.clone()), None, io)
}

/// A store for a component instance that answers one request.
pub(crate) fn request_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    share: Share,
    ending: Arc<Ending>,
) -> wasmtime::Result<Store<Guest>> {
    component_store(engine, shared, share, Some(ending), Io::own(shared, true))
}

fn component_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    share: Share,
    ending: Option<Arc<Ending>>,
    io: Io,
) -> wasmtime::Result<Store<Guest>> {
    let mut table = ResourceTable::new();
    let request = ending.is_some();
    table.set_max_capacity(if request { REQUEST_RESOURCES } else { RESOURCES });
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(host::FIELDS);
    let guest = Guest {
        wasi: wasi(shared, io).build(),
        request,
        _going: Going(ending),
        table,
        files: budget::Held::new(shared.files.clone(), if request { budget::REQUEST_MOST } else { budget::MOST }),
        folders: vec![None; shared.spec.mounts.len()],
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
pub(crate) fn core_store(engine: &Engine, shared: &Arc<Shared>, io: Io) -> wasmtime::Result<Store<CoreGuest>> {
    files::check(&shared.spec.mounts)?;
    let (mut builder, mounts) = (wasi(shared, io), &shared.spec.mounts);
    let mut files = budget::Held::new(shared.files.clone(), budget::MOST);
    let (mut wasi, unopened) = match &shared.nowhere {
        Some(nowhere) => files::show(builder, mounts, nowhere)?,
        None => {
            files::preopen(&mut builder, mounts, &mut files)?;
            (builder.build_p1(), Vec::new())
        }
    };
    wasi.ctx().table.set_max_capacity(RESOURCES);
    let share = Share::new(shared.memory.clone());
    let guest = CoreGuest { wasi, unopened, files, moved: false, share, live: Live::new(shared) };
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

fn wasi(shared: &Shared, io: Io) -> WasiCtxBuilder {
    let spec = &shared.spec;
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(io.stdout).stderr(io.stderr).args(&io.args).envs(&spec.env).max_random_size(RANDOM);
    if let Some((from, terminal)) = io.stdin {
        builder.stdin(stdio::Input::new(from, terminal));
    }
    if let Some(cwd) = &spec.cwd {
        builder.initial_cwd(cwd);
    }
    builder
}

/// What of a core module's table holds a file.
fn descriptors(table: &mut ResourceTable) -> usize {
    table.iter_mut().filter(|entry| entry.is::<Descriptor>()).count()
}
