//! The containers of the pod, their states, and who is told of them.

use super::{bundle, output::Clients, reap::Reaper, tool::Runner};
use crate::{
    cgroup::Cgroups,
    config::Pod,
    disk,
    protocol::{CONTAINERS, CallError, Known, Orders, Reply, STATE},
    stream::Stream,
};
use container::{
    Clock, ContainerId, ContainerSpec, ContainerState, Exit, ExitReason, Stdin,
    log::{Disk, Log},
};
use rustix::process::Pid;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
};
use tokio::sync::{Mutex, Notify, mpsc};

/// Most containers of a pod, those that ended included.
const MAX_CONTAINERS: usize = 1024;
/// Most bytes of the message of an exit.
const MAX_MESSAGE: usize = 4 << 10;

/// One attempt of one container.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) name: String,
    /// Its bundle.
    pub(crate) folder: PathBuf,
    pub(crate) tty: bool,
    pub(crate) stdin: Stdin,
    pub(crate) stop_signal: String,
    pub(crate) log: Option<Log>,
    pub(crate) state: RefCell<ContainerState>,
    /// Its layers, which nobody removes while they are open here.
    pub(crate) layers: RefCell<Vec<OwnedFd>>,
    /// The process of its program, from its creation to its end.
    pub(crate) pid: Cell<Option<Pid>>,
    /// Whether the OCI runtime may know it.
    pub(crate) in_tool: Cell<bool>,
    /// The other end of its standard input, or its terminal.
    pub(crate) input: RefCell<Option<Rc<Stream>>>,
    pub(crate) clients: Rc<Clients>,
    /// Held by what creates, starts or removes it.
    pub(crate) gate: Mutex<()>,
    /// Told when it has ended.
    pub(crate) ended: Notify,
}

impl Container {
    fn known(&self) -> Known {
        Known { id: self.id.clone(), name: self.name.clone(), state: self.state.borrow().clone() }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Exited(_))
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Running { .. })
    }

    /// Waits until it has ended. Cancel-safe.
    pub(crate) async fn wait(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.has_ended() {
                return;
            }
            ended.await;
        }
    }
}

/// The shim of one pod.
pub(crate) struct Shim {
    pub(crate) orders: Orders,
    pub(crate) pod: Pod,
    pub(crate) reaper: Rc<Reaper>,
    pub(crate) runner: Runner,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) containers: RefCell<BTreeMap<ContainerId, Rc<Container>>>,
    pub(crate) watchers: RefCell<Vec<mpsc::UnboundedSender<Reply>>>,
    pub(crate) seq: Cell<u64>,
    /// Numbers the files of execs.
    pub(crate) execs: Cell<u64>,
    pub(crate) end: Notify,
}

impl Shim {
    pub(crate) fn container(&self, id: &ContainerId) -> Result<Rc<Container>, CallError> {
        let found = self.containers.borrow().get(id).cloned();
        found.ok_or_else(|| CallError::NotFound(format!("container {id}")))
    }

    pub(crate) fn running(&self, id: &ContainerId) -> Result<Rc<Container>, CallError> {
        let found = self.container(id).ok().filter(|container| container.is_running());
        found.ok_or_else(|| CallError::NotFound(format!("container {id} is not running")))
    }

    /// The path of a container's cgroup.
    pub(crate) fn cgroup(&self, id: &ContainerId) -> Option<String> {
        self.pod.cgroup.as_ref().map(|pod| format!("{pod}/{id}"))
    }

    /// Sends the states of all containers, and then each change.
    pub(crate) fn watch(&self) -> mpsc::UnboundedReceiver<Reply> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let seq = self.seq.get();
        for container in self.containers.borrow().values() {
            let _ = sender.send(Reply::State { seq, container: container.known() });
        }
        let _ = sender.send(Reply::Ready { seq });
        self.watchers.borrow_mut().push(sender);
        receiver
    }

    /// Enters a state: on disk first, then to all that watch.
    pub(crate) fn enter(&self, container: &Container, state: ContainerState) {
        *container.state.borrow_mut() = state;
        let known = container.known();
        if let Err(error) = disk::write(&container.folder.join(STATE), &known) {
            eprintln!("the state of container {} cannot be kept: {error}", container.id);
        }
        let seq = self.seq.get() + 1;
        self.seq.set(seq);
        let told = |watcher: &mpsc::UnboundedSender<Reply>| {
            watcher.send(Reply::State { seq, container: known.clone() }).is_ok()
        };
        self.watchers.borrow_mut().retain(told);
        if container.has_ended() {
            container.ended.notify_waiters();
        }
    }

    pub(crate) fn exit(&self, container: &Container, code: i32, reason: ExitReason, mut message: String) {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let started_at = match *container.state.borrow() {
            ContainerState::Running { started_at } => Some(started_at),
            _ => None,
        };
        let finished_at = self.clock.now().max(started_at.unwrap_or(std::time::UNIX_EPOCH));
        self.enter(container, ContainerState::Exited(Exit { code, reason, message, started_at, finished_at }));
    }

    /// Makes a container.
    pub(crate) fn create(&self, spec: ContainerSpec) -> Result<(), CallError> {
        let id = spec.id.clone();
        if self.containers.borrow().contains_key(&id) {
            return Err(CallError::Other(format!("container {id} exists already")));
        }
        if self.containers.borrow().len() >= MAX_CONTAINERS {
            return Err(CallError::Exhausted(format!("the pod has {MAX_CONTAINERS} containers")));
        }
        let folder = bundle::path(&self.orders.folder.join(CONTAINERS), &id);
        let folder = folder.ok_or_else(|| CallError::Invalid(format!("{id:?} is no id of a container")))?;
        bundle::remove(&folder).map_err(|error| CallError::other("remove what is left of a former one", error))?;
        fs::create_dir_all(&folder).map_err(|error| CallError::other("make the folder of the container", error))?;
        let hostname = self.orders.folder.join("hostname");
        let layers = bundle::make(&folder, &spec, &self.pod, Some(&hostname)).map_err(|text| {
            let _ = bundle::remove(&folder);
            CallError::Invalid(text)
        })?;
        let container = Rc::new(Container {
            id: id.clone(),
            name: spec.name,
            folder,
            tty: spec.tty,
            stdin: spec.stdin,
            stop_signal: spec.linux.map(|linux| linux.stop_signal).unwrap_or_default(),
            log: Some(Log::new(spec.log, self.orders.log, self.clock.clone(), &self.disk)),
            state: RefCell::new(ContainerState::Created),
            layers: RefCell::new(layers),
            pid: Cell::new(None),
            in_tool: Cell::new(false),
            input: RefCell::new(None),
            clients: Rc::default(),
            gate: Mutex::new(()),
            ended: Notify::new(),
        });
        self.containers.borrow_mut().insert(id, container.clone());
        self.enter(&container, ContainerState::Created);
        Ok(())
    }

    /// Finds the containers of a former shim of the pod: they have ended with it.
    pub(crate) fn find(&self) {
        for entry in fs::read_dir(self.orders.folder.join(CONTAINERS)).into_iter().flatten().flatten() {
            let folder = entry.path();
            let Ok(known) = disk::read::<Known>(&folder.join(STATE)) else {
                let _ = bundle::remove(&folder);
                continue;
            };
            let container = Rc::new(Container {
                id: known.id.clone(),
                name: known.name,
                folder,
                tty: false,
                stdin: Stdin::Empty,
                stop_signal: String::new(),
                log: None,
                state: RefCell::new(known.state),
                layers: RefCell::default(),
                pid: Cell::new(None),
                in_tool: Cell::new(true),
                input: RefCell::new(None),
                clients: Rc::default(),
                gate: Mutex::new(()),
                ended: Notify::new(),
            });
            self.containers.borrow_mut().insert(known.id, container.clone());
            if !container.has_ended() {
                self.exit(&container, 137, ExitReason::Error, crate::SHIM_ENDED.into());
            }
        }
    }
}
