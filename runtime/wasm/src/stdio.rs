//! A guest's standard streams. The output of a container's program goes into the container's log and to attached clients, the output of an exec
//! command to its client. A guest that writes faster waits here.

use crate::attach::AttachedStreams;
use bytes::Bytes;
use container::log::{Log, Source, Writer};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    sync::mpsc,
};
use wasmtime_wasi::{
    cli::{AsyncStdinStream, IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

/// Most bytes of one write. Small, because each line of a log gets a prefix: newlines alone grow many times.
const MAX_WRITE: usize = 8 << 10;

/// Standard output or standard error of a guest. Clones, and all streams made from them, share the unfinished line.
#[derive(Clone)]
pub(crate) struct Output(Arc<Destination>);

enum Destination {
    Log(LogDestination),
    Pipe {
        sender: mpsc::Sender<Bytes>,
        /// Newlines become CR LF.
        terminal: bool,
    },
}

struct LogDestination {
    writer: Mutex<Writer>,
    log: Log,
    attached: Arc<AttachedStreams>,
    source: Source,
    ends_line: bool,
}

impl Output {
    /// `ends_line`: an unfinished line at the end counts as a complete line (at the end of a request, not of a process).
    pub(crate) fn new(log: &Log, attached: &Arc<AttachedStreams>, source: Source, ends_line: bool) -> Self {
        let writer = Mutex::new(log.writer(source));
        Self(Arc::new(Destination::Log(LogDestination {
            writer,
            log: log.clone(),
            attached: attached.clone(),
            source,
            ends_line,
        })))
    }

    /// An output that is sent in chunks, for an exec command.
    pub(crate) fn pipe(sender: mpsc::Sender<Bytes>, terminal: bool) -> Self {
        Self(Arc::new(Destination::Pipe { sender, terminal }))
    }

    /// Writes all bytes to a pipe, waiting for capacity; does nothing for a log.
    pub(crate) async fn write_all(&self, bytes: &[u8]) {
        if let Destination::Pipe { sender, terminal } = &*self.0 {
            let _ = sender.send(translated(bytes, *terminal)).await;
        }
    }

    /// As [`Output::write_all`], but blocks the thread. Fails with `BrokenPipe` when the receiver is gone.
    pub(crate) fn write_all_blocking(&self, bytes: &[u8]) -> io::Result<()> {
        match &*self.0 {
            Destination::Pipe { sender, terminal } if !bytes.is_empty() => {
                sender.blocking_send(translated(bytes, *terminal)).map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
            _ => Ok(()),
        }
    }

    /// What is unfinished is a whole line: a request ends, and its instance stays.
    pub(crate) fn end_line(&self) {
        if let Destination::Log(to) = &*self.0 {
            to.writer.lock().finish(true);
        }
    }

    fn stream(&self) -> Stream {
        Stream { to: self.0.clone(), wait: Mutex::new(None) }
    }
}

fn translated(bytes: &[u8], terminal: bool) -> Bytes {
    if !terminal {
        return Bytes::copy_from_slice(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out.into()
}

impl Destination {
    fn is_ready(&self) -> bool {
        match self {
            Self::Log(to) => to.log.free() > 0 && !to.attached.must_wait(),
            Self::Pipe { sender, .. } => sender.capacity() > 0,
        }
    }

    async fn ready(&self) {
        match self {
            Self::Log(to) => {
                to.log.writable().await;
                to.attached.ready().await;
            }
            // a closed channel is ready: the next write reports the error
            Self::Pipe { sender, .. } => drop(sender.reserve().await),
        }
    }

    /// Returns false when the receiver is gone.
    fn write(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Log(to) => {
                to.writer.lock().write(bytes);
                to.attached.publish(to.source, bytes);
                true
            }
            // the caller has checked the capacity, and a guest has a single writer
            Self::Pipe { sender, terminal } => {
                bytes.is_empty() || sender.try_send(translated(bytes, *terminal)).is_ok()
            }
        }
    }
}

impl Drop for LogDestination {
    fn drop(&mut self) {
        self.writer.get_mut().finish(self.ends_line);
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        matches!(&*self.0, Destination::Pipe { terminal: true, .. })
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.stream())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.stream())
    }
}

struct Stream {
    to: Arc<Destination>,
    wait: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        self.to.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.to.write(&bytes) { Ok(()) } else { Err(StreamError::Closed) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match &*self.to {
            Destination::Pipe { sender, .. } if sender.is_closed() => Err(StreamError::Closed),
            to => Ok(if to.is_ready() { MAX_WRITE } else { 0 }),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wait = this.wait.get_mut();
        if wait.is_none() && !this.to.is_ready() {
            let to = this.to.clone();
            *wait = Some(Box::pin(async move { to.ready().await }));
        }
        if let Some(room) = wait {
            ready!(room.as_mut().poll(context));
            *wait = None;
        }
        let length = bytes.len().min(MAX_WRITE);
        match this.to.write(&bytes[..length]) {
            true => Poll::Ready(Ok(length)),
            false => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A guest's standard input.
pub(crate) struct Input {
    stream: AsyncStdinStream,
    terminal: bool,
}

impl Input {
    /// Must be called on a guest thread: it spawns a task there that reads ahead.
    pub(crate) fn new(from: DuplexStream, terminal: bool) -> Self {
        Self { stream: AsyncStdinStream::new(from), terminal }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream.p2_stream()
    }
}
