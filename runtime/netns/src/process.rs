//! The helper's process: its start, and its socket in the folder.

use crate::{
    Error, Result,
    helper::SOCKET,
    link::{Gone, Link, done},
    options::Options,
    packet,
    protocol::{Answer, Ask, Hello, VERSION},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fs::DirBuilder,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, task::spawn_blocking};

/// How long a helper may take until it is ready.
const START: Duration = Duration::from_secs(10);

/// How long a killed helper may take to end.
const END: Duration = Duration::from_secs(5);

/// The namespaces that a helper told.
pub(crate) struct Namespaces {
    pub(crate) net: OwnedFd,
    pub(crate) user: Option<OwnedFd>,
}

/// A helper that runs.
pub(crate) struct Process {
    pub(crate) link: Link,
    process: Option<OwnedFd>,
}

impl Process {
    /// Starts a helper that enters the namespaces, or makes new ones.
    pub(crate) async fn start(options: &Options, enter: Option<&Namespaces>) -> Result<(Self, Namespaces)> {
        if let Some(folder) = &options.folder {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let (own, its) = packet::pair()?;
        let mut command = Command::new(&options.program);
        command
            .args(&options.args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
            // the allocator's own thread would forbid a user namespace
            .env("_RJEM_MALLOC_CONF", "background_thread:false")
            .envs(options.env.iter().cloned())
            .current_dir("/")
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // what a terminal sends to this process is not for the helper
            .process_group(0);
        let mut child = command.spawn().map_err(Error::Io)?;
        drop(command); // and with it the helper's socket
        let process = child.id().and_then(opened);
        tokio::spawn(async move { child.wait().await });
        Self { link: Link::new(own).map_err(Error::Io)?, process }.greet(options, enter).await
    }

    /// Finds the helper of a former process, which its pods keep alive. `None` if there is none, or it is of another layout or version: then it
    /// is ended.
    pub(crate) async fn find(options: &Options) -> Result<Option<(Self, Namespaces)>> {
        let Some(folder) = &options.folder else { return Ok(None) };
        let Ok(socket) = socket_in(folder) else { return Ok(None) };
        let process =
            sockopt::socket_peercred(&socket).ok().and_then(|peer| opened(peer.pid.as_raw_pid().cast_unsigned()));
        let found = Self { link: Link::new(socket).map_err(Error::Io)?, process };
        match found.greet(options, None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                tracing::info!(%error, "the pods' former network cannot be used any more");
                Ok(None)
            }
        }
    }

    async fn greet(self, options: &Options, enter: Option<&Namespaces>) -> Result<(Self, Namespaces)> {
        let (layout, folder) = (options.layout, options.folder.clone());
        let hello = Ask::Hello(Hello { version: VERSION, layout, enter: enter.is_some(), folder });
        let given: Vec<BorrowedFd<'_>> =
            enter.iter().flat_map(|all| [Some(&all.net), all.user.as_ref()]).flatten().map(AsFd::as_fd).collect();
        let answer = match self.link.call(&hello, &given, START).await {
            Ok(reply) => done(reply),
            Err(Gone::Ended) => Err(Error::Lost("the helper of the network ended at its start".into())),
            Err(Gone::Late) => Err(Error::Lost(format!("the helper of the network is not ready after {START:?}"))),
        };
        let welcome = match answer {
            Ok((Answer::Welcome { version, layout: held }, descriptors)) if version == VERSION && held == layout => {
                Ok(descriptors)
            }
            Ok(other) => Err(Error::Failed(format!("a helper of another version or layout: {:?}", other.0))),
            Err(error) => Err(error),
        };
        let mut descriptors = match welcome {
            Ok(descriptors) => descriptors.into_iter(),
            Err(error) => {
                self.end().await;
                return Err(error);
            }
        };
        let net = descriptors.next().ok_or_else(|| Error::Lost("a namespace is missing".into()))?;
        Ok((self, Namespaces { net, user: descriptors.next() }))
    }

    /// Ends the helper, and waits until it is gone.
    pub(crate) async fn end(&self) {
        self.link.end();
        let Some(Ok(process)) = self.process.as_ref().map(OwnedFd::try_clone) else { return };
        let wait = move || {
            if !has_ended(&process, Duration::from_secs(1)) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
                has_ended(&process, END);
            }
        };
        let _ = spawn_blocking(wait).await;
    }
}

/// Waits for the end of a process.
fn has_ended(process: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).is_ok_and(|count| count > 0)
}

/// A descriptor of a process: its number may be another's later.
fn opened(number: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(number.cast_signed())?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Connects to the socket in a folder, whose path may be longer than that of a socket.
fn socket_in(folder: &std::path::Path) -> io::Result<OwnedFd> {
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
