//! [`Wasmtime`]: sandboxes and containers, and their way from created to exited.

use crate::{
    Options,
    attach::{self, Input},
    cache::Cache,
    command,
    compile::Compilers,
    exec,
    exit::{self, End},
    files::{self, budget},
    give_back::GiveBack,
    guest::{Io, Shared},
    http::Handler,
    image::{Image, Kind},
    keyvalue::Pairs,
    memory::Memory,
    metrics::{Metrics, Now, Present},
    pool::{BLOCKING, Pool},
    quota::{Quota, Throttled},
    served::Served,
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
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{OnceCell, Semaphore, broadcast, watch},
    task::JoinError,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime_wasi::filesystem::{Dir, WasiFilesystemCtx};

/// Events that a slow receiver may be behind before it is told that it lagged, and lists. Their places are taken from the beginning, at 128
/// bytes each.
const EVENTS: usize = 1024;

/// How long an artifact that could not be compiled for want of something is not tried again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a container that is stopped waits for clients that were asked to leave: those that have nothing to ask are closed then.
const LINGER: Duration = Duration::from_secs(1);
/// How long the end of a container waits for those who look on to be shown the last of its output, and for a program that is to end and gives
/// no way.
const LAST: Duration = Duration::from_secs(2);
/// How long the end of a container waits for its log to reach the disk.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs WebAssembly on wasmtime. Cheap to clone. Nothing heavy is made before [`Wasmtime::warm`] or the first use.
#[derive(Clone)]
pub struct Wasmtime(Arc<Inner>);

struct Inner {
    options: Options,
    pool: OnceCell<Arc<Pool>>,
    compilers: Compilers,
    images: Mutex<HashMap<String, Arc<Slot>>>,
    sandboxes: Mutex<HashMap<SandboxId, Sandbox>>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    memory: Arc<Memory>,
    files: Arc<budget::Node>,
    space: Arc<budget::Space>,
    nowhere: Option<Dir>,
    blocking: Arc<Semaphore>,
    in_place: WasiFilesystemCtx,
    events: broadcast::Sender<Event>,
    metrics: Arc<Metrics>,
    give_back: GiveBack,
}

#[derive(Clone)]
struct Sandbox {
    sockets: Arc<dyn Sockets>,
    memory: Arc<Memory>,
    pairs: Arc<Pairs>,
    quota: Arc<Quota>,
    files: Arc<budget::Pod>,
}

/// One artifact. The lock is held while it is compiled, so that those who also want it wait for the result.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Known>);

#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    Image(Weak<Image>),
    /// Will not change: the digest names the bytes.
    Invalid(String),
    /// Not before this time again.
    Exhausted(String, Instant),
}

struct Container {
    sandbox: SandboxId,
    shared: Arc<Shared>,
    /// The image, from `create` if it is prepared by then: holding it keeps it prepared.
    image: Mutex<Option<Arc<Image>>>,
    state: watch::Sender<ContainerState>,
    /// Clients are asked to leave.
    retire: CancellationToken,
    /// Asked to end.
    stop: CancellationToken,
    /// Ended without being asked.
    kill: CancellationToken,
    /// How long a stop may take.
    grace: Mutex<Duration>,
    /// Somebody starts it, or has.
    started: AtomicBool,
}

impl Wasmtime {
    /// A runtime without containers.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache.clone(), options.key, options.cache_bytes, options.clock.clone());
        let metrics = Arc::new(Metrics::default());
        Self(Arc::new(Inner {
            compilers: Compilers::new(options.compiler.clone(), cache, metrics.clone()),
            metrics,
            memory: Memory::node(options.memory, options.room.clone()),
            give_back: GiveBack::default(),
            files: budget::Node::new(options.files.open),
            space: budget::Space::new(options.files.room.clone()),
            nowhere: files::nowhere(&options.cache)
                .inspect_err(|error| tracing::warn!(%error, "commands hold their folders open from their beginning"))
                .ok(),
            blocking: Arc::new(Semaphore::new(options.threads.saturating_mul(BLOCKING))),
            in_place: files::in_place(),
            pool: OnceCell::new(),
            images: Mutex::default(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            options,
        }))
    }

    /// Makes the engine and its pool now, in the background of whatever else starts.
    ///
    /// # Errors
    /// When the cache's folder or the engine cannot be made; the first use will try again.
    pub async fn warm(&self) -> Result<()> {
        self.0.pool().await.map(drop)
    }

    /// What is wrong with the node's ability to run Wasm, if anything: for a node condition.
    pub fn health(&self) -> Option<String> {
        self.0.pool.get().and_then(|pool| pool.problem()).or_else(|| self.0.files.problem())
    }

    /// Shows its metrics in the process's registry; once.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
        let this = Arc::downgrade(&self.0);
        registry.register_collector(Box::new(Present(move || {
            let this = this.upgrade()?;
            let instances = this.containers.lock().values().map(|it| it.shared.instances.load(Relaxed)).sum();
            let (places, taken) = this.pool.get().map_or((0, 0), |pool| pool.places.count());
            let (places, places_taken) = (places as u64, taken as u64);
            Some(Now { instances, places, places_taken, memory: this.memory.used() })
        })));
    }

    /// A container that runs, and what it runs.
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
    async fn ended(&self) {
        // The sender is here, so it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, ContainerState::Exited(_))).await;
    }
}

impl Inner {
    async fn pool(&self) -> Result<&Arc<Pool>> {
        let make = async || {
            let (options, cache) = (self.options.clone(), self.compilers.cache.clone());
            let made = tokio::task::spawn_blocking(move || -> anyhow::Result<Arc<Pool>> {
                cache.open()?;
                Ok(Arc::new(Pool::new(&options)?))
            });
            made.await.map_err(anyhow::Error::from)?.map_err(Error::Other)
        };
        self.pool.get_or_try_init(make).await
    }

    async fn image(&self, artifact: &Artifact, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Arc<Image>> {
        let pool = self.pool().await?;
        let slot = self.images.lock().entry(artifact.digest().to_string()).or_default().clone();
        let mut known = slot.0.lock().await;
        match &*known {
            Known::Image(image) => {
                if let Some(image) = image.upgrade() {
                    return Ok(image);
                }
            }
            Known::Invalid(text) => return Err(Error::Invalid(text.clone())),
            Known::Exhausted(text, until) if Instant::now() < *until => return Err(Error::Exhausted(text.clone())),
            Known::Exhausted(..) | Known::Nothing => {}
        }
        let result = self.compilers.image(pool, artifact, progress).await;
        match result {
            Ok(image) => {
                let image = Arc::new(image);
                *known = Known::Image(Arc::downgrade(&image));
                Ok(image)
            }
            Err(error) => {
                *known = match &error {
                    Error::Invalid(text) => Known::Invalid(text.clone()),
                    Error::Exhausted(text) => Known::Exhausted(text.clone(), Instant::now() + PATIENCE),
                    _ => Known::Nothing,
                };
                Err(error)
            }
        }
    }

    /// Forgets artifacts of which nothing is known but that they once were prepared.
    fn forget_images(&self) {
        self.images.lock().retain(|_, slot| {
            Arc::strong_count(slot) > 1
                || slot.0.try_lock().map_or(true, |known| match &*known {
                    Known::Image(image) => image.strong_count() > 0,
                    Known::Nothing => false,
                    Known::Invalid(_) | Known::Exhausted(..) => true,
                })
        });
    }

    fn enter(&self, container: &Container, state: ContainerState) {
        container.state.send_replace(state.clone());
        // Nobody listening is no fault: `list` has the truth.
        let _ =
            self.events.send(Event { id: container.shared.spec.id.clone(), sandbox: container.sandbox.clone(), state });
    }

    async fn exit(&self, container: &Container, end: End) {
        let log = &container.shared.log;
        // A disk that hangs must not keep a container from ending.
        let _ = tokio::time::timeout(FLUSH, log.flush()).await;
        *container.image.lock() = None;
        container.shared.attached.end();
        let started_at = match &*container.state.borrow() {
            ContainerState::Running { started_at } => Some(*started_at),
            _ => None,
        };
        let End { code, reason, message } = end;
        let exit = Exit { code, reason, message, started_at, finished_at: self.now() };
        self.enter(container, ContainerState::Exited(exit));
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
        // Requests open them anew: what is wrong from the start ends the container with the reason, not each request.
        if let Err(error) = files::check(&shared.spec.mounts) {
            return self.exit(container, End::cannot_run(exit::story(&error))).await;
        }
        let declared = shared.spec.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.number);
        let port = declared.unwrap_or_else(|| {
            let text = format!("sampan: no containerPort is declared: serving HTTP on port {DEFAULT_HTTP_PORT}");
            shared.log.lines(Source::Stderr, &text);
            DEFAULT_HTTP_PORT
        });
        let (memory_ended, memory_end) = watch::channel(None);
        let out_of_memory = move |story: String| {
            memory_ended.send_if_modified(|end| {
                let first = end.is_none();
                if first {
                    *end = Some(story);
                }
                first
            });
        };
        let handler = Handler::new(
            pool.clone(),
            shared.clone(),
            image.clone(),
            self.options.http,
            container.retire.clone(),
            out_of_memory,
        );
        let serving = match shared.sockets.serve_http(port, Arc::new(Served(handler.clone()))).await {
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
        self.enter(container, ContainerState::Running { started_at: self.now() });
        let (this, container) = (self.clone(), container.clone());
        pool.handle().spawn(async move {
            let end = supervise(&container, &handler, memory_end, serving).await;
            this.exit(&container, end).await;
        });
    }

    fn start_command(self: &Arc<Self>, container: &Arc<Container>, image: &Arc<Image>, pool: &Arc<Pool>) {
        self.enter(container, ContainerState::Running { started_at: self.now() });
        let (this, container, image, pool) = (self.clone(), container.clone(), image.clone(), pool.clone());
        let threads = pool.handle().clone();
        threads.spawn(async move {
            let shared = container.shared.clone();
            let (quota, ticker, threads) = (shared.quota.clone(), pool.ticker.clone(), pool.handle().clone());
            let program = shared.clone();
            let run = async move { command::run(&pool, &program, &image, Io::own(&program, false)).await };
            let run = Throttled::new(run, quota, ticker);
            // In a task of its own, since a file may keep its thread for ever.
            let mut run = AbortOnDropHandle::new(threads.spawn(run));
            let asked = tokio::select! {
                biased;
                () = container.kill.cancelled() => End::killed(),
                () = container.stop.cancelled() => End::stopped(),
                result = &mut run => return this.exit(&container, returned(&shared, result)).await,
            };
            // A guest gives way at least every tick, and ends there.
            run.abort();
            let _ = tokio::time::timeout(LAST, run).await;
            this.exit(&container, asked).await;
        });
    }
}

/// What a command's end was.
fn returned(shared: &Shared, result: std::result::Result<wasmtime::Result<End>, JoinError>) -> End {
    let result = result.unwrap_or_else(|error| Err(wasmtime::format_err!("{error}")));
    let (failed, end) = (result.is_err(), command::end(result, shared));
    if failed && !end.message.is_empty() {
        // Where whoever reads the log looks for it, as for HTTP handlers.
        let text = format!("sampan: {} failed: {}", shared.spec.name, end.message);
        shared.log.lines(Source::Stderr, &text);
    }
    end
}

/// Watches over an HTTP handler until it is to end, and ends it.
async fn supervise(
    container: &Container,
    handler: &Handler,
    mut memory: watch::Receiver<Option<String>>,
    serving: Box<dyn net::Serving>,
) -> End {
    let cut = async |end: End| {
        handler.cut().await;
        end
    };
    tokio::select! {
        biased;
        () = container.kill.cancelled() => {
            drop(serving);
            return cut(End::killed()).await;
        }
        story = async { memory.wait_for(Option::is_some).await.ok().and_then(|story| story.clone()) } => {
            // The sender lives in the handler, which is borrowed here: there is a story.
            let story = story.unwrap_or_default();
            drop(serving);
            return cut(End::out_of_memory(story)).await;
        }
        () = container.stop.cancelled() => drop(serving),
    }
    let grace = *container.grace.lock();
    tokio::select! {
        biased;
        () = container.kill.cancelled() => cut(End::killed()).await,
        drained = async {
            let begin = Instant::now();
            handler.linger(LINGER.min(grace / 2)).await;
            handler.drain(grace.saturating_sub(begin.elapsed())).await
        } => if drained { End::exited(0) } else { End::killed() },
    }
}

/// WASI hands out duplicates as they are; a container's environment has none.
fn last_wins(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = env.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    kept.reverse();
    kept
}

/// Shows a container its working directory: as folders that relative names lead into, and to those who ask the environment for it (Go).
fn work_in(spec: &mut ContainerSpec, log: &Log) {
    let cwd = spec.cwd.clone().unwrap_or_else(|| "/".into());
    match files::relative(&spec.mounts, &cwd) {
        Ok(relative) => spec.mounts.extend(relative),
        Err(error) => {
            let text =
                format!("sampan: the working directory {cwd} cannot be opened: {error}: relative names begin at /");
            log.lines(Source::Stderr, &text);
        }
    }
    let asks = spec.cwd.is_some() || !spec.mounts.is_empty();
    if asks && !spec.env.iter().any(|(name, _)| name == "PWD") {
        spec.env.push(("PWD".into(), cwd));
    }
}

#[async_trait]
impl Runtime for Wasmtime {
    fn name(&self) -> &'static str {
        "wasmtime"
    }

    async fn prepare(
        &self,
        artifact: &Artifact,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        Ok(self.0.image(artifact, progress).await?)
    }

    async fn sandbox(&self, spec: SandboxSpec, sockets: Arc<dyn Sockets>) -> Result<()> {
        let mut sandboxes = self.0.sandboxes.lock();
        sandboxes.entry(spec.id).or_insert_with(|| {
            let memory = Memory::new("the pod", spec.limits.memory_bytes, Some(self.0.memory.clone()));
            Sandbox {
                sockets,
                pairs: Pairs::new(memory.clone()),
                memory,
                quota: Quota::new(spec.limits.cpu_millis, None),
                files: budget::Pod::new(self.0.files.clone()),
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
        let options = &self.0.options;
        let log = Log::new(spec.log.clone(), options.log, options.clock.clone(), &options.disk);
        work_in(&mut spec, &log);
        // Whoever prepared it may let go now.
        let slot = self.0.images.lock().get(spec.artifact.digest()).cloned();
        let image = slot.and_then(|slot| match &*slot.0.try_lock().ok()? {
            Known::Image(image) => image.upgrade(),
            _ => None,
        });
        let id = spec.id.clone();
        let shared = Arc::new(Shared {
            sockets,
            log,
            memory: Memory::new("the container", spec.limits.memory_bytes, Some(memory)),
            pairs,
            quota: Quota::new(spec.limits.cpu_millis, Some(quota)),
            outgoing: Arc::new(Semaphore::new(options.http.outgoing)),
            files,
            space: self.0.space.clone(),
            nowhere: self.0.nowhere.clone(),
            blocking: self.0.blocking.clone(),
            in_place: self.0.in_place.clone(),
            told: AtomicBool::new(false),
            attached: Arc::default(),
            input: Input::new(spec.stdin),
            commands: Arc::new(Semaphore::new(exec::COMMANDS)),
            places: Arc::default(),
            instances: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            metrics: self.0.metrics.clone(),
            spec,
        });
        let container = Arc::new(Container {
            sandbox: sandbox.clone(),
            shared,
            image: Mutex::new(image),
            state: watch::Sender::new(ContainerState::Created),
            retire: CancellationToken::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            grace: Mutex::new(Duration::ZERO),
            started: AtomicBool::new(false),
        });
        let mut containers = self.0.containers.lock();
        if containers.contains_key(&id) {
            return Err(Error::Other(anyhow::anyhow!("container {id} exists already")));
        }
        containers.insert(id, container.clone());
        drop(containers);
        self.0.enter(&container, ContainerState::Created);
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
            None => match self.0.image(&container.shared.spec.artifact, &|_| ()).await {
                Ok(image) => image,
                Err(error) => {
                    self.0.exit(&container, End::cannot_run(error.to_string())).await;
                    return Ok(());
                }
            },
        };
        *container.image.lock() = Some(image.clone());
        let pool = self.0.pool().await?;
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
            // Nothing to end; a start that is still compiling finds this and ends at once.
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
        if tokio::time::timeout(grace + FLUSH, ended.as_mut()).await.is_err() {
            container.kill.cancel();
            // The sender is held here, so it cannot be gone.
            let _ = ended.await;
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        self.stop(id, Duration::ZERO).await?;
        self.0.containers.lock().remove(id);
        self.0.forget_images();
        if let Some(pool) = self.0.pool.get() {
            self.0.give_back.soon(pool.handle());
        }
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
            throttled: shared.quota.throttled(),
        })
    }

    async fn exec(&self, id: &ContainerId, exec: Exec, streams: Streams) -> Result<i32> {
        let (container, image) = self.running(id)?;
        let pool = self.0.pool().await?;
        tokio::select! {
            biased;
            () = container.ended() => Ok(End::killed().code),
            code = exec::run(pool, &container.shared, &image, exec, streams) => code,
        }
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        let (container, image) = self.running(id)?;
        drop(image);
        let shared = &container.shared;
        // at its end all that was written is shown before this returns
        let input = shared.input.as_ref();
        let mut attach = std::pin::pin!(attach::attach(&shared.attached, input, shared.spec.tty, streams));
        tokio::select! {
            biased;
            () = &mut attach => {}
            () = container.ended() => drop(tokio::time::timeout(LAST, attach).await),
        }
        Ok(())
    }

    fn health(&self) -> Option<String> {
        Self::health(self)
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        let container = self.container(id)?;
        container.shared.memory.set_limit(limits.memory_bytes);
        container.shared.quota.set(limits.cpu_millis);
        Ok(())
    }
}
