//! Clients of running containers: commands beside the program (exec), and its own streams (attach).

use super::{
    bundle,
    containers::{Container, Shim},
    life::{read_pid, receive_terminal, terminal_listener},
    output::{Client, feed},
    reap::code,
};
use crate::{
    disk,
    protocol::{CallError, Present, Reply},
    stream::Stream,
    wire,
};
use container::{ContainerId, Exec, Stdin};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::Stdio,
    rc::Rc,
};
use tokio::{io::Interest, net::UnixStream};

/// Waits until the other side has closed a connection on which it says nothing more.
pub(crate) async fn closed(connection: &UnixStream) {
    let mut byte = [0];
    while let Ok(()) = connection.readable().await {
        match connection.try_io(Interest::READABLE, || Ok(rustix::io::read(connection, &mut byte)?)) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // more is said than a call has
            Ok(_) | Err(_) => return,
        }
    }
}

/// The descriptors of the streams that are present: input, output, error.
fn split(present: Present, descriptors: Vec<OwnedFd>) -> Result<[Option<OwnedFd>; 3], CallError> {
    let mut descriptors = descriptors.into_iter();
    let wanted = [present.stdin, present.stdout, present.stderr];
    let all = wanted.map(|is_present| if is_present { descriptors.next() } else { None });
    let complete = wanted.iter().zip(&all).all(|(is_present, fd)| *is_present == fd.is_some());
    if complete { Ok(all) } else { Err(CallError::Other("streams are missing".into())) }
}

/// The files of one exec, removed with this.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    terminal: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.process, &self.pid, &self.terminal] {
            let _ = fs::remove_file(file);
        }
    }
}

impl Shim {
    /// Runs a command beside a container's program, and returns its exit code. It is killed when the caller closes the connection.
    pub(crate) async fn exec(
        &self,
        id: &ContainerId,
        exec: Exec,
        (present, descriptors): (Present, Vec<OwnedFd>),
        connection: &UnixStream,
    ) -> Result<i32, CallError> {
        let container = self.running(id)?;
        let number = self.execs.get();
        self.execs.set(number + 1);
        let (folder, terminal) = (&container.folder, format!("x{number}.sock"));
        let files = Files {
            process: folder.join(format!("x{number}.json")),
            pid: folder.join(format!("x{number}.pid")),
            terminal: folder.join(&terminal),
        };
        let failed = |text: String| CallError::Other(format!("failed to exec in container: {text}"));
        process(&container, &exec, &files.process).map_err(|error| failed(error.to_string()))?;
        let mut command = self.runner.command(folder);
        command.args(["exec", "--detach", "--process"]).arg(&files.process).arg("--pid-file").arg(&files.pid);
        command.current_dir(folder);
        let mut listener = None;
        if exec.tty {
            listener = Some(terminal_listener(folder, &terminal).map_err(|error| failed(error.to_string()))?);
            command.args(["--console-socket", &terminal]);
        } else {
            let [stdin, stdout, stderr] = split(present, descriptors)?;
            let given = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
            command.stdin(given(stdin)).stdout(given(stdout)).stderr(given(stderr));
        }
        command.arg(&**id);
        let run = self.runner.run(command, folder).await;
        if !container.is_running() {
            return Err(CallError::NotFound(format!("container {id} is not running")));
        }
        run.map_err(|text| failed(format!("OCI runtime exec failed: {text}")))?;
        let pid = read_pid(&files.pid).map_err(|error| failed(format!("no process was made: {error}")))?;
        let ended = self.reaper.claim(pid);
        let kill = || self.reaper.signal(pid, Signal::KILL);
        let terminal = listener.map(|listener| receive_terminal(&listener)).transpose();
        let told = match terminal {
            Ok(terminal) => wire::write(connection, &Reply::Started, terminal.as_slice()).await,
            Err(error) => Err(error),
        };
        drop(files);
        if let Err(error) = told {
            kill();
            return Err(failed(error.to_string()));
        }
        tokio::pin!(ended);
        tokio::select! {
            status = &mut ended => Ok(status.map_or(255, code)),
            () = closed(connection) => {
                kill();
                Ok(ended.await.map_or(255, code))
            }
        }
    }

    /// Connects a client to a container's streams until either ends.
    pub(crate) async fn attach(
        &self,
        id: &ContainerId,
        (present, descriptors): (Present, Vec<OwnedFd>),
        connection: &UnixStream,
    ) -> Result<i32, CallError> {
        let container = self.running(id)?;
        let failed = |error: io::Error| CallError::other("failed to attach", error);
        let mut streams = [None, None, None];
        for (to, fd) in streams.iter_mut().zip(split(present, descriptors)?) {
            *to = fd.map(Stream::new).transpose().map_err(failed)?;
        }
        let [stdin, stdout, stderr] = streams;
        let only_input = stdout.is_none() && stderr.is_none();
        let client = Client::new(stdout, stderr, container.tty);
        if !container.clients.add(client.clone()) {
            return Err(CallError::Exhausted("too many clients are attached to the container".into()));
        }
        let terminal = container.input.borrow().as_ref().filter(|_| container.tty).cloned();
        let terminal: Vec<OwnedFd> =
            terminal.iter().filter_map(|terminal| terminal.as_fd().try_clone_to_owned().ok()).collect();
        let told = wire::write(connection, &Reply::Started, &terminal).await;
        drop(terminal);
        if told.is_ok() {
            let input = async {
                input(&container, stdin).await;
                if !only_input {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = input => {}
                () = client.left() => {}
                () = closed(connection) => {}
            }
        }
        container.clients.remove(&client);
        Ok(0)
    }
}

/// Gives a client's input to the program. With [`Stdin::Once`], the end of the first client's is the end of the program's.
async fn input(container: &Rc<Container>, from: Option<Stream>) {
    let (Some(from), Stdin::Open | Stdin::Once) = (from, container.stdin) else { return };
    let Some(to) = container.input.borrow().clone() else { return };
    feed(&from, &to).await;
    if container.stdin == Stdin::Once && !container.tty {
        drop(to);
        *container.input.borrow_mut() = None;
    }
}

/// Writes the process of an exec: the container's own, with another command.
fn process(container: &Container, exec: &Exec, to: &std::path::Path) -> io::Result<()> {
    let mut config: Value = disk::read(&container.folder.join(bundle::CONFIG))?;
    let mut process = config.get_mut("process").map(Value::take).unwrap_or_default();
    process["args"] = exec.command.clone().into();
    process["terminal"] = exec.tty.into();
    if let Some(env) = process["env"].as_array_mut().filter(|_| exec.tty)
        && !env.iter().any(|it| it.as_str().is_some_and(|it| it.starts_with("TERM=")))
    {
        env.push("TERM=xterm".into());
    }
    disk::write(to, &process)
}
