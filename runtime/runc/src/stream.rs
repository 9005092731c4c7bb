//! Pipes and terminals as asynchronous streams.

use rustix::io::{Errno, ioctl_fionbio};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// A descriptor that can be waited for.
#[derive(Debug)]
pub(crate) struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&descriptor, true)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` until both are dropped, and is always the same; it was just used, so that it is open.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register(descriptor) };
        Ok(Self(registered?))
    }

    /// Waits for something to read. Cancel-safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Reads what is there; `None` if nothing is. 0 is the end, also of a terminal whose last program has ended.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match self.poll_with(&mut context, false, |fd| rustix::io::read(fd, &mut *buffer)) {
            Poll::Ready(result) => Some(ended(result)),
            Poll::Pending => None,
        }
    }

    /// Reads. Cancel-safe.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        ended(
            std::future::poll_fn(|context| self.poll_with(context, false, |fd| rustix::io::read(fd, &mut *buffer)))
                .await,
        )
    }

    /// Writes everything. Not cancel-safe.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: BorrowedFd<'_>| rustix::io::write(fd, bytes);
            let count = std::future::poll_fn(|context| self.poll_with(context, true, write)).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn poll_with(
        &self,
        context: &mut Context<'_>,
        write: bool,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let polled = if write { self.0.poll_write_ready(context) } else { self.0.poll_read_ready(context) };
            let mut guard = ready!(polled)?;
            match guard.try_io(|fd| Ok(call(fd.as_fd())?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                // it only seemed to be ready
                Err(_) => {}
            }
        }
    }
}

/// A terminal without programs says EIO.
fn ended(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
        other => other,
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl AsyncRead for &Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_with(context, false, |fd| rustix::io::read(fd, buffer.initialize_unfilled()));
        let count = ended(ready!(read))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(context, true, |fd| rustix::io::write(fd, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end is told by closing it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
