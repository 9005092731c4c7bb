//! The instances of one HTTP handler, created per request or, by policy, reused for one request after the other.
//!
//! An idle instance keeps its memory charge and its slot. It is dropped at its limits of requests, age and idle time, or when another
//! instance needs its memory or slot. An instance that failed is never reused.

use crate::{
    async_handler::{self, Answering},
    body::{Head, RequestBody, RequestBodyEnd},
    delivery::Delivery,
    exit,
    guest::{self, Guest, Shared},
    image::{Image, Target},
    memory::{InstanceMemory, Reclaim},
    pool::{Pool, ResidentPool},
    quota::Throttled,
    slots::{InstanceSlot, SlotKind},
};
use bytes::Bytes;
use container::{InstancePolicy, Reuse, log::Source};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p2::bindings::{Proxy, http::types::Scheme},
    p3::bindings::Service,
};

/// Delay before the next spare instance after one could not be created.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// One instance. Its memory is released before its slot.
pub(crate) struct Instance {
    store: Store<Guest>,
    exports: Exports,
    _resident: Option<OwnedSemaphorePermit>,
    _slot: InstanceSlot,
    made: Instant,
    answered: u64,
    _alive: Option<LiveInstance>,
}

/// The handler that an instance exports.
enum Exports {
    /// Of WASI 0.2.
    Handler(Proxy),
    /// Of WASI 0.3.
    AsyncHandler(Arc<Service>),
}

/// Counts an instance that may be reused.
struct LiveInstance(Arc<Changes>);

impl Drop for LiveInstance {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, SeqCst);
        self.0.some.notify_one();
    }
}

#[derive(Default)]
struct Changes {
    alive: AtomicUsize,
    some: Notify,
}

/// All instances of a handler.
pub(crate) struct Instances {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    image: Arc<Image>,
    reuse: Option<Reuse>,
    /// An instance answers several requests at the same time ([`crate::concurrent`]).
    concurrent: bool,
    state: Mutex<State>,
    /// Notifies requests that wait for memory of an idle instance.
    returned: Notify,
    changes: Arc<Changes>,
}

#[derive(Default)]
struct State {
    /// Idle instances, the longest idle first.
    idle: VecDeque<(Instance, Instant)>,
    /// Requests that wait for memory or for an instance.
    waiting: usize,
    /// When the next check of idle instances is due; `None` if none is scheduled.
    next_check: Option<Instant>,
    /// No instance is kept for reuse: the handler stops.
    closed: bool,
    /// No spare instance is created before this time.
    retry_at: Option<Instant>,
}

/// A request as the guest receives it.
pub(crate) struct GuestRequest<B> {
    pub(crate) request: http::Request<RequestBody<B>>,
    /// Trace headers for outgoing requests of the guest.
    pub(crate) trace: Option<http::HeaderMap>,
}

/// The policy of a container that reuses instances.
pub(crate) fn reuse(shared: &Shared) -> Option<Reuse> {
    match shared.spec.http.instances {
        InstancePolicy::PerRequest => None,
        InstancePolicy::Reuse(reuse) => Some(reuse),
    }
}

impl<B> GuestRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    /// The request as the bindings take it, the end of its body, and its trace.
    pub(crate) fn split(self) -> (http::Request<WasiBody>, RequestBodyEnd<B>, Option<http::HeaderMap>) {
        let over = self.request.body().over();
        let request = self.request.map(|body| {
            let error = |text: String| wasmtime_wasi_http::Error::InternalError(Some(text));
            body.map_err(error).boxed_unsync()
        });
        (request, over, self.trace)
    }
}

impl Instances {
    /// `concurrent`: the caller keeps the instances, whatever the policy.
    pub(crate) fn new(pool: Arc<Pool>, shared: Arc<Shared>, image: Arc<Image>, concurrent: bool) -> Arc<Self> {
        let reuse = reuse(&shared).filter(|_| !concurrent);
        let memory = shared.memory.clone();
        let this = Arc::new(Self {
            pool,
            shared,
            image,
            reuse,
            concurrent,
            state: Mutex::default(),
            returned: Notify::new(),
            changes: Arc::default(),
        });
        if reuse.is_some() {
            let weak: Weak<Self> = Arc::downgrade(&this);
            memory.reclaims(&(weak as Weak<dyn Reclaim>));
        }
        if reuse.is_some_and(|reuse| reuse.min > 0) {
            this.schedule_check(&mut this.state.lock(), Instant::now());
        }
        this
    }

    /// An idle instance, if there is one: the one that was used last, so that those that are not needed grow old.
    pub(crate) fn take(&self) -> Option<Instance> {
        let reuse = self.reuse?;
        let mut state = self.state.lock();
        loop {
            let (instance, _) = state.idle.pop_back()?;
            self.shared.idle.fetch_sub(1, SeqCst);
            if instance.made.elapsed() < reuse.max_age {
                return Some(instance);
            }
        }
    }

    /// Waits for one to become idle, for a request that has no room for a new one. Cancel-safe.
    pub(crate) async fn wait(&self) -> Instance {
        struct Waiting<'a>(&'a Instances);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.state.lock().waiting -= 1;
            }
        }
        if self.reuse.is_none() {
            return std::future::pending().await;
        }
        self.state.lock().waiting += 1;
        let _waiting = Waiting(self);
        loop {
            if let Some(instance) = self.take() {
                return instance;
            }
            self.returned.notified().await;
        }
    }

    /// A place in the resident pool, for an instance that has a slot of the pool and answers one request. Instances that are kept have their own
    /// memory resident.
    fn resident(&self, kind: SlotKind) -> Option<(&ResidentPool, &Target, OwnedSemaphorePermit)> {
        if kind != SlotKind::Pool || self.reuse.is_some() || self.concurrent {
            return None;
        }
        let resident = self.pool.resident()?;
        let target = self.image.resident(&self.pool)?;
        Some((resident, target, resident.permits.clone().try_acquire_owned().ok()?))
    }

    /// A new one. The share has what it begins with.
    pub(crate) async fn make(&self, share: InstanceMemory, slot: InstanceSlot) -> wasmtime::Result<Instance> {
        let resident = self.resident(slot.kind);
        let (side, target, resident) = match resident {
            Some((resident, target, permit)) => (&resident.side, target, Some(permit)),
            None => {
                let Some(side) = self.pool.side(slot.kind) else {
                    return Err(wasmtime::format_err!("there is no such engine"));
                };
                (side, self.image.target(&self.pool, slot.kind).await?, None)
            }
        };
        let alive = self.reuse.map(|_| {
            self.changes.alive.fetch_add(1, SeqCst);
            LiveInstance(self.changes.clone())
        });
        let mut store = guest::request_store(&side.engine, &self.shared, share, self.concurrent)?;
        let exports = match target {
            Target::Http(pre) => pre.instantiate_async(&mut store).await.map(Exports::Handler),
            Target::Http3(pre) => pre.instantiate_async(&mut store).await.map(Arc::new).map(Exports::AsyncHandler),
            _ => Err(wasmtime::format_err!("this is no HTTP handler")),
        };
        match exports {
            Ok(exports) => {
                let made = Instant::now();
                Ok(Instance { store, exports, _resident: resident, _slot: slot, made, answered: 0, _alive: alive })
            }
            Err(error) => Err(guest::failed(&mut store, error)),
        }
    }

    /// Keeps an instance that has answered, if it may answer more. Returns whether it does.
    pub(crate) fn put(self: &Arc<Self>, mut instance: Instance) -> bool {
        let Some(reuse) = self.reuse else { return false };
        let old = instance.answered >= reuse.max_requests || instance.made.elapsed() >= reuse.max_age;
        if old || !instance.store.data_mut().is_reusable() {
            return false;
        }
        let mut state = self.state.lock();
        // Who waits for room gets it by the end of this one.
        if state.closed || state.waiting == 0 && self.shared.memory.is_wanted() {
            drop(state);
            return false;
        }
        let now = Instant::now();
        state.idle.push_back((instance, now));
        self.shared.idle.fetch_add(1, SeqCst);
        if state.waiting > 0 {
            self.returned.notify_one();
        }
        if state.idle.len() > reuse.min || state.next_check.is_none() {
            self.schedule_check(&mut state, now + reuse.max_idle);
        }
        true
    }

    /// Keeps none any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let idle = self.empty(&mut state);
        drop(state);
        drop(idle);
        self.changes.some.notify_one();
    }

    fn empty(&self, state: &mut State) -> VecDeque<(Instance, Instant)> {
        let idle = std::mem::take(&mut state.idle);
        self.shared.idle.fetch_sub(idle.len() as u64, SeqCst);
        idle
    }

    /// Sees to it that somebody looks at the idle ones by then.
    fn schedule_check(self: &Arc<Self>, state: &mut State, by: Instant) {
        match state.next_check {
            None => {
                state.next_check = Some(by);
                self.pool.handle().spawn(Self::watch(Arc::downgrade(self), self.changes.clone()));
            }
            Some(at) if by < at => {
                state.next_check = Some(by);
                self.changes.some.notify_one();
            }
            Some(_) => {}
        }
    }

    async fn watch(this: Weak<Self>, changes: Arc<Changes>) {
        loop {
            let Some(instances) = this.upgrade() else { return };
            instances.refill().await;
            let Some(until) = instances.expire() else { return };
            drop(instances);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = changes.some.notified() => {}
            }
        }
    }

    /// Ends those that are old or have been idle for too long. Returns when there is something to do again, if ever.
    fn expire(&self) -> Option<Instant> {
        let reuse = self.reuse?;
        let (now, mut gone, mut next) = (Instant::now(), Vec::new(), None);
        let mut state = self.state.lock();
        let mut spare = state.idle.len().saturating_sub(reuse.min);
        for (instance, since) in self.empty(&mut state) {
            let until = instance.made + reuse.max_age;
            let until = if spare > 0 { until.min(since + reuse.max_idle) } else { until };
            spare = spare.saturating_sub(1);
            if until <= now {
                gone.push(instance);
            } else {
                next = Some(next.map_or(until, |next: Instant| next.min(until)));
                state.idle.push_back((instance, since));
            }
        }
        self.shared.idle.fetch_add(state.idle.len() as u64, SeqCst);
        if !state.closed && self.changes.alive.load(SeqCst) - gone.len() < reuse.min {
            let again = state.retry_at.unwrap_or(now);
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        // Whoever has a minimum is told of each end.
        let kept = !state.closed && reuse.min > 0;
        state.next_check = next.or_else(|| kept.then(|| now + reuse.max_age));
        let next = state.next_check;
        drop(state);
        drop(gone);
        next
    }

    /// Memory and a slot for a spare instance, unless others wait for them.
    pub(crate) fn spare(&self) -> Option<(InstanceMemory, InstanceSlot)> {
        let share = self.shared.memory.try_reserve(self.image.initial_memory).ok()?;
        let slot = self.pool.slots.spare(&self.shared.slots, self.image.slot_requirements())?;
        (!self.shared.memory.is_wanted()).then_some((share, slot))
    }

    /// Makes spare instances while there are too few.
    async fn refill(self: &Arc<Self>) {
        let Some(reuse) = self.reuse.filter(|reuse| reuse.min > 0) else { return };
        loop {
            let enough = self.changes.alive.load(SeqCst) >= reuse.min;
            let late = self.state.lock().retry_at.is_some_and(|at| Instant::now() < at);
            if enough || late || self.state.lock().closed {
                return;
            }
            let made = match self.spare() {
                Some((share, slot)) => {
                    let (quota, ticker) = (self.shared.quota.clone(), self.pool.ticker.clone());
                    Throttled::new(self.make(share, slot), quota, ticker).await.map(Some)
                }
                None => Ok(None),
            };
            let kept = match made {
                Ok(made) => made.is_some_and(|instance| self.put(instance)),
                Err(error) => {
                    let story = exit::describe(&error);
                    self.shared.log.lines(Source::Stderr, &format!("sampan: no spare instance could be made: {story}"));
                    false
                }
            };
            if !kept {
                self.state.lock().retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }
}

impl Reclaim for Instances {
    fn reclaim(&self) -> bool {
        let mut state = self.state.lock();
        let idle = self.empty(&mut state);
        if !idle.is_empty() {
            state.retry_at = Some(Instant::now() + RETRY_DELAY);
        }
        // Their ends are told, which needs no lock.
        drop(state);
        !idle.is_empty()
    }
}

impl Instance {
    /// The store, and the handler of WASI 0.3.
    pub(crate) fn asynchronous(&mut self) -> wasmtime::Result<(&mut Store<Guest>, Arc<Service>)> {
        match &self.exports {
            Exports::AsyncHandler(service) => Ok((&mut self.store, service.clone())),
            Exports::Handler(_) => Err(wasmtime::format_err!("this is no handler of WASI 0.3")),
        }
    }

    /// Adds the cause to the error that ended the guest.
    pub(crate) fn failed(&mut self, error: wasmtime::Error) -> wasmtime::Error {
        guest::failed(&mut self.store, error)
    }

    /// Answers one request: `tell` gets the answer's head as soon as the guest sets it.
    pub(crate) async fn answer<B>(
        &mut self,
        question: GuestRequest<B>,
        delivery: &Arc<Delivery>,
        tell: impl FnOnce(Head) + Send + Sync + 'static,
    ) -> wasmtime::Result<()>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let (request, over, trace) = question.split();
        let guest = self.store.data_mut();
        guest.begin(delivery.clone(), trace);
        let ran = match &self.exports {
            Exports::Handler(proxy) => {
                let mut view = guest.http();
                let request = view.new_incoming_request(Scheme::Http, request)?;
                let tell = |head: Result<_, _>| tell(head.map_err(|code| format!("{code:?}")));
                let out = view.new_response_outparam_from_callback(tell)?;
                proxy.wasi_http_incoming_handler().call_handle(&mut self.store, request, out).await
            }
            Exports::AsyncHandler(service) => {
                let answer = async |accessor: &_| {
                    Answering { service, trace: None }.answer(accessor, request, tell).await?;
                    async_handler::finished(accessor).await;
                    Ok(())
                };
                self.store.run_concurrent(answer).await.flatten()
            }
        };
        ran.map_err(|error| guest::failed(&mut self.store, error))?;
        delivery.returned();
        self.answered += 1;
        // A guest that is reused may keep what it was given, but not what lies behind it.
        over.end();
        self.store.data_mut().end();
        Ok(())
    }
}
