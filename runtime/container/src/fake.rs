//! An in-memory runtime and network for tests (feature `fake`).
//!
//! [`FakeRuntime`] implements [`Runtime`]; the test chooses a [`Script`] for each container. [`FakeNetwork`] implements
//! [`Network`](crate::net::Network), [`Sockets`] and [`Dialer`](crate::net::Dialer). Both pass the tests of `contract`.

mod network;

pub use network::FakeNetwork;

use crate::{
    Artifact, Clock, ContainerId, ContainerSpec, ContainerState, Error, Event, Exec, Exit, ExitReason, Limits,
    Prepared, Progress, Result, Runtime, SandboxId, SandboxSpec, Stats, Status, Streams, net::Sockets,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy},
    sync::broadcast,
};

/// What a container does after its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Runs until it is stopped, and exits with 143.
    Run,
    /// Runs until it is stopped, and exits with this code.
    ExitOnStop(i32),
    /// Runs until it is stopped, and takes this long to stop. Exits with 137 if the grace period is shorter.
    SlowStop(Duration),
    /// Exits by itself with this code after this time.
    Exit(Duration, i32),
    /// Writes its arguments to its log, one per line, and exits with 0.
    Print,
    /// Exceeds its memory limit and is killed.
    OomKill,
    /// [`Runtime::start`] fails with this text, and the container never runs.
    FailStart(String),
    /// [`Runtime::prepare`] fails with this text.
    FailPrepare(String),
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
    commands: Vec<Vec<String>>,
}

struct Entry {
    sandbox: SandboxId,
    spec: ContainerSpec,
    script: Script,
    state: ContainerState,
}

/// An in-memory runtime. Cheap to clone.
#[derive(Clone)]
pub struct FakeRuntime(Arc<Inner>);

struct Inner {
    name: &'static str,
    clock: Clock,
    scripts: Mutex<Scripts>,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    problem: Mutex<Option<String>>,
    fails_removal: AtomicBool,
    /// Since when no container has requests.
    quiet: Mutex<Option<std::time::SystemTime>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl FakeRuntime {
    /// Creates a runtime with this name. A container's script is `scripts(container name, attempt)`; attempts count from 0.
    pub fn new(
        name: &'static str,
        clock: Clock,
        scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static,
    ) -> Self {
        let scripts: Mutex<Scripts> = Mutex::new(Box::new(scripts));
        let inner = Inner {
            name,
            clock,
            scripts,
            state: Mutex::default(),
            events: broadcast::channel(1024).0,
            problem: Mutex::default(),
            fails_removal: AtomicBool::new(false),
            quiet: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// From now on containers have requests, or have none, as [`Runtime::stats`] tells.
    pub fn set_quiet(&self, quiet: bool) {
        *lock(&self.0.quiet) = quiet.then(|| self.0.clock.now());
    }

    /// Changes the scripts of containers that are created from now on.
    pub fn script(&self, scripts: impl Fn(&str, u32) -> Script + Send + Sync + 'static) {
        *lock(&self.0.scripts) = Box::new(scripts);
    }

    /// Sets the problem that [`Runtime::health`] reports.
    pub fn set_problem(&self, problem: Option<&str>) {
        *lock(&self.0.problem) = problem.map(str::to_owned);
    }

    /// Whether [`Runtime::remove_sandbox`] fails from now on.
    pub fn fail_sandbox_removal(&self, fails_removal: bool) {
        self.0.fails_removal.store(fails_removal, Ordering::SeqCst);
    }

    /// The specs of all created containers, in order.
    pub fn specs(&self) -> Vec<ContainerSpec> {
        lock(&self.0.state).specs.clone()
    }

    /// The limits that a container has now, by its name.
    pub fn limits(&self, name: &str) -> Option<Limits> {
        let state = lock(&self.0.state);
        state.containers.values().rfind(|entry| entry.spec.name == name).map(|entry| entry.spec.limits)
    }

    /// All stop calls: container name and grace period.
    pub fn stops(&self) -> Vec<(String, Duration)> {
        lock(&self.0.state).stops.clone()
    }

    /// Names of the retired containers, in order.
    pub fn retired(&self) -> Vec<String> {
        lock(&self.0.state).retired.clone()
    }

    /// All commands that were executed in containers, in order.
    pub fn commands(&self) -> Vec<Vec<String>> {
        lock(&self.0.state).commands.clone()
    }

    /// Names of the running containers, sorted.
    pub fn running(&self) -> Vec<String> {
        let state = lock(&self.0.state);
        let running = state.containers.values().filter(|e| matches!(e.state, ContainerState::Running { .. }));
        let mut names: Vec<_> = running.map(|e| e.spec.name.clone()).collect();
        names.sort();
        names
    }

    /// The existing sandboxes.
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        lock(&self.0.state).sandboxes.iter().cloned().collect()
    }

    /// Ends all running containers with this name.
    pub fn exit(&self, name: &str, code: i32) {
        let ids: Vec<_> = {
            let state = lock(&self.0.state);
            let named = state.containers.iter().filter(|(_, e)| e.spec.name == name);
            named.map(|(id, _)| id.clone()).collect()
        };
        ids.iter().for_each(|id| self.exit_one(id, code));
    }

    fn exit_one(&self, id: &ContainerId, code: i32) {
        self.exit_with(id, code, if code == 0 { ExitReason::Completed } else { ExitReason::Error });
    }

    fn exit_with(&self, id: &ContainerId, code: i32, reason: ExitReason) {
        let mut state = lock(&self.0.state);
        let Some(entry) = state.containers.get_mut(id) else { return };
        let started_at = match entry.state {
            ContainerState::Running { started_at } => Some(started_at),
            ContainerState::Created => None,
            ContainerState::Exited(_) => return,
        };
        let exit = Exit { code, reason, message: String::new(), started_at, finished_at: self.0.clock.now() };
        entry.state = ContainerState::Exited(exit.clone());
        let sandbox = entry.sandbox.clone();
        // There may be no receiver.
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
        _scope: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<dyn Prepared>> {
        progress(Progress::Queued);
        if let Script::FailPrepare(text) = lock(&self.0.scripts)(artifact.digest(), 0) {
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
        if self.0.fails_removal.load(Ordering::SeqCst) {
            return Err(Error::Exhausted(format!("sandbox {id} is busy")));
        }
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
        if state.containers.contains_key(&spec.id) {
            return Err(Error::Invalid(format!("container {} exists", spec.id)));
        }
        let attempt = state.attempts.entry((sandbox.clone(), spec.name.clone())).or_default();
        let script = lock(&self.0.scripts)(&spec.name, *attempt);
        *attempt += 1;
        state.specs.push(spec.clone());
        let entry = Entry { sandbox: sandbox.clone(), spec: spec.clone(), script, state: ContainerState::Created };
        state.containers.insert(spec.id.clone(), entry);
        let event = Event { id: spec.id, sandbox: sandbox.clone(), state: ContainerState::Created };
        // There may be no receiver.
        let _ = self.0.events.send(event);
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let running = ContainerState::Running { started_at: self.0.clock.now() };
        let (script, new) = self.entry(id, |e| (e.script.clone(), e.state == ContainerState::Created))?;
        if !new {
            return Ok(());
        }
        if let Script::FailStart(text) = script {
            return Err(Error::Invalid(text));
        }
        let sandbox = self.entry(id, |entry| {
            entry.state = running.clone();
            entry.sandbox.clone()
        })?;
        let _ = self.0.events.send(Event { id: id.clone(), sandbox, state: running });
        match script {
            Script::Exit(Duration::ZERO, code) => self.exit_one(id, code),
            Script::Exit(after, code) => {
                let (this, id) = (self.clone(), id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    this.exit_one(&id, code);
                });
            }
            Script::Print => {
                let spec = self.entry(id, |entry| entry.spec.clone())?;
                print(&spec, self.0.clock.now()).map_err(anyhow::Error::from)?;
                self.exit_one(id, 0);
            }
            Script::OomKill => self.exit_with(id, 137, ExitReason::OomKilled),
            _ => {}
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
            Script::SlowStop(needs) => {
                tokio::time::sleep(needs.min(grace)).await;
                self.exit_one(id, if needs <= grace { 143 } else { 137 });
            }
            Script::ExitOnStop(code) => self.exit_one(id, code),
            _ => self.exit_one(id, 143),
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        self.exit_one(id, 137);
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

    /// Reports half a core of CPU usage, and of a container with ports ten requests a second unless it is quiet.
    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let now = self.0.clock.now();
        let quiet = *lock(&self.0.quiet);
        self.entry(id, |entry| {
            let until = |end: std::time::SystemTime| match entry.state {
                ContainerState::Running { started_at } => end.duration_since(started_at).unwrap_or_default(),
                _ => Duration::ZERO,
            };
            let (ran, served) = (until(now), until(quiet.unwrap_or(now)));
            let cpu_nanos = u64::try_from(ran.as_nanos() / 2).unwrap_or(u64::MAX);
            let serves_http = !entry.spec.ports.is_empty();
            let requests = if serves_http { served.as_secs() * 10 } else { 0 };
            Stats { cpu_nanos, memory_bytes: 1 << 20, instances: 1, requests, serves_http, ..Stats::default() }
        })
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<()> {
        self.entry(id, |entry| entry.spec.limits = limits)
    }

    /// Commands: `copy CODE`, `hang` (does not end), and `say CODE OUTPUT ERRORS`.
    async fn exec(&self, id: &ContainerId, exec: Exec, mut streams: Streams) -> Result<i32> {
        self.check_running(id)?;
        lock(&self.0.state).commands.push(exec.command.clone());
        let parse = |code: &str| code.parse().map_err(|_| Error::Invalid(format!("{code:?} is no exit code")));
        match exec.command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["copy", code] => {
                let code = parse(code)?;
                streams.copy().await?;
                Ok(code)
            }
            ["hang"] => std::future::pending().await,
            ["say", code, output, errors] => {
                let code = parse(code)?;
                for (text, to) in [(output, streams.stdout), (errors, streams.stderr)] {
                    if let Some(mut to) = to {
                        to.write_all(text.as_bytes()).await.map_err(anyhow::Error::from)?;
                    }
                }
                Ok(code)
            }
            _ => Err(Error::Invalid(format!("{:?} is not in the container", exec.command))),
        }
    }

    /// Copies the standard input to the standard output.
    async fn attach(&self, id: &ContainerId, mut streams: Streams) -> Result<()> {
        self.check_running(id)?;
        streams.copy().await
    }
}

impl FakeRuntime {
    fn check_running(&self, id: &ContainerId) -> Result<()> {
        match self.entry(id, |entry| matches!(entry.state, ContainerState::Running { .. }))? {
            true => Ok(()),
            false => Err(Error::NotFound(format!("container {id} is not running"))),
        }
    }
}

impl Streams {
    /// Copies standard input to standard output until its end.
    async fn copy(&mut self) -> Result<()> {
        if let (Some(from), Some(to)) = (&mut self.stdin, &mut self.stdout) {
            copy(from, to).await.map_err(anyhow::Error::from)?;
            to.shutdown().await.map_err(anyhow::Error::from)?;
        }
        Ok(())
    }
}

fn print(spec: &ContainerSpec, now: std::time::SystemTime) -> std::io::Result<()> {
    std::fs::create_dir_all(spec.log.parent().unwrap_or(&spec.log))?;
    let mut file = std::fs::File::create(&spec.log)?;
    spec.args.iter().try_for_each(|line| writeln!(file, "{} stdout F {line}", crate::log::timestamp(now)))
}

#[cfg(test)]
mod tests;
