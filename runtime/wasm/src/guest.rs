//! The host state of one instance: its WASI context, files, memory account and limits.

use crate::{
    attach::{AttachedStreams, Input},
    core_dump::{self, CoreDumps, Dumped},
    delivery::Delivery,
    exit,
    files::{self, Folder, Opener, Refused, Unopened, budget, p3_streams::Counted, root::Root, streams::in_place},
    host::{self, HostMemoryMeter},
    keyvalue,
    memory::{InstanceMemory, MemoryAccount},
    metrics::Metrics,
    outgoing::Outgoing,
    pairs::Pairs,
    preview::PREVIEW_1,
    quota::Quota,
    slots::ContainerSlots,
    sockets,
    source::{Calls, LastLookup, SourceLines},
    stdio::{self, Output},
    tls::{self, ContainerTls, InstanceTls, Trust},
    tools::tree::Tree,
    trace::TraceTable,
    view::View,
};
use container::{
    ContainerSpec,
    log::{Log, Source},
    net::Sockets,
};
use http::HeaderMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use tokio::{io::DuplexStream, sync::Semaphore};
use wasmtime::{
    Engine, Store,
    component::{GuestTaskId, Linker, Resource, ResourceTableError},
};
use wasmtime_wasi::{
    I32Exit, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    filesystem::{Descriptor, Dir, WasiFilesystemCtx},
    p1::WasiP1Ctx,
    p3,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_tls::{WasiTlsCtxView, WasiTlsView};

/// Host resources (streams, requests, sockets, pollables, files) that an instance may hold. Open files have a bound of their own, far below
/// it, and so have the connections of a pod, each of which is four: the socket, its streams and a pollable.
const MAX_RESOURCES: usize = 8_192;

/// Most host resources of an instance that answers one request.
const MAX_REQUEST_RESOURCES: usize = 1_024;

/// Most bytes that one call may copy out of the guest (`from-list`, a write to a file). The host holds the copy during the call.
const MAX_CALL_BYTES: usize = 32 << 20;

/// Most random bytes that wasmtime-wasi makes in one call, which takes it some 100 µs. A call of WASI 0.3 returns no more, as the standard allows;
/// those of others are made in pieces ([`crate::randomness`]).
pub(crate) const RANDOM_PIECE: u64 = 32 << 10;

/// Most handles in the tables of the guest.
const MAX_HANDLES: usize = 65_536;

/// State that all instances of one container share.
pub(crate) struct Shared {
    pub(crate) spec: ContainerSpec,
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) log: Log,
    pub(crate) memory: Arc<MemoryAccount>,
    /// Of all containers of its pod.
    pub(crate) pairs: Arc<Pairs>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) outgoing: Arc<Semaphore>,
    pub(crate) tls: Arc<ContainerTls>,
    pub(crate) files: Arc<budget::PodFiles>,
    pub(crate) space: Arc<budget::DiskSpace>,
    /// The folders that its programs list.
    pub(crate) folders: Vec<Folder>,
    /// The root folder, unless there is none or a volume is mounted there.
    pub(crate) root: Option<Arc<Root>>,
    /// Stands for each folder of a command until its first use; `None`: folders are opened at the start.
    pub(crate) placeholder: Option<Dir>,
    /// Whether the container's log has reported a folder that cannot be opened.
    pub(crate) mount_error_logged: AtomicBool,
    /// Attached clients.
    pub(crate) attached: Arc<AttachedStreams>,
    /// The standard input of its program, if it has one.
    pub(crate) input: Option<Input>,
    /// Limits concurrent blocking file calls of all guests.
    pub(crate) blocking: Arc<Semaphore>,
    /// Files that are opened with this context block the calling thread.
    pub(crate) in_place: WasiFilesystemCtx,
    /// Limits concurrent exec commands.
    pub(crate) commands: Arc<Semaphore>,
    pub(crate) slots: Arc<ContainerSlots>,
    pub(crate) instances: AtomicU64,
    /// Of them, those that wait for a request.
    pub(crate) idle: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) source: Arc<SourceLines>,
    pub(crate) last_lookup: LastLookup,
    pub(crate) core_dumps: Arc<CoreDumps>,
    pub(crate) dumped: Dumped,
}

impl Shared {
    fn opener(&self, in_place: bool) -> Opener<'_> {
        Opener { root: self.root.as_deref(), space: &self.space, in_place }
    }

    /// Makes the container's own copy of its root, before a call that changes something there.
    pub(crate) async fn copy_root(&self) -> Result<(), Refused> {
        let Some(root) = &self.root else { return Ok(()) };
        // those who wait for it take no place for blocking calls
        let _turn = root.turn.lock().await;
        let copied = in_place(&self.blocking, async { root.copy(&self.space).map(drop) }).await;
        copied.inspect_err(|refused| self.log_mount_error(refused))
    }

    /// Reports once in the container's log why a folder cannot be opened: the program only gets an error number.
    fn log_mount_error(&self, refused: &Refused) {
        if !self.mount_error_logged.swap(true, Relaxed) {
            self.log.lines(Source::Stderr, &format!("sampan: {refused}"));
        }
    }

    /// Keeps a core dump of a trap, if the container asks for it.
    fn keep_core_dump<T: Send + 'static>(&self, store: &mut Store<T>, error: wasmtime::Error) -> wasmtime::Error {
        if !self.spec.core_dump {
            return error;
        }
        let destination = core_dump::Destination {
            dumped: &self.dumped,
            core_dumps: &self.core_dumps,
            memory: &self.memory,
            space: &self.space,
            log: &self.spec.log,
            name: &self.spec.name,
        };
        core_dump::keep(store, error, &destination)
    }

    /// Returns the calls in the source at the frames of a trap, as far as they can be found.
    pub(crate) async fn source_calls(&self, error: &wasmtime::Error) -> Calls {
        self.source.of(error, &self.spec.artifact, &self.last_lookup).await.unwrap_or_default()
    }
}

/// Counts an instance as live until this is dropped.
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

/// The answer under way ends with the instance. Declared before the table in [`Guest`], so dropped before the body's sender.
struct Answering(Option<Arc<Delivery>>);

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(delivery) = &self.0 {
            delivery.end();
        }
    }
}

/// The state of a component instance.
pub(crate) struct Guest {
    answering: Answering,
    wasi: WasiCtx,
    table: ResourceTable,
    /// Declared after the table, so that the table's files are closed first.
    files: budget::InstanceFiles,
    /// Its open streams of files, which WASI 0.3 keeps outside of the table.
    file_streams: Arc<AtomicUsize>,
    /// Its open folders, by mount.
    folders: Vec<Option<Dir>>,
    /// Folders that it has listed and not used.
    unopened: Vec<Unopened>,
    /// Answers requests.
    request: bool,
    /// Answers several requests at the same time.
    concurrent: bool,
    /// The trace headers of the requests that it answers at the same time.
    traces: TraceTable<GuestTaskId>,
    /// Its standard streams.
    outputs: [Output; 2],
    http: WasiHttpCtx,
    outgoing: Outgoing,
    tls: InstanceTls,
    memory: InstanceMemory,
    host_memory: HostMemoryMeter,
    live: Live,
}

/// The state of a core module's instance.
pub(crate) struct CoreGuest {
    wasi: WasiP1Ctx,
    /// Folders that it has not used.
    unopened: Vec<Unopened>,
    /// Open folders of the shared files of its image, as number and entry.
    shared_folders: Vec<(i32, u32)>,
    /// Declared after the files, so that they are closed first.
    files: budget::InstanceFiles,
    /// The guest has closed a standard stream, whose descriptor may be a file now.
    pub(crate) stdio_replaced: bool,
    memory: InstanceMemory,
    live: Live,
}

impl Guest {
    pub(crate) fn view(&mut self) -> View<'_> {
        self.host_memory.measure(&mut self.table, &mut self.memory);
        let shared = &self.live.0;
        View {
            table: &mut self.table,
            sockets: &shared.sockets,
            log: &shared.log,
            env: &shared.spec.env,
            pairs: &shared.pairs,
        }
    }

    /// Lists its folders, opened or not: each of a command's is when it uses it.
    pub(crate) fn preopens(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let shared = self.live.0.clone();
        let mut shown = Vec::new();
        for (mount, one) in shared.folders.iter().enumerate() {
            let lazy = !self.request || matches!(one, Folder::Root { .. });
            // a folder that is open is listed as it is
            let dir = match (&self.folders[mount], &shared.placeholder) {
                (None, Some(placeholder)) if lazy => placeholder.clone(),
                (_, placeholder) => match (self.open(mount), placeholder) {
                    // the first use tries again, and returns the error
                    (Err(Refused::Full), Some(placeholder)) => placeholder.clone(),
                    (opened, _) => opened?,
                },
            };
            let handle = self.ctx().table.push(Descriptor::Dir(dir))?;
            if self.folders[mount].is_none() {
                self.unopened.push(Unopened { number: 0, entry: handle.rep(), mount });
            }
            shown.push((handle, one.target().to_owned()));
        }
        Ok(shown)
    }

    /// Opens a listed folder before its first use.
    pub(crate) fn ensure_open(&mut self, entry: u32) -> Result<(), Refused> {
        if let Some(at) = self.unopened.iter().position(|folder| folder.entry == entry) {
            let dir = self.open(self.unopened[at].mount).inspect_err(|refused| self.live.0.log_mount_error(refused))?;
            files::replace_placeholder(&mut self.table, entry, dir);
            self.unopened.swap_remove(at);
        }
        self.live.0.root.as_ref().map_or(Ok(()), |root| root.follow(&mut self.table, entry))
    }

    /// As [`Guest::ensure_open`], before a call that changes something in the folder.
    pub(crate) async fn ensure_writable(&mut self, entry: u32) -> Result<(), Refused> {
        self.ensure_open(entry)?;
        if let Some(shared) = self.root_to_copy(entry) {
            shared.copy_root().await?;
        }
        self.ensure_open(entry)
    }

    /// The state of its container, if the container's root must be copied before a call that changes something in this folder.
    pub(crate) fn root_to_copy(&mut self, entry: u32) -> Option<Arc<Shared>> {
        let shared = self.live.0.clone();
        let needed = shared.root.as_ref().is_some_and(|root| root.entry_needs_copy(&mut self.table, entry));
        needed.then_some(shared)
    }

    /// Counts a stream of a file that WASI 0.3 keeps outside of the table.
    pub(crate) fn counted_stream(&self) -> Counted {
        Counted::new(&self.file_streams)
    }

    /// The entry is closed, and may be reused.
    pub(crate) fn forget(&mut self, entry: u32) {
        self.unopened.retain(|folder| folder.entry != entry);
    }

    fn open(&mut self, mount: usize) -> Result<Dir, Refused> {
        if let Some(dir) = &self.folders[mount] {
            return Ok(dir.clone());
        }
        let count = files::count(&mut self.table).saturating_sub(self.unopened.len());
        let (held, count) = (&mut self.files, count + self.file_streams.load(Relaxed));
        let shared = &self.live.0;
        let dir = shared.opener(true).open(&shared.folders[mount], held, || count)?;
        self.folders[mount] = Some(dir.clone());
        Ok(dir)
    }

    /// A request begins, which a trace may belong to.
    pub(crate) fn begin(&mut self, delivery: Arc<Delivery>, trace: Option<HeaderMap>) {
        self.answering = Answering(Some(delivery));
        self.outgoing.trace = trace;
    }

    /// The request is answered, and the instance stays.
    pub(crate) fn end(&mut self) {
        self.answering = Answering(None);
        self.outgoing.trace = None;
        self.outputs.iter().for_each(Output::end_line);
    }

    /// Whether it can answer another request: what it failed to get may fail it again, and what it keeps it may run out of.
    pub(crate) fn is_reusable(&mut self) -> bool {
        self.memory.refused().is_none()
            && !self.host_memory.refused
            && self.table.iter_mut().count() <= if self.concurrent { MAX_RESOURCES } else { MAX_REQUEST_RESOURCES } / 2
    }

    /// The trace headers of requests, by the task that answers each.
    pub(crate) fn traces(&mut self) -> &mut TraceTable<GuestTaskId> {
        &mut self.traces
    }

    /// The trace headers of the next outgoing request.
    pub(crate) fn set_trace(&mut self, trace: Option<HeaderMap>) {
        self.outgoing.trace = trace;
    }

    /// Limits concurrent blocking file calls.
    pub(crate) fn blocking(&self) -> Arc<Semaphore> {
        self.live.0.blocking.clone()
    }

    pub(crate) fn space(&self) -> &Arc<budget::DiskSpace> {
        &self.live.0.space
    }

    /// Whether it may open one more file.
    pub(crate) fn may_open(&mut self) -> bool {
        let (table, unopened, streams) = (&mut self.table, self.unopened.len(), self.file_streams.load(Relaxed));
        self.files.open(1, || files::count(table).saturating_sub(unopened) + streams)
    }
}

impl CoreGuest {
    /// The context of preview 1.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Opens a listed folder before its first use.
    pub(crate) fn ensure_open(&mut self, number: i32) -> Result<(), Refused> {
        if let Some(at) = self.unopened.iter().position(|folder| folder.number == number) {
            let Unopened { entry, mount, .. } = self.unopened[at];
            let (table, unopened, shared) = (self.wasi.ctx().table, self.unopened.len(), &self.live.0);
            let count = || descriptors(table).saturating_sub(unopened);
            let dir = shared.opener(true).open(&shared.folders[mount], &mut self.files, count);
            let dir = dir.inspect_err(|refused| self.live.0.log_mount_error(refused))?;
            files::replace_placeholder(self.wasi.ctx().table, entry, dir);
            self.unopened.swap_remove(at);
            if matches!(shared.folders[mount], Folder::Root { .. }) {
                self.shared_folders.push((number, entry));
            }
        }
        let (Some(root), Some(entry)) = (&self.live.0.root, self.shared_folder(number)) else { return Ok(()) };
        root.clone().follow(self.wasi.ctx().table, entry)
    }

    fn shared_folder(&self, number: i32) -> Option<u32> {
        self.shared_folders.iter().find(|(known, _)| *known == number).map(|(_, entry)| *entry)
    }

    /// As [`CoreGuest::ensure_open`], before a call that changes something in the folders.
    pub(crate) async fn ensure_writable(&mut self, numbers: &[i32]) -> Result<(), Refused> {
        for number in numbers {
            self.ensure_open(*number)?;
            let Some(entry) = self.shared_folder(*number) else { continue };
            let shared = self.live.0.clone();
            if shared.root.as_ref().is_some_and(|root| root.entry_needs_copy(self.wasi.ctx().table, entry)) {
                shared.copy_root().await?;
            }
        }
        // the second may have brought the copy
        numbers.iter().try_for_each(|number| self.ensure_open(*number))
    }

    /// `number` was opened in the folder `parent`. If it is a folder of the shared files, it is replaced after the copy as well.
    pub(crate) fn opened_in(&mut self, parent: i32, number: i32) {
        let Some(root) = self.live.0.root.clone() else { return };
        if !root.is_writable() || root.is_copied() || self.shared_folder(parent).is_none() {
            return;
        }
        let known: Vec<u32> = self.shared_folders.iter().map(|(_, entry)| *entry).collect();
        let unopened: Vec<u32> = self.unopened.iter().map(|folder| folder.entry).collect();
        let table = self.wasi.ctx().table;
        // preview 1 keeps its entries to itself: the new one is the one that is not known
        let mut left = table.iter_mut().count();
        for entry in 0..u32::MAX {
            match table.get(&Resource::<Descriptor>::new_borrow(entry)) {
                Ok(Descriptor::Dir(dir))
                    if !known.contains(&entry) && !unopened.contains(&entry) && root.needs_copy(dir) =>
                {
                    self.shared_folders.push((number, entry));
                    return;
                }
                Err(ResourceTableError::NotPresent) => {}
                _ => left -= 1,
            }
            if left == 0 {
                return;
            }
        }
    }

    /// The first descriptor got the number of the second.
    pub(crate) fn renumbered(&mut self, from: i32, to: i32) {
        if from != to {
            self.shared_folders.retain(|(number, _)| *number != to);
            self.shared_folders.iter_mut().filter(|(number, _)| *number == from).for_each(|(number, _)| *number = to);
        }
    }

    /// Limits concurrent blocking file calls.
    pub(crate) fn blocking(&self) -> Arc<Semaphore> {
        self.live.0.blocking.clone()
    }

    /// Whether files that are opened now block the calling thread. Set only during an open: otherwise sleeps would block too.
    pub(crate) fn set_blocking_files(&mut self, blocking: bool) {
        let shared = &self.live.0;
        if shared.placeholder.is_some() {
            let context = if blocking { shared.in_place.clone() } else { WasiFilesystemCtx::default() };
            *self.wasi.ctx().ctx.filesystem() = context;
        }
    }

    /// The descriptor is closed or replaced.
    pub(crate) fn forget(&mut self, number: i32) {
        self.unopened.retain(|folder| folder.number != number);
        self.shared_folders.retain(|(known, _)| *known != number);
    }

    pub(crate) fn space(&self) -> &Arc<budget::DiskSpace> {
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
        self.host_memory.measure(&mut self.table, &mut self.memory);
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.host_memory.measure(&mut self.table, &mut self.memory);
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

impl WasiTlsView for Guest {
    fn tls(&mut self) -> WasiTlsCtxView<'_> {
        self.host_memory.measure(&mut self.table, &mut self.memory);
        let shared = &self.live.0;
        let tree = || Tree::new(&shared.spec, shared.root.clone(), shared.space.clone());
        let ctx = self.tls.context(&shared.tls, || Trust::new(tree(), &shared.spec.env));
        WasiTlsCtxView { ctx, table: &mut self.table }
    }
}

/// What components may import: WASI 0.2 and 0.3, both with wasi:http, wasi:tls, wasi:config and wasi:keyvalue.
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
    sockets::p3::add_to_linker(&mut linker, Guest::view)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker, Guest::view)?;
    tls::add_to_linker(&mut linker, |guest: &mut Guest| &mut guest.tls)?;
    Ok(linker)
}

/// The imports of core modules: WASI preview 1.
pub(crate) fn modules(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<CoreGuest>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut CoreGuest| &mut guest.wasi)?;
    linker.allow_shadowing(true);
    // wasmtime's function traps for exit codes from 126; processes may use them
    let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap(PREVIEW_1, "proc_exit", exit)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// The error that ended a component, with its cause. Keeps a core dump if the container asks for it.
pub(crate) fn failed(store: &mut Store<Guest>, error: wasmtime::Error) -> wasmtime::Error {
    let guest = store.data();
    let (error, shared) = (with_cause(error, &guest.memory, guest.host_memory.refused), guest.live.0.clone());
    shared.keep_core_dump(store, error)
}

/// As [`failed`], for a core module.
pub(crate) fn core_failed(store: &mut Store<CoreGuest>, error: wasmtime::Error) -> wasmtime::Error {
    let guest = store.data();
    let (error, shared) = (with_cause(error, &guest.memory, false), guest.live.0.clone());
    shared.keep_core_dump(store, error)
}

/// Adds the refused memory charge as the cause, where the guest's own error is only its consequence.
fn with_cause(error: wasmtime::Error, memory: &InstanceMemory, table_gone: bool) -> wasmtime::Error {
    match memory.refused() {
        Some(full) if table_gone || exit::is_full_heap(&error) => error.context(full),
        _ => error,
    }
}

/// The arguments and standard streams of one run of a program.
pub(crate) struct Io {
    /// Its arguments, the program's own name first.
    pub(crate) args: Vec<String>,
    /// The exported function to call in place of the program.
    pub(crate) function: Option<String>,
    /// Its standard input, and whether that is a terminal.
    pub(crate) stdin: Option<(DuplexStream, bool)>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Io {
    /// The arguments and streams of the container's program. `request`: of an instance that answers one request.
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
    files::check_mounts(&shared.spec.mounts)?;
    component_store(engine, shared, InstanceMemory::new(shared.memory.clone()), (false, false), io)
}

/// A store for a component instance that answers requests, one or (`concurrent`) several at a time.
pub(crate) fn request_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    memory: InstanceMemory,
    concurrent: bool,
) -> wasmtime::Result<Store<Guest>> {
    component_store(engine, shared, memory, (true, concurrent), Io::own(shared, true))
}

fn component_store(
    engine: &Engine,
    shared: &Arc<Shared>,
    memory: InstanceMemory,
    (request, concurrent): (bool, bool),
    io: Io,
) -> wasmtime::Result<Store<Guest>> {
    let mut table = ResourceTable::new();
    let one_request = request && !concurrent;
    table.set_max_capacity(if one_request { MAX_REQUEST_RESOURCES } else { MAX_RESOURCES });
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(host::FIELDS);
    let guest = Guest {
        outputs: [io.stdout.clone(), io.stderr.clone()],
        // its file calls are made in place: `crate::files::streams`
        wasi: wasi(shared, io).allow_blocking_current_thread(true).build(),
        request,
        concurrent,
        traces: TraceTable::default(),
        answering: Answering(None),
        table,
        files: budget::InstanceFiles::new(
            shared.files.clone(),
            if one_request { budget::MAX_REQUEST_FILES } else { budget::MAX_FILES },
        ),
        file_streams: Arc::default(),
        folders: vec![None; shared.folders.len()],
        unopened: Vec::new(),
        http,
        outgoing: Outgoing {
            sockets: shared.sockets.clone(),
            log: shared.log.clone(),
            permits: shared.outgoing.clone(),
            trace: None,
        },
        tls: InstanceTls::default(),
        memory,
        host_memory: HostMemoryMeter::default(),
        live: Live::new(shared),
    };
    let mut store = Store::new(engine, guest);
    store.limiter_async(|guest| &mut guest.memory);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_hostcall_fuel(MAX_CALL_BYTES);
    yield_at_epochs(&mut store);
    Ok(store)
}

/// A store for a core module.
pub(crate) fn core_store(engine: &Engine, shared: &Arc<Shared>, io: Io) -> wasmtime::Result<Store<CoreGuest>> {
    files::check_mounts(&shared.spec.mounts)?;
    let (mut builder, folders) = (wasi(shared, io), &shared.folders);
    let mut files = budget::InstanceFiles::new(shared.files.clone(), budget::MAX_FILES);
    let (mut wasi, unopened) = match &shared.placeholder {
        Some(placeholder) => files::preopen_placeholders(builder, folders, placeholder)?,
        None => {
            files::preopen(&mut builder, folders, &shared.opener(false), &mut files)?;
            (builder.build_p1(), Vec::new())
        }
    };
    wasi.ctx().table.set_max_capacity(MAX_RESOURCES);
    let memory = InstanceMemory::new(shared.memory.clone());
    let (shared_folders, stdio_replaced, live) = (Vec::new(), false, Live::new(shared));
    let guest = CoreGuest { wasi, unopened, shared_folders, files, stdio_replaced, memory, live };
    let mut store = Store::new(engine, guest);
    store.limiter_async(|guest| &mut guest.memory);
    store.set_hostcall_fuel(MAX_CALL_BYTES);
    yield_at_epochs(&mut store);
    Ok(store)
}

fn yield_at_epochs<T>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
}

fn wasi(shared: &Shared, io: Io) -> WasiCtxBuilder {
    let spec = &shared.spec;
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(io.stdout).stderr(io.stderr).args(&io.args).envs(&spec.env).max_random_size(RANDOM_PIECE);
    if let Some((from, terminal)) = io.stdin {
        builder.stdin(stdio::Input::new(from, terminal));
    }
    if let Some(cwd) = &spec.cwd {
        builder.initial_cwd(cwd);
    }
    builder
}

/// Counts the open files in the table of a core module.
fn descriptors(table: &mut ResourceTable) -> usize {
    table.iter_mut().filter(|entry| entry.is::<Descriptor>()).count()
}
