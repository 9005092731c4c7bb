//! [`Isolated`]: pods, the containers in them, and what the node knows of both.

use crate::{
    link::Failed,
    options::Options,
    process::{End, Process, Spawner, Start},
    protocol::{CallError, NoticeToChild, RuntimeReply, ToChild},
    streams,
};
use async_trait::async_trait;
use container::{
    Artifact, ContainerId, ContainerSpec, ContainerState, Error, Event, Exec, Exit, ExitReason, Limits, Prepared,
    Progress, Result, Runtime, SandboxId, SandboxSpec, Stats, Status, Streams, net::Sockets,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::Future,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, broadcast};
use wasm::Wasmtime;

/// Most queued events. A slower receiver gets a lag error and lists again.
const EVENT_QUEUE: usize = 1024;
/// How long a child may take to answer. One that takes longer is killed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a child may take to tell its use. The node asks all of them in turn.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of the message of an exit, as [`Exit`] promises.
const MAX_MESSAGE: usize = 4 << 10;
/// The users of children, in a range that nobody else gives to anybody: what systemd calls unused.
const FIRST_USER: u32 = 0x7000_0000;
const USERS: u32 = 0x0fff_0000;

/// Runs each pod in a child process of its own, confined before it sees anything of a guest. Cheap to clone.
#[derive(Clone)]
pub struct Isolated(Arc<Inner>);

struct Inner {
    options: Options,
    /// Compiles and keeps the code, for all pods of the node.
    wasm: Arc<Wasmtime>,
    spawner: Spawner,
    streams: Arc<Semaphore>,
    pods: Mutex<HashMap<SandboxId, Arc<Pod>>>,
    containers: Mutex<BTreeMap<ContainerId, Container>>,
    events: broadcast::Sender<Event>,
    /// Code that a container uses now, by digest.
    codes: tokio::sync::Mutex<HashMap<String, Weak<OwnedFd>>>,
    problem: Mutex<Option<String>>,
    /// The children that were started.
    started: AtomicU32,
}

struct Pod {
    spec: SandboxSpec,
    sockets: Arc<dyn Sockets>,
    process: tokio::sync::Mutex<Option<Arc<Process>>>,
}

struct Container {
    sandbox: SandboxId,
    name: String,
    /// `None` until the child has created it.
    state: Option<ContainerState>,
    /// Its limit of memory.
    memory: Option<u64>,
    /// The child that it is in.
    process: Weak<Process>,
    /// Keeps the code in memory while containers may still be created with it.
    _code: Arc<OwnedFd>,
}

impl Isolated {
    /// A runtime without pods, which costs nothing until there is one. `wasm` compiles for it.
    pub fn new(options: Options, wasm: Arc<Wasmtime>) -> Self {
        Self(Arc::new(Inner {
            streams: Arc::new(Semaphore::new(options.streams)),
            options,
            wasm,
            spawner: Spawner::default(),
            pods: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
            codes: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
            started: AtomicU32::new(0),
        }))
    }
}

impl Pod {
    /// The process of the pod sees the files of the image with which it was started, and cannot be allowed others later.
    fn check_image(&self, artifact: &Artifact) -> Result<()> {
        match artifact {
            Artifact::Wasm { files: Some(files), .. }
                if !self.spec.folders.iter().any(|folder| folder.path == *files) =>
            {
                let text = "an isolated pod has one image with files beside its module: use one image for its containers, or run it without \
                            the RuntimeClass";
                Err(Error::Unsupported(text.into()))
            }
            _ => Ok(()),
        }
    }
}

/// The progress of a container, which is never undone.
fn rank(state: Option<&ContainerState>) -> u8 {
    match state {
        None => 0,
        Some(ContainerState::Created) => 1,
        Some(ContainerState::Running { .. }) => 2,
        Some(ContainerState::Exited(_)) => 3,
    }
}

/// What another process says of its use, in numbers that can be added up.
fn plausible(stats: Stats) -> Stats {
    const MOST: u64 = 1 << 56;
    Stats {
        cpu_nanos: stats.cpu_nanos.min(MOST),
        memory_bytes: stats.memory_bytes.min(MOST),
        instances: stats.instances.min(MOST),
        requests: stats.requests.min(MOST),
        busy: stats.busy.min(MOST),
        serves_http: stats.serves_http,
        throttled: stats.throttled.min(MOST),
    }
}

fn unknown(id: &ContainerId) -> Error {
    Error::NotFound(format!("container {id}"))
}

impl Inner {
    /// Takes what a child tells of a container: only of its own pod, and only what is news.
    fn set_state(&self, sandbox: &SandboxId, id: &ContainerId, mut state: ContainerState) {
        let now = self.options.clock.now();
        let mut containers = self.containers.lock();
        let Some(container) = containers.get_mut(id).filter(|container| container.sandbox == *sandbox) else { return };
        if rank(Some(&state)) <= rank(container.state.as_ref()) {
            return;
        }
        // its times are this node's: another process may say anything
        match &mut state {
            ContainerState::Created => {}
            ContainerState::Running { started_at } => *started_at = now,
            ContainerState::Exited(exit) => {
                let end = exit.message.floor_char_boundary(MAX_MESSAGE);
                exit.message.truncate(end);
                exit.code = exit.code.clamp(0, 255);
                exit.finished_at = now;
                exit.started_at = match container.state {
                    Some(ContainerState::Running { started_at }) => Some(started_at),
                    _ => None,
                };
            }
        }
        container.state = Some(state.clone());
        // while locked, so that events have the order of the states
        let _ = self.events.send(Event { id: id.clone(), sandbox: sandbox.clone(), state });
    }

    /// The end of a child is the end of its containers.
    fn process_ended(&self, sandbox: &SandboxId, process: &Weak<Process>, end: &End) {
        let reason = if end.out_of_memory { ExitReason::OomKilled } else { ExitReason::Error };
        let in_it = |container: &Container| container.sandbox == *sandbox && container.process.ptr_eq(process);
        let ended: Vec<ContainerId> = {
            let containers = self.containers.lock();
            containers.iter().filter(|(_, container)| in_it(container)).map(|(id, _)| id.clone()).collect()
        };
        for id in ended {
            let (message, finished_at) = (end.message.clone(), self.options.clock.now());
            let exit = Exit { code: 137, reason, message, started_at: None, finished_at };
            self.set_state(sandbox, &id, ContainerState::Exited(exit));
        }
    }

    /// The child of a pod, which is started if there is none.
    async fn process(self: &Arc<Self>, pod: &Pod) -> Result<Arc<Process>> {
        let mut held = pod.process.lock().await;
        if let Some(process) = held.as_ref().filter(|process| process.is_alive()) {
            return Ok(process.clone());
        }
        // the former one must have given up its ports
        if let Some(former) = held.take() {
            former.kill().await;
        }
        let (for_state, for_end, sandbox) = (Arc::downgrade(self), Arc::downgrade(self), pod.spec.id.clone());
        let of_end = sandbox.clone();
        let own = Arc::new(Mutex::new(Weak::new()));
        let ended = own.clone();
        let started = Process::start(Start {
            options: &self.options,
            spawner: &self.spawner,
            sandbox: pod.spec.clone(),
            sockets: pod.sockets.clone(),
            streams: self.streams.clone(),
            user: self.user(),
            on_state: Box::new(move |id, state| {
                if let Some(inner) = for_state.upgrade() {
                    inner.set_state(&sandbox, &id, state);
                }
            }),
            on_end: Box::new(move |end| {
                if let Some(inner) = for_end.upgrade() {
                    let process = ended.lock().clone();
                    inner.process_ended(&of_end, &process, &end);
                }
            }),
        });
        let started = started.await;
        *self.problem.lock() = match &started {
            Err(Error::Unsupported(why)) => Some(why.clone()),
            _ => None,
        };
        let process = started?;
        *own.lock() = Arc::downgrade(&process);
        *held = Some(process.clone());
        Ok(process)
    }

    /// A user for the next child, whom no living child has. Only root can become another.
    fn user(&self) -> Option<u32> {
        let number = self.started.fetch_add(1, Relaxed) % USERS;
        rustix::process::geteuid().is_root().then_some(FIRST_USER + number)
    }

    /// Bounds the process of a pod by the limits of all its containers, if each has one.
    fn limit_memory(&self, sandbox: &SandboxId, process: &Process) {
        let of_pod = self.pods.lock().get(sandbox).and_then(|pod| pod.spec.limits.memory_bytes);
        let of_containers: Option<u64> = {
            let containers = self.containers.lock();
            let own = containers.values().filter(|container| container.sandbox == *sandbox);
            own.map(|container| container.memory).sum()
        };
        process.limit_memory(of_pod.or(of_containers));
    }

    fn pod(&self, sandbox: &SandboxId) -> Result<Arc<Pod>> {
        self.pods.lock().get(sandbox).cloned().ok_or_else(|| Error::NotFound(format!("sandbox {sandbox}")))
    }

    /// The code of an artifact, of which the node has one copy for all pods.
    async fn code(&self, artifact: &Artifact) -> Result<Arc<OwnedFd>> {
        let mut codes = self.codes.lock().await;
        if let Some(code) = codes.get(artifact.digest()).and_then(Weak::upgrade) {
            return Ok(code);
        }
        codes.retain(|_, code| code.strong_count() > 0);
        let code = match self.wasm.code(artifact).await {
            Ok(code) => code,
            // evicted since, or never prepared
            Err(_) => {
                self.wasm.prepare(artifact, "", &|_| ()).await?;
                self.wasm.code(artifact).await?
            }
        };
        let code = Arc::new(code);
        codes.insert(artifact.digest().to_owned(), Arc::downgrade(&code));
        Ok(code)
    }

    /// The state of a container and the child that it is in.
    fn container(&self, id: &ContainerId) -> Result<(Option<ContainerState>, Option<Arc<Process>>)> {
        let containers = self.containers.lock();
        let container = containers.get(id).ok_or_else(|| unknown(id))?;
        Ok((container.state.clone(), container.process.upgrade().filter(|process| process.is_alive())))
    }

    /// The child of a running container.
    fn running(&self, id: &ContainerId) -> Result<Arc<Process>> {
        let not_running = || Error::NotFound(format!("container {id} is not running"));
        match self.container(id).map_err(|_| not_running())? {
            (Some(ContainerState::Running { .. }), Some(process)) => Ok(process),
            _ => Err(not_running()),
        }
    }
}

/// Calls a child. One that does not answer in time is killed.
async fn call<T: DeserializeOwned>(
    process: &Process,
    call: &ToChild,
    descriptors: Vec<OwnedFd>,
    within: Duration,
) -> Result<T> {
    match tokio::time::timeout(within, process.link.call::<RuntimeReply<T>>(call, descriptors)).await {
        Ok(reply) => answer(reply),
        Err(_) => {
            process.kill().await;
            Err(Error::Exhausted(format!("the process of the pod did not answer within {within:?}, and was killed")))
        }
    }
}

fn answer<T>(reply: std::result::Result<(RuntimeReply<T>, Vec<OwnedFd>), Failed>) -> Result<T> {
    match reply {
        Ok((reply, _)) => reply.map_err(CallError::into),
        Err(failed) => Err(Error::Exhausted(failed.to_string())),
    }
}

/// Waits for a reply while the streams are copied, and then until all output is with the client.
async fn with_streams<T>(reply: impl Future<Output = T>, input: impl Future, output: impl Future) -> T {
    let input = async {
        input.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        (reply, _) = async { tokio::join!(reply, output) } => reply,
        never = input => match never {},
    }
}

#[async_trait]
impl Runtime for Isolated {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    async fn prepare(
        &self,
        artifact: &Artifact,
        scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        self.0.wasm.prepare(artifact, scope, progress).await
    }

    async fn sandbox(&self, spec: SandboxSpec, sockets: Arc<dyn Sockets>) -> Result<()> {
        let made = || Arc::new(Pod { spec: spec.clone(), sockets, process: tokio::sync::Mutex::default() });
        let pod = self.0.pods.lock().entry(spec.id.clone()).or_insert_with(made).clone();
        self.0.process(&pod).await.map(drop)
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let Some(pod) = self.0.pods.lock().remove(id) else { return Ok(()) };
        let ids: Vec<ContainerId> = {
            let containers = self.0.containers.lock();
            containers.iter().filter(|(_, it)| it.sandbox == *id).map(|(id, _)| id.clone()).collect()
        };
        for id in ids {
            self.remove(&id).await?;
        }
        if let Some(process) = pod.process.lock().await.take() {
            process.kill().await;
        }
        Ok(())
    }

    async fn create(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<()> {
        let pod = self.0.pod(sandbox)?;
        pod.check_image(&spec.artifact)?;
        let process = self.0.process(&pod).await?;
        let code = self.0.code(&spec.artifact).await?;
        let sent = code.as_fd().try_clone_to_owned().map_err(|error| Error::Exhausted(error.to_string()))?;
        let id = spec.id.clone();
        let container = Container {
            sandbox: sandbox.clone(),
            name: spec.name.clone(),
            state: None,
            memory: spec.limits.memory_bytes,
            process: Arc::downgrade(&process),
            _code: code,
        };
        {
            let mut containers = self.0.containers.lock();
            if containers.contains_key(&id) {
                return Err(Error::Other(anyhow::anyhow!("container {id} exists already")));
            }
            containers.insert(id.clone(), container);
        }
        self.0.limit_memory(sandbox, &process);
        let created = call(&process, &ToChild::Create(Box::new(spec)), vec![sent], CALL_TIMEOUT).await;
        if created.is_err() {
            self.0.containers.lock().remove(&id);
        }
        created
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        match self.0.container(id)? {
            (Some(ContainerState::Exited(_)), _) => Ok(()),
            (_, Some(process)) => call(&process, &ToChild::Start(id.clone()), Vec::new(), CALL_TIMEOUT).await,
            (_, None) => Err(Error::Exhausted("the process of the pod has ended".into())),
        }
    }

    fn retire(&self, id: &ContainerId) {
        if let Ok((_, Some(process))) = self.0.container(id) {
            process.link.post(&NoticeToChild::Retire(id.clone()));
        }
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let Ok((state, process)) = self.0.container(id) else { return Ok(()) };
        match (state, process) {
            (Some(ContainerState::Exited(_)), _) | (_, None) => Ok(()),
            (_, Some(process)) => {
                let stop = ToChild::Stop(id.clone(), grace);
                let stopped: Result<()> = call(&process, &stop, Vec::new(), grace + CALL_TIMEOUT).await;
                match stopped {
                    // it has ended with its process
                    Err(Error::Exhausted(_)) => Ok(()),
                    other => other,
                }
            }
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let Ok((_, process)) = self.0.container(id) else { return Ok(()) };
        if let Some(process) = process {
            // if this fails, its process is gone, and it with it
            let _: Result<()> = call(&process, &ToChild::Remove(id.clone()), Vec::new(), CALL_TIMEOUT).await;
        }
        self.0.containers.lock().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Status>> {
        let containers = self.0.containers.lock();
        let status = |(id, container): (&ContainerId, &Container)| {
            let (sandbox, name) = (container.sandbox.clone(), container.name.clone());
            Some(Status { id: id.clone(), sandbox, name, state: container.state.clone()? })
        };
        Ok(containers.iter().filter_map(status).collect())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        match self.0.container(id)?.1 {
            Some(process) => {
                let stats = ToChild::Stats(id.clone());
                let call = process.link.call(&stats, Vec::new());
                match tokio::time::timeout(STATS_TIMEOUT, call).await {
                    Ok(reply) => answer(reply).map(plausible),
                    Err(_) => Err(Error::Exhausted("the process of the pod does not tell its use".into())),
                }
            }
            None => Ok(Stats::default()),
        }
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        let Some(process) = self.0.container(id)?.1 else { return Ok(()) };
        let sandbox = self.0.containers.lock().get_mut(id).map(|container| {
            container.memory = limits.memory_bytes;
            container.sandbox.clone()
        });
        if let Some(sandbox) = sandbox {
            self.0.limit_memory(&sandbox, &process);
        }
        call(&process, &ToChild::Limits(id.clone(), limits), Vec::new(), CALL_TIMEOUT).await
    }

    async fn exec(&self, id: &ContainerId, exec: Exec, streams: Streams) -> Result<i32> {
        let process = self.0.running(id)?;
        let sent = streams::send(streams).map_err(|error| Error::Exhausted(error.to_string()))?;
        let exec = ToChild::Exec(id.clone(), exec, sent.present);
        let reply = process.link.call::<RuntimeReply<i32>>(&exec, sent.descriptors);
        match with_streams(reply, sent.input, sent.output).await {
            // as what the end of the container ends
            Err(Failed::Ended) => Ok(137),
            reply => answer(reply),
        }
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        let process = self.0.running(id)?;
        let sent = streams::send(streams).map_err(|error| Error::Exhausted(error.to_string()))?;
        let attach = ToChild::Attach(id.clone(), sent.present);
        let reply = process.link.call::<RuntimeReply<()>>(&attach, sent.descriptors);
        match with_streams(reply, sent.input, sent.output).await {
            Err(Failed::Ended) => Ok(()),
            reply => answer(reply),
        }
    }

    fn health(&self) -> Option<String> {
        self.0.problem.lock().clone()
    }
}
