//! One connection from the network: HTTP/1.1 or HTTP/2 as ALPN agreed, and the limits on what a slow or silent peer can hold.
//! Not here: the handshake and the number of connections ([`crate::tls`]), bodies of requests ([`crate::chain`]).

use crate::{
    coalesce::Coalesced,
    deadline::Client,
    reply,
    service::Service,
    stall::{AllowSlowReader, MonitoredBody, SLOW_CLIENT_TIMEOUT, STALL_DETECTOR, StallDetector},
};
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, watch},
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a client may be silent after the handshake.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take for the headers of a request, and be idle before it. Longer than client-go keeps a connection
/// idle (90 s), so that the client closes first.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(110);
/// How long an HTTP/2 connection may be without a stream, for the same reason.
const IDLE_TIMEOUT: Duration = Duration::from_secs(110);
/// How often an HTTP/2 client is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How soon it must answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Concurrent streams per HTTP/2 connection, as upstream's API server has it; a client with more watches opens another connection.
const MAX_CONCURRENT_STREAMS: u32 = 1_000;
/// Streams that a client opened and reset before they were accepted; with more the connection is closed.
const MAX_PENDING_RESETS: usize = 100;
/// HTTP/2 windows for request bodies, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The write buffer of a connection (HTTP/1.1), of a stream (HTTP/2) and of TLS, and the longest headers, bytes.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;

/// A connection's permit among all, and among those without a client certificate.
pub(crate) type ConnectionPermit = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// Serves a connection until its end; after `token` has been cancelled, until the requests in flight are answered. `detector` is that of the
/// [`MonitoredStream`] below `stream`.
pub(crate) async fn serve<S>(
    (stream, permit): (S, Option<ConnectionPermit>),
    detector: Arc<StallDetector>,
    http2: bool,
    service: Service,
    token: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = FirstByteDeadline::new(stream, permit);
    // HTTP/2 has a detector for each stream.
    let result = match http2 {
        true => serve_http2(stream, service, token).await,
        false => serve_http1(TokioIo::new(stream), detector, service, token).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn serve_http1<S>(
    io: TokioIo<FirstByteDeadline<S>>,
    detector: Arc<StallDetector>,
    service: Service,
    token: CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service_fn(move |request| answer(service.clone(), request)))
        .with_upgrades();
    let work = async move {
        let mut connection = pin!(connection);
        tokio::select! {
            result = connection.as_mut() => result,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    STALL_DETECTOR.scope(detector.clone(), detector.run(work)).await.unwrap_or_else(stalled)
}

async fn serve_http2<S>(stream: FirstByteDeadline<S>, service: Service, token: CancellationToken) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let streams = Streams::default();
    // Streams are tasks of their own, so that they can be told when the connection ends.
    let client = Client(CancellationToken::new());
    let _gone = client.0.clone().drop_guard();
    let coalesced = Coalesced::new(stream);
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(BUFFER_BYTES)
        .max_header_list_size(u32::try_from(BUFFER_BYTES).expect("a small constant"))
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        // Boxed: the stream of a watch would else keep the memory of the whole chain until its end.
        .serve_connection(
            TokioIo::new(coalesced.clone()),
            service_fn(move |mut request| {
                request.extensions_mut().insert(client.clone());
                Box::pin(answer(service.clone(), request))
            }),
        );
    let work = async move {
        let mut connection = pin!(connection);
        tokio::select! {
            result = connection.as_mut() => result,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = streams.idle() => {
                connection.as_mut().graceful_shutdown();
                // Answers that were never read may still be there.
                timeout(SLOW_CLIENT_TIMEOUT, connection).await.unwrap_or_else(|_| stalled())
            }
        }
    };
    coalesced.run(work).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the peer takes no bytes");
        Ok(())
    })
}

fn stalled() -> hyper::Result<()> {
    tracing::debug!("a client did not take its answer");
    Ok(())
}

/// Answers one request of the network.
async fn answer(service: Service, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if let Some(refusal) = without_host(&request) {
        return Ok(refusal);
    }
    let response = service.handle(request).await;
    let detector = STALL_DETECTOR.with(Arc::clone);
    // The reader of an upgraded connection (a shell, say) may pause as well.
    let exempt = response.extensions().get::<AllowSlowReader>().is_some()
        || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    detector.set_exempt(exempt);
    if exempt {
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(MonitoredBody::new(body, detector))))
}

/// HTTP/1.1 demands exactly one Host; the words are Go's.
fn without_host<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let why = match request.headers().get_all(header::HOST).iter().count() {
        0 => "missing required Host header",
        1 => return None,
        _ => "too many Host headers",
    };
    let mut response = reply::text(StatusCode::BAD_REQUEST, format!("400 Bad Request: {why}"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// Runs the streams of one HTTP/2 connection, each with a stall detector of its own, and counts them.
#[derive(Clone, Default)]
struct Streams(watch::Sender<usize>);

impl Streams {
    /// Ends when there has been no stream for a while.
    async fn idle(&self) {
        let mut open = self.0.subscribe();
        loop {
            // Both fail only when the sender is gone, which `self` holds.
            let _ = open.wait_for(|count| *count == 0).await;
            if timeout(IDLE_TIMEOUT, open.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// One open stream.
struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.0.send_modify(|count| *count += 1);
        let open = Open(self.0.clone());
        tokio::spawn(async move {
            let _open = open;
            let detector = Arc::<StallDetector>::default();
            // A dropped stream is reset.
            if STALL_DETECTOR.scope(detector.clone(), detector.run(stream)).await.is_none() {
                tracing::debug!("a client did not take its answer");
            }
        });
    }
}

/// The plain stream below TLS; it fails when the peer takes no written bytes for [`SLOW_CLIENT_TIMEOUT`]. It is below TLS because TLS has a
/// buffer: above it, buffered bytes would look as if the peer had taken them.
pub(crate) struct MonitoredStream<S> {
    inner: S,
    /// Runs while written bytes wait.
    stall: Option<Pin<Box<Sleep>>>,
    detector: Arc<StallDetector>,
}

impl<S> MonitoredStream<S> {
    /// With the detector of the connection, which knows whether the current response is exempt.
    pub(crate) fn new(inner: S, detector: Arc<StallDetector>) -> Self {
        Self { inner, stall: None, detector }
    }

    /// The outcome of a write, or an error when nothing could be written for too long.
    fn written(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if outcome.is_ready() || self.detector.is_exempt() {
            self.stall = None;
            return outcome;
        }
        ready!(self.stall.get_or_insert_with(|| Box::pin(sleep(SLOW_CLIENT_TIMEOUT))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream whose peer must send its first byte within [`FIRST_BYTE_TIMEOUT`].
struct FirstByteDeadline<S> {
    inner: S,
    /// Kept as long as the stream, also after an upgrade, when the server no longer owns it.
    _permit: Option<ConnectionPermit>,
    /// Runs until the first byte.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> FirstByteDeadline<S> {
    fn new(inner: S, permit: Option<ConnectionPermit>) -> Self {
        Self { inner, _permit: permit, deadline: Some(Box::pin(sleep(FIRST_BYTE_TIMEOUT))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstByteDeadline<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.deadline = None;
            return read;
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer says nothing")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstByteDeadline<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn written_bytes_must_be_taken_unless_the_answer_is_unhurried() {
        for exempt in [false, true] {
            let detector = Arc::<StallDetector>::default();
            detector.set_exempt(exempt);
            let (ours, mut theirs) = tokio::io::duplex(10);
            let mut monitored = MonitoredStream::new(ours, detector);
            monitored.write_all(&[0; 10]).await.expect("there is room");
            let outcome = timeout(SLOW_CLIENT_TIMEOUT * 3, monitored.write_all(&[0; 10])).await;
            match outcome {
                Ok(outcome) => assert_eq!(outcome.expect_err("no room").kind(), io::ErrorKind::TimedOut),
                Err(_) => assert!(exempt, "waits for ever"),
            }
            theirs.read_exact(&mut [0; 10]).await.expect("what was written");
            monitored.write_all(&[0; 5]).await.expect("room again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_be_silent_after_its_first_byte_only() {
        for speaks in [false, true] {
            let (ours, mut theirs) = tokio::io::duplex(10);
            let mut stream = FirstByteDeadline::new(ours, None);
            if speaks {
                theirs.write_all(&[0]).await.expect("room");
                stream.read_u8().await.expect("a byte");
            }
            assert_eq!(timeout(FIRST_BYTE_TIMEOUT * 3, stream.read_u8()).await.is_err(), speaks);
        }
    }
}
