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
    /// After the first failure.
    pub base: Duration,
    /// Never longer.
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
/// * a key that is waiting is not added again; a key that is being worked on and added meanwhile is worked on once more after;
/// * one key is never worked on by two workers at a time;
/// * keys are worked on in the order of their first addition;
/// * a delayed key that is added at once becomes due at once.
///
/// Unbounded by design: it holds each key at most twice, and keys are objects that exist.
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    backoff: Backoff,
}

struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    working: HashSet<K>,
    due: BTreeMap<(Instant, u64), K>,
    due_of: HashMap<K, (Instant, u64)>,
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
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            due: BTreeMap::new(),
            due_of: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new(), backoff }) }
    }

    /// Adds a key to be worked on now.
    pub fn add(&self, key: K) {
        if self.inner.state.lock().add(key) {
            self.inner.changed.notify_one();
        }
    }

    /// Adds a key to be worked on after a delay; the earliest of several times counts.
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

    /// Adds a key after a failure: later each time, until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.inner.state.lock();
            let count = state.failures.entry(key.clone()).or_default();
            let before = *count;
            *count += 1;
            before
        };
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
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.inner.changed.notify_one();
                    }
                    return Some(key);
                }
                state.due.first_key_value().map(|((at, _), _)| *at)
            };
            match wait {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// Work on a key is finished, well or not.
    pub fn done(&self, key: &K) {
        let mut state = self.inner.state.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.changed.notify_one();
        }
    }

    /// Keys waiting to be worked on now.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    /// Whether no key waits to be worked on now.
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
    /// Whether a worker has something new to take.
    fn add(&mut self, key: K) -> bool {
        if self.closed {
            return false;
        }
        if let Some(slot) = self.due_of.remove(&key) {
            self.due.remove(&slot);
        }
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due_of.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
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
    async fn failures_back_off_until_forgotten() {
        let queue = WorkQueue::new(Backoff { base: Duration::from_secs(1), max: Duration::from_secs(5) });
        let delays: Vec<u64> = (0..5).map(|_| queue.add_rate_limited("a").as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a").as_secs(), 1);
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
