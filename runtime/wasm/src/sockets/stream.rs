//! The two halves of a connection, as both versions of WASI use them: by polling, since no function of WASI may block.

use super::now;
use bytes::{Buf, Bytes, BytesMut};
use container::net::Stream;
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    runtime::Handle,
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Bytes that are read ahead when a guest waits until it can read.
const AHEAD: usize = 4 << 10;
/// Bytes that one call of a guest reads at most.
const READ: usize = 64 << 10;
/// Bytes that one call of a guest writes at most, and that a connection may have in flight to its peer.
pub(crate) const WRITE: usize = 64 << 10;
/// How long what a guest has written is still delivered after the guest or its socket is gone.
const LINGER: Duration = Duration::from_secs(60);

/// Makes the two halves of a connection.
pub(crate) fn halves(stream: Stream) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream);
    let reading = Reading { half: Some(reader), ahead: BytesMut::new(), failed: None };
    (
        Reader(Arc::new(Mutex::new(reading))),
        Writer(Arc::new(Mutex::new(Sending { state: Writing::Ready(writer), total: 0 }))),
    )
}

/// The half that a guest reads from. Clones are the same half.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Mutex<Reading>>);

struct Reading {
    /// `None` at the end.
    half: Option<ReadHalf<Stream>>,
    ahead: BytesMut,
    failed: Option<io::ErrorKind>,
}

impl Reading {
    fn poll_read(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(into.len());
            self.ahead.copy_to_slice(&mut into[..count]);
            return Poll::Ready(Ok(count));
        }
        if let Some(kind) = self.failed.take() {
            return Poll::Ready(Err(kind.into()));
        }
        let Some(half) = &mut self.half else { return Poll::Ready(Ok(0)) };
        let mut buffer = ReadBuf::new(into);
        let read = ready!(Pin::new(half).poll_read(context, &mut buffer));
        let count = buffer.filled().len();
        if read.is_err() || count == 0 {
            self.half = None;
        }
        Poll::Ready(read.map(|()| count))
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.half.is_none() || !self.ahead.is_empty() {
            return Poll::Ready(());
        }
        let mut buffer = [0; AHEAD];
        match ready!(self.poll_read(context, &mut buffer)) {
            Ok(count) => self.ahead.extend_from_slice(&buffer[..count]),
            Err(error) => self.failed = Some(error.kind()),
        }
        Poll::Ready(())
    }
}

impl Reader {
    /// Reads what is there; 0 is the end. After an error is the end.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_read(context, into)
    }

    /// Ready when a read gives bytes, the end or an error.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.lock().poll_ready(context)
    }

    /// Reads nothing any more.
    pub(crate) fn shut(&self) {
        let mut reading = self.0.lock();
        (reading.half, reading.failed) = (None, None);
        reading.ahead.clear();
    }
}

#[async_trait::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll_ready(context)).await;
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut into = BytesMut::zeroed(size.min(READ));
        match now(|context| self.poll_read(context, &mut into)) {
            Poll::Pending => Ok(Bytes::new()),
            Poll::Ready(Ok(0)) => Err(StreamError::Closed),
            Poll::Ready(Ok(count)) => {
                into.truncate(count);
                Ok(into.freeze())
            }
            Poll::Ready(Err(error)) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

type Half = WriteHalf<Stream>;

/// The half that a guest writes to. Clones are the same half.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Mutex<Sending>>);

struct Sending {
    state: Writing,
    /// Bytes written, as far as they tell what the peer has not read at most.
    total: usize,
}

enum Writing {
    Ready(Half),
    /// A write that must wait has a task, since the guest need not wait for it.
    Task(JoinHandle<io::Result<Half>>),
    /// Nothing follows what a task still writes.
    Last(JoinHandle<io::Result<Half>>),
    Closed(Option<io::ErrorKind>),
}

impl Sending {
    /// Ready when the half can be written to, or never again.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Writing::Task(task) = &mut self.state {
            self.state = match ready!(Pin::new(task).poll(context)) {
                Ok(Ok(half)) => Writing::Ready(half),
                Ok(Err(error)) => Writing::Closed(Some(error.kind())),
                Err(_) => Writing::Closed(Some(io::ErrorKind::ConnectionAborted)),
            };
        }
        Poll::Ready(())
    }

    /// Why nothing can be written any more, if so: a failure is told once.
    fn going_on(&mut self) -> StreamResult<()> {
        match &mut self.state {
            Writing::Ready(_) | Writing::Task(_) => Ok(()),
            Writing::Last(_) => Err(StreamError::Closed),
            Writing::Closed(kind) => Err(match kind.take() {
                None | Some(io::ErrorKind::BrokenPipe) => StreamError::Closed,
                Some(kind) => StreamError::LastOperationFailed(io::Error::from(kind).into()),
            }),
        }
    }

    fn write(&mut self, mut bytes: Bytes) {
        self.total = self.total.saturating_add(bytes.len()).min(WRITE);
        let Writing::Ready(half) = &mut self.state else { return };
        while !bytes.is_empty() {
            match now(|context| Pin::new(&mut *half).poll_write(context, &bytes)) {
                Poll::Ready(Ok(count)) if count > 0 => bytes.advance(count),
                Poll::Ready(result) => {
                    let kind = result.err().map_or(io::ErrorKind::BrokenPipe, |error| error.kind());
                    self.state = Writing::Closed(Some(kind));
                    return;
                }
                Poll::Pending => break,
            }
        }
        if bytes.is_empty() {
            return;
        }
        if let Writing::Ready(mut half) = std::mem::replace(&mut self.state, Writing::Closed(None)) {
            self.state = Writing::Task(tokio::spawn(async move { half.write_all(&bytes).await.map(|()| half) }));
        }
    }
}

impl Writer {
    /// Writes what there is room for now.
    pub(crate) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut sending = self.0.lock();
        ready!(sending.poll_ready(context));
        sending.total = sending.total.saturating_add(bytes.len()).min(WRITE);
        match &mut sending.state {
            Writing::Ready(half) => Pin::new(half).poll_write(context, bytes),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Bytes that the peer may not have read yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.lock().total
    }

    /// Tells the peer that nothing follows what is written.
    pub(crate) fn shut(&self) {
        let mut sending = self.0.lock();
        sending.state = match std::mem::replace(&mut sending.state, Writing::Closed(None)) {
            Writing::Ready(mut half) => match now(|context| Pin::new(&mut half).poll_shutdown(context)) {
                Poll::Ready(_) => Writing::Closed(None),
                Poll::Pending => Writing::Last(tokio::spawn(async move { half.shutdown().await.map(|()| half) })),
            },
            Writing::Task(task) => Writing::Last(tokio::spawn(async move {
                let mut half = AbortOnDropHandle::new(task).await??;
                half.shutdown().await.map(|()| half)
            })),
            closed => closed,
        };
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Writing::Task(task) | Writing::Last(task) = &self.state {
            linger(task);
        }
    }
}

/// Ends a task that nobody waits for, but not at once: what was written before the end is delivered to a peer that reads.
fn linger<T: Send + 'static>(task: &JoinHandle<T>) {
    let end = task.abort_handle();
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            end.abort();
        })),
        Err(_) => end.abort(),
    }
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.0.lock().poll_ready(context)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut sending = self.0.lock();
        match sending.state {
            Writing::Ready(_) if bytes.len() <= WRITE => sending.write(bytes),
            // as much as check-write allows while a write waits
            Writing::Task(_) if bytes.is_empty() => {}
            Writing::Ready(_) | Writing::Task(_) => {
                return Err(StreamError::Trap(wasmtime::format_err!("more is written than check-write allowed")));
            }
            Writing::Last(_) | Writing::Closed(_) => {}
        }
        sending.going_on()
    }

    /// Whatever is written is delivered as soon as it can be.
    fn flush(&mut self) -> StreamResult<()> {
        self.0.lock().going_on()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut sending = self.0.lock();
        match (now(|context| sending.poll_ready(context)), &sending.state) {
            (Poll::Pending, _) => Ok(0),
            (_, Writing::Ready(_)) => Ok(WRITE),
            _ => sending.going_on().map(|()| 0),
        }
    }
}
