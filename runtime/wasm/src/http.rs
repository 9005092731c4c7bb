//! HTTP handlers: a fresh instance per request, on the guests' threads.
//!
//! A request waits for a free place, then for memory, then runs in a task of its own, so that one that spins does not hold up its
//! connection. It is cut when its client goes away, when its time is up, and when its container is ended.

use crate::{
    HttpOptions, exit,
    guest::{self, Ending, Shared},
    image::{Image, Target},
    memory::Share,
    places::Place,
    pool::Pool,
    quota::Throttled,
};
use bytes::Bytes;
use container::{
    log::Source,
    net::{self, BoxError, Connection, HttpHandler, Peer},
};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, Semaphore, oneshot},
    task::AbortHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmtime_wasi_http::p2::{
    bindings::http::types::{ErrorCode, Scheme},
    body::HyperOutgoingBody,
};

/// How long a connection may be idle, or take to send a request's head.
const IDLE: Duration = Duration::from_secs(75);

/// Concurrent streams per HTTP/2 connection.
const STREAMS: u32 = 128;

const FULL: &str = "this node runs as many instances as it can";

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Response = http::Response<Body>;
/// The answer's head as the guest gave it.
type Head = Result<http::Response<HyperOutgoingBody>, ErrorCode>;
/// Tells whoever waits for the answer: what the guest said, or what to say instead.
type Teller = oneshot::Sender<Result<Head, Response>>;

/// The handler of one container.
pub(crate) struct Handler {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    image: Arc<Image>,
    options: HttpOptions,
    places: Semaphore,
    waiting: AtomicUsize,
    connections: Arc<Semaphore>,
    /// Clients are asked to leave: HTTP/1.1 connections end with their next answer, HTTP/2 ones with the requests under way.
    retire: CancellationToken,
    /// Connections.
    open: TaskTracker,
    /// No new requests; connections close when theirs are done.
    drain: CancellationToken,
    /// Requests under way end now.
    cut: CancellationToken,
    /// Requests under way.
    requests: TaskTracker,
    /// A request asked for more memory than its container may have.
    out_of_memory: Box<dyn Fn(String) + Send + Sync>,
}

impl Handler {
    pub(crate) fn new(
        pool: Arc<Pool>,
        shared: Arc<Shared>,
        image: Arc<Image>,
        options: HttpOptions,
        retire: CancellationToken,
        out_of_memory: impl Fn(String) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            shared,
            image,
            options,
            places: Semaphore::new(options.concurrency.max(1)),
            waiting: AtomicUsize::new(0),
            connections: Arc::new(Semaphore::new(options.connections.max(1))),
            retire,
            open: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            requests: TaskTracker::new(),
            out_of_memory: Box::new(out_of_memory),
        })
    }

    /// Goes on serving the connections there are until they have left, if clients were asked to: one that is closed while its client sends
    /// the next request fails that.
    pub(crate) async fn linger(&self, limit: Duration) {
        if self.retire.is_cancelled() {
            self.open.close();
            let _ = tokio::time::timeout(limit, self.open.wait()).await;
        }
    }

    /// Takes no more requests and finishes those under way within `grace`. Returns whether none had to be cut.
    pub(crate) async fn drain(&self, grace: Duration) -> bool {
        self.drain.cancel();
        self.requests.close();
        let drained = tokio::time::timeout(grace, self.requests.wait()).await.is_ok();
        self.cut().await;
        drained
    }

    /// Ends all requests now.
    pub(crate) async fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
        self.requests.close();
        self.requests.wait().await;
    }

    async fn answer<B>(self: Arc<Self>, request: http::Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        if self.drain.is_cancelled() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "this container is being stopped");
        }
        self.shared.requests.fetch_add(1, Relaxed);
        let begin = Instant::now();
        let deadline = begin + self.shared.spec.request_timeout;
        let what = format!("{} {}", request.method(), request.uri().path());
        let head = request.method() == Method::HEAD;
        let (sender, receiver) = oneshot::channel();
        let ending = Arc::new(Ending::default());
        let run = self.clone().run(request, sender, ending.clone(), deadline, what);
        let task = self.requests.spawn_on(run, self.pool.handle());
        let mut task = Task { handle: task.abort_handle(), done: false };
        let response = match receiver.await {
            Ok(Ok(Ok(response))) => {
                let (parts, body) = response.into_parts();
                let length = parts.headers.get(header::CONTENT_LENGTH);
                let left = if head { Some(0) } else { length.and_then(|it| it.to_str().ok()?.parse().ok()) };
                task.done = left == Some(0) && !head || body.is_end_stream();
                http::Response::from_parts(parts, Guarded { body, left, ending, task }.boxed_unsync())
            }
            Ok(Ok(Err(code))) => {
                task.done = true;
                plain(StatusCode::BAD_GATEWAY, &format!("the component answered with an error: {code:?}"))
            }
            Ok(Err(failure)) => {
                task.done = true;
                failure
            }
            // The task was aborted or panicked.
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "this container was ended"),
        };
        self.shared.metrics.answered(response.status(), begin.elapsed());
        response
    }

    /// Runs one request to its end; `head` gets the answer's head as soon as the guest sets it, or what to say instead.
    async fn run<B>(
        self: Arc<Self>,
        request: http::Request<B>,
        head: Teller,
        ending: Arc<Ending>,
        deadline: Instant,
        what: String,
    ) where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let head = Arc::new(Mutex::new(Some(head)));
        let say = |response: Response| {
            if let Some(head) = head.lock().take() {
                let _ = head.send(Err(response));
            }
        };
        let guest = async {
            let _place = self.place().await?;
            let memory = self.shared.memory.reserve(self.image.initial_memory).await;
            let share = memory.map_err(|full| Failure::Guest(full.into()))?;
            let seat = self.pool.places.request(&self.shared.places, self.image.need()).await.ok_or(Failure::Full)?;
            let quota = self.shared.quota.clone();
            let run = self.instance(request, share, &seat, ending, head.clone());
            Throttled::new(run, quota, self.pool.ticker.clone()).await.map_err(Failure::Guest)
        };
        let failure = tokio::select! {
            biased;
            () = self.cut.cancelled() => return say(plain(StatusCode::SERVICE_UNAVAILABLE, "this container was ended")),
            result = tokio::time::timeout_at(deadline, guest) => match result {
                Ok(Ok(())) => return say(plain(StatusCode::BAD_GATEWAY, "the component gave no answer")),
                Ok(Err(failure)) => failure,
                Err(_) => return say(self.late(&what)),
            },
        };
        match failure {
            Failure::Busy => {
                say(plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting for this container"))
            }
            Failure::Full => {
                self.shared.log.lines(Source::Stderr, &format!("sampan: {what} refused: {FULL}"));
                say(plain(StatusCode::SERVICE_UNAVAILABLE, FULL))
            }
            Failure::Guest(error) => say(self.failed(&error, &what)),
        }
    }

    async fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.options.queue {
            return Err(Failure::Busy);
        }
        self.places.acquire().await.map_err(|_| Failure::Busy)
    }

    async fn instance<B>(
        &self,
        request: http::Request<B>,
        share: Share,
        place: &Place,
        ending: Arc<Ending>,
        head: Arc<Mutex<Option<Teller>>>,
    ) -> wasmtime::Result<()>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let target = self.image.target(&self.pool, place.seat).await?;
        let (Target::Http(pre), Some(side)) = (target, self.pool.side(place.seat)) else {
            return Err(wasmtime::format_err!("this is no HTTP handler"));
        };
        let mut store = guest::request_store(&side.engine, &self.shared, share, ending.clone())?;
        let request = with_host(request).map(|body| {
            let error = |error: B::Error| wasmtime_wasi_http::Error::InternalError(Some(error.to_string()));
            body.map_err(error).boxed_unsync()
        });
        let mut view = wasmtime_wasi_http::WasiHttpView::http(store.data_mut());
        let request = view.new_incoming_request(Scheme::Http, request)?;
        let out = view.new_response_outparam_from_callback(move |answer| {
            if let Some(head) = head.lock().take() {
                let _ = head.send(Ok(answer));
            }
        })?;
        let ran = async {
            let proxy = pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
        };
        ran.await.map_err(|error| store.data().blame(error))?;
        ending.returned.store(true, SeqCst);
        Ok(())
    }

    fn late(&self, what: &str) -> Response {
        let limit = self.shared.spec.request_timeout.as_secs_f32();
        self.shared.log.lines(Source::Stderr, &format!("sampan: {what}: cut after {limit} s"));
        plain(StatusCode::GATEWAY_TIMEOUT, &format!("no answer from the component within {limit} s"))
    }

    fn failed(&self, error: &wasmtime::Error, what: &str) -> Response {
        let story = exit::story(error);
        if exit::is_trap(error) {
            self.shared.metrics.traps.inc();
        }
        self.shared.log.lines(Source::Stderr, &format!("sampan: {what} failed: {story}"));
        if exit::is_crowded(error) {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "other requests use all the memory of this container");
        }
        if exit::is_out_of_memory(error) {
            (self.out_of_memory)(story);
        }
        if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, FULL);
        }
        plain(StatusCode::INTERNAL_SERVER_ERROR, "the component failed; its log has the backtrace")
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S) {
        // Told of each request on HTTP/2: only a client that has sent one can be sent away by a frame.
        let streams = Arc::new(Notify::new());
        let (handler, told) = (self.clone(), streams.clone());
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let handler = handler.clone();
            let multiplexed = request.version() == http::Version::HTTP_2;
            if multiplexed {
                told.notify_one();
            }
            async move {
                let mut response = handler.clone().answer(request).await;
                if !multiplexed && handler.retire.is_cancelled() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).keep_alive_interval(IDLE);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let leave = async {
            let retired = async {
                self.retire.cancelled().await;
                streams.notified().await;
            };
            tokio::select! { () = self.drain.cancelled() => {}, () = retired => {} }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leave => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(container = %self.shared.spec.id, error, "connection ended");
        }
    }
}

/// The handler as the network sees it.
pub(crate) struct Served(pub(crate) Arc<Handler>);

enum Failure {
    /// The queue is full.
    Busy,
    /// The node has no place for another instance.
    Full,
    Guest(wasmtime::Error),
}

#[async_trait::async_trait]
impl HttpHandler for Served {
    async fn call(&self, request: net::Request, _peer: Peer) -> net::Result<net::Response> {
        let this = self.0.clone();
        Ok(this.answer(request).await)
    }

    fn serve(&self, connection: Connection, _peer: Peer) {
        let this = self.0.clone();
        let Ok(permit) = this.connections.clone().try_acquire_owned() else {
            // Dropping it closes it: the client sees a reset and may try another endpoint.
            return;
        };
        let (open, threads) = (this.open.clone(), this.pool.handle().clone());
        let serve = async move {
            match connection {
                Connection::Tcp(socket) => {
                    // Fails only if the socket is not non-blocking or the reactor is gone.
                    if let Ok(socket) = TcpStream::from_std(socket) {
                        let _ = socket.set_nodelay(true);
                        this.connection(socket).await;
                    }
                }
                Connection::Stream(stream) => this.connection(stream).await,
            }
            drop(permit);
        };
        open.spawn_on(serve, &threads);
    }
}

/// The task of one request. Dropped before it is done, it is ended: nobody waits for it any more.
struct Task {
    handle: AbortHandle,
    done: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.done {
            self.handle.abort();
        }
    }
}

/// An answer's body. Once all of it is delivered, the guest may finish what it has left to do.
struct Guarded {
    body: HyperOutgoingBody,
    /// Bytes to come, if the guest declared them: hyper does not ask for the end then.
    left: Option<u64>,
    ending: Arc<Ending>,
    task: Task,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(context));
        match (&frame, &mut this.left) {
            // The body of an instance that was ended looks complete.
            (None, _) if this.ending.gone.load(SeqCst) && !this.ending.returned.load(SeqCst) => {
                return Poll::Ready(Some(Err("the component was ended before its answer was complete".into())));
            }
            (None, _) => this.task.done = true,
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            _ => {}
        }
        if this.left == Some(0) || this.body.is_end_stream() {
            this.task.done = true;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// HTTP/1.0 needs no Host, wasi:http does.
fn with_host<B>(mut request: http::Request<B>) -> http::Request<B> {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    request
}

fn plain(status: StatusCode, text: &str) -> Response {
    let body = Full::from(format!("{text}\n")).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
