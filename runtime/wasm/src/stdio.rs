//! A guest's standard output and error as streams into its container's log. A guest that outruns the disk waits here.

use bytes::Bytes;
use container::log::{Log, Source, Writer};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Bytes taken at once. Small, since a write of newlines alone grows by the prefix of each line.
const PERMIT: usize = 8 << 10;

/// One of a guest's two output streams. A clone, and all streams made of it, share its unfinished line.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    writer: Mutex<Writer>,
    log: Log,
    whole: bool,
}

impl Output {
    /// `whole`: what is left unfinished at the end counts as a whole line (the end of a request, not of the process).
    pub(crate) fn new(log: &Log, source: Source, whole: bool) -> Self {
        Self(Arc::new(Shared { writer: Mutex::new(log.writer(source)), log: log.clone(), whole }))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.writer.get_mut().finish(self.whole);
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Stream { shared: self.0.clone(), wait: Mutex::new(None) })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream { shared: self.0.clone(), wait: Mutex::new(None) })
    }
}

struct Stream {
    shared: Arc<Shared>,
    wait: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        self.shared.log.room().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.shared.writer.lock().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.shared.log.free() == 0 { 0 } else { PERMIT })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wait = this.wait.get_mut();
        if wait.is_none() && this.shared.log.free() == 0 {
            let log = this.shared.log.clone();
            *wait = Some(Box::pin(async move { log.room().await }));
        }
        if let Some(room) = wait {
            ready!(room.as_mut().poll(context));
            *wait = None;
        }
        let taken = bytes.len().min(PERMIT);
        this.shared.writer.lock().write(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
