//! Instances of an asynchronous handler (WASI 0.3) that the policy reuses: each answers many requests at the same time.
//!
//! Requests wait in one queue. An instance takes the next one whenever its guest waits, up to the container's concurrency limit. A new instance
//! is created when the instances have no room for the queue, or when their guests compute for long.
//!
//! A request whose client is gone cannot be cancelled within an instance: its guest sees the end of its streams. While its function has not
//! returned, the instance takes no more requests, and it is dropped when no other request needs it.

use crate::{
    async_handler::Answering,
    body::Head,
    delivery::Delivery,
    exit,
    guest::{Guest, Shared},
    instances::{GuestRequest, Instance, Instances},
    memory::{InstanceMemory, Reclaim},
    pool::Pool,
    quota::Throttled,
    run_limit::{Alternating, RunLimit},
    slots::InstanceSlot,
};
use bytes::Bytes;
use container::{Reuse, log::Source};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;
use wasmtime::component::{Accessor, AccessorTask, Func};
use wasmtime_wasi_http::p3::bindings::Service;

/// Yields, one per epoch of a millisecond, after which a guest that has not waited meanwhile is said to compute.
const COMPUTING_YIELDS: u32 = 50;

/// How long a guest may wait in a call that blocks its instance, until another instance is created for the queue.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a guest may go on with requests whose clients are gone, while no other request is in its instance.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(1);

/// Delay before the next spare instance after one could not be created.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// A bound on waits that something else ends.
const LONG: Duration = Duration::from_secs(3600);

/// All instances of a handler.
pub(crate) struct ConcurrentInstances {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    /// Creates the instances.
    instances: Arc<Instances>,
    turns: Arc<RunLimit>,
    reuse: Reuse,
    /// Most requests in one instance at a time.
    limit: usize,
    state: Mutex<State>,
    /// Notifies requests in the queue that there may be too few instances.
    changed: Notify,
    drivers: TaskTracker,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    /// All instances, also those that are being created.
    members: BTreeMap<u64, Member>,
    next_id: u64,
    /// No instance is kept without requests: the handler stops.
    closed: bool,
}

/// A request in the queue.
struct Waiting {
    id: u64,
    call: Call,
    start: oneshot::Sender<Seat>,
}

/// A request, and who gets its answer.
struct Call {
    request: http::Request<wasmtime_wasi_http::WasiBody>,
    trace: Option<http::HeaderMap>,
    tell: Box<dyn FnOnce(Head) + Send>,
    delivery: Arc<Delivery>,
    /// Ends the body of the request.
    over: Box<dyn FnOnce() + Send>,
}

/// The state of one instance.
struct Member {
    driver: Arc<Driver>,
    /// When it was created; `None` while it is being created.
    made: Option<Instant>,
    /// Requests in it whose clients are there.
    live: usize,
    /// Requests whose clients are gone and whose function has not returned.
    lost: usize,
    /// A client has left before the end of its response, and the guest may still work on it.
    abandoned: bool,
    accepted: u64,
    /// It takes no more requests.
    retired: bool,
    /// Since when `live` is 0.
    idle_since: Instant,
    /// Yields of the guest since it last waited.
    yields: u32,
    /// When the guest last waited.
    waited: Instant,
    /// Wakes its driver.
    waker: Option<Waker>,
}

impl Member {
    fn room(&self, limit: usize) -> usize {
        if self.retired || self.lost > 0 { 0 } else { limit.saturating_sub(self.live) }
    }

    /// When a request that waits since then cannot expect to be taken by this instance soon. `None`: now.
    fn is_blocked_at(&self, since: Instant) -> Option<Instant> {
        match self.made {
            None => Some(Instant::now() + LONG),
            Some(_) => (self.yields < COMPUTING_YIELDS).then(|| self.waited.max(since) + BLOCKED_TIMEOUT),
        }
    }
}

/// What the requests of an instance share with the task that runs it.
#[derive(Default)]
struct Driver {
    id: u64,
    /// The task's future, which owns the instance.
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// The answers under way.
    deliveries: Mutex<HashMap<u64, Arc<Delivery>>>,
    /// The guest waits, and may be given another request.
    rests: AtomicBool,
    /// The guest has waited in the current poll of the task.
    waited: AtomicBool,
    changed: Notify,
    /// Why the instance failed.
    failure: OnceLock<Arc<wasmtime::Error>>,
    failure_told: AtomicBool,
}

/// Why an instance did not answer.
pub(crate) enum Failed {
    /// It failed. Whether this request is the first that is told.
    Error(Arc<wasmtime::Error>, bool),
    /// It was ended.
    Ended,
}

impl ConcurrentInstances {
    pub(crate) fn new(
        pool: Arc<Pool>,
        shared: Arc<Shared>,
        instances: Arc<Instances>,
        turns: Arc<RunLimit>,
        reuse: Reuse,
        limit: usize,
    ) -> Arc<Self> {
        let this = Arc::new(Self {
            pool,
            shared,
            instances,
            turns,
            reuse,
            limit: limit.max(1),
            state: Mutex::default(),
            changed: Notify::new(),
            drivers: TaskTracker::new(),
        });
        let weak: Weak<Self> = Arc::downgrade(&this);
        this.shared.memory.reclaims(&(weak.clone() as Weak<dyn Reclaim>));
        if reuse.min > 0 {
            this.pool.handle().spawn(Self::refill(weak));
        }
        this
    }

    /// Puts a request into the queue.
    pub(crate) fn enqueue<B>(
        self: &Arc<Self>,
        question: GuestRequest<B>,
        delivery: Arc<Delivery>,
        tell: impl FnOnce(Head) + Send + 'static,
    ) -> Ticket
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let (request, over, trace) = question.split();
        let call = Call { request, trace, tell: Box::new(tell), delivery, over: Box::new(move || over.end()) };
        let (start, started) = oneshot::channel();
        let mut state = self.state.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.queue.push_back(Waiting { id, call, start });
        state.members.values_mut().filter_map(|member| member.waker.take()).for_each(Waker::wake);
        drop(state);
        Ticket { instances: self.clone(), id, started, since: Instant::now() }
    }

    /// Waits until another instance is needed for a request that waits since then, and claims to create it. Cancel-safe.
    pub(crate) async fn claim(self: &Arc<Self>, since: Instant) -> Claim {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let mut state = self.state.lock();
                let room: usize = state.members.values().map(|member| member.room(self.limit)).sum();
                let now = Instant::now();
                let blocked = state.members.values().map(|member| member.is_blocked_at(since).unwrap_or(now));
                let until = blocked.max().unwrap_or(now);
                if room < state.queue.len() || until <= now {
                    return self.add(&mut state);
                }
                until
            };
            tokio::select! { () = changed => {}, () = sleep_until(until) => {} }
        }
    }

    fn add(self: &Arc<Self>, state: &mut State) -> Claim {
        state.next_id += 1;
        let driver = Arc::new(Driver { id: state.next_id, rests: AtomicBool::new(true), ..Driver::default() });
        let member = Member {
            driver: driver.clone(),
            made: None,
            live: 0,
            lost: 0,
            abandoned: false,
            accepted: 0,
            retired: false,
            idle_since: Instant::now(),
            yields: 0,
            waited: Instant::now(),
            waker: None,
        };
        state.members.insert(driver.id, member);
        Claim(Removal { instances: self.clone(), driver })
    }

    /// Creates the instance of a claim, and runs it. The result tells why it could not be created.
    pub(crate) fn start(
        self: &Arc<Self>,
        claim: Claim,
        share: InstanceMemory,
        slot: InstanceSlot,
    ) -> oneshot::Receiver<wasmtime::Error> {
        let (failed, failure) = oneshot::channel();
        let driver = claim.0.driver.clone();
        let run = Alternating::new(self.clone().run(claim, share, slot, failed), self.turns.acquire_unlimited());
        let run = Throttled::new(run, self.shared.quota.clone(), self.pool.ticker.clone());
        *driver.future.lock() = Some(Box::pin(run));
        self.drivers.spawn_on(poll_fn(move |context| driver.poll(context)), self.pool.handle());
        failure
    }

    async fn run(
        self: Arc<Self>,
        claim: Claim,
        share: InstanceMemory,
        slot: InstanceSlot,
        failed: oneshot::Sender<wasmtime::Error>,
    ) {
        let driver = claim.0.driver.clone();
        let mut instance = match self.instances.make(share, slot).await {
            Ok(instance) => instance,
            Err(error) => {
                let _ = failed.send(error);
                return;
            }
        };
        drop(failed);
        if let Some(member) = self.state.lock().members.get_mut(&driver.id) {
            (member.made, member.idle_since) = (Some(Instant::now()), Instant::now());
            self.shared.idle.fetch_add(1, SeqCst);
        }
        self.changed.notify_waiters();
        // Dropped before the instance: its answers do not look complete.
        let _ended = Ended(claim.0);
        let result = tokio::select! {
            biased;
            result = self.serve(&mut instance, &driver) => result,
            () = self.watch(&driver) => Ok(()),
        };
        if let Err(error) = result {
            let _ = driver.failure.set(Arc::new(instance.failed(error)));
        }
    }

    async fn serve(self: &Arc<Self>, instance: &mut Instance, driver: &Arc<Driver>) -> wasmtime::Result<()> {
        let (store, service) = instance.asynchronous()?;
        let function = *service.wasi_http_handler().func_handle().func();
        let serve = store.run_concurrent(async |accessor| {
            while let Some(waiting) = poll_fn(|context| self.poll_next(accessor, function, driver, context)).await {
                accessor.spawn(self.begin(waiting, service.clone(), driver))?;
            }
            Ok(())
        });
        let mut serve = pin!(serve);
        // The guest gets the next request when it waits, and not while it computes.
        poll_fn(|context| {
            loop {
                let poll = serve.as_mut().poll(context);
                let waited = driver.waited.swap(false, SeqCst);
                if poll.is_pending() && !waited {
                    self.note_yield(driver);
                }
                if poll.is_ready() || driver.rests.swap(true, SeqCst) {
                    return poll.map(Result::flatten);
                }
            }
        })
        .await
    }

    /// The guest has yielded its thread and goes on.
    fn note_yield(&self, driver: &Driver) {
        let mut state = self.state.lock();
        let Some(member) = state.members.get_mut(&driver.id) else { return };
        member.yields = member.yields.saturating_add(1);
        if member.yields == COMPUTING_YIELDS {
            self.changed.notify_waiters();
        }
    }

    /// The next request for an instance; `None` if it takes no more and has nothing left to do.
    fn poll_next(
        &self,
        accessor: &Accessor<Guest>,
        function: Func,
        driver: &Driver,
        context: &mut Context<'_>,
    ) -> Poll<Option<Waiting>> {
        let ready = accessor.poll_ready_for_concurrent_call(function, context).is_ready();
        let quiet = accessor.poll_no_interesting_tasks(context).is_ready();
        let mut state = self.state.lock();
        let State { queue, members, .. } = &mut *state;
        let Some(member) = members.get_mut(&driver.id) else { return Poll::Ready(None) };
        member.waker = Some(context.waker().clone());
        driver.waited.store(true, SeqCst);
        (member.yields, member.waited) = (0, Instant::now());
        if ready && driver.rests.load(SeqCst) && member.room(self.limit) > 0 {
            while let Some(waiting) = queue.pop_front() {
                if waiting.start.is_closed() {
                    continue;
                }
                if member.live == 0 {
                    self.shared.idle.fetch_sub(1, SeqCst);
                }
                member.live += 1;
                member.accepted += 1;
                member.retired |= member.accepted >= self.reuse.max_requests;
                driver.rests.store(false, SeqCst);
                return Poll::Ready(Some(waiting));
            }
        }
        if quiet && member.live == 0 {
            member.abandoned = false;
            if member.retired {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    }

    /// Gives a request its seat, whose task is returned.
    fn begin(self: &Arc<Self>, waiting: Waiting, service: Arc<Service>, driver: &Arc<Driver>) -> CallTask {
        let (finished, finish) = oneshot::channel();
        let returned = Arc::new(AtomicBool::new(false));
        let Waiting { id, call, start } = waiting;
        driver.deliveries.lock().insert(id, call.delivery.clone());
        let seat = Seat { instances: self.clone(), driver: driver.clone(), finish, returned: returned.clone() };
        // Whoever is gone drops the seat.
        drop(start.send(seat));
        CallTask { instances: self.clone(), driver: driver.clone(), service, id, call, returned, finished }
    }

    /// Waits until an instance shall be dropped.
    async fn watch(&self, driver: &Driver) {
        loop {
            let Some(until) = self.check(driver.id) else { return };
            tokio::select! { () = sleep_until(until) => {}, () = driver.changed.notified() => {} }
        }
    }

    /// Removes an instance that shall be dropped. Otherwise returns when to check again.
    fn check(&self, id: u64) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let (spare, closed) = (state.members.len() > self.reuse.min, state.closed);
        let member = state.members.get_mut(&id)?;
        let old = member.made.unwrap_or(now) + self.reuse.max_age;
        if old <= now && !member.retired {
            member.retired = true;
            self.changed.notify_waiters();
        }
        if member.live > 0 {
            return Some(if member.retired { now + LONG } else { old });
        }
        let idle = (spare || member.retired).then(|| member.idle_since + self.reuse.max_idle);
        let abandoned = member.abandoned.then(|| member.idle_since + ABANDONED_TIMEOUT);
        let until = [Some(old), idle, abandoned].into_iter().flatten().min().unwrap_or(old);
        if closed || until <= now {
            self.remove(&mut state, id);
            return None;
        }
        Some(until)
    }

    fn remove(&self, state: &mut State, id: u64) {
        let Some(member) = state.members.remove(&id) else { return };
        if member.live == 0 && member.made.is_some() {
            self.shared.idle.fetch_sub(1, SeqCst);
        }
        member.driver.changed.notify_one();
        self.changed.notify_waiters();
    }

    /// Keeps no instance without requests any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.members.values().for_each(|member| member.driver.changed.notify_one());
    }

    /// Drops all instances.
    pub(crate) async fn end(&self) {
        self.close();
        let ids: Vec<_> = self.state.lock().members.keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(&mut self.state.lock(), id));
        self.drivers.close();
        self.drivers.wait().await;
    }

    /// Creates spare instances while there are too few.
    async fn refill(this: Weak<Self>) {
        loop {
            let Some(instances) = this.upgrade() else { return };
            let mut changed = pin!(instances.changed.notified());
            changed.as_mut().enable();
            let claim = {
                let mut state = instances.state.lock();
                if state.closed {
                    return;
                }
                (state.members.len() < instances.reuse.min).then(|| instances.add(&mut state))
            };
            let Some(claim) = claim else {
                changed.await;
                continue;
            };
            let failure = match instances.instances.spare() {
                Some((share, slot)) => instances.start(claim, share, slot).await.ok(),
                None => Some(wasmtime::format_err!("no memory or slot is free")),
            };
            if let Some(error) = failure {
                let text = format!("sampan: no spare instance could be made: {}", exit::describe(&error));
                instances.shared.log.lines(Source::Stderr, &text);
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

impl Reclaim for ConcurrentInstances {
    fn reclaim(&self) -> bool {
        let mut state = self.state.lock();
        let idle = state.members.iter().filter(|(_, member)| member.live == 0 && member.made.is_some());
        let idle: Vec<_> = idle.map(|(id, member)| (*id, member.driver.clone())).collect();
        idle.iter().for_each(|(id, _)| self.remove(&mut state, *id));
        drop(state);
        // An instance that is polled now is dropped by its task.
        let gone: Vec<_> = idle.iter().filter_map(|(_, driver)| driver.future.try_lock()?.take()).collect();
        !gone.is_empty()
    }
}

impl Driver {
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.future.lock();
        let Some(future) = &mut *slot else { return Poll::Ready(()) };
        let poll = future.as_mut().poll(context);
        if poll.is_ready() {
            *slot = None;
        }
        poll
    }
}

/// A request in the queue. Dropping it takes the request out.
pub(crate) struct Ticket {
    instances: Arc<ConcurrentInstances>,
    id: u64,
    started: oneshot::Receiver<Seat>,
    /// Since when it waits.
    pub(crate) since: Instant,
}

impl Ticket {
    /// Waits until an instance takes the request. Cancel-safe.
    pub(crate) async fn started(&mut self) -> Result<Seat, Failed> {
        (&mut self.started).await.map_err(|_| Failed::Ended)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.instances.state.lock();
        let at = state.queue.iter().position(|waiting| waiting.id == self.id);
        let waiting = at.and_then(|at| state.queue.remove(at));
        drop(state);
        drop(waiting);
    }
}

/// The right to create an instance.
pub(crate) struct Claim(Removal);

/// Removes an instance from the others when dropped.
struct Removal {
    instances: Arc<ConcurrentInstances>,
    driver: Arc<Driver>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.instances.remove(&mut self.instances.state.lock(), self.driver.id);
    }
}

/// Ends the answers of an instance before it is dropped.
struct Ended(Removal);

impl Drop for Ended {
    fn drop(&mut self) {
        let deliveries = std::mem::take(&mut *self.0.driver.deliveries.lock());
        deliveries.into_values().for_each(|delivery| delivery.end());
    }
}

/// The place of a request in an instance, which its client holds.
pub(crate) struct Seat {
    instances: Arc<ConcurrentInstances>,
    driver: Arc<Driver>,
    finish: oneshot::Receiver<()>,
    /// The guest's function has returned.
    returned: Arc<AtomicBool>,
}

impl Seat {
    /// Waits until the request is answered.
    pub(crate) async fn finished(mut self) -> Result<(), Failed> {
        if (&mut self.finish).await.is_ok() {
            return Ok(());
        }
        Err(match self.driver.failure.get() {
            Some(error) => Failed::Error(error.clone(), !self.driver.failure_told.swap(true, Relaxed)),
            None => Failed::Ended,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let finished = self.finish.is_terminated() || self.finish.try_recv().is_ok();
        let mut state = self.instances.state.lock();
        let Some(member) = state.members.get_mut(&self.driver.id) else { return };
        member.live -= 1;
        if !finished {
            member.abandoned = true;
            member.lost += usize::from(!self.returned.swap(true, SeqCst));
        }
        if member.live == 0 {
            member.idle_since = Instant::now();
            self.instances.shared.idle.fetch_add(1, SeqCst);
            self.driver.changed.notify_one();
        }
        let waker = member.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        self.instances.changed.notify_waiters();
    }
}

/// Answers one request within an instance.
struct CallTask {
    instances: Arc<ConcurrentInstances>,
    driver: Arc<Driver>,
    service: Arc<Service>,
    id: u64,
    call: Call,
    returned: Arc<AtomicBool>,
    finished: oneshot::Sender<()>,
}

impl AccessorTask<Guest> for CallTask {
    async fn run(self, accessor: &Accessor<Guest>) -> wasmtime::Result<()> {
        let Self { instances, driver, service, id, call, returned, finished } = self;
        let Call { request, trace, tell, delivery, over } = call;
        let tell = |head| {
            let mut state = instances.state.lock();
            let lost = returned.swap(true, SeqCst);
            if let Some(member) = state.members.get_mut(&driver.id).filter(|_| lost) {
                member.lost -= 1;
            }
            drop(state);
            tell(head);
        };
        let answering = Answering { service: &service, trace };
        answering.answer(accessor, request, tell).await?;
        delivery.returned();
        delivery.end();
        driver.deliveries.lock().remove(&id);
        over();
        let reusable = accessor.with(|mut store| store.get().is_reusable());
        if let Some(member) = instances.state.lock().members.get_mut(&driver.id) {
            member.retired |= !reusable;
        }
        // The client may be gone.
        let _ = finished.send(());
        Ok(())
    }
}
