//! The work queue of a controller: de-duplicated keys, one worker per key, back-off after failures.

use crate::metrics::{Meter, QueueMetrics};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Exponential back-off per key.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The delay after the first failure.
    pub base: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Default for Backoff {
    /// Upstream's controller default: 5 ms doubling to 1000 s; ours stops at 5 minutes.
    fn default() -> Self {
        Self { base: Duration::from_millis(5), max: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// The delay after this many failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(self.max)
    }
}

/// A work queue with upstream's guarantees:
/// * a queued key is not added again; a key that is added while it is processed is processed once more afterwards;
/// * a key is never processed by two workers at the same time;
/// * keys are processed in the order of their first addition;
/// * a delayed key becomes due at once when it is added without a delay.
///
/// And one of its own: a key may rest after it was processed ([`WorkQueue::done_after`]).
///
/// Unbounded by design: it holds each key at most twice, and keys are objects that exist.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    backoff: Backoff,
    meter: Meter,
}

struct State<K> {
    ready: VecDeque<(K, Instant)>,
    dirty: HashSet<K>,
    working: HashMap<K, Instant>,
    due: BTreeMap<(Instant, u64), K>,
    due_of: HashMap<K, (Instant, u64)>,
    /// Keys that no worker takes yet, and until when.
    resting: HashSet<K>,
    rests: BTreeMap<(Instant, u64), K>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue without metrics.
    pub fn new(backoff: Backoff) -> Self {
        Self::measured(backoff, &QueueMetrics::default(), "")
    }

    /// An empty queue with metrics under a name.
    pub fn measured(backoff: Backoff, metrics: &QueueMetrics, name: &str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashMap::new(),
            due: BTreeMap::new(),
            due_of: HashMap::new(),
            resting: HashSet::new(),
            rests: BTreeMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        let (state, changed, meter) = (Mutex::new(state), Notify::new(), metrics.of(name));
        Self { inner: Arc::new(Inner { state, changed, backoff, meter }) }
    }

    /// Adds a key.
    pub fn add(&self, key: K) {
        if self.inner.state.lock().add(key, &self.inner.meter) {
            self.inner.changed.notify_one();
        }
    }

    /// Adds a key after a delay; the earliest of several times counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.inner.state.lock();
        if state.closed || state.due_of.get(&key).is_some_and(|(earlier, _)| *earlier <= at) {
            return;
        }
        if let Some(slot) = state.due_of.remove(&key) {
            state.due.remove(&slot);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.due.insert(slot, key.clone());
        state.due_of.insert(key, slot);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Adds a key after a failure, with a delay that grows until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.inner.state.lock();
            let count = state.failures.entry(key.clone()).or_default();
            let before = *count;
            *count += 1;
            before
        };
        self.inner.meter.retries.inc();
        let delay = self.inner.backoff.delay(failures);
        self.add_after(key, delay);
        delay
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.inner.state.lock().failures.remove(key);
    }

    /// The next key; call [`WorkQueue::done`] with it afterwards. `None` once closed. Cancel-safe.
    pub async fn next(&self) -> Option<K> {
        loop {
            let changed = self.inner.changed.notified();
            let wait = {
                let mut state = self.inner.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.promote(now, &self.inner.meter);
                if let Some(key) = state.take(now, &self.inner.meter) {
                    if !state.ready.is_empty() {
                        self.inner.changed.notify_one();
                    }
                    return Some(key);
                }
                let first = |of: &BTreeMap<(Instant, u64), K>| of.first_key_value().map(|((at, _), _)| *at);
                first(&state.due).into_iter().chain(first(&state.rests)).min()
            };
            match wait {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// Ends the processing of a key, whether it succeeded or failed.
    pub fn done(&self, key: &K) {
        self.done_after(key, Duration::ZERO);
    }

    /// Ends the processing of a key, which is not processed again before this time has passed, however often it is added.
    pub fn done_after(&self, key: &K, rest: Duration) {
        let mut state = self.inner.state.lock();
        let now = Instant::now();
        if let Some(begin) = state.working.remove(key) {
            self.inner.meter.worked.observe((now - begin).as_secs_f64());
        }
        if !rest.is_zero() {
            state.sequence += 1;
            let slot = (now + rest, state.sequence);
            state.rests.insert(slot, key.clone());
            state.resting.insert(key.clone());
        } else if !state.requeue(key, now, &self.inner.meter) {
            return;
        }
        drop(state);
        self.inner.changed.notify_one();
    }

    /// The number of due keys.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    /// Whether no key is due.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all [`WorkQueue::next`] calls.
    pub fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.changed.notify_waiters();
        self.inner.changed.notify_one();
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Adds a key; returns whether a worker has something new to take.
    fn add(&mut self, key: K, meter: &Meter) -> bool {
        if self.closed {
            return false;
        }
        if let Some(slot) = self.due_of.remove(&key) {
            self.due.remove(&slot);
        }
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        meter.adds.inc();
        if self.working.contains_key(&key) || self.resting.contains(&key) {
            return false;
        }
        self.ready.push_back((key, Instant::now()));
        meter.depth.inc();
        true
    }

    /// Makes a key ready that was added while no worker could take it; returns whether it was.
    fn requeue(&mut self, key: &K, now: Instant, meter: &Meter) -> bool {
        let added = self.dirty.contains(key);
        if added {
            self.ready.push_back((key.clone(), now));
            meter.depth.inc();
        }
        added
    }

    fn promote(&mut self, now: Instant, meter: &Meter) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due_of.remove(&key);
            self.add(key, meter);
        }
        while let Some(entry) = self.rests.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.resting.remove(&key);
            self.requeue(&key, now, meter);
        }
    }

    fn take(&mut self, now: Instant, meter: &Meter) -> Option<K> {
        let (key, since) = self.ready.pop_front()?;
        meter.depth.dec();
        meter.waited.observe((now - since).as_secs_f64());
        self.dirty.remove(&key);
        self.working.insert(key.clone(), now);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_waiting_key_is_held_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_again_after_done() {
        let queue = WorkQueue::default();
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "not while it is being worked on");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_count_and_the_earliest_wins() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(20));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 10);
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_waits_and_is_not_lost() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        queue.done_after(&"a", Duration::from_secs(5));
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("b"), "others do not wait");
        queue.done(&"b");
        assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("a"), 5));
        queue.done_after(&"a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(1));
        assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("a"), 10), "due while it rests");
        queue.done_after(&"a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("a"), 30));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_until_forgotten() {
        let queue = WorkQueue::new(Backoff { base: Duration::from_secs(1), max: Duration::from_secs(5) });
        let delays: Vec<u64> = (0..5).map(|_| queue.add_rate_limited("a").as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a").as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_measured_under_its_name() {
        let metrics = QueueMetrics::default();
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let shown = |line: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        };
        let queue = WorkQueue::measured(Backoff::default(), &metrics, "job");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        shown("workqueue_depth{name=\"job\"} 2");
        shown("workqueue_adds_total{name=\"job\"} 2");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(queue.next().await, Some("a"));
        shown("workqueue_depth{name=\"job\"} 1");
        shown("workqueue_queue_duration_seconds_sum{name=\"job\"} 2.0");
        tokio::time::advance(Duration::from_secs(3)).await;
        queue.add_rate_limited("a");
        queue.done(&"a");
        shown("workqueue_work_duration_seconds_sum{name=\"job\"} 3.0");
        shown("workqueue_retries_total{name=\"job\"} 1");
    }

    #[tokio::test]
    async fn many_workers_never_share_a_key_and_miss_none() {
        let queue = WorkQueue::<u32>::default();
        let busy = Arc::new(Mutex::new(HashSet::new()));
        let total = Arc::new(Mutex::new(HashSet::new()));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, busy, total) = (queue.clone(), busy.clone(), total.clone());
                tokio::spawn(async move {
                    while let Some(key) = queue.next().await {
                        assert!(busy.lock().insert(key), "two workers on {key}");
                        tokio::task::yield_now().await;
                        busy.lock().remove(&key);
                        total.lock().insert(key);
                        queue.done(&key);
                    }
                })
            })
            .collect();
        for round in 0..4 {
            for key in 0..200 {
                queue.add(key);
            }
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
        }
        while total.lock().len() < 200 {
            tokio::task::yield_now().await;
        }
        queue.close();
        for worker in workers {
            worker.await.expect("no worker panics");
        }
    }
}
