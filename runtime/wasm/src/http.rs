//! HTTP handlers: a fresh instance per request, on the guests' threads.
//!
//! A request waits for its turn, then for memory, then runs in a task of its own, so that one that spins does not hold up its
//! connection. It is cut when its client goes away or does nothing, and when its container is ended; it may take any time.

use crate::{
    HttpOptions, clients, exit,
    guest::{self, Ending, Shared},
    image::{Image, Target},
    memory::InstanceMemory,
    places::Place,
    pool::Pool,
    quota::Throttled,
    turns::{Alternating, Turn, Turns},
};
use bytes::Bytes;
use container::{
    log::Source,
    net::{BoxError, Via},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmtime_wasi_http::p2::{
    bindings::http::types::{ErrorCode, Scheme},
    body::HyperOutgoingBody,
};

/// What a request that waits takes besides its head, bytes: its task and its connection's buffers.
const WAITING: usize = 4 << 10;

/// How often a request that waits for memory looks for others that only wait for their clients.
const PRESSED: Duration = Duration::from_secs(1);

/// How long a client may do nothing while others wait for its request's memory.
const STALL: Duration = Duration::from_secs(5);

/// How long nothing may move while a request waits for memory that others keep while they wait, perhaps for this very request.
const STUCK: Duration = Duration::from_secs(10);

const FULL: &str = "this node runs as many instances as it can";

type Body = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Response = http::Response<Body>;
/// The answer's head as the guest gave it.
type Head = Result<http::Response<HyperOutgoingBody>, ErrorCode>;
/// Tells whoever waits for the answer: what the guest said, or what to say instead.
type Teller = oneshot::Sender<Result<Head, Response>>;

/// The handler of one container.
pub(crate) struct Handler {
    pub(crate) pool: Arc<Pool>,
    shared: Arc<Shared>,
    image: Arc<Image>,
    options: HttpOptions,
    turns: Arc<Turns>,
    /// Clients are asked to leave: HTTP/1.1 connections end with their next answer, HTTP/2 ones with the requests under way.
    retire: CancellationToken,
    /// Connections.
    pub(crate) open: TaskTracker,
    /// No new requests; connections close when theirs are done.
    drain: CancellationToken,
    /// Requests under way end now.
    cut: CancellationToken,
    /// Requests under way.
    requests: TaskTracker,
    /// A request asked for more memory than its container may have.
    out_of_memory: Box<dyn Fn(String) + Send + Sync>,
    other_sites: AtomicBool,
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
            turns: Turns::new(options.concurrency, options.queue),
            retire,
            open: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            requests: TaskTracker::new(),
            out_of_memory: Box::new(out_of_memory),
            other_sites: AtomicBool::new(false),
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

    /// Names the container among the clients'.
    pub(crate) fn owner(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// A client asks, over a connection or by a call.
    pub(crate) fn client(&self, connection: Option<&clients::Connection>) -> clients::Request {
        self.pool.clients.request(self.owner(), connection)
    }

    pub(crate) fn id(&self) -> &str {
        &self.shared.spec.id
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retire.is_cancelled()
    }

    /// Waits until a connection is to end with the requests under way: HTTP/2 ones that were told of a stream also when retired.
    pub(crate) async fn leaving(&self, streams: &Notify) {
        let retired = async {
            self.retire.cancelled().await;
            streams.notified().await;
        };
        tokio::select! { () = self.drain.cancelled() => {}, () = retired => {} }
    }

    pub(crate) fn tell_of_other_sites(&self, text: &str) {
        if !self.other_sites.swap(true, Relaxed) {
            self.shared.log.lines(Source::Stderr, text);
        }
    }

    pub(crate) async fn answer<B>(
        self: Arc<Self>,
        request: http::Request<B>,
        client: clients::Request,
        via: Via,
    ) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        if self.drain.is_cancelled() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "this container is being stopped");
        }
        self.shared.requests.fetch_add(1, Relaxed);
        let begin = Instant::now();
        let what: Arc<str> = format!("{} {}", request.method(), request.uri().path()).into();
        let head = request.method() == Method::HEAD;
        let client = Arc::new(client);
        let call = Call { what: what.clone(), client: client.clone(), via, ending: Arc::new(Ending::default()) };
        let ending = call.ending.clone();
        let (sender, receiver) = oneshot::channel();
        let request = request.map(|body| Sent { body, client: client.clone() });
        let task = self.requests.spawn_on(self.clone().run(request, sender, call), self.pool.handle());
        let mut task = Task { handle: task.abort_handle(), done: false };
        let response = match receiver.await {
            Ok(Ok(Ok(response))) if response.status().is_informational() => {
                let status = response.status();
                self.log(&what, &format!("the component answered {status}, which is not the end of an answer"));
                plain(StatusCode::BAD_GATEWAY, &format!("the component answered {status}"))
            }
            Ok(Ok(Ok(response))) => {
                let (parts, body) = response.into_parts();
                let length = parts.headers.get(header::CONTENT_LENGTH);
                let left = if head { Some(0) } else { length.and_then(|it| it.to_str().ok()?.parse().ok()) };
                task.done = left == Some(0) && !head || body.is_end_stream();
                client.untaken(true);
                let body =
                    Guarded { body, left, ending, task, client, what, shared: self.shared.clone(), broken: None };
                http::Response::from_parts(parts, body.boxed_unsync())
            }
            Ok(Ok(Err(code))) => {
                task.done = true;
                self.log(&what, &format!("the component answered with an error: {code:?}"));
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

    fn log(&self, what: &str, text: &str) {
        self.shared.log.lines(Source::Stderr, &format!("sampan: {what}: {text}"));
    }

    /// Runs one request to its end; `head` gets the answer's head as soon as the guest sets it, or what to say instead.
    async fn run<B>(self: Arc<Self>, request: http::Request<B>, head: Teller, call: Call)
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let Call { what, client, via, ending } = call;
        let head = Arc::new(Mutex::new(Some(head)));
        // Returns whether there was no answer yet.
        let say = |response: Response| {
            let Some(head) = head.lock().take() else { return false };
            let _ = head.send(Err(response));
            true
        };
        let bytes = WAITING + size(request.uri(), request.headers());
        let guest = async {
            let turn = self.turn(bytes, via).await?;
            let (share, seat) = self.room().await?;
            let quota = self.shared.quota.clone();
            let run = self.instance(request, share, &seat, ending, head.clone());
            Throttled::new(Alternating::new(run, turn), quota, self.pool.ticker.clone()).await.map_err(Failure::Guest)
        };
        let late = async {
            match self.shared.spec.request_timeout {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let failure = tokio::select! {
            biased;
            () = self.cut.cancelled() => {
                say(plain(StatusCode::SERVICE_UNAVAILABLE, "this container was ended"));
                return;
            }
            () = client.cut().cancelled() => {
                self.log(&what, "ended, since its client neither sent nor took anything for too long");
                say(plain(StatusCode::REQUEST_TIMEOUT, "nothing came for too long"));
                return;
            }
            result = guest => match result {
                Ok(()) => {
                    if say(plain(StatusCode::BAD_GATEWAY, "the component gave no answer")) {
                        self.log(&what, "the component gave no answer");
                    }
                    return;
                }
                Err(failure) => failure,
            },
            () = late => {
                say(self.late(&what));
                return;
            }
        };
        say(self.refused(failure, &what));
    }

    /// What a client is told of a request that its guest did not answer.
    fn refused(&self, failure: Failure, what: &str) -> Response {
        match failure {
            Failure::Busy => plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting for this container"),
            Failure::Stuck => {
                self.log(
                    what,
                    "refused: requests that wait keep all the memory or places there are, and nothing moves",
                );
                plain(StatusCode::SERVICE_UNAVAILABLE, "other requests keep all the room there is, and they wait")
            }
            Failure::Full => {
                self.log(what, &format!("refused: {FULL}"));
                plain(StatusCode::SERVICE_UNAVAILABLE, FULL)
            }
            Failure::Guest(error) => self.failed(&error, what),
        }
    }

    /// The cluster's own requests, probes, wait for nobody: there are few, and a container that is busy is not a dead one.
    async fn turn(&self, bytes: usize, via: Via) -> Result<Turn, Failure> {
        if via == Via::Cluster {
            return Ok(self.turns.extra());
        }
        self.turns.begin(bytes).await.map_err(|_| Failure::Busy)
    }

    /// Memory and a place for an instance. While they are short, clients that do nothing lose theirs. In a circle of calls (over any
    /// number of pods) whose requests have taken all there is, those that have not begun are refused, so that the others go on.
    async fn room(&self) -> Result<(InstanceMemory, Place), Failure> {
        let begin = Instant::now();
        let room = async {
            let memory = self.shared.memory.reserve(self.image.initial_memory).await;
            let share = memory.map_err(|full| Failure::Guest(full.into()))?;
            let seat = self.pool.places.request(&self.shared.places, self.image.need()).await.ok_or(Failure::Full)?;
            Ok((share, seat))
        };
        tokio::pin!(room);
        loop {
            if let Ok(room) = tokio::time::timeout(PRESSED, room.as_mut()).await {
                return room;
            }
            self.pool.clients.relieve(self.owner(), STALL);
            let calls = self.shared.outgoing.available_permits() < self.options.outgoing;
            let alone = self.shared.instances.load(Relaxed) == 0;
            if begin.elapsed() >= STUCK && self.turns.quiet() >= STUCK && (calls || alone) {
                return Err(Failure::Stuck);
            }
        }
    }

    async fn instance<B>(
        &self,
        request: http::Request<B>,
        share: InstanceMemory,
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
        ran.await.map_err(|error| store.data().with_cause(error))?;
        ending.returned.store(true, SeqCst);
        Ok(())
    }

    fn late(&self, what: &str) -> Response {
        let limit = self.shared.spec.request_timeout.unwrap_or_default().as_secs_f32();
        self.log(what, &format!("cut after {limit} s"));
        plain(StatusCode::GATEWAY_TIMEOUT, &format!("no answer from the component within {limit} s"))
    }

    fn failed(&self, error: &wasmtime::Error, what: &str) -> Response {
        let story = exit::describe(error);
        if exit::is_trap(error) {
            self.shared.metrics.traps.inc();
        }
        self.shared.log.lines(Source::Stderr, &format!("sampan: {what} failed: {story}"));
        if exit::is_contention(error) {
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
}

enum Failure {
    /// Too many wait.
    Busy,
    /// Those who have the memory wait for something that does not come.
    Stuck,
    /// The node has no place for another instance.
    Full,
    Guest(wasmtime::Error),
}

/// What a request's task needs to know of it.
struct Call {
    /// Method and path, for the log.
    what: Arc<str>,
    client: Arc<clients::Request>,
    via: Via,
    ending: Arc<Ending>,
}

fn size(uri: &Uri, headers: &HeaderMap) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers + uri.path_and_query().map_or(0, |it| it.as_str().len())
}

/// A request's body that notes whether its client sends it.
struct Sent<B> {
    body: B,
    client: Arc<clients::Request>,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Sent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.client.unsent(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        self.client.unsent(false);
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
    client: Arc<clients::Request>,
    what: Arc<str>,
    shared: Arc<Shared>,
    /// Why the answer ends before it is complete.
    broken: Option<BoxError>,
}

impl Guarded {
    /// Why the answer broke off, told in the log.
    fn told(&self, why: &str) -> BoxError {
        let why = match self.left {
            Some(left) if left > 0 => format!("{why}, {left} bytes before its content-length"),
            _ => why.to_string(),
        };
        self.shared.log.lines(Source::Stderr, &format!("sampan: {}: {why}", self.what));
        why.into()
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = Pin::new(&mut this.body).poll_frame(context);
        this.client.untaken(matches!(frame, Poll::Ready(Some(Ok(_)))));
        let frame = std::task::ready!(frame);
        match (&frame, &mut this.left) {
            // The body of an instance that was ended looks complete. Its log has said why.
            (None, _) if this.ending.gone.load(SeqCst) && !this.ending.returned.load(SeqCst) => {
                this.broken = Some("the component was ended before its answer was complete".into());
            }
            (None, Some(left)) if *left > 0 => this.broken = Some(this.told("the answer ended")),
            (Some(Err(_)), _) => this.broken = Some(this.told("the component broke its answer off")),
            (None, _) => this.task.done = true,
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            _ => {}
        }
        if this.broken.is_some() {
            // hyper sends what there is before it waits, not before it fails.
            context.waker().wake_by_ref();
            return Poll::Pending;
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

pub(crate) fn plain(status: StatusCode, text: &str) -> Response {
    let body = Full::from(format!("{text}\n")).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
