//! A runtime and a network that exist in memory only, for tests of whoever drives them (feature `fake`).
//!
//! [`FakeRuntime`] keeps the contract of [`Runtime`]; what each container does is a [`Script`] chosen by the test. [`FakeNetwork`] is
//! [`Network`] and [`Dialer`]: addresses are counted up, HTTP is answered by functions the test sets per port.

use crate::{
    Artifact, Clock, ContainerId, ContainerSpec, ContainerState, Error, Event, Exit, ExitReason, Limits, Prepared,
    Progress, Result, Runtime, SandboxId, SandboxSpec, Stats, Status,
    net::{
        self, Attachment, Body, BoundPort, Connection, Datagrams, Dialer, HttpHandler, Network, Peer, PodNetwork,
        Serving, Sockets, Stream,
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::broadcast;

/// What a container does once it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Runs until it is stopped; then ends with 143.
    Run,
    /// Runs until it is stopped; then ends with this code.
    Obey(i32),
    /// Runs until it is stopped, and needs so long to end; killed with 137 when the grace period is shorter.
    Linger(Duration),
    /// Ends by itself with this code after that time.
    Exit(Duration, i32),
    /// Cannot be started: [`Runtime::start`] fails and nothing ever ran.
    Refuse(String),
    /// Cannot be compiled: [`Runtime::prepare`] fails.
    Invalid(String),
}

type Scripts = Box<dyn Fn(&str, u32) -> Script + Send + Sync>;

#[derive(Default)]
struct State {
    sandboxes: BTreeSet<SandboxId>,
    containers: BTreeMap<ContainerId, Entry>,
    attempts: HashMap<(SandboxId, String), u32>,
    prepared: Vec<String>,
    specs: Vec<ContainerSpec>,
    stops: Vec<(String, Duration)>,
    retired: Vec<String>,
}

struct Entry {
    sandbox: SandboxId,
    spec: ContainerSpec,
    script: Script,
    state: ContainerState,
}

/// A runtime in memory. Cheap to clone.
#[derive(Clone)]
pub struct FakeRuntime(Arc<Inner>);

struct Inner {
    name: &'static str,
    clock: Clock,
    scripts: Mutex<Scripts>,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    survives: bool,
    problem: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl FakeRuntime {
    /// A runtime of this name whose containers do what `scripts(container name, attempt)` says; attempts count from 0.
    pub fn new(
        name: &'static str,
        clock: Clock,
        scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::with(name, clock, scripts, false)
    }

    /// As [`FakeRuntime::new`], saying whether containers outlive the process.
    pub fn with(
        name: &'static str,
        clock: Clock,
        scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static,
        survives: bool,
    ) -> Self {
        let scripts: Mutex<Scripts> = Mutex::new(Box::new(scripts));
        let inner = Inner {
            name,
            clock,
            scripts,
            state: Mutex::default(),
            events: broadcast::channel(1024).0,
            survives,
            problem: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Changes what containers created from now on do.
    pub fn script(&self, scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static) {
        *lock(&self.0.scripts) = Box::new(scripts);
    }

    /// What it says is wrong with it from now on.
    pub fn set_problem(&self, problem: Option<&str>) {
        *lock(&self.0.problem) = problem.map(str::to_owned);
    }

    /// All specs that were created, in order.
    pub fn specs(&self) -> Vec<ContainerSpec> {
        lock(&self.0.state).specs.clone()
    }

    /// All stops that were asked for: container name and grace.
    pub fn stops(&self) -> Vec<(String, Duration)> {
        lock(&self.0.state).stops.clone()
    }

    /// Names of the containers that were retired, in order.
    pub fn retired(&self) -> Vec<String> {
        lock(&self.0.state).retired.clone()
    }

    /// Names of running containers, sorted.
    pub fn running(&self) -> Vec<String> {
        let state = lock(&self.0.state);
        let running = state.containers.values().filter(|e| matches!(e.state, ContainerState::Running { .. }));
        let mut names: Vec<_> = running.map(|e| e.spec.name.clone()).collect();
        names.sort();
        names
    }

    /// Sandboxes that exist.
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        lock(&self.0.state).sandboxes.iter().cloned().collect()
    }

    /// Ends all running containers of a name.
    pub fn exit(&self, name: &str, code: i32) {
        let ids: Vec<_> = {
            let state = lock(&self.0.state);
            let named = state.containers.iter().filter(|(_, e)| e.spec.name == name);
            named.map(|(id, _)| id.clone()).collect()
        };
        ids.iter().for_each(|id| self.end(id, code));
    }

    fn end(&self, id: &ContainerId, code: i32) {
        let mut state = lock(&self.0.state);
        let Some(entry) = state.containers.get_mut(id) else { return };
        let started_at = match entry.state {
            ContainerState::Running { started_at } => Some(started_at),
            ContainerState::Created => None,
            ContainerState::Exited(_) => return,
        };
        let exit = Exit {
            code,
            reason: if code == 0 { ExitReason::Completed } else { ExitReason::Error },
            message: String::new(),
            started_at,
            finished_at: self.0.clock.now(),
        };
        entry.state = ContainerState::Exited(exit.clone());
        let sandbox = entry.sandbox.clone();
        // nobody may listen
        let _ = self.0.events.send(Event { id: id.clone(), sandbox, state: ContainerState::Exited(exit) });
    }

    fn entry<T>(&self, id: &ContainerId, read: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        let mut state = lock(&self.0.state);
        state.containers.get_mut(id).map(read).ok_or_else(|| Error::NotFound(format!("container {id}")))
    }
}

#[derive(Debug)]
struct FakePrepared(Artifact);

impl Prepared for FakePrepared {
    fn artifact(&self) -> &Artifact {
        &self.0
    }

    fn target(&self) -> &'static str {
        "fake"
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn health(&self) -> Option<String> {
        lock(&self.0.problem).clone()
    }

    async fn prepare(
        &self,
        artifact: &Artifact,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        progress(Progress::Queued);
        if let Script::Invalid(text) = lock(&self.0.scripts)(artifact.digest(), 0) {
            return Err(Error::Invalid(text));
        }
        lock(&self.0.state).prepared.push(artifact.digest().to_owned());
        Ok(Arc::new(FakePrepared(artifact.clone())))
    }

    async fn sandbox(&self, spec: SandboxSpec, _sockets: Arc<dyn Sockets>) -> Result<()> {
        lock(&self.0.state).sandboxes.insert(spec.id);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let ids: Vec<_> = {
            let state = lock(&self.0.state);
            state.containers.iter().filter(|(_, e)| e.sandbox == *id).map(|(id, _)| id.clone()).collect()
        };
        for container in ids {
            self.remove(&container).await?;
        }
        lock(&self.0.state).sandboxes.remove(id);
        Ok(())
    }

    async fn create(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<()> {
        let mut state = lock(&self.0.state);
        if !state.sandboxes.contains(sandbox) {
            return Err(Error::NotFound(format!("sandbox {sandbox}")));
        }
        if !state.prepared.iter().any(|digest| digest == spec.artifact.digest()) {
            return Err(Error::Invalid(format!("{} was not prepared", spec.artifact.digest())));
        }
        let attempt = state.attempts.entry((sandbox.clone(), spec.name.clone())).or_default();
        let script = lock(&self.0.scripts)(&spec.name, *attempt);
        *attempt += 1;
        state.specs.push(spec.clone());
        let entry = Entry { sandbox: sandbox.clone(), spec: spec.clone(), script, state: ContainerState::Created };
        state.containers.insert(spec.id, entry);
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let running = ContainerState::Running { started_at: self.0.clock.now() };
        let script = self.entry(id, |entry| entry.script.clone())?;
        if let Script::Refuse(text) = script {
            return Err(Error::Invalid(text));
        }
        let sandbox = self.entry(id, |entry| {
            entry.state = running.clone();
            entry.sandbox.clone()
        })?;
        let _ = self.0.events.send(Event { id: id.clone(), sandbox, state: running });
        if let Script::Exit(after, code) = script {
            if after.is_zero() {
                self.end(id, code);
            } else {
                let (this, id) = (self.clone(), id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    this.end(&id, code);
                });
            }
        }
        Ok(())
    }

    fn retire(&self, id: &ContainerId) {
        let Ok(name) = self.entry(id, |entry| entry.spec.name.clone()) else { return };
        lock(&self.0.state).retired.push(name);
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let (name, script, running) = match self
            .entry(id, |e| (e.spec.name.clone(), e.script.clone(), !matches!(e.state, ContainerState::Exited(_))))
        {
            Ok(found) => found,
            Err(_) => return Ok(()),
        };
        if !running {
            return Ok(());
        }
        lock(&self.0.state).stops.push((name, grace));
        match script {
            Script::Linger(needs) => {
                tokio::time::sleep(needs.min(grace)).await;
                self.end(id, if needs <= grace { 143 } else { 137 });
            }
            Script::Obey(code) => self.end(id, code),
            _ => self.end(id, 143),
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        self.end(id, 137);
        lock(&self.0.state).containers.remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Status>> {
        let state = lock(&self.0.state);
        let status = |(id, entry): (&ContainerId, &Entry)| Status {
            id: id.clone(),
            sandbox: entry.sandbox.clone(),
            name: entry.spec.name.clone(),
            state: entry.state.clone(),
        };
        Ok(state.containers.iter().map(status).collect())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        self.entry(id, |_| Stats { cpu_nanos: 1_000_000, memory_bytes: 1 << 20, instances: 1, ..Stats::default() })
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        self.entry(id, |entry| entry.spec.limits = limits)
    }

    fn survives_restart(&self) -> bool {
        self.0.survives
    }
}

type Answer = Arc<dyn Fn(&http::Request<()>) -> (u16, Vec<(String, String)>) + Send + Sync>;

/// A network in memory. Cheap to clone.
#[derive(Clone, Default)]
pub struct FakeNetwork(Arc<NetworkInner>);

#[derive(Default)]
struct NetworkInner {
    pods: Mutex<BTreeMap<Arc<str>, IpAddr>>,
    answers: Mutex<HashMap<u16, Answer>>,
}

impl FakeNetwork {
    /// Answers HTTP on a port of every pod with a status and headers.
    pub fn answer(
        &self,
        port: u16,
        with: impl Fn(&http::Request<()>) -> (u16, Vec<(String, String)>) + Send + Sync + 'static,
    ) {
        lock(&self.0.answers).insert(port, Arc::new(with));
    }

    /// Nobody listens on that port any more.
    pub fn silence(&self, port: u16) {
        lock(&self.0.answers).remove(&port);
    }
}

struct FakeSockets(IpAddr);

fn unsupported<T>() -> net::Result<T> {
    Err(net::Error::Unsupported("the fake network carries no data of guests".into()))
}

#[async_trait::async_trait]
impl Sockets for FakeSockets {
    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.0]
    }
    async fn bind(&self, _at: SocketAddr) -> net::Result<Box<dyn BoundPort>> {
        unsupported()
    }
    async fn connect(&self, _to: SocketAddr) -> net::Result<(Stream, SocketAddr)> {
        unsupported()
    }
    async fn bind_udp(&self, _at: SocketAddr) -> net::Result<Box<dyn Datagrams>> {
        unsupported()
    }
    async fn resolve(&self, name: &str) -> net::Result<Vec<IpAddr>> {
        Err(net::Error::NoSuchHost(name.to_owned()))
    }
    async fn http(&self, _request: net::Request) -> net::Result<net::Response> {
        unsupported()
    }
    async fn serve_http(&self, _port: u16, _handler: Arc<dyn HttpHandler>) -> net::Result<Box<dyn Serving>> {
        unsupported()
    }
}

#[async_trait::async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, pod: PodNetwork) -> net::Result<Attachment> {
        let mut pods = lock(&self.0.pods);
        let address = match pods.get(&pod.id) {
            Some(address) => *address,
            None => {
                let taken: BTreeSet<IpAddr> = pods.values().copied().collect();
                let first = |n: u8| IpAddr::V4(Ipv4Addr::new(10, 32, 0, n));
                let wanted = pod.address.filter(|a| !taken.contains(a));
                let free = wanted.or_else(|| (2..=254).map(first).find(|a| !taken.contains(a)));
                let Some(address) = free else { return Err(net::Error::Exhausted("pod addresses".into())) };
                pods.insert(pod.id, address);
                address
            }
        };
        Ok(Attachment { addresses: vec![address], sockets: Arc::new(FakeSockets(address)) })
    }

    async fn detach(&self, id: &str) {
        lock(&self.0.pods).remove(id);
    }

    fn list(&self) -> Vec<(Arc<str>, IpAddr)> {
        lock(&self.0.pods).iter().map(|(id, address)| (id.clone(), *address)).collect()
    }
}

#[async_trait::async_trait]
impl Dialer for FakeNetwork {
    async fn connect(&self, _to: SocketAddr) -> net::Result<Stream> {
        unsupported()
    }

    async fn reachable(&self, to: SocketAddr) -> net::Result<()> {
        let known = lock(&self.0.answers).contains_key(&to.port());
        if known { Ok(()) } else { Err(net::Error::Refused(to.to_string())) }
    }

    async fn http(&self, to: SocketAddr, request: net::Request) -> net::Result<net::Response> {
        let answer = lock(&self.0.answers).get(&to.port()).cloned();
        let Some(answer) = answer else { return Err(net::Error::Refused(to.to_string())) };
        let (parts, _body) = request.into_parts();
        let (status, headers) = answer(&http::Request::from_parts(parts, ()));
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let body = Body::new(Full::new(Bytes::new()).map_err(|never| match never {}));
        response.body(body).map_err(|e| net::Error::Protocol(e.to_string()))
    }

    async fn hand_over(&self, _connection: Connection, _peer: Peer, _to: SocketAddr) -> net::Result<()> {
        unsupported()
    }
}
