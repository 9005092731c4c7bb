//! The loop around a controller: which event enqueues which key, workers, gate, back-off, panic guard.

use crate::{
    Backoff, Delta, Informer, Key, Kind, QueueMetrics, WorkQueue,
    gate::{Watched, Writes, recording},
    meta::controller_of,
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::Resource;
use parking_lot::Mutex;
use std::{collections::HashMap, future::poll_fn, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// What a reconcile that only looked, or wrote a status, may take of a core: it rests nine times as long as it was busy. A Deployment of ten
/// thousand pods changes with each of them, and to count them takes milliseconds.
const REST_FACTOR: u32 = 9;
/// The longest rest, which delays what the next change asks for.
const MAX_REST: Duration = Duration::from_millis(500);
/// What is quicker does not rest.
const MIN_BUSY: Duration = Duration::from_millis(1);

/// When to reconcile a key again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    Done,
    /// After this time, or when something changes before.
    After(Duration),
}

/// A controller: which events concern which key, and what to do for a key. Level-driven: `reconcile` compares actual and desired state and
/// acts; it must not rely on seeing every event. Queue, back-off, read-your-writes gate, panic guard and leadership are outside (see [`run`]).
#[async_trait::async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Upstream's name, for logs and metrics.
    const NAME: &'static str;

    /// Declares which events enqueue which keys.
    fn wire(&self, wakeups: &mut Wakeups);

    /// Brings the object of a key closer to its desired state. Writes go through [`crate::Client`] on the same task, so that the gate sees them.
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next>;
}

/// Connects informers to a controller's queue.
pub struct Wakeups {
    queue: WorkQueue<Key>,
    informers: Vec<Arc<dyn Watched>>,
}

impl Wakeups {
    /// Enqueues the keys that `keys` returns for a change.
    pub fn on<K: Kind>(
        &mut self,
        informer: &Informer<K>,
        keys: impl Fn(&Delta<K>) -> Vec<Key> + Send + Sync + 'static,
    ) {
        let queue = self.queue.clone();
        informer.subscribe(move |delta| keys(delta).into_iter().for_each(|key| queue.add(key)));
        self.reads(informer);
    }

    /// Enqueues the changed object's own key.
    pub fn on_self<K: Kind>(&mut self, informer: &Informer<K>) {
        self.on(informer, |delta| vec![Key::of(&**delta.object())]);
    }

    /// Enqueues the controlling owner of kind `O` in the object's namespace, and the old one if it changed.
    pub fn on_owner<K: Kind, O: Resource>(&mut self, informer: &Informer<K>) {
        self.on(informer, |delta| {
            let mut keys: Vec<Key> = delta.old().and_then(owner::<K, O>).into_iter().collect();
            keys.extend(owner::<K, O>(delta.object()).filter(|key| keys.first() != Some(key)));
            keys
        });
    }

    /// Declares that `reconcile` reads this informer although its events enqueue nothing: the gate and the start wait for it. After a write
    /// of an object that the selectors of its target exclude, the gate waits in vain.
    pub fn reads<K: Kind>(&mut self, informer: &Informer<K>) {
        self.informers.push(informer.watched());
    }

    /// The queue, for keys that no informer event enqueues.
    pub fn queue(&self) -> WorkQueue<Key> {
        self.queue.clone()
    }
}

fn owner<K: Kind, O: Resource>(object: &Arc<K>) -> Option<Key> {
    let meta = object.metadata();
    let owner = controller_of(meta)?;
    let same = owner.kind == O::KIND && owner.api_version == O::API_VERSION;
    same.then(|| Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// How to run a controller.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Keys that are reconciled concurrently.
    pub workers: usize,
    /// The delays after failures.
    pub backoff: Backoff,
    /// The metrics of its queue, under the controller's name without `-controller`.
    pub metrics: QueueMetrics,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { workers: 5, backoff: Backoff::default(), metrics: QueueMetrics::default() }
    }
}

/// A controller behind a pointer: the loop around it is compiled once, instead of once for each.
trait AnyController: Send + Sync {
    fn name(&self) -> &'static str;
    fn wire(&self, wakeups: &mut Wakeups);
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, anyhow::Result<Next>>;
}

impl<C: Controller> AnyController for C {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn wire(&self, wakeups: &mut Wakeups) {
        Controller::wire(self, wakeups);
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, anyhow::Result<Next>> {
        Controller::reconcile(self, key)
    }
}

/// Runs a controller until cancelled; returns when its workers have ended.
pub fn run<C: Controller>(controller: Arc<C>, options: RunOptions, token: CancellationToken) -> BoxFuture<'static, ()> {
    work(controller, options, token).boxed()
}

async fn work(controller: Arc<dyn AnyController>, options: RunOptions, token: CancellationToken) {
    // upstream names queues after the kind that they hold
    let name = controller.name().trim_end_matches("-controller");
    let queue = WorkQueue::measured(options.backoff, &options.metrics, name);
    let mut wakeups = Wakeups { queue: queue.clone(), informers: Vec::new() };
    controller.wire(&mut wakeups);
    let informers: Arc<[Arc<dyn Watched>]> = wakeups.informers.into();
    let ready = async {
        for informer in informers.iter() {
            informer.synced().await;
        }
    };
    tokio::select! { () = token.cancelled() => return, () = ready => {} }
    let work = Arc::new(Work { controller, queue: queue.clone(), informers, gates: Mutex::default() });
    let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
    for _ in 0..options.workers.max(1) {
        let (work, ended) = (work.clone(), ended.clone().drop_guard());
        tasks.spawn(async move {
            let _ended = ended;
            work.run().await;
        });
    }
    tasks.close();
    // A worker only ends by a panic outside its guard: then the whole controller ends.
    tokio::select! { () = token.cancelled() => {}, () = ended.cancelled() => {} }
    queue.close();
    tasks.wait().await;
}

struct Work {
    controller: Arc<dyn AnyController>,
    queue: WorkQueue<Key>,
    informers: Arc<[Arc<dyn Watched>]>,
    /// The writes of the last reconcile of each key, until the next one has waited for them.
    gates: Mutex<HashMap<Key, Writes>>,
}

impl Work {
    async fn run(self: Arc<Self>) {
        while let Some(key) = self.queue.next().await {
            let span = tracing::info_span!("reconcile", controller = self.controller.name(), %key);
            let rest = self.one(&key).instrument(span).await;
            self.queue.done_after(&key, rest);
        }
    }

    /// Reconciles a key once. Returns how long it is to rest.
    async fn one(&self, key: &Key) -> Duration {
        let last = self.gates.lock().remove(key);
        if let Some(writes) = last {
            writes.seen_by(&self.informers).await;
        }
        let reconcile = AssertUnwindSafe(self.controller.reconcile(key)).catch_unwind();
        let ((outcome, busy), writes) = recording(timed(reconcile)).await;
        let rest =
            if writes.count <= 1 && busy >= MIN_BUSY { (busy * REST_FACTOR).min(MAX_REST) } else { Duration::ZERO };
        if !writes.is_empty() {
            self.gates.lock().insert(key.clone(), writes);
        }
        match outcome {
            Ok(Ok(Next::Done)) => self.queue.forget(key),
            Ok(Ok(Next::After(delay))) => {
                self.queue.forget(key);
                self.queue.add_after(key.clone(), delay);
            }
            Ok(Err(error)) => {
                let delay = self.queue.add_rate_limited(key.clone());
                let conflict = error.downcast_ref::<crate::Error>().is_some_and(crate::Error::is_conflict);
                if conflict {
                    tracing::debug!(%error, ?delay, "the object changed meanwhile, trying again");
                } else {
                    tracing::warn!(error = format!("{error:#}"), ?delay, "reconcile failed, trying again");
                }
            }
            Err(panic) => {
                let delay = self.queue.add_rate_limited(key.clone());
                tracing::error!(panic = panic_text(&*panic), ?delay, "reconcile panicked, trying again");
            }
        }
        rest
    }
}

/// Runs a future, and tells how long it kept its thread. By tokio's clock: nothing takes time on a paused one.
async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let (mut future, mut busy) = (pin!(future), Duration::ZERO);
    let output = poll_fn(|cx| {
        let begin = Instant::now();
        let polled = future.as_mut().poll(cx);
        busy += begin.elapsed();
        polled
    })
    .await;
    (output, busy)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WatchEvent, gate};
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Probe {
        maps: Informer<ConfigMap>,
        calls: AtomicU32,
        behaviour: fn(u32, &Informer<ConfigMap>) -> anyhow::Result<Next>,
    }

    #[async_trait::async_trait]
    impl Controller for Probe {
        const NAME: &'static str = "probe";
        fn wire(&self, wakeups: &mut Wakeups) {
            wakeups.on_self(&self.maps);
        }
        async fn reconcile(&self, _: &Key) -> anyhow::Result<Next> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            (self.behaviour)(call, &self.maps)
        }
    }

    fn object(revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some("a".into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    fn start(behaviour: fn(u32, &Informer<ConfigMap>) -> anyhow::Result<Next>) -> (Arc<Probe>, CancellationToken) {
        let probe = Arc::new(Probe { maps: Informer::new(), calls: AtomicU32::new(0), behaviour });
        probe.maps.replace(vec![object(1)], 1);
        let token = CancellationToken::new();
        tokio::spawn(run(probe.clone(), RunOptions::default(), token.clone()));
        (probe, token)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again() {
        let (probe, token) = start(|call, _| match call {
            0 => anyhow::bail!("no"),
            1 => panic!("boom"),
            _ => Ok(Next::Done),
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(probe.calls.load(Ordering::SeqCst), 3);
        token.cancel();
    }

    #[tokio::test]
    async fn a_key_that_takes_long_to_look_at_rests() {
        let (probe, token) = start(|_, _| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(Next::Done)
        });
        let begin = Instant::now();
        for revision in 2..200 {
            probe.maps.apply(WatchEvent::Modified(object(revision)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let calls = u128::from(probe.calls.load(Ordering::SeqCst));
        let most = begin.elapsed().as_millis() / 50 + 2;
        assert!((2..=most).contains(&calls), "{calls} of at most {most}");
        token.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_waits_for_its_own_writes_to_be_seen() {
        let (probe, token) = start(|call, maps| {
            if call == 0 {
                gate::wrote(&object(7));
                return Ok(Next::After(Duration::from_millis(1)));
            }
            assert!(maps.revision() >= 7, "reconciled before the write was seen");
            Ok(Next::Done)
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(probe.calls.load(Ordering::SeqCst), 1, "still waiting");
        probe.maps.apply(WatchEvent::Modified(object(7)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(probe.calls.load(Ordering::SeqCst) >= 2);
        token.cancel();
    }
}
