//! A guest's standard streams: its output goes into its container's log, and to who looks on, or to who runs a command. A guest that outruns
//! them waits here.

use crate::attach::Attached;
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

/// Bytes taken at once. Small, since a write of newlines alone grows by the prefix of each line.
const PERMIT: usize = 8 << 10;

/// One of a guest's two output streams. A clone, and all streams made of it, share its unfinished line.
#[derive(Clone)]
pub(crate) struct Output(Arc<To>);

enum To {
    Log(Logged),
    Pipe {
        sender: mpsc::Sender<Bytes>,
        /// Lines end as a terminal wants them.
        terminal: bool,
    },
}

struct Logged {
    writer: Mutex<Writer>,
    log: Log,
    attached: Arc<Attached>,
    source: Source,
    whole: bool,
}

impl Output {
    /// `whole`: what is left unfinished at the end counts as a whole line (the end of a request, not of the process).
    pub(crate) fn new(log: &Log, attached: &Arc<Attached>, source: Source, whole: bool) -> Self {
        let writer = Mutex::new(log.writer(source));
        Self(Arc::new(To::Log(Logged { writer, log: log.clone(), attached: attached.clone(), source, whole })))
    }

    /// Into pieces for somebody else.
    pub(crate) fn pipe(sender: mpsc::Sender<Bytes>, terminal: bool) -> Self {
        Self(Arc::new(To::Pipe { sender, terminal }))
    }

    /// Writes all, waiting where there is no room. Not into a log.
    pub(crate) async fn say(&self, bytes: &[u8]) {
        if let To::Pipe { sender, terminal } = &*self.0 {
            let _ = sender.send(shown(bytes, *terminal)).await;
        }
    }

    /// The same on a thread that may block. It fails when nobody takes it any more.
    pub(crate) fn say_blocking(&self, bytes: &[u8]) -> io::Result<()> {
        match &*self.0 {
            To::Pipe { sender, terminal } if !bytes.is_empty() => {
                sender.blocking_send(shown(bytes, *terminal)).map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
            _ => Ok(()),
        }
    }

    /// What is unfinished is a whole line: a request ends, and its instance stays.
    pub(crate) fn end_line(&self) {
        if let To::Log(to) = &*self.0 {
            to.writer.lock().finish(true);
        }
    }

    fn stream(&self) -> Stream {
        Stream { to: self.0.clone(), wait: Mutex::new(None) }
    }
}

fn shown(bytes: &[u8], terminal: bool) -> Bytes {
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

impl To {
    fn has_room(&self) -> bool {
        match self {
            Self::Log(to) => to.log.free() > 0 && !to.attached.is_behind(),
            Self::Pipe { sender, .. } => sender.capacity() > 0,
        }
    }

    async fn room(&self) {
        match self {
            Self::Log(to) => {
                to.log.room().await;
                to.attached.room().await;
            }
            // one that is closed has room, and says so when it is written to
            Self::Pipe { sender, .. } => drop(sender.reserve().await),
        }
    }

    /// False: nobody takes it any more.
    fn write(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Log(to) => {
                to.writer.lock().write(bytes);
                to.attached.say(to.source, bytes);
                true
            }
            // who asked for room has it, as a guest writes from one place at a time
            Self::Pipe { sender, terminal } => bytes.is_empty() || sender.try_send(shown(bytes, *terminal)).is_ok(),
        }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.writer.get_mut().finish(self.whole);
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        matches!(&*self.0, To::Pipe { terminal: true, .. })
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
    to: Arc<To>,
    wait: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        self.to.room().await;
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
            To::Pipe { sender, .. } if sender.is_closed() => Err(StreamError::Closed),
            to => Ok(if to.has_room() { PERMIT } else { 0 }),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wait = this.wait.get_mut();
        if wait.is_none() && !this.to.has_room() {
            let to = this.to.clone();
            *wait = Some(Box::pin(async move { to.room().await }));
        }
        if let Some(room) = wait {
            ready!(room.as_mut().poll(context));
            *wait = None;
        }
        let taken = bytes.len().min(PERMIT);
        match this.to.write(&bytes[..taken]) {
            true => Poll::Ready(Ok(taken)),
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
    /// To be made on the guests' threads: a task there reads ahead.
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
