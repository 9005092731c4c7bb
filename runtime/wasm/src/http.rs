//! HTTP handlers: each request runs in an instance, new or reused ([`crate::instances`]), on the guests' threads.
//!
//! A request waits for its turn, then for memory and an instance slot, then runs. If it came over a connection, the task of the connection
//! runs the guest as long as there is something to send, and a task of its own the rest ([`crate::body::Run`]). A guest that computes yields
//! at each epoch, so the connection is still read. A request is ended when its client disconnects or stalls, and when its container is ended.
//! The duration of a request is bounded only by the container's request timeout, if there is one.

use crate::{
    HttpOptions,
    access::{AccessLogEntry, CountedBody},
    body::{Head, RequestBody, ResponseBody, Run},
    clients,
    concurrent::{ConcurrentInstances, Failed},
    delivery::{BatchedWrites, Delivery},
    exit, grpc,
    guest::Shared,
    image::Image,
    instances::{self, GuestRequest, Instance, Instances},
    memory::InstanceMemory,
    pool::Pool,
    quota::Throttled,
    run_limit::{Alternating, RunLimit, RunPermit},
    slots::InstanceSlot,
    trace::Tracer,
};
use bytes::Bytes;
use container::{
    log::Source,
    net::{BoxError, Peer, Via},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
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

/// Bytes that a queued request takes in addition to its head: its task and the buffers of its connection.
const QUEUED_REQUEST_BYTES: usize = 4 << 10;

/// How often a request that waits for memory or a slot looks for a request whose client stalls.
const PRESSURE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a client may stall while another request of the container waits for memory.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for memory while no guest runs. The requests that have the memory may wait for this request.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(10);

const NODE_FULL: &str = "this node runs as many instances as it can";

type Body = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Response = http::Response<Body>;
/// Sends the head that the guest set, or the response to give instead.
type HeadSender = oneshot::Sender<Result<Head, Response>>;

/// The handler of one container.
pub(crate) struct Handler {
    pub(crate) pool: Arc<Pool>,
    shared: Arc<Shared>,
    image: Arc<Image>,
    instances: Arc<Instances>,
    /// Instead of `instances`, for a handler of WASI 0.3 whose instances are reused.
    concurrent: Option<Arc<ConcurrentInstances>>,
    options: HttpOptions,
    turns: Arc<RunLimit>,
    tracer: Option<Tracer>,
    /// Asks clients to disconnect: an HTTP/1.1 connection ends after its next response, an HTTP/2 connection after the requests in flight.
    retire: CancellationToken,
    /// Open connections.
    pub(crate) open: TaskTracker,
    /// Refuses new requests. Connections close when their requests are done.
    drain: CancellationToken,
    /// Ends the requests in flight.
    cut: CancellationToken,
    /// Requests in flight.
    requests: TaskTracker,
    /// Called with the reason when a request needs more memory than its container may use.
    out_of_memory: Box<dyn Fn(String) + Send + Sync>,
    /// A refused request of another site was logged.
    cross_site_logged: AtomicBool,
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
        let turns = RunLimit::new(concurrency, options.queue, policy.max_queued.unwrap_or(usize::MAX));
        let reuse = instances::reuse(&shared).filter(|_| image.is_concurrent());
        let instances = Instances::new(pool.clone(), shared.clone(), image.clone(), reuse.is_some());
        let concurrent = reuse.map(|reuse| {
            let (pool, shared, turns) = (pool.clone(), shared.clone(), turns.clone());
            ConcurrentInstances::new(pool, shared, instances.clone(), turns, reuse, concurrency)
        });
        Arc::new(Self {
            instances,
            concurrent,
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
            cross_site_logged: AtomicBool::new(false),
        })
    }

    /// If clients were asked to disconnect, waits up to `limit` until they have. A connection that is closed while its client sends the next
    /// request makes that request fail.
    pub(crate) async fn wait_for_disconnects(&self, limit: Duration) {
        if self.retire.is_cancelled() {
            self.open.close();
            let _ = tokio::time::timeout(limit, self.open.wait()).await;
        }
    }

    /// Refuses new requests and waits up to `grace` for those in flight. Returns whether all of them finished.
    pub(crate) async fn drain(&self, grace: Duration) -> bool {
        self.drain.cancel();
        self.instances.close();
        self.concurrent.iter().for_each(|instances| instances.close());
        self.requests.close();
        let drained = tokio::time::timeout(grace, self.requests.wait()).await.is_ok();
        self.cut().await;
        drained
    }

    /// Ends all requests immediately.
    pub(crate) async fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
        self.instances.close();
        self.requests.close();
        self.requests.wait().await;
        if let Some(instances) = &self.concurrent {
            instances.end().await;
        }
    }

    /// Identifies the container in [`clients::Clients`].
    pub(crate) fn container_key(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// Registers a request that came over `connection`, or by a call if there is none.
    pub(crate) fn client(&self, connection: Option<&clients::Connection>) -> clients::Request {
        self.pool.clients.request(self.container_key(), connection)
    }

    pub(crate) fn id(&self) -> &str {
        &self.shared.spec.id
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retire.is_cancelled()
    }

    /// Waits until a connection should end after the requests in flight. `streams` reports a request on HTTP/2: such a connection also ends
    /// when the handler is retired.
    pub(crate) async fn should_close(&self, streams: &Notify) {
        let retired = async {
            self.retire.cancelled().await;
            streams.notified().await;
        };
        tokio::select! { () = self.drain.cancelled() => {}, () = retired => {} }
    }

    /// Waits until the requests in flight are ended.
    pub(crate) async fn is_cut(&self) {
        self.cut.cancelled().await;
    }

    pub(crate) fn log_cross_site(&self, text: &str) {
        if !self.cross_site_logged.swap(true, Relaxed) {
            self.shared.log.lines(Source::Stderr, text);
        }
    }

    /// Answers a request. `inline`: the caller is on one of the guests' threads and runs the guest itself until the response begins.
    pub(crate) async fn answer<B>(
        self: Arc<Self>,
        mut request: http::Request<B>,
        client: clients::Request,
        peer: Peer,
        inline: bool,
    ) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let trace = self.tracer.as_ref().map(|tracer| tracer.trace(request.headers_mut()));
        let access = self.shared.spec.http.access_log;
        let access = access.then(|| AccessLogEntry::new(&self.shared.log, peer.address.ip(), &request, trace.as_ref()));
        let caller = Caller { client, via: peer.via, trace, inline };
        let response = self.run_and_answer(request, caller).await;
        let Some(mut access) = access else { return response };
        access.answered(response.status());
        response.map(|body| CountedBody { body, access }.boxed_unsync())
    }

    async fn run_and_answer<B>(self: Arc<Self>, request: http::Request<B>, caller: Caller) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        if self.drain.is_cancelled() {
            return text_response(StatusCode::SERVICE_UNAVAILABLE, "this container is being stopped");
        }
        self.shared.requests.fetch_add(1, Relaxed);
        let begin = Instant::now();
        let what: Arc<str> = format!("{} {}", request.method(), request.uri().path()).into();
        let is_head_request = request.method() == Method::HEAD;
        let version = request.version();
        let stays_inline = version != Version::HTTP_2;
        let Caller { client, via, trace, inline } = caller;
        let client = Arc::new(client);
        let context = RunContext { what: what.clone(), client: client.clone(), via, delivery: Arc::default() };
        let delivery = context.delivery.clone();
        let (sender, receiver) = oneshot::channel();
        let request = with_host(request).map(|body| RequestBody::new(body, client.clone()));
        let question = GuestRequest { request, trace };
        let guest = self.requests.track_future(self.clone().run(question, sender, context));
        let (result, mut run) = match inline {
            true => Run::begin_inline(Box::pin(guest), stays_inline, receiver, self.pool.handle()).await,
            false => Run::begin(guest, receiver, &delivery, self.pool.handle()).await,
        };
        let response = match result {
            Ok(Ok(Ok(response))) if response.status().is_informational() => {
                self.refuse_informational(&what, response.status())
            }
            Ok(Ok(Ok(response))) => {
                let (parts, body) = response.into_parts();
                let length = parts.headers.get(header::CONTENT_LENGTH);
                let left = if is_head_request { Some(0) } else { length.and_then(|it| it.to_str().ok()?.parse().ok()) };
                run.done = left == Some(0) && !is_head_request || body.is_end_stream();
                client.set_waiting_for_reader(true);
                let body = ResponseBody {
                    body,
                    left,
                    delivery,
                    run,
                    sent: (0, 0),
                    client,
                    what,
                    shared: self.shared.clone(),
                    broken: None,
                };
                let body = grpc::body(version, &parts.headers, body).await;
                http::Response::from_parts(parts, body)
            }
            Ok(Ok(Err(code))) => {
                run.done = true;
                self.log(&what, &format!("the component answered with an error: {code}"));
                text_response(StatusCode::BAD_GATEWAY, &format!("the component answered with an error: {code}"))
            }
            Ok(Err(failure)) => {
                run.done = true;
                failure
            }
            // The task was aborted or panicked.
            Err(_) => text_response(StatusCode::SERVICE_UNAVAILABLE, "this container was ended"),
        };
        self.shared.metrics.answered(response.status(), begin.elapsed());
        response
    }

    /// The response in place of an informational one, which cannot be the end of an answer.
    fn refuse_informational(&self, what: &str, status: StatusCode) -> Response {
        let why = match status {
            StatusCode::SWITCHING_PROTOCOLS => "but wasi:http has no way to switch: WebSockets are for wasi:sockets",
            _ => "which is not the end of an answer",
        };
        let text = format!("the component answered {status}, {why}");
        self.log(what, &text);
        text_response(StatusCode::BAD_GATEWAY, &text)
    }

    fn log(&self, what: &str, text: &str) {
        self.shared.log.lines(Source::Stderr, &format!("sampan: {what}: {text}"));
    }

    /// Runs one request to its end. `head` gets the head of the response as soon as the guest sets it, or the response to give instead.
    async fn run<B>(self: Arc<Self>, question: GuestRequest<B>, head: HeadSender, context: RunContext)
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let RunContext { what, client, via, delivery } = context;
        let head = Arc::new(Mutex::new(Some(head)));
        // Returns whether the response had not begun.
        let respond = |response: Response| {
            let Some(head) = head.lock().take() else { return false };
            let _ = head.send(Err(response));
            true
        };
        let bytes = QUEUED_REQUEST_BYTES + head_bytes(question.request.uri(), question.request.headers());
        let guest = async {
            let turn = self.turn(bytes, via).await?;
            if let Some(instances) = &self.concurrent {
                return self.serve_concurrently(instances, question, turn, delivery, head.clone()).await;
            }
            let source = self.instance_source().await?;
            let quota = self.shared.quota.clone();
            let run = BatchedWrites::new(self.serve(source, question, delivery.clone(), head.clone()), delivery);
            Throttled::new(Alternating::new(run, turn), quota, self.pool.ticker.clone()).await.map_err(Failure::Guest)
        };
        let timeout = async {
            match self.shared.spec.http.request_timeout {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let failure = tokio::select! {
            biased;
            () = self.cut.cancelled() => {
                respond(text_response(StatusCode::SERVICE_UNAVAILABLE, "this container was ended"));
                return;
            }
            () = client.cut().cancelled() => {
                self.log(&what, "ended, since its client neither sent nor took anything for too long");
                respond(text_response(StatusCode::REQUEST_TIMEOUT, "nothing came for too long"));
                return;
            }
            result = guest => match result {
                Ok(()) => {
                    if respond(text_response(StatusCode::BAD_GATEWAY, "the component gave no answer")) {
                        self.log(&what, "the component gave no answer");
                    }
                    return;
                }
                Err(failure) => failure,
            },
            () = timeout => {
                respond(self.timed_out(&what));
                return;
            }
        };
        respond(self.refused(failure, &what));
    }

    /// The response to a request that the guest did not answer. Logs the reason.
    fn refused(&self, failure: Failure, what: &str) -> Response {
        match failure {
            Failure::QueueFull => {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting for this container")
            }
            Failure::Deadlock => {
                self.log(
                    what,
                    "refused: requests that wait keep all the memory or places there are, and nothing moves",
                );
                text_response(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "other requests keep all the room there is, and they wait",
                )
            }
            Failure::NoSlot => {
                self.log(what, &format!("refused: {NODE_FULL}"));
                text_response(StatusCode::SERVICE_UNAVAILABLE, NODE_FULL)
            }
            Failure::Guest(error) => {
                let error = Arc::new(error);
                self.log_failure(error.clone(), what);
                self.failed(&error)
            }
            Failure::Instance(Failed::Error(error, first)) => {
                match first {
                    true => self.log_failure(error.clone(), what),
                    false => self.log(what, "failed with another request of its instance"),
                }
                self.failed(&error)
            }
            Failure::Instance(Failed::Ended) => {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "this container was ended")
            }
        }
    }

    /// Waits for a turn. Probes, which come from the cluster, do not wait: they are few, and a busy container must not fail its probes.
    async fn turn(&self, bytes: usize, via: Via) -> Result<RunPermit, Failure> {
        if via == Via::Cluster {
            return Ok(self.turns.acquire_unlimited());
        }
        self.turns.begin(bytes).await.map_err(|_| Failure::QueueFull)
    }

    /// Waits for memory and a slot for an instance. Meanwhile requests whose clients stall are ended. If requests that call each other, in any
    /// number of pods, have all the memory, requests without an instance are refused, so that the others can finish.
    async fn reserve(&self) -> Result<(InstanceMemory, InstanceSlot), Failure> {
        let begin = Instant::now();
        let reserved = async {
            let memory = self.shared.memory.reserve(self.image.initial_memory).await;
            let share = memory.map_err(|full| Failure::Guest(full.into()))?;
            let slot = || self.pool.slots.request(&self.shared.slots, self.image.slot_requirements());
            let slot = match slot().await {
                None if self.shared.memory.reclaim_node() => slot().await,
                slot => slot,
            };
            Ok((share, slot.ok_or(Failure::NoSlot)?))
        };
        tokio::pin!(reserved);
        loop {
            if let Ok(result) = tokio::time::timeout(PRESSURE_CHECK_INTERVAL, reserved.as_mut()).await {
                return result;
            }
            self.pool.clients.cut_longest_stall(self.container_key(), STALL_TIMEOUT);
            let calls = self.shared.outgoing.available_permits() < self.options.outgoing;
            let no_instance = self.shared.instances.load(Relaxed) == 0;
            if begin.elapsed() >= DEADLOCK_TIMEOUT
                && self.turns.idle_time() >= DEADLOCK_TIMEOUT
                && (calls || no_instance)
            {
                return Err(Failure::Deadlock);
            }
        }
    }

    /// Waits for an idle instance, or for the memory and slot of a new one.
    async fn instance_source(&self) -> Result<InstanceSource, Failure> {
        if let Some(instance) = self.instances.take() {
            return Ok(InstanceSource::Idle(instance));
        }
        tokio::select! {
            biased;
            reserved = self.reserve() => reserved.map(|(share, slot)| InstanceSource::Reserved(share, slot)),
            instance = self.instances.wait() => Ok(InstanceSource::Idle(instance)),
        }
    }

    /// Has an instance answer a request that it may answer beside others. The request has its turn until an instance takes it.
    async fn serve_concurrently<B>(
        &self,
        instances: &Arc<ConcurrentInstances>,
        question: GuestRequest<B>,
        turn: RunPermit,
        delivery: Arc<Delivery>,
        head: Arc<Mutex<Option<HeadSender>>>,
    ) -> Result<(), Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let mut ticket = instances.enqueue(question, delivery, tell(head));
        let since = ticket.since;
        let seat = {
            let create = async {
                loop {
                    let claim = instances.claim(since).await;
                    let (share, place) = self.reserve().await?;
                    // An error means that there is an instance.
                    if let Ok(error) = instances.start(claim, share, place).await {
                        return Err::<Infallible, _>(Failure::Guest(error));
                    }
                }
            };
            tokio::select! {
                biased;
                seat = ticket.started() => seat?,
                failed = create => return failed.map(|never| match never {}),
            }
        };
        drop(turn);
        Ok(seat.finished().await?)
    }

    async fn serve<B>(
        &self,
        source: InstanceSource,
        question: GuestRequest<B>,
        delivery: Arc<Delivery>,
        head: Arc<Mutex<Option<HeadSender>>>,
    ) -> wasmtime::Result<()>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let mut instance = match source {
            InstanceSource::Idle(instance) => instance,
            InstanceSource::Reserved(share, slot) => self.instances.make(share, slot).await?,
        };
        instance.answer(question, &delivery, tell(head)).await?;
        self.instances.put(instance);
        Ok(())
    }

    fn timed_out(&self, what: &str) -> Response {
        let limit = self.shared.spec.http.request_timeout.unwrap_or_default().as_secs_f32();
        self.log(what, &format!("cut after {limit} s"));
        text_response(StatusCode::GATEWAY_TIMEOUT, &format!("no answer from the component within {limit} s"))
    }

    /// The response to a request whose guest failed.
    fn failed(&self, error: &wasmtime::Error) -> Response {
        if exit::is_contention(error) {
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "other requests use all the memory of this container",
            );
        }
        if exit::is_out_of_memory(error) {
            (self.out_of_memory)(exit::describe(error));
        }
        if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            return text_response(StatusCode::SERVICE_UNAVAILABLE, NODE_FULL);
        }
        text_response(StatusCode::INTERNAL_SERVER_ERROR, "the component failed; its log has the backtrace")
    }

    /// Logs a failure. The response does not wait for the lines of the source.
    fn log_failure(&self, error: Arc<wasmtime::Error>, what: &str) {
        if exit::is_trap(&error) {
            self.shared.metrics.traps.inc();
        }
        if exit::is_contention(&error) || exit::is_out_of_memory(&error) {
            let text = format!("sampan: {what} failed: {}", exit::describe(&error));
            return self.shared.log.lines(Source::Stderr, &text);
        }
        let (shared, what) = (self.shared.clone(), what.to_owned());
        self.pool.handle().spawn(async move {
            let calls = shared.source_calls(&error).await;
            let text = format!("sampan: {what} failed: {}", exit::describe_with(&error, &calls));
            shared.log.lines(Source::Stderr, &text);
        });
    }
}

/// Passes on the head that the guest sets.
fn tell(head: Arc<Mutex<Option<HeadSender>>>) -> impl FnOnce(Head) + Send + Sync + 'static {
    move |answer| {
        if let Some(head) = head.lock().take() {
            let _ = head.send(Ok(answer));
        }
    }
}

/// The instance for a request.
enum InstanceSource {
    /// An existing instance is reused.
    Idle(Instance),
    /// A new instance is created with this memory and slot.
    Reserved(InstanceMemory, InstanceSlot),
}

/// Why a guest did not answer.
enum Failure {
    /// The queue of the container is full.
    QueueFull,
    /// The requests that have the memory or slots wait, and none makes progress.
    Deadlock,
    /// The node has no slot for another instance.
    NoSlot,
    /// The guest failed.
    Guest(wasmtime::Error),
    /// The instance did not answer, which answers other requests too.
    Instance(Failed),
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self::Instance(failed)
    }
}

/// The caller of a request.
struct Caller {
    client: clients::Request,
    via: Via,
    trace: Option<HeaderMap>,
    /// The caller runs the guest until the response begins.
    inline: bool,
}

/// What the task of a request needs besides the request.
struct RunContext {
    /// Method and path, for the log.
    what: Arc<str>,
    client: Arc<clients::Request>,
    via: Via,
    delivery: Arc<Delivery>,
}

/// Bytes of a request's path and headers.
fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers + uri.path_and_query().map_or(0, |it| it.as_str().len())
}

/// Adds a Host header if there is none: HTTP/1.0 does not require one, wasi:http does.
fn with_host<B>(mut request: http::Request<B>) -> http::Request<B> {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    request
}

/// A response with a line of plain text.
pub(crate) fn text_response(status: StatusCode, text: &str) -> Response {
    let body = Full::from(format!("{text}\n")).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
