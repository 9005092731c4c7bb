//! The pods of the node: their folders, their shims, and what is left when a shim has ended.

use crate::{
    SHIM_ENDED,
    call::{Call, connect, listen},
    disk,
    node::{Inner, Pod, Shim},
    protocol::{CONTAINERS, Known, ORDERS, Orders, RUNTIME_STATE, Reply, Request, STATE},
    rootfs,
    shim::tool,
};
use container::{ContainerState, Error, Exit, ExitReason, Result, SandboxSpec, tree};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    process::Command,
    sync::{Mutex, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a shim may take until it is ready, and a killed one until it is gone.
const START: Duration = Duration::from_secs(30);
/// The file with the number of a shim's process.
const PROCESS: &str = "shim.pid";
/// The file with what a shim says before it ends.
const WORDS: &str = "shim.log";
/// Attempts to kill what forks, and the time between them.
const ATTEMPTS: (u32, Duration) = (200, Duration::from_millis(5));
/// What makes the allocator small: a shim has one thread and little memory.
const ALLOCATOR: &str =
    "background_thread:false,percpu_arena:disabled,narenas:1,tcache:false,dirty_decay_ms:0,muzzy_decay_ms:0";

/// A process, told from others that get its number later.
#[derive(Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// Its start, in ticks since that of the machine.
    started: String,
}

impl Process {
    fn new(pid: u32) -> Self {
        Self { pid, started: started(pid).unwrap_or_default() }
    }

    /// Kills it, if it is still that one.
    fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return };
        // the descriptor first: what it names does not change after the comparison
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && started(self.pid).is_some_and(|started| started == self.started)
        {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned())
}

impl Inner {
    /// The shim of a pod, which is started if there is none. `held` is that of the pod.
    pub(crate) async fn start_shim(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        held: &mut Option<Arc<Shim>>,
        sandbox: SandboxSpec,
    ) -> Result<()> {
        let tool = self.tool()?;
        let failed = |what: &str, error: io::Error| Error::Exhausted(format!("{what}: {error}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&pod.folder)
            .map_err(|error| failed("the folder of the pod cannot be made", error))?;
        let orders = Orders {
            sandbox,
            folder: pod.folder.clone(),
            tool,
            log: self.options.log,
            cgroup: pod.cgroup.clone(),
            cgroups: self.cgroups_root.clone(),
            program: self.options.program.clone(),
            args: self.options.args.clone(),
        };
        disk::write(&pod.folder.join(ORDERS), &orders).map_err(|error| failed("the pod cannot be kept", error))?;
        self.spawn(pod).map_err(|error| failed("the shim of the pod cannot be started", error))?;
        let followed = timeout(START, self.follow(pod)).await;
        let followed = followed.unwrap_or_else(|_| Err(Error::Exhausted(format!("it is not ready after {START:?}"))));
        match followed {
            Ok(shim) => *held = Some(shim),
            Err(error) => {
                self.bury(pod).await;
                let words = fs::read_to_string(pod.folder.join(WORDS)).unwrap_or_default();
                let why = words.lines().last().map_or_else(|| error.to_string(), ToOwned::to_owned);
                return Err(Error::Exhausted(format!("the shim of the pod cannot be started: {why}")));
            }
        }
        Ok(())
    }

    fn spawn(&self, pod: &Pod) -> io::Result<()> {
        let listener = listen(&pod.folder)?;
        let words = fs::OpenOptions::new().create(true).truncate(true).write(true).open(pod.folder.join(WORDS))?;
        let mut command = Command::new(&self.options.program);
        command.args(&self.options.args).env_clear().env("_RJEM_MALLOC_CONF", ALLOCATOR).current_dir(&pod.folder);
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::from(words));
        let mut child = command.spawn()?;
        if let Some(pid) = child.id() {
            disk::write(&pod.folder.join(PROCESS), &Process::new(pid))?;
        }
        // so that it does not stay a zombie
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    /// Connects to the shim of a pod, and follows what it tells until it has ended. Returns when all is known that was before.
    pub(crate) async fn follow(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<Arc<Shim>> {
        let call = Call::start(&pod.folder, &Request::Watch, Vec::new()).await?;
        let (tell, told) = watch::channel(0);
        let shim = Arc::new(Shim { told, gone: CancellationToken::new() });
        loop {
            match call.next().await?.0 {
                Reply::State { container, .. } => self.set_state(&pod.id, container),
                Reply::Ready { seq } => {
                    tell.send_replace(seq);
                    break;
                }
                _ => return Err(Error::Exhausted("the shim of the pod says what nobody asked for".into())),
            };
        }
        let (inner, pod, own) = (self.clone(), pod.clone(), shim.clone());
        tokio::spawn(async move {
            while let Ok(Some((Reply::State { seq, container }, _))) = call.next_or_end().await {
                inner.set_state(&pod.id, container);
                tell.send_replace(seq);
            }
            inner.bury(&pod).await;
            own.gone.cancel();
        });
        Ok(shim)
    }

    /// Ends what a shim that is not there any more has left: its containers have ended with it.
    pub(crate) async fn bury(&self, pod: &Pod) {
        if let Ok(process) = disk::read::<Process>(&pod.folder.join(PROCESS)) {
            process.kill();
        }
        if let Some((cgroups, path)) = self.cgroups.as_ref().zip(pod.cgroup.as_ref()) {
            for _ in 0..ATTEMPTS.0 {
                if cgroups.kill(path) == 0 {
                    break;
                }
                tokio::time::sleep(ATTEMPTS.1).await;
            }
        }
        let containers = pod.folder.join(CONTAINERS);
        for entry in fs::read_dir(&containers).into_iter().flatten().flatten() {
            self.bury_container(pod, &entry.path()).await;
        }
        unmount_below(&pod.folder);
    }

    async fn bury_container(&self, pod: &Pod, folder: &Path) {
        let state = pod.folder.join(RUNTIME_STATE);
        let name = folder.file_name().unwrap_or_default();
        if state.join(name).exists()
            && let Ok(tool) = self.tool()
        {
            let mut delete = Command::from(tool::command(&tool, &state, &folder.join("runtime.log")));
            delete.args(["delete", "--force"]).arg(name).kill_on_drop(true);
            let ended = timeout(tool.within, delete.status()).await;
            if !matches!(ended, Ok(Ok(status)) if status.success()) {
                tracing::warn!(pod = %pod.id, container = %name.display(), "the OCI runtime did not delete a dead container");
            }
            let _ = tree::remove(&state.join(name));
        }
        let Ok(mut known) = disk::read::<Known>(&folder.join(STATE)) else { return };
        if !matches!(known.state, ContainerState::Exited(_)) {
            let started_at = match known.state {
                ContainerState::Running { started_at } => Some(started_at),
                _ => None,
            };
            let finished_at = self.options.clock.now().max(started_at.unwrap_or(std::time::UNIX_EPOCH));
            let (code, reason, message) = (137, ExitReason::Error, SHIM_ENDED.into());
            known.state = ContainerState::Exited(Exit { code, reason, message, started_at, finished_at });
            if let Err(error) = disk::write(&folder.join(STATE), &known) {
                tracing::warn!(pod = %pod.id, %error, "the end of a container cannot be kept");
            }
        }
        self.set_state(&pod.id, known);
    }

    /// Finds the pods of a former process: those whose shims live go on, the others have ended.
    pub(crate) async fn find(self: &Arc<Self>) {
        let entries = fs::read_dir(&self.options.folder).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        futures::future::join_all(names.into_iter().map(|name| self.find_pod(name))).await;
    }

    async fn find_pod(self: &Arc<Self>, name: String) {
        let folder = self.options.folder.join(&name);
        let Ok(orders) = disk::read::<Orders>(&folder.join(ORDERS)) else { return };
        let id = orders.sandbox.id;
        let pod = Arc::new(Pod { id: id.clone(), folder, cgroup: orders.cgroup, shim: Mutex::default() });
        self.pods.lock().insert(id, pod.clone());
        let mut held = pod.shim.lock().await;
        let lives = connect(&pod.folder).await.is_ok();
        let followed = if lives { timeout(START, self.follow(&pod)).await.ok().and_then(Result::ok) } else { None };
        *held = followed;
        if held.is_none() {
            self.bury(&pod).await;
        }
    }

    /// Ends the shim of a pod, and removes everything of the pod.
    pub(crate) async fn end(&self, pod: &Pod, held: &mut Option<Arc<Shim>>) -> Result<()> {
        if let Some(shim) = held.as_ref().filter(|shim| shim.is_alive()) {
            let asked = timeout(self.patience(), async {
                Call::start(&pod.folder, &Request::End, Vec::new()).await?.done().await
            });
            if !matches!(asked.await, Ok(Ok((Ok(_), _))))
                && let Ok(process) = disk::read::<Process>(&pod.folder.join(PROCESS))
            {
                process.kill();
            }
            let gone = timeout(START, shim.gone.cancelled()).await;
            gone.map_err(|_| Error::Exhausted("the shim of the pod does not end although it was killed".into()))?;
        } else {
            self.bury(pod).await;
        }
        *held = None;
        tree::remove(&pod.folder).map_err(|error| {
            Error::Other(anyhow::Error::new(error).context("the folder of the pod cannot be removed"))
        })?;
        Ok(())
    }
}

/// Unmounts what is mounted below a folder here, where a pod mounts on the host itself.
fn unmount_below(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else { return };
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> =
        text.lines().filter_map(|line| Some(unescaped(line.split(' ').nth(4)?).into())).collect();
    points.retain(|point| point.starts_with(&folder));
    // what is mounted last is in what was mounted before
    for point in points.iter().rev() {
        rootfs::unmount_all(point);
    }
}

/// A path of mountinfo, in which spaces and others are octal numbers.
fn unescaped(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut path: Vec<u8> = pieces.next().unwrap_or_default().bytes().collect();
    for piece in pieces {
        let number = piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number {
            Some(byte) => path.push(byte),
            None => path.extend(piece.bytes()),
        }
        path.extend(number.and(piece.get(3..)).unwrap_or_default().bytes());
    }
    String::from_utf8_lossy(&path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mountinfo_are_read() {
        for (text, path) in [("/a", "/a"), (r"/a\040b\134", r"/a b\"), (r"/\303\244", "/ä"), ("", "")] {
            assert_eq!(unescaped(text), path);
        }
    }

    #[test]
    fn a_process_is_told_from_another_of_its_number() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::new(child.id());
        Process { started: "1".into(), ..Process::new(child.id()) }.kill();
        assert!(child.try_wait().unwrap().is_none(), "another one is not killed");
        process.kill();
        assert!(!child.wait().unwrap().success());
    }
}
