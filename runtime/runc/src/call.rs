//! Calls to a shim, each on a connection of its own.

use crate::{
    protocol::{CallError, Reply, Request, SOCKET},
    wire,
};
use container::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    time::Duration,
};
use tokio::net::UnixStream;

/// Attempts to connect to a shim that has many callers.
const ATTEMPTS: u32 = 50;

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Exhausted(format!("the shim of the pod does not answer: {error}"))
}

/// The path of a pod's socket, which is short however long that of its folder is.
fn with_short_path<T>(folder: &Path, call: impl FnOnce(&str) -> io::Result<T>) -> io::Result<T> {
    let handle = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    call(&format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))
}

/// Makes the socket of a pod, for its shim.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    with_short_path(folder, |path| UnixListener::bind(path))
}

/// Connects to the shim of a pod.
///
/// # Errors
/// `ConnectionRefused` or `NotFound`: there is none.
pub(crate) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let mut attempt = 0;
    loop {
        let connected = with_short_path(folder, |path| {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match connected {
            // its queue is full
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return UnixStream::from_std(other?),
        }
    }
}

/// A call in progress. The shim gives it up when this is dropped.
pub(crate) struct Call(UnixStream);

impl Call {
    /// Asks a shim. The descriptors are closed here afterwards.
    pub(crate) async fn start(folder: &Path, request: &Request, descriptors: Vec<OwnedFd>) -> Result<Self> {
        let connection = connect(folder).await.map_err(unreachable)?;
        wire::write(&connection, request, &descriptors).await.map_err(unreachable)?;
        Ok(Self(connection))
    }

    /// The next reply with its descriptor.
    pub(crate) async fn next(&self) -> Result<(Reply, Option<OwnedFd>)> {
        let (reply, mut descriptors) = self.next_or_end().await?.ok_or_else(|| unreachable("it has ended"))?;
        Ok((reply, descriptors.pop()))
    }

    /// The next reply; `None` when the shim has ended.
    pub(crate) async fn next_or_end(&self) -> Result<Option<(Reply, Vec<OwnedFd>)>> {
        wire::read(&self.0).await.map_err(unreachable)
    }

    /// The outcome, with the number of the last change before it.
    pub(crate) async fn done(&self) -> Result<(std::result::Result<i32, CallError>, u64)> {
        loop {
            if let (Reply::Done { result, seq }, _) = self.next().await? {
                return Ok((result, seq));
            }
        }
    }
}
