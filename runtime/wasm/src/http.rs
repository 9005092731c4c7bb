//! HTTP handlers: an instance for each request, new or reused ([`crate::instances`]), on the guests' threads.
//!
//! A request waits for its turn, then for memory, then runs. Where it comes over a connection, the connection's task runs the guest until the
//! answer's head is there, and a task of its own runs what is left; a guest that spins yields at each epoch, so that its connection is still
//! read. A request is cut when its client goes away or does nothing, and when its container is ended; it may take any time.

use crate::{
    HttpOptions,
    access::{Access, Counted},
    body::{Guarded, Incoming, Task},
    clients,
    delivery::{Delivery, Held},
    exit,
    guest::Shared,
    image::Image,
    instances::{Head, Instance, Instances, Question},
    memory::InstanceMemory,
    places::Place,
    pool::Pool,
    quota::Throttled,
    trace::Tracer,
    turns::{Alternating, Turn, Turns},
};
use bytes::Bytes;
use container::{
    log::Source,
    net::{BoxError, Peer, Via},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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
/// Tells whoever waits for the answer: what the guest said, or what to say instead.
type Teller = oneshot::Sender<Result<Head, Response>>;

/// The handler of one container.
pub(crate) struct Handler {
    pub(crate) pool: Arc<Pool>,
    shared: Arc<Shared>,
    image: Arc<Image>,
    instances: Arc<Instances>,
    options: HttpOptions,
    turns: Arc<Turns>,
    tracer: Option<Tracer>,
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
        tracer: Option<Tracer>,
        retire: CancellationToken,
        out_of_memory: impl Fn(String) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let policy = &shared.spec.http;
        let concurrency = policy.max_concurrent.unwrap_or(options.concurrency);
        let turns = Turns::new(concurrency, options.queue, policy.max_queued.unwrap_or(usize::MAX));
        Arc::new(Self {
            instances: Instances::new(pool.clone(), shared.clone(), image.clone()),
            pool,
            shared,
            image,
            options,
            turns,
            tracer,
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
        self.instances.close();
        self.requests.close();
        let drained = tokio::time::timeout(grace, self.requests.wait()).await.is_ok();
        self.cut().await;
        drained
    }

    /// Ends all requests now.
    pub(crate) async fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
        self.instances.close();
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

    /// Answers a request. `here`: this is one of the guests' threads, which may run the guest itself until its answer begins.
    pub(crate) async fn answer<B>(
        self: Arc<Self>,
        mut request: http::Request<B>,
        client: clients::Request,
        peer: Peer,
        here: bool,
    ) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let trace = self.tracer.as_ref().map(|tracer| tracer.trace(request.headers_mut()));
        let access = self.shared.spec.http.access_log;
        let access = access.then(|| Access::new(&self.shared.log, peer.address.ip(), &request, trace.as_ref()));
        let asked = Asked { client, via: peer.via, trace, here };
        let response = self.run_and_answer(request, asked).await;
        let Some(mut access) = access else { return response };
        access.answered(response.status());
        response.map(|body| Counted { body, access }.boxed_unsync())
    }

    async fn run_and_answer<B>(self: Arc<Self>, request: http::Request<B>, asked: Asked) -> Response
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
        let Asked { client, via, trace, here } = asked;
        let client = Arc::new(client);
        let call = Call { what: what.clone(), client: client.clone(), via, delivery: Arc::default() };
        let delivery = call.delivery.clone();
        let (sender, receiver) = oneshot::channel();
        let request = with_host(request).map(|body| Incoming::new(body, client.clone()));
        let question = Question { request, trace };
        let run = self.requests.track_future(self.clone().run(question, sender, call));
        let (told, mut task) = match here {
            true => Task::begin_here(Box::pin(run), receiver, self.pool.handle()).await,
            false => Task::begin(run, receiver, &delivery, self.pool.handle()).await,
        };
        let response = match told {
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
                    Guarded { body, left, delivery, task, client, what, shared: self.shared.clone(), broken: None };
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
    async fn run<B>(self: Arc<Self>, question: Question<B>, head: Teller, call: Call)
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let Call { what, client, via, delivery } = call;
        let head = Arc::new(Mutex::new(Some(head)));
        // Returns whether there was no answer yet.
        let say = |response: Response| {
            let Some(head) = head.lock().take() else { return false };
            let _ = head.send(Err(response));
            true
        };
        let bytes = WAITING + size(question.request.uri(), question.request.headers());
        let guest = async {
            let turn = self.turn(bytes, via).await?;
            let from = self.source().await?;
            let quota = self.shared.quota.clone();
            let run = Held::new(self.serve(from, question, delivery.clone(), head.clone()), delivery);
            Throttled::new(Alternating::new(run, turn), quota, self.pool.ticker.clone()).await.map_err(Failure::Guest)
        };
        let late = async {
            match self.shared.spec.http.request_timeout {
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
            let place = || self.pool.places.request(&self.shared.places, self.image.need());
            let place = match place().await {
                None if self.shared.memory.reclaim_node() => place().await,
                place => place,
            };
            Ok((share, place.ok_or(Failure::Full)?))
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

    /// An instance for a request: an idle one, or what a new one needs.
    async fn source(&self) -> Result<Origin, Failure> {
        if let Some(instance) = self.instances.take() {
            return Ok(Origin::Idle(instance));
        }
        tokio::select! {
            biased;
            room = self.room() => room.map(|(share, place)| Origin::Room(share, place)),
            instance = self.instances.wait() => Ok(Origin::Idle(instance)),
        }
    }

    async fn serve<B>(
        &self,
        from: Origin,
        question: Question<B>,
        delivery: Arc<Delivery>,
        head: Arc<Mutex<Option<Teller>>>,
    ) -> wasmtime::Result<()>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let mut instance = match from {
            Origin::Idle(instance) => instance,
            Origin::Room(share, place) => self.instances.make(share, place).await?,
        };
        let tell = move |answer| {
            if let Some(head) = head.lock().take() {
                let _ = head.send(Ok(answer));
            }
        };
        instance.answer(question, &delivery, tell).await?;
        self.instances.put(instance);
        Ok(())
    }

    fn late(&self, what: &str) -> Response {
        let limit = self.shared.spec.http.request_timeout.unwrap_or_default().as_secs_f32();
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

/// Where a request's instance comes from.
enum Origin {
    Idle(Instance),
    Room(InstanceMemory, Place),
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

/// Who asks, and how.
struct Asked {
    client: clients::Request,
    via: Via,
    trace: Option<HeaderMap>,
    here: bool,
}

/// What a request's task needs to know of it.
struct Call {
    /// Method and path, for the log.
    what: Arc<str>,
    client: Arc<clients::Request>,
    via: Via,
    delivery: Arc<Delivery>,
}

fn size(uri: &Uri, headers: &HeaderMap) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers + uri.path_and_query().map_or(0, |it| it.as_str().len())
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
