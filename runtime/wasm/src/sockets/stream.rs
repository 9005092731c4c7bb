//! The two halves of a connection. Both versions of WASI poll them, because no WASI function may block.

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

/// Bytes that are read ahead when a guest waits for readiness.
const READ_AHEAD_BYTES: usize = 4 << 10;
/// Most bytes that one call reads.
const MAX_READ_BYTES: usize = 64 << 10;
/// Most bytes that one call writes, and that a connection has in flight to its peer.
pub(crate) const WRITE: usize = 64 << 10;
/// How long written bytes are still delivered after the guest or its socket is dropped.
const LINGER_TIMEOUT: Duration = Duration::from_secs(60);

/// Splits a connection into its two halves.
pub(crate) fn halves(stream: Stream) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream);
    let reading = Reading { half: Some(reader), ahead: BytesMut::new(), failed: None };
    (
        Reader(Arc::new(Mutex::new(reading))),
        Writer(Arc::new(Mutex::new(Sending { state: Writing::Ready(writer), total: 0 }))),
    )
}

/// The half that a guest reads from. Clones share it.
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
        let mut buffer = [0; READ_AHEAD_BYTES];
        match ready!(self.poll_read(context, &mut buffer)) {
            Ok(count) => self.ahead.extend_from_slice(&buffer[..count]),
            Err(error) => self.failed = Some(error.kind()),
        }
        Poll::Ready(())
    }
}

impl Reader {
    /// Reads available bytes; 0 is the end of the stream. The stream ends after an error.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_read(context, into)
    }

    /// Ready when a read returns bytes, the end or an error.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.lock().poll_ready(context)
    }

    /// Closes the half and discards unread bytes.
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
        let mut into = BytesMut::zeroed(size.min(MAX_READ_BYTES));
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

/// The half that a guest writes to. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Mutex<Sending>>);

struct Sending {
    state: Writing,
    /// Bytes written so far, up to the maximum in flight: an upper bound of the unread bytes.
    total: usize,
}

enum Writing {
    Ready(Half),
    /// A task completes a write that would block the guest.
    Task(JoinHandle<io::Result<Half>>),
    /// A task completes the last write and closes the half.
    Closing(JoinHandle<io::Result<Half>>),
    Closed(Option<io::ErrorKind>),
}

impl Sending {
    /// Ready when the half accepts bytes, or is closed.
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

    /// Fails if the half is closed. Reports a failure of the connection once.
    fn check_open(&mut self) -> StreamResult<()> {
        match &mut self.state {
            Writing::Ready(_) | Writing::Task(_) => Ok(()),
            Writing::Closing(_) => Err(StreamError::Closed),
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
    /// Writes as many bytes as the connection accepts.
    pub(crate) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut sending = self.0.lock();
        ready!(sending.poll_ready(context));
        sending.total = sending.total.saturating_add(bytes.len()).min(WRITE);
        match &mut sending.state {
            Writing::Ready(half) => Pin::new(half).poll_write(context, bytes),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Upper bound of the bytes that the peer has not read.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.lock().total
    }

    /// Closes the half after the pending write.
    pub(crate) fn shut(&self) {
        let mut sending = self.0.lock();
        sending.state = match std::mem::replace(&mut sending.state, Writing::Closed(None)) {
            Writing::Ready(mut half) => match now(|context| Pin::new(&mut half).poll_shutdown(context)) {
                Poll::Ready(_) => Writing::Closed(None),
                Poll::Pending => Writing::Closing(tokio::spawn(async move { half.shutdown().await.map(|()| half) })),
            },
            Writing::Task(task) => Writing::Closing(tokio::spawn(async move {
                let mut half = AbortOnDropHandle::new(task).await??;
                half.shutdown().await.map(|()| half)
            })),
            closed => closed,
        };
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Writing::Task(task) | Writing::Closing(task) = &self.state {
            linger(task);
        }
    }
}

/// Aborts a detached task after [`LINGER_TIMEOUT`], so that a peer that reads receives what was written.
fn linger<T: Send + 'static>(task: &JoinHandle<T>) {
    let end = task.abort_handle();
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(async move {
            tokio::time::sleep(LINGER_TIMEOUT).await;
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
            // check-write allows no bytes while a write is pending
            Writing::Task(_) if bytes.is_empty() => {}
            Writing::Ready(_) | Writing::Task(_) => {
                return Err(StreamError::Trap(wasmtime::format_err!("more is written than check-write allowed")));
            }
            Writing::Closing(_) | Writing::Closed(_) => {}
        }
        sending.check_open()
    }

    /// Nothing is buffered.
    fn flush(&mut self) -> StreamResult<()> {
        self.0.lock().check_open()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut sending = self.0.lock();
        match (now(|context| sending.poll_ready(context)), &sending.state) {
            (Poll::Pending, _) => Ok(0),
            (_, Writing::Ready(_)) => Ok(WRITE),
            _ => sending.check_open().map(|()| 0),
        }
    }
}
