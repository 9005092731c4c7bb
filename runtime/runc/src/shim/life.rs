//! Starts and ends containers.

use super::{
    bundle,
    containers::{Container, Shim},
    output::{drain, pump},
    reap::code,
    signal,
};
use crate::{protocol::CallError, stream::Stream};
use container::{
    ContainerId, ContainerState, ExitReason, Stdin, descriptors,
    log::{STALL_TIMEOUT, Source},
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitStatus},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// The socket by which the OCI runtime gives a terminal, in the container's folder.
const TERMINAL: &str = "tty.sock";
/// How long output may come after the end of a program, from a process of it that goes on.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a killed program may take to end. Only one in an uninterruptible system call takes longer.
const KILL: Duration = Duration::from_secs(10);
/// Between attempts to kill what forks.
const AGAIN: Duration = Duration::from_millis(5);
/// Most such attempts.
const ATTEMPTS: u32 = 200;

/// The other ends of a program's streams.
struct Ends {
    input: Option<Stream>,
    outputs: Vec<(Stream, Source)>,
}

impl Shim {
    /// Starts a container that was created. Its end is told to watchers.
    pub(crate) async fn start(self: &Rc<Self>, id: &ContainerId) -> Result<(), CallError> {
        let container = self.container(id)?;
        let gate = container.gate.lock().await;
        if *container.state.borrow() != ContainerState::Created {
            return Ok(());
        }
        let launched = self.launch(&container).await;
        drop(gate);
        launched.map_err(CallError::Other)
    }

    async fn launch(self: &Rc<Self>, container: &Rc<Container>) -> Result<(), String> {
        container.in_tool.set(true);
        let created = self.create_in_tool(container).await;
        let (ended, ends) = match created {
            Ok(created) => created,
            Err(message) => {
                let message = format!("OCI runtime create failed: {message}");
                return Err(self.never_started(container, message).await);
            }
        };
        let mut start = self.runner.command(&container.folder);
        start.arg("start").arg(&*container.id);
        if let Err(message) = self.runner.run(start, &container.folder).await {
            let message = format!("OCI runtime start failed: {message}");
            return Err(self.never_started(container, message).await);
        }
        let pumps = self.follow(container, ends);
        self.enter(container, ContainerState::Running { started_at: self.clock.now() });
        let (shim, container) = (self.clone(), container.clone());
        tokio::task::spawn_local(async move {
            let code = ended.await.map_or(255, code);
            shim.ended(&container, code, pumps).await;
        });
        Ok(())
    }

    /// Creates a container in the OCI runtime: its process waits for the start.
    async fn create_in_tool(&self, container: &Container) -> Result<(oneshot::Receiver<WaitStatus>, Ends), String> {
        let (folder, pid_file) = (&container.folder, container.folder.join("pid"));
        let mut create = self.runner.command(folder);
        create.args(["create", "--bundle"]).arg(folder).arg("--pid-file").arg(&pid_file).current_dir(folder);
        let listener = container.tty.then(|| terminal_listener(folder, TERMINAL)).transpose();
        let listener = listener.map_err(|error| format!("a socket for the terminal: {error}"))?;
        let mut ends = Ends { input: None, outputs: Vec::new() };
        if listener.is_some() {
            create.args(["--console-socket", TERMINAL]);
        } else {
            ends = pipes(container.stdin, &mut create).map_err(|error| format!("pipes for the streams: {error}"))?;
        }
        create.arg(&*container.id);
        self.runner.run(create, folder).await?;
        let pid = read_pid(&pid_file).map_err(|error| format!("no process was made: {error}"))?;
        let ended = self.reaper.claim(pid);
        container.pid.set(Some(pid));
        if let Some(listener) = listener {
            let terminal = receive_terminal(&listener).and_then(|fd| Ok((rustix::io::dup(&fd)?, fd)));
            let terminal = terminal.and_then(|(input, output)| Ok((Stream::new(input)?, Stream::new(output)?)));
            let (input, output) = terminal.map_err(|error| format!("the terminal was not received: {error}"))?;
            let _ = fs::remove_file(folder.join(TERMINAL));
            ends = Ends { input: Some(input), outputs: vec![(output, Source::Stdout)] };
        }
        Ok((ended, ends))
    }

    /// Starts to copy what the program writes. Only now: what the OCI runtime itself wrote before is no output of the container.
    fn follow(&self, container: &Container, ends: Ends) -> Vec<JoinHandle<()>> {
        // a terminal has its input also where none was asked for: its size is set by it
        *container.input.borrow_mut() = ends.input.map(Rc::new);
        let Some(log) = &container.log else { return Vec::new() };
        let copy = |(from, source)| pump(Rc::new(from), source, log.clone(), container.clients.clone());
        ends.outputs.into_iter().map(|end| tokio::task::spawn_local(copy(end))).collect()
    }

    /// The end of a container that could not be started. Returns the message.
    async fn never_started(&self, container: &Rc<Container>, message: String) -> String {
        if let Some(pid) = container.pid.get() {
            self.reaper.signal(pid, Signal::KILL);
        }
        self.kill_all(container).await;
        self.clean(container).await;
        self.exit(container, 128, ExitReason::StartError, message.clone());
        message
    }

    /// The program of a container has ended.
    async fn ended(self: Rc<Self>, container: &Rc<Container>, code: i32, pumps: Vec<JoinHandle<()>>) {
        container.pid.set(None);
        let cgroup = self.cgroup(&container.id);
        let oom_kills = self.cgroups.as_ref().zip(cgroup.as_ref()).map_or(0, |(all, own)| all.oom_kills(own));
        // those of a process namespace of its own have ended with it
        self.kill_all(container).await;
        *container.input.borrow_mut() = None;
        drain(pumps, DRAIN).await;
        container.clients.close();
        if let Some(log) = &container.log {
            let _ = tokio::time::timeout(STALL_TIMEOUT, log.flush()).await;
        }
        let reason = match (oom_kills, code) {
            (1.., _) => ExitReason::OomKilled,
            (0, 0) => ExitReason::Completed,
            (0, _) => ExitReason::Error,
        };
        let gate = container.gate.lock().await;
        self.exit(container, code, reason, String::new());
        self.clean(container).await;
        drop(gate);
    }

    /// Kills all processes of a container, also those that fork meanwhile.
    async fn kill_all(&self, container: &Container) {
        let Some((cgroups, own)) = self.cgroups.as_ref().zip(self.cgroup(&container.id)) else { return };
        for _ in 0..ATTEMPTS {
            if cgroups.kill(&own) == 0 {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Takes a container that has ended out of the OCI runtime, and its mounts away.
    async fn clean(&self, container: &Container) {
        if container.in_tool.replace(false) {
            let mut delete = self.runner.command(&container.folder);
            delete.args(["delete", "--force"]).arg(&*container.id);
            if let Err(message) = self.runner.run(delete, &container.folder).await {
                eprintln!("delete container {}: {message}", container.id);
            }
            if let Some((cgroups, own)) = self.cgroups.as_ref().zip(self.cgroup(&container.id)) {
                cgroups.remove(&own);
            }
            let _ = fs::remove_dir_all(self.runner.state.join(&*container.id));
        }
        bundle::unmount(&container.folder);
        container.layers.take();
    }

    /// Asks a container to end, and kills it after `grace`.
    pub(crate) async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), CallError> {
        let container = self.container(id)?;
        {
            // a start in progress ends first: it takes no longer than the OCI runtime may
            let _gate = container.gate.lock().await;
            if *container.state.borrow() == ContainerState::Created {
                self.exit(&container, 128, ExitReason::Error, "stopped before it was started".into());
                self.clean(&container).await;
            }
        }
        if container.has_ended() {
            return Ok(());
        }
        let send = |signal| container.pid.get().into_iter().for_each(|pid| self.reaper.signal(pid, signal));
        if !grace.is_zero() {
            send(signal::parse(&container.stop_signal).unwrap_or(Signal::TERM));
            if tokio::time::timeout(grace, container.wait()).await.is_ok() {
                return Ok(());
            }
        }
        send(Signal::KILL);
        if tokio::time::timeout(KILL, container.wait()).await.is_ok() {
            return Ok(());
        }
        self.kill_all(&container).await;
        let ended = tokio::time::timeout(KILL, container.wait()).await;
        ended.map_err(|_| CallError::Exhausted(format!("container {id} does not end although it was killed")))
    }

    /// Ends a container and removes it.
    pub(crate) async fn remove(&self, id: &ContainerId) -> Result<(), CallError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if *container.state.borrow() != ContainerState::Created || container.gate.try_lock().is_err() {
            self.stop(id, Duration::ZERO).await?;
        }
        let _gate = container.gate.lock().await;
        self.clean(&container).await;
        bundle::remove(&container.folder).map_err(|error| CallError::other("remove the container's folder", error))?;
        self.containers.borrow_mut().remove(id);
        Ok(())
    }
}

/// Gives a program pipes as its streams, and returns their other ends.
fn pipes(stdin: Stdin, command: &mut Command) -> io::Result<Ends> {
    let input = match stdin {
        Stdin::Empty => None,
        Stdin::Open | Stdin::Once => {
            let (theirs, own) = pipe_with(PipeFlags::CLOEXEC)?;
            command.stdin(Stdio::from(theirs));
            Some(Stream::new(own)?)
        }
    };
    let (stdout, out) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, err) = pipe_with(PipeFlags::CLOEXEC)?;
    let outputs = vec![(Stream::new(stdout)?, Source::Stdout), (Stream::new(stderr)?, Source::Stderr)];
    command.stdout(Stdio::from(out)).stderr(Stdio::from(err));
    Ok(Ends { input, outputs })
}

/// The number in a file that the OCI runtime wrote.
pub(crate) fn read_pid(file: &Path) -> io::Result<Pid> {
    let text = fs::read_to_string(file)?;
    text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A socket in a container's folder. Its path is short: the folder below this process's own.
pub(crate) fn terminal_listener(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let path = folder.join(name);
    let _ = fs::remove_file(&path);
    let handle = fs::File::open(folder)?;
    let short = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The terminal that the OCI runtime has sent before it ended.
pub(crate) fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = listener.accept()?;
    connection.set_nonblocking(true)?;
    let (mut name, mut descriptors) = ([0; 256], Vec::new());
    descriptors::receive(&connection, &mut name, &mut descriptors)?;
    descriptors.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
