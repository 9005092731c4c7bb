//! CPU limits: [`Throttled`] measures the thread's CPU time of every poll and delays futures that have used up their [`Quota`].
//!
//! Guests yield at every epoch (1 ms), so that a quota is overdrawn by at most that much; the debt is paid back. File calls run on
//! the polling thread and are counted. HTTP parsing is not.

use crate::{
    long_polls::{Expected, PollHistory, hand_over},
    memory::MemoryAccount,
    ticker::Ticker,
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};

/// Period over which unused quota accumulates, as the default period of cgroups.
const PERIOD: Duration = Duration::from_millis(100);

/// Least nanoseconds of CPU time that a throttled guest is woken for.
const SLICE: i64 = 1_000_000;

thread_local! {
    /// Whether the thread's CPU time is charged to a guest at the moment.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a poll whose CPU time the caller charges.
fn counted<T>(poll: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            COUNTED.set(self.0);
        }
    }
    let _restore = Restore(COUNTED.replace(true));
    poll()
}

/// A CPU limit and its use. Charges also go to the parent (the quota of the pod).
pub(crate) struct Quota {
    /// Thousandths of a core; 0 is no limit.
    millis: AtomicU64,
    bucket: Mutex<Bucket>,
    used: AtomicU64,
    throttled: AtomicU64,
    parent: Option<Arc<Quota>>,
    /// Of a container.
    polls: Option<PollHistory>,
}

struct Bucket {
    /// Available nanoseconds of CPU time; negative is debt.
    nanos: i64,
    /// Time of the last refill. `None` until the first use, which fills the bucket.
    refilled: Option<Instant>,
}

impl Quota {
    pub(crate) fn new(millis: Option<u64>, parent: Option<Arc<Quota>>) -> Arc<Self> {
        Arc::new(Self {
            millis: AtomicU64::new(millis.unwrap_or(0)),
            bucket: Mutex::new(Bucket { nanos: 0, refilled: None }),
            used: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            parent,
            polls: None,
        })
    }

    /// The quota of a container, whose instances are charged to `memory`.
    pub(crate) fn of_container(millis: Option<u64>, pod: Arc<Quota>, memory: Arc<MemoryAccount>) -> Arc<Self> {
        let quota = Arc::into_inner(Self::new(millis, Some(pod)));
        let polls = Some(PollHistory::new(memory));
        Arc::new(Self { polls, ..quota.expect("nobody else has it yet") })
    }

    pub(crate) fn set(&self, millis: Option<u64>) {
        self.millis.store(millis.unwrap_or(0), Relaxed);
    }

    /// CPU time used since the start, in nanoseconds.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// How often a guest was throttled.
    pub(crate) fn throttled(&self) -> u64 {
        self.throttled.load(Relaxed)
    }

    fn charge(&self, nanos: u64) {
        self.used.fetch_add(nanos, Relaxed);
        if self.millis.load(Relaxed) > 0 {
            self.bucket.lock().nanos -= nanos as i64;
        }
        if let Some(parent) = &self.parent {
            parent.charge(nanos);
        }
    }

    /// Does work of the host for a guest, and charges its CPU time, unless a guest's poll does the work and is charged for it. Nothing is
    /// delayed: the guest pays the debt back.
    pub(crate) fn charged<T>(&self, work: impl FnOnce() -> T) -> T {
        if COUNTED.get() {
            return work();
        }
        let before = thread_cpu();
        let done = counted(work);
        self.charge(thread_cpu().saturating_sub(before));
        done
    }

    /// When CPU time is available again; `None` is now.
    fn available(&self, now: Instant) -> Option<Instant> {
        let own = self.available_here(now);
        if own.is_some() {
            self.throttled.fetch_add(1, Relaxed);
        }
        own.max(self.parent.as_ref().and_then(|parent| parent.available(now)))
    }

    fn available_here(&self, now: Instant) -> Option<Instant> {
        let millis = self.millis.load(Relaxed) as i64;
        if millis == 0 {
            return None;
        }
        let full = (PERIOD.as_nanos() as i64 * millis / 1000).max(SLICE);
        let mut bucket = self.bucket.lock();
        let earned = match bucket.refilled.replace(now) {
            None => full,
            Some(last) => (now.saturating_duration_since(last).as_nanos() as i64).saturating_mul(millis) / 1000,
        };
        bucket.nanos = bucket.nanos.saturating_add(earned).min(full);
        if bucket.nanos > 0 {
            return None;
        }
        let missing = (SLICE - bucket.nanos) as u64;
        Some(now + Duration::from_nanos(missing.saturating_mul(1000) / millis as u64))
    }
}

/// A guest's future, throttled by a quota and interrupted by the ticker. It takes no worker of others away ([`crate::long_polls`]).
pub(crate) struct Throttled<F> {
    /// `None` after the drop.
    future: Option<Pin<Box<F>>>,
    quota: Arc<Quota>,
    ticker: Arc<Ticker>,
    wait: Option<Pin<Box<Sleep>>>,
    turn: Option<Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>>,
}

impl<F: Future> Throttled<F> {
    pub(crate) fn new(future: F, quota: Arc<Quota>, ticker: Arc<Ticker>) -> Self {
        Self { future: Some(Box::pin(future)), quota, ticker, wait: None, turn: None }
    }
}

impl<F> Throttled<F> {
    fn expected(&self) -> Expected {
        self.quota.polls.as_ref().map_or(Expected::Short, PollHistory::expected)
    }

    /// Waits until a poll that may be long may begin; `None`: it is short.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<OwnedSemaphorePermit>> {
        if self.turn.is_none() {
            let turn = self.ticker.long_polls.permit(self.expected());
            self.turn = turn.map(|turn| Box::pin(turn) as Pin<Box<dyn Future<Output = _> + Send>>);
        }
        let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
        let permit = ready!(turn.as_mut().poll(context));
        self.turn = None;
        Poll::Ready(Some(permit))
    }
}

impl<F: Future> Future for Throttled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(context));
                this.wait = None;
            }
            let Some(until) = this.quota.available(Instant::now()) else { break };
            this.wait = Some(Box::pin(sleep_until(until)));
        }
        let turn = ready!(this.poll_turn(context));
        let Some(future) = &mut this.future else { return Poll::Pending };
        let running = this.ticker.run();
        let before = thread_cpu();
        let result = match &turn {
            Some(_) => hand_over(|| counted(|| future.as_mut().poll(context))),
            None => counted(|| future.as_mut().poll(context)),
        };
        let used = thread_cpu().saturating_sub(before);
        drop((running, turn));
        this.quota.charge(used);
        if let Some(polls) = &this.quota.polls {
            polls.record(used);
        }
        result
    }
}

impl<F> Drop for Throttled<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        match self.expected() {
            Expected::Short => drop(future),
            // unmapping much memory takes long too
            Expected::MaybeLong | Expected::Long => hand_over(|| drop(future)),
        }
    }
}

/// Charges the CPU time of a built-in tool's thread to a quota, and throttles the thread.
pub(crate) struct ThreadMeter {
    quota: Arc<Quota>,
    before: u64,
}

impl ThreadMeter {
    /// Measures the current thread from now on.
    pub(crate) fn new(quota: Arc<Quota>) -> Self {
        Self { quota, before: thread_cpu() }
    }

    /// Charges the time since the last call, and blocks the thread until the quota has time available.
    pub(crate) fn throttle(&mut self) {
        let now = thread_cpu();
        self.quota.charge(now.saturating_sub(self.before));
        self.before = now;
        while let Some(until) = self.quota.available(Instant::now()) {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }
}

fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls a guest that uses `slice` of CPU whenever it may; returns what it used in one second.
    async fn used_in_a_second(quota: &Quota, slice: Duration) -> Duration {
        let (start, before) = (Instant::now(), quota.used());
        while start.elapsed() < Duration::from_secs(1) {
            match quota.available(Instant::now()) {
                None => {
                    quota.charge(slice.as_nanos() as u64);
                    tokio::time::advance(slice).await;
                }
                Some(until) => tokio::time::sleep_until(until).await,
            }
        }
        Duration::from_nanos(quota.used() - before)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_gets_its_share_and_no_more() {
        for millis in [50, 100, 500, 900] {
            let quota = Quota::new(Some(millis), None);
            used_in_a_second(&quota, Duration::from_millis(1)).await;
            let got = used_in_a_second(&quota, Duration::from_millis(1)).await.as_millis() as u64;
            assert!(got.abs_diff(millis) <= millis / 20 + 2, "{millis}m got {got} ms in a second");
            assert!(quota.throttled() > 0);
        }
        let free = Quota::new(None, None);
        assert_eq!(used_in_a_second(&free, Duration::from_millis(1)).await, Duration::from_secs(1));
        assert_eq!(free.throttled(), 0);
    }

    #[test]
    fn work_of_the_host_is_charged_once() {
        let (quota, spent) = (Quota::new(None, None), Duration::from_millis(5));
        let spin = || {
            let before = thread_cpu();
            while thread_cpu() - before < spent.as_nanos() as u64 {}
        };
        quota.charged(|| quota.charged(spin));
        let once = quota.used();
        assert!((spent.as_nanos() as u64..2 * spent.as_nanos() as u64).contains(&once), "{once}");
        counted(|| quota.charged(spin));
        assert_eq!(quota.used(), once, "a guest's poll is charged by its caller");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pods_limit_holds_for_its_containers_and_limits_change_in_place() {
        let pod = Quota::new(Some(100), None);
        let container = Quota::new(Some(900), Some(pod.clone()));
        used_in_a_second(&container, Duration::from_millis(1)).await;
        let got = used_in_a_second(&container, Duration::from_millis(1)).await.as_millis();
        assert!((90..=112).contains(&got), "{got}");
        pod.set(None);
        container.set(Some(300));
        used_in_a_second(&container, Duration::from_millis(1)).await;
        let got = used_in_a_second(&container, Duration::from_millis(1)).await.as_millis();
        assert!((280..=320).contains(&got), "{got}");
    }
}
