//! [`Wasmtime`]: sandboxes, containers and their life cycle.

use crate::{
    Options,
    attach::{self, Input},
    cache::Cache,
    command,
    compile::Compilers,
    core_dump::{CoreDumps, Dumped},
    exec,
    exit::{self, End},
    files::{self, budget, root::Root},
    guest::{Io, Shared},
    http::Handler,
    image::{Image, Kind},
    memory::MemoryAccount,
    metrics::{GaugeCollector, GaugeValues, Metrics},
    pairs::Pairs,
    pool::{BLOCKING_CALLS_PER_THREAD, LazyPool, Pool, ResidentPool},
    prepared::PreparedImages,
    quota::{Quota, Throttled},
    served::NetworkHandler,
    source::{LastLookup, SourceLines},
    tls::ContainerTls,
    trace::Tracer,
};
use async_trait::async_trait;
use container::{
    Artifact, ContainerId, ContainerSpec, ContainerState, DEFAULT_HTTP_PORT, Error, Event, Exec, Exit, ExitReason,
    Limits, Prepared, Progress, Protocol, Result, Runtime, SandboxId, SandboxSpec, Stats, Status, Streams,
    log::{Log, Source},
    net::{self, Sockets},
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Semaphore, broadcast, watch},
    task::JoinError,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime_wasi::filesystem::{Dir, WasiFilesystemCtx};

/// Most queued events. A slower receiver gets a lag error and lists again. The queue is allocated at the start, 128 bytes per event.
const EVENT_QUEUE: usize = 1024;

/// How long a stopping container waits for clients to close their connections, before it closes idle ones.
const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an exiting container waits until attached clients have its last output, and until an aborted program yields.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an exiting container waits until its log is on disk.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs WebAssembly on wasmtime. Cheap to clone. Engine and pool are created with the first artifact, while it is compiled, or by
/// [`Wasmtime::warm`]: a node without Wasm pods does not pay for them.
#[derive(Clone)]
pub struct Wasmtime(Arc<Inner>);

struct Inner {
    options: Options,
    pool: LazyPool,
    images: PreparedImages,
    sandboxes: Mutex<HashMap<SandboxId, Sandbox>>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    memory: Arc<MemoryAccount>,
    files: Arc<budget::NodeFiles>,
    space: Arc<budget::DiskSpace>,
    placeholder: Option<Dir>,
    blocking: Arc<Semaphore>,
    in_place: WasiFilesystemCtx,
    events: broadcast::Sender<Event>,
    metrics: Arc<Metrics>,
    source: Arc<SourceLines>,
    core_dumps: Arc<CoreDumps>,
}

#[derive(Clone)]
struct Sandbox {
    sockets: Arc<dyn Sockets>,
    memory: Arc<MemoryAccount>,
    pairs: Arc<Pairs>,
    quota: Arc<Quota>,
    files: Arc<budget::PodFiles>,
}

struct Container {
    sandbox: SandboxId,
    shared: Arc<Shared>,
    /// The image, set by `create` if it is prepared then. The reference keeps it prepared.
    image: Mutex<Option<Arc<Image>>>,
    state: watch::Sender<ContainerState>,
    /// Clients shall close their connections.
    retire: CancellationToken,
    /// The container shall end within its grace period.
    stop: CancellationToken,
    /// The container shall end at once.
    kill: CancellationToken,
    /// The grace period of the stop.
    grace: Mutex<Duration>,
    /// `start` was called.
    started: AtomicBool,
}

impl Wasmtime {
    /// A runtime without containers.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache.clone(), options.key, options.cache_bytes, options.clock.clone());
        let metrics = Arc::new(Metrics::default());
        Self(Arc::new(Inner {
            core_dumps: Arc::default(),
            source: SourceLines::new(options.compiler.clone(), cache.clone()),
            images: PreparedImages::new(Compilers::new(options.compiler.clone(), cache, metrics.clone())),
            metrics,
            memory: MemoryAccount::node(options.memory, options.memory_probe.clone()),
            files: budget::NodeFiles::new(options.files.max_open),
            space: budget::DiskSpace::new(options.files.writable_bytes.clone()),
            placeholder: files::placeholder(&options.cache)
                .inspect_err(|error| tracing::warn!(%error, "commands hold their folders open from their beginning"))
                .ok(),
            blocking: Arc::new(Semaphore::new(options.threads.saturating_mul(BLOCKING_CALLS_PER_THREAD))),
            in_place: files::in_place(),
            pool: LazyPool::new(options.clone()),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
            options,
        }))
    }

    /// Creates the engine and its pool now, if they do not exist.
    ///
    /// # Errors
    /// When the cache's folder or the engine cannot be created; the first use tries again.
    pub async fn warm(&self) -> Result<()> {
        tokio::try_join!(self.0.images.compatibility(), self.0.pool.get()).map(drop)
    }

    /// The code of an artifact that [`Runtime::prepare`] prepared: a file in memory that nobody can change, for [`Wasmtime::open`] of a
    /// runtime in another process of this program.
    ///
    /// # Errors
    /// It was not prepared, or the cache does not have it any more.
    pub async fn code(&self, artifact: &Artifact) -> Result<OwnedFd> {
        self.0.images.sealed(artifact).await
    }

    /// Prepares an artifact from its code, without a cache and a compiler: for a runtime without an instance pool. The artifact stays prepared
    /// while the result or a container of it exists.
    ///
    /// `code` is executed as it is: it must come from [`Wasmtime::code`] of the node that this process belongs to.
    ///
    /// # Errors
    /// It is no code, or none that this process can run.
    pub async fn open(&self, artifact: &Artifact, code: File) -> Result<Arc<dyn Prepared>> {
        Ok(self.0.images.open(self.0.pool.get().await?, artifact, code).await?)
    }

    /// Why the node's ability to run Wasm is impaired, for a node condition; `None` if it is not.
    pub fn health(&self) -> Option<String> {
        let pool = self.0.pool.made().and_then(|pool| pool.problem());
        let all: Vec<_> = pool.into_iter().chain(self.0.files.problem()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Registers the metrics. Must be called at most once.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
        let this = Arc::downgrade(&self.0);
        registry.register_collector(Box::new(GaugeCollector(move || {
            let this = this.upgrade()?;
            let (mut instances, mut instances_idle) = (0, 0);
            for container in this.containers.lock().values() {
                instances += container.shared.instances.load(Relaxed);
                instances_idle += container.shared.idle.load(Relaxed);
            }
            let (slots, taken) = this.pool.made().map_or((0, 0), |pool| pool.slots.count());
            let (slots, slots_taken) = (slots as u64, taken as u64);
            let resident = this.pool.made().and_then(|pool| pool.resident()).map_or(0, ResidentPool::bytes);
            Some(GaugeValues { instances, instances_idle, slots, slots_taken, memory: this.memory.used(), resident })
        })));
    }

    /// Returns a running container and its image.
    fn running(&self, id: &ContainerId) -> Result<(Arc<Container>, Arc<Image>)> {
        let not_running = || Error::NotFound(format!("container {id} is not running"));
        let container = self.container(id).map_err(|_| not_running())?;
        let running = matches!(*container.state.borrow(), ContainerState::Running { .. });
        let image = container.image.lock().clone().filter(|_| running).ok_or_else(not_running)?;
        Ok((container, image))
    }

    fn container(&self, id: &ContainerId) -> Result<Arc<Container>> {
        self.0.containers.lock().get(id).cloned().ok_or_else(|| Error::NotFound(format!("container {id}")))
    }
}

impl Container {
    /// One that was not started.
    fn new(sandbox: SandboxId, shared: Arc<Shared>, image: Option<Arc<Image>>) -> Self {
        Self {
            sandbox,
            shared,
            image: Mutex::new(image),
            state: watch::Sender::new(ContainerState::Created),
            retire: CancellationToken::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            grace: Mutex::new(Duration::ZERO),
            started: AtomicBool::new(false),
        }
    }

    async fn exited(&self) {
        // the sender is `self.state`, so that it is not dropped here
        let _ = self.state.subscribe().wait_for(|state| matches!(state, ContainerState::Exited(_))).await;
    }
}

impl Inner {
    fn set_state(&self, container: &Container, state: ContainerState) {
        container.state.send_replace(state.clone());
        // sending without receivers is no error: `list` is authoritative
        let _ =
            self.events.send(Event { id: container.shared.spec.id.clone(), sandbox: container.sandbox.clone(), state });
    }

    async fn exit(&self, container: &Container, end: End) {
        let log = &container.shared.log;
        // a hanging disk must not block the exit
        let _ = tokio::time::timeout(LOG_FLUSH_TIMEOUT, log.flush()).await;
        *container.image.lock() = None;
        container.shared.attached.close();
        if let Some(root) = &container.shared.root {
            root.close();
        }
        let started_at = match &*container.state.borrow() {
            ContainerState::Running { started_at } => Some(*started_at),
            _ => None,
        };
        let End { code, reason, message } = end;
        let message = exit::termination_message(message);
        let exit = Exit { code, reason, message, started_at, finished_at: self.now() };
        self.set_state(container, ContainerState::Exited(exit));
    }

    fn now(&self) -> SystemTime {
        self.options.clock.now()
    }

    async fn start_http(self: &Arc<Self>, container: &Arc<Container>, image: &Arc<Image>, pool: &Arc<Pool>) {
        let shared = &container.shared;
        let limit = shared.spec.limits.memory_bytes.unwrap_or(u64::MAX);
        if limit < image.initial_memory {
            let needs = image.initial_memory;
            let message = format!(
                "it begins with {needs} bytes of memory, and its limit is {limit}: no request could be answered"
            );
            return self.exit(container, End::cannot_run(message)).await;
        }
        // each request opens the mounts again; an error that exists from the start ends the container instead of each request
        if let Err(error) = files::check_mounts(&shared.spec.mounts) {
            return self.exit(container, End::cannot_run(exit::describe(&error))).await;
        }
        let declared = shared.spec.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.number);
        let port = declared.unwrap_or_else(|| {
            let text = format!("sampan: no containerPort is declared: serving HTTP on port {DEFAULT_HTTP_PORT}");
            shared.log.lines(Source::Stderr, &text);
            DEFAULT_HTTP_PORT
        });
        let (memory_ended, memory_end) = watch::channel(None);
        let out_of_memory = move |message: String| {
            memory_ended.send_if_modified(|end| {
                let first = end.is_none();
                if first {
                    *end = Some(message);
                }
                first
            });
        };
        let traced = shared.spec.http.trace_context;
        let handler = Handler::new(
            pool.clone(),
            shared.clone(),
            image.clone(),
            self.options.http,
            traced.then(|| Tracer::new(&self.options.key, &shared.spec.id, self.now())),
            container.retire.clone(),
            out_of_memory,
        );
        let serving = match shared.sockets.serve_http(port, Arc::new(NetworkHandler(handler.clone()))).await {
            Ok(serving) => serving,
            Err(net::Error::AddressInUse(address)) => {
                let message = format!("port {} is taken by another container of this pod", address.port());
                let end = End { code: 128, reason: ExitReason::AddressInUse, message };
                return self.exit(container, end).await;
            }
            Err(error) => {
                return self.exit(container, End::cannot_run(format!("cannot serve port {port}: {error}"))).await;
            }
        };
        self.set_state(container, ContainerState::Running { started_at: self.now() });
        let (this, container) = (self.clone(), container.clone());
        pool.handle().spawn(async move {
            let end = supervise(&container, &handler, memory_end, serving).await;
            // It holds the image, which goes with its last container.
            drop(handler);
            this.exit(&container, end).await;
        });
    }

    fn start_command(self: &Arc<Self>, container: &Arc<Container>, image: &Arc<Image>, pool: &Arc<Pool>) {
        self.set_state(container, ContainerState::Running { started_at: self.now() });
        let (this, container, image, pool) = (self.clone(), container.clone(), image.clone(), pool.clone());
        let threads = pool.handle().clone();
        threads.spawn(async move {
            let shared = container.shared.clone();
            let (quota, ticker, threads) = (shared.quota.clone(), pool.ticker.clone(), pool.handle().clone());
            let program = shared.clone();
            let run = async move { command::run(&pool, &program, &image, Io::own(&program, false)).await };
            let run = Throttled::new(run, quota, ticker);
            // in a separate task, because a file call may block its thread forever
            let mut run = AbortOnDropHandle::new(threads.spawn(run));
            let end = tokio::select! {
                biased;
                () = container.kill.cancelled() => End::killed(),
                () = container.stop.cancelled() => End::stopped(),
                result = &mut run => return this.exit(&container, command_end(&shared, result).await).await,
            };
            // a guest yields at each epoch tick, and is dropped then
            run.abort();
            let _ = tokio::time::timeout(EXIT_TIMEOUT, run).await;
            this.exit(&container, end).await;
        });
    }
}

/// How a command ended. A failure is also written to the container's log.
async fn command_end(shared: &Shared, result: std::result::Result<wasmtime::Result<End>, JoinError>) -> End {
    let result = result.unwrap_or_else(|error| Err(wasmtime::format_err!("{error}")));
    let failed = result.is_err();
    let end = command::end(result, shared).await;
    if failed && !end.message.is_empty() {
        let text = format!("sampan: {} failed: {}", shared.spec.name, end.message);
        shared.log.lines(Source::Stderr, &text);
    }
    end
}

/// Waits until an HTTP handler shall end, and ends it.
async fn supervise(
    container: &Container,
    handler: &Handler,
    mut memory: watch::Receiver<Option<String>>,
    serving: Box<dyn net::Serving>,
) -> End {
    let end_now = async |end: End| {
        handler.cut().await;
        end
    };
    tokio::select! {
        biased;
        () = container.kill.cancelled() => {
            drop(serving);
            return end_now(End::killed()).await;
        }
        message = async { memory.wait_for(Option::is_some).await.ok().and_then(|message| message.clone()) } => {
            // `handler` holds the sender, so that there is a message
            let message = message.unwrap_or_default();
            drop(serving);
            return end_now(End::out_of_memory(message)).await;
        }
        () = container.stop.cancelled() => drop(serving),
    }
    let grace = *container.grace.lock();
    tokio::select! {
        biased;
        () = container.kill.cancelled() => end_now(End::killed()).await,
        drained = async {
            let begin = Instant::now();
            handler.wait_for_disconnects(CLIENT_CLOSE_TIMEOUT.min(grace / 2)).await;
            handler.drain(grace.saturating_sub(begin.elapsed())).await
        } => if drained { End::exited(0) } else { End::killed() },
    }
}

/// Removes duplicate variables, of which the last one wins as in Kubernetes: WASI passes duplicates on.
fn last_wins(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = env.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    kept.reverse();
    kept
}

#[async_trait]
impl Runtime for Wasmtime {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    async fn prepare(
        &self,
        artifact: &Artifact,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        Ok(self.0.images.prepare(&self.0.pool, artifact, scope, progress).await?)
    }

    async fn sandbox(&self, spec: SandboxSpec, sockets: Arc<dyn Sockets>) -> Result<()> {
        let mut sandboxes = self.0.sandboxes.lock();
        sandboxes.entry(spec.id).or_insert_with(|| {
            let memory = MemoryAccount::new("the pod", spec.limits.memory_bytes, Some(self.0.memory.clone()));
            Sandbox {
                sockets,
                pairs: Pairs::new(memory.clone()),
                memory,
                quota: Quota::new(spec.limits.cpu_millis, None),
                files: budget::PodFiles::new(self.0.files.clone()),
            }
        });
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let mine = |container: &&Arc<Container>| container.sandbox == *id;
        let ids: Vec<ContainerId> =
            self.0.containers.lock().values().filter(mine).map(|it| it.shared.spec.id.clone()).collect();
        for id in ids {
            self.remove(&id).await?;
        }
        self.0.sandboxes.lock().remove(id);
        Ok(())
    }

    async fn create(&self, sandbox: &SandboxId, mut spec: ContainerSpec) -> Result<()> {
        spec.env = last_wins(spec.env);
        let room = self.0.sandboxes.lock().get(sandbox).cloned();
        let Sandbox { sockets, memory, pairs, quota, files } =
            room.ok_or_else(|| Error::NotFound(format!("sandbox {sandbox}")))?;
        let Options { http, log, clock, disk, roots, .. } = &self.0.options;
        let log = Log::new(spec.log.clone(), *log, clock.clone(), disk);
        let root = Root::new(&spec, self.0.placeholder.as_ref());
        let root = root.map_err(|error| Error::Other(anyhow::anyhow!("the files of the image: {error}")))?;
        let folders = files::folders(&mut spec, root.as_deref(), &log);
        // holds the image, so that the caller may drop its reference
        let (image, id) = (self.0.images.get(spec.artifact.digest()), spec.id.clone());
        let memory = MemoryAccount::new("the container", spec.limits.memory_bytes, Some(memory));
        let quota = Quota::of_container(spec.limits, quota, memory.clone());
        let shared = Arc::new(Shared {
            sockets,
            log,
            tls: ContainerTls::new(roots.clone(), quota.clone(), memory.clone(), self.0.blocking.clone()),
            quota,
            memory,
            pairs,
            outgoing: Arc::new(Semaphore::new(http.outgoing)),
            files,
            space: self.0.space.clone(),
            folders,
            root,
            placeholder: self.0.placeholder.clone(),
            blocking: self.0.blocking.clone(),
            in_place: self.0.in_place.clone(),
            mount_error_logged: AtomicBool::new(false),
            attached: Arc::default(),
            input: Input::new(spec.stdin),
            commands: Arc::new(Semaphore::new(exec::MAX_COMMANDS)),
            slots: Arc::default(),
            instances: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            metrics: self.0.metrics.clone(),
            source: self.0.source.clone(),
            last_lookup: LastLookup::default(),
            core_dumps: self.0.core_dumps.clone(),
            dumped: Dumped::default(),
            spec,
        });
        let container = Arc::new(Container::new(sandbox.clone(), shared, image));
        let mut containers = self.0.containers.lock();
        if containers.contains_key(&id) {
            return Err(Error::Other(anyhow::anyhow!("container {id} exists already")));
        }
        containers.insert(id, container.clone());
        drop(containers);
        self.0.set_state(&container, ContainerState::Created);
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        if container.started.swap(true, Relaxed) {
            return Ok(());
        }
        let held = container.image.lock().clone();
        let image = match held {
            Some(image) => image,
            None => match self.0.images.prepare(&self.0.pool, &container.shared.spec.artifact, "", &|_| ()).await {
                Ok(image) => image,
                Err(error) => {
                    self.0.exit(&container, End::cannot_run(error.to_string())).await;
                    return Ok(());
                }
            },
        };
        *container.image.lock() = Some(image.clone());
        let pool = self.0.pool.get().await?;
        match image.kind {
            Kind::Http => self.0.start_http(&container, &image, pool).await,
            Kind::Command | Kind::Core => self.0.start_command(&container, &image, pool),
        }
        Ok(())
    }

    fn retire(&self, id: &ContainerId) {
        if let Ok(container) = self.container(id) {
            container.retire.cancel();
        }
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let mut state = container.state.subscribe();
        match &*state.borrow_and_update() {
            ContainerState::Exited(_) => return Ok(()),
            // a start that is still compiling ends at once by this
            ContainerState::Created => {
                container.kill.cancel();
                return Ok(());
            }
            ContainerState::Running { .. } => {}
        }
        let ended = state.wait_for(|state| matches!(state, ContainerState::Exited(_)));
        if grace.is_zero() {
            container.kill.cancel();
        } else {
            *container.grace.lock() = grace;
            container.stop.cancel();
        }
        tokio::pin!(ended);
        if tokio::time::timeout(grace + LOG_FLUSH_TIMEOUT, ended.as_mut()).await.is_err() {
            container.kill.cancel();
            // `container` holds the sender, so that it is not dropped here
            let _ = ended.await;
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        self.stop(id, Duration::ZERO).await?;
        self.0.containers.lock().remove(id);
        self.0.images.forget_unused();
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Status>> {
        let status = |(id, container): (&ContainerId, &Arc<Container>)| Status {
            id: id.clone(),
            sandbox: container.sandbox.clone(),
            name: container.shared.spec.name.clone(),
            state: container.state.borrow().clone(),
        };
        Ok(self.0.containers.lock().iter().map(status).collect())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let container = self.container(id)?;
        let shared = &container.shared;
        Ok(Stats {
            cpu_nanos: shared.quota.used(),
            memory_bytes: shared.memory.used(),
            instances: shared.instances.load(Relaxed),
            requests: shared.requests.load(Relaxed),
            busy: shared.instances.load(Relaxed).saturating_sub(shared.idle.load(Relaxed)),
            serves_http: container.image.lock().as_ref().is_some_and(|image| image.kind == Kind::Http),
            throttled: shared.quota.throttled(),
        })
    }

    async fn exec(&self, id: &ContainerId, exec: Exec, streams: Streams) -> Result<i32> {
        let (container, image) = self.running(id)?;
        let pool = self.0.pool.get().await?;
        tokio::select! {
            biased;
            () = container.exited() => Ok(End::killed().code),
            code = exec::run(pool, &container.shared, &image, exec, streams) => code,
        }
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        let (container, image) = self.running(id)?;
        drop(image);
        let shared = &container.shared;
        // after the exit, the remaining output is sent before this returns
        let input = shared.input.as_ref();
        let mut attach = std::pin::pin!(attach::attach(&shared.attached, input, shared.spec.tty, streams));
        tokio::select! {
            biased;
            () = &mut attach => {}
            () = container.exited() => drop(tokio::time::timeout(EXIT_TIMEOUT, attach).await),
        }
        Ok(())
    }

    fn health(&self) -> Option<String> {
        Self::health(self)
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        let container = self.container(id)?;
        container.shared.memory.set_limit(limits.memory_bytes);
        container.shared.quota.set(limits);
        Ok(())
    }
}
