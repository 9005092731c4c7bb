//! One connection from the network: HTTP/1.1 or HTTP/2 as ALPN agreed, and the bounds of what a peer can hold by being slow or silent.
//! Not here: the handshake and the number of connections ([`crate::tls`]), bodies of requests ([`crate::chain`]).

use crate::{
    coalesce::Coalesced,
    pace::{PACE, Pace, Paced, STALL, Unhurried},
    reply,
    service::Service,
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
    any::Any,
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
    sync::watch,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a client may be silent after the handshake.
const SILENCE: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take for the headers of a request, and be idle before it. Longer than client-go keeps a connection
/// idle (90 s), so that it is the client who closes.
const HEADERS: Duration = Duration::from_secs(110);
/// How long an HTTP/2 connection may be without a stream, for the same reason.
const IDLE: Duration = Duration::from_secs(110);
/// How often an HTTP/2 client must answer, and how fast.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Concurrent streams per HTTP/2 connection, as upstream's API server has it; a client with more watches opens another connection.
const STREAMS: u32 = 1_000;
/// Streams that a client opened and reset before they were looked at; with more the connection is closed.
const RESETS: usize = 100;
/// HTTP/2 windows for request bodies, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What a connection (HTTP/1.1), a stream (HTTP/2) and TLS each buffer on the way out, and the longest headers, bytes.
pub(crate) const BUFFER: usize = 32 * 1024;

/// Serves a connection until its end, which for an upgraded one is that of its stream: `held` is kept as long. After `token` has been cancelled, until the requests under way are answered. The pace is that of
/// [`Taken`], below the stream.
pub(crate) async fn serve<S>(
    stream: S,
    held: impl Any + Send,
    pace: Arc<Pace>,
    http2: bool,
    service: Service,
    token: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Speaking::new(stream, held);
    // HTTP/2 has a pace for each stream.
    let result = match http2 {
        true => serve_http2(stream, service, token).await,
        false => serve_http1(TokioIo::new(stream), pace, service, token).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn serve_http1<S>(
    io: TokioIo<Speaking<S>>,
    pace: Arc<Pace>,
    service: Service,
    token: CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(BUFFER)
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
    PACE.scope(pace.clone(), pace.run(work)).await.unwrap_or_else(stalled)
}

async fn serve_http2<S>(stream: Speaking<S>, service: Service, token: CancellationToken) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let streams = Streams::default();
    let coalesced = Coalesced::new(stream);
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(BUFFER)
        .max_header_list_size(u32::try_from(BUFFER).expect("a small constant"))
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        // Boxed: the stream of a watch would else keep the memory of the whole chain until its end.
        .serve_connection(
            TokioIo::new(coalesced.clone()),
            service_fn(move |request| Box::pin(answer(service.clone(), request))),
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
                timeout(STALL, connection).await.unwrap_or_else(|_| stalled())
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
    let pace = PACE.with(Arc::clone);
    // Whoever reads an upgraded connection (a shell, say) may pause as well.
    let unhurried =
        response.extensions().get::<Unhurried>().is_some() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    pace.set_unhurried(unhurried);
    if unhurried {
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(Paced::new(body, pace))))
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

/// Runs the streams of one HTTP/2 connection, each at its own pace, and knows how many there are.
#[derive(Clone, Default)]
struct Streams(watch::Sender<usize>);

impl Streams {
    /// Ends when there has been no stream for a while.
    async fn idle(&self) {
        let mut open = self.0.subscribe();
        loop {
            // Both fail only when the sender is gone, which `self` holds.
            let _ = open.wait_for(|count| *count == 0).await;
            if timeout(IDLE, open.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// One stream under way.
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
            let pace = Arc::<Pace>::default();
            // A dropped stream is reset.
            if PACE.scope(pace.clone(), pace.run(stream)).await.is_none() {
                tracing::debug!("a client did not take its answer");
            }
        });
    }
}

/// The plain stream below TLS, whose peer must take what is written. Below, because TLS takes some bytes itself: above it, they would look
/// like taken by the peer.
pub(crate) struct Taken<S> {
    inner: S,
    /// While written bytes wait.
    stall: Option<Pin<Box<Sleep>>>,
    pace: Arc<Pace>,
}

impl<S> Taken<S> {
    /// With the pace of the connection, which may say that nobody hurries.
    pub(crate) fn new(inner: S, pace: Arc<Pace>) -> Self {
        Self { inner, stall: None, pace }
    }

    /// The outcome of writing, or an error when nothing could be written for too long.
    fn written(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if outcome.is_ready() || self.pace.is_unhurried() {
            self.stall = None;
            return outcome;
        }
        ready!(self.stall.get_or_insert_with(|| Box::pin(sleep(STALL))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
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

/// A stream whose peer must say something soon.
struct Speaking<S> {
    inner: S,
    /// Until the first byte.
    silence: Option<Pin<Box<Sleep>>>,
    _held: Box<dyn Any + Send>,
}

impl<S> Speaking<S> {
    fn new(inner: S, held: impl Any + Send) -> Self {
        Self { inner, silence: Some(Box::pin(sleep(SILENCE))), _held: Box::new(held) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Speaking<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.silence = None;
            return read;
        }
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer says nothing")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Speaking<S> {
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
        for unhurried in [false, true] {
            let pace = Arc::<Pace>::default();
            pace.set_unhurried(unhurried);
            let (ours, mut theirs) = tokio::io::duplex(10);
            let mut taken = Taken::new(ours, pace);
            taken.write_all(&[0; 10]).await.expect("there is room");
            let outcome = timeout(STALL * 3, taken.write_all(&[0; 10])).await;
            match outcome {
                Ok(outcome) => assert_eq!(outcome.expect_err("no room").kind(), io::ErrorKind::TimedOut),
                Err(_) => assert!(unhurried, "waits for ever"),
            }
            theirs.read_exact(&mut [0; 10]).await.expect("what was written");
            taken.write_all(&[0; 5]).await.expect("room again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_be_silent_after_its_first_byte_only() {
        for speaks in [false, true] {
            let (ours, mut theirs) = tokio::io::duplex(10);
            let mut speaking = Speaking::new(ours, ());
            if speaks {
                theirs.write_all(&[0]).await.expect("room");
                speaking.read_u8().await.expect("a byte");
            }
            assert_eq!(timeout(SILENCE * 3, speaking.read_u8()).await.is_err(), speaks);
        }
    }
}
