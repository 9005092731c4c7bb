//! An established TLS connection, and the guest's streams below it.

use crate::{memory::InstanceMemory, quota::Quota};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::client;
use wasmtime_wasi_tls::{TlsStream, TlsTransport};

/// A connection. It holds its place and its memory in the container until it is dropped.
pub(super) struct Connection {
    stream: client::TlsStream<Transport>,
    quota: Arc<Quota>,
    _memory: InstanceMemory,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(
        stream: client::TlsStream<Transport>,
        quota: Arc<Quota>,
        memory: InstanceMemory,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, quota, _memory: memory, _permit: permit }
    }
}

impl TlsStream for Connection {}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, quota, .. } = self.get_mut();
        quota.charged(|| Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, quota, .. } = self.get_mut();
        quota.charged(|| Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, quota, .. } = self.get_mut();
        quota.charged(|| Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, quota, .. } = self.get_mut();
        quota.charged(|| Pin::new(stream).poll_shutdown(context))
    }
}

/// The guest's streams. A write of nothing, which wasmtime-wasi-tls gives for a stream that was closed meanwhile, is an error: tokio-rustls
/// would wait for ever.
pub(super) struct Transport(pub(super) Box<dyn TlsTransport>);

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut *self.0).poll_write(context, bytes)) {
            Ok(0) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
