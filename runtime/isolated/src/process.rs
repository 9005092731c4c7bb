//! The child process of a pod: its start and its end.

use crate::{
    cgroup::Cgroup,
    host::{Host, OnState},
    link::{Link, LinkLimits},
    options::Options,
    pipes,
    protocol::Hello,
    requests,
};
use container::{
    Error, Result, SandboxSpec,
    net::{Request, Sockets},
};
use parking_lot::Mutex;
use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
    sync::{Arc, Once, OnceLock, mpsc},
    thread,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    runtime::Handle,
    sync::{Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long a child may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a killed child may take to end. Only a process in an uninterruptible system call takes longer.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// What a child may do to the node: bytes of a frame, and calls in progress. A listener that waits for a connection is a call.
const LIMITS: LinkLimits = LinkLimits { frame: 256 << 10, calls: 4096 };
/// Most bytes of the child's standard error that are kept: its last words.
const MAX_STDERR: usize = 4 << 10;

/// Starts children from one thread that lives as long as the node: the kernel sends a child the signal of its parent's death when the *thread*
/// that started it ends.
#[derive(Default)]
pub(crate) struct Spawner(OnceLock<mpsc::Sender<Job>>);

type Job = (Command, Handle, oneshot::Sender<io::Result<Child>>);

impl Spawner {
    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let sender = self.0.get_or_init(|| {
            let (sender, jobs) = mpsc::channel::<Job>();
            let _ = thread::Builder::new().name("isolated-pods".into()).spawn(move || {
                while let Ok((mut command, runtime, reply)) = jobs.recv() {
                    let _runtime = runtime.enter();
                    let _ = reply.send(command.spawn());
                }
            });
            sender
        });
        let (reply, child) = oneshot::channel();
        sender.send((command, Handle::current(), reply)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        child.await.map_err(|_| io::ErrorKind::BrokenPipe)?
    }
}

/// A running child. It is killed when this is dropped.
pub(crate) struct Process {
    pub(crate) link: Link,
    kill: CancellationToken,
    /// Cancelled when the process is gone, and everything that it held was given up.
    gone: CancellationToken,
    cgroup: Option<Arc<Cgroup>>,
    _requests: AbortOnDropHandle<()>,
}

/// What a child is started with.
pub(crate) struct Start<'a> {
    pub(crate) options: &'a Options,
    pub(crate) spawner: &'a Spawner,
    pub(crate) sandbox: SandboxSpec,
    pub(crate) sockets: Arc<dyn Sockets>,
    /// Bounds the streams of all children.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) on_state: OnState,
    /// Called once, when the child has ended.
    pub(crate) on_end: Box<dyn FnOnce(End) + Send>,
    /// The user that the child becomes, if it can.
    pub(crate) user: Option<u32>,
}

/// How a child ended.
pub(crate) struct End {
    pub(crate) message: String,
    pub(crate) out_of_memory: bool,
}

impl Process {
    /// Starts a child, and waits until it has confined itself.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel cannot confine it; another where it cannot be started now.
    pub(crate) async fn start(start: Start<'_>) -> Result<Arc<Self>> {
        let Start { options, spawner, sandbox, sockets, streams, on_state, on_end, user } = start;
        let exhausted =
            |error: io::Error| Error::Exhausted(format!("the process of the pod cannot be started: {error}"));
        create_folders(&sandbox).await?;
        let (socket, for_child) = pipes::pair().map_err(exhausted)?;
        let (outgoing, for_requests) = pipes::pair().map_err(exhausted)?;
        let mut child = spawner.spawn(command(options, for_child)).await.map_err(exhausted)?;
        let cgroup = cgroup(&sandbox, child.id()).map(Arc::new);
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let last_words = child.stderr.take().map(|from| tokio::spawn(keep_last(from, stderr.clone())));
        let (ready, is_ready) = oneshot::channel();
        let of_pod = Arc::new(Semaphore::new((options.streams / 4).max(1)));
        let host = Host::new(sockets.clone(), [of_pod, streams], ready, on_state);
        let hello = hello(options, sandbox, &*sockets, user);
        let link = Link::start(socket, LIMITS, host.clone());
        host.set_link(link.clone());
        let hello = serde_json::to_vec(&hello).map_err(|error| Error::Other(error.into()))?;
        let requests = requests::serve(outgoing, move |request: Request, _| {
            let sockets = sockets.clone();
            async move { sockets.http(request).await }
        });
        let requests = AbortOnDropHandle::new(tokio::spawn(requests));
        let process = Arc::new(Self {
            link: link.clone(),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
            cgroup: cgroup.clone(),
            _requests: requests,
        });
        let (kill, gone, of_link) = (process.kill.clone(), process.gone.clone(), link.clone());
        let why = Arc::new(Mutex::new(String::new()));
        let told = why.clone();
        tokio::spawn(async move {
            let status = until_end(&mut child, &of_link, &kill).await;
            of_link.end();
            if let Some(last_words) = last_words {
                let _ = tokio::time::timeout(Duration::from_secs(1), last_words).await;
            }
            let message = describe(&status, &stderr.lock());
            told.lock().clone_from(&message);
            host.clear();
            let out_of_memory = cgroup.is_some_and(|cgroup| cgroup.was_out_of_memory());
            on_end(End { message, out_of_memory });
            gone.cancel();
        });
        link.first(hello, vec![for_requests]).await;
        match tokio::time::timeout(START_TIMEOUT, is_ready).await {
            Ok(Ok(Ok(()))) => Ok(process),
            Ok(Ok(Err(why))) => Err(Error::Unsupported(format!(
                "this node cannot isolate pods: {why}; run it without the RuntimeClass"
            ))),
            Ok(Err(_)) => Err(Error::Exhausted(why.lock().clone())),
            Err(_) => Err(Error::Exhausted(format!("the process of the pod is not ready after {START_TIMEOUT:?}"))),
        }
    }

    /// Whether it can still be called.
    pub(crate) fn is_alive(&self) -> bool {
        !self.gone.is_cancelled() && !self.kill.is_cancelled() && !self.link.has_ended()
    }

    /// Bounds the memory of the process, given the limit of its guests.
    pub(crate) fn limit_memory(&self, guests: Option<u64>) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.limit_memory(guests)
        {
            tracing::debug!(%error, "the memory of an isolated pod's process is not bounded");
        }
    }

    /// Kills the child, and waits until it is gone.
    pub(crate) async fn kill(&self) {
        self.kill.cancel();
        let _ = tokio::time::timeout(END_TIMEOUT, self.gone.cancelled()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// The folders that the child may use must exist: it cannot be allowed others later.
async fn create_folders(sandbox: &SandboxSpec) -> Result<()> {
    for folder in sandbox.folders.iter().filter(|folder| !folder.read_only) {
        // a path of the host may be a single file
        if tokio::fs::metadata(&folder.path).await.is_err() {
            tokio::fs::create_dir_all(&folder.path).await.map_err(|error| {
                Error::Exhausted(format!("the folder {} of the pod cannot be made: {error}", folder.path.display()))
            })?;
        }
    }
    Ok(())
}

/// A cgroup for the child, where this node may make one. The node's log tells once that it may not.
fn cgroup(sandbox: &SandboxSpec, pid: Option<u32>) -> Option<Cgroup> {
    static TOLD: Once = Once::new();
    let made = Cgroup::new(&sandbox.id).and_then(|made| {
        made.add(pid.ok_or(io::ErrorKind::NotFound)?)?;
        made.limit_memory(sandbox.limits.memory_bytes)?;
        Ok(made)
    });
    made.inspect_err(|error| {
        TOLD.call_once(|| tracing::info!(%error, "processes of isolated pods have no cgroup of their own"));
    })
    .ok()
}

fn command(options: &Options, stdin: OwnedFd) -> Command {
    let mut command = Command::new(&options.program);
    command
        .args(&options.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn hello(options: &Options, sandbox: SandboxSpec, sockets: &dyn Sockets, user: Option<u32>) -> Hello {
    Hello {
        user,
        memory: sandbox.limits.memory_bytes.unwrap_or(options.memory).min(options.memory),
        addresses: sockets.addresses(),
        sandbox,
        threads: options.threads.max(1),
        files: options.files,
        connections: options.connections,
        log: options.log,
        seed: (options.random)(),
    }
}

/// Waits for the end of the child, or ends it when it is to be killed or has closed its link.
async fn until_end(child: &mut Child, link: &Link, kill: &CancellationToken) -> io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        () = kill.cancelled() => {}
        () = link.ended() => {
            // it may be about to end by itself: then its status tells why
            if let Ok(status) = tokio::time::timeout(Duration::from_millis(100), child.wait()).await {
                return status;
            }
        }
    }
    let _ = child.start_kill();
    child.wait().await
}

fn describe(status: &io::Result<ExitStatus>, stderr: &[u8]) -> String {
    let how = match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("by signal {signal}"),
            (None, Some(code)) => format!("with exit code {code}"),
            (None, None) => status.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let text = String::from_utf8_lossy(stderr);
    let last = text.trim().lines().last().map(|line| format!(": {line}")).unwrap_or_default();
    format!("the process of the pod ended {how}{last}")
}

/// Keeps the end of what the child writes to its standard error.
async fn keep_last(mut from: impl tokio::io::AsyncRead + Unpin, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut kept = kept.lock();
        kept.extend(buffer.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(MAX_STDERR);
        kept.drain(..surplus);
    }
}
