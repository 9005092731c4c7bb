//! CPU limits: [`Throttled`] measures the thread's CPU time of every poll and delays futures that have used up their [`Quota`].
//!
//! Guests yield at every epoch (1 ms), so that a quota is overdrawn by at most that much; the debt is paid back. File calls run on
//! the polling thread and are counted. HTTP parsing is not. When a guest of a container is polled, and where, is what [`crate::long_polls`] says.

use crate::{
    long_polls::{Admission, Expected, Permit, PollHistory, hand_over},
    memory::MemoryAccount,
    run_limit::WakeDetector,
    ticker::Ticker,
};
use container::Limits;
use parking_lot::Mutex;
use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Period over which unused quota accumulates, as the default period of cgroups.
const PERIOD: Duration = Duration::from_millis(100);

/// Least nanoseconds of CPU time that a throttled guest is woken for, and most. Each time costs other threads of the node some 0.1 ms, which is
/// charged to nobody.
const SLICE: i64 = 1_000_000;
const MAX_SLICE: i64 = 5_000_000;

/// How long a guest that computes keeps a thread while nobody else wants its turn. It yields at each epoch, and goes on at once.
const STRETCH: Duration = Duration::from_millis(10);

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
    pub(crate) fn of_container(limits: Limits, pod: Arc<Quota>, memory: Arc<MemoryAccount>) -> Arc<Self> {
        let quota = Arc::into_inner(Self::new(limits.cpu_millis, Some(pod)));
        let polls = Some(PollHistory::new(memory));
        let quota = Self { polls, ..quota.expect("nobody else has it yet") };
        quota.set(limits);
        Arc::new(quota)
    }

    pub(crate) fn set(&self, limits: Limits) {
        self.millis.store(limits.cpu_millis.unwrap_or(0), Relaxed);
        if let Some(polls) = &self.polls {
            polls.share.request(limits.cpu_request_millis);
        }
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

    /// When CPU time is available again; `None` is now. Whoever asks waits until then, which is counted.
    fn available(&self, now: Instant) -> Option<Instant> {
        let own = self.available_here(now);
        if own.is_some() {
            self.throttled.fetch_add(1, Relaxed);
        }
        own.max(self.parent.as_ref().and_then(|parent| parent.available(now)))
    }

    fn is_available(&self, now: Instant) -> bool {
        self.available_here(now).is_none() && self.parent.as_ref().is_none_or(|parent| parent.is_available(now))
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
        let slice = (full / 4).clamp(SLICE, MAX_SLICE);
        let missing = (slice - bucket.nanos) as u64;
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
    admission: Option<Admission>,
    waker: Option<(Arc<WakeDetector>, Waker)>,
}

impl<F: Future> Throttled<F> {
    pub(crate) fn new(future: F, quota: Arc<Quota>, ticker: Arc<Ticker>) -> Self {
        Self { future: Some(Box::pin(future)), quota, ticker, wait: None, admission: None, waker: None }
    }

    /// Polls once, and charges the CPU time of it.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let before = thread_cpu();
        let result = counted(|| future.as_mut().poll(context));
        let used = thread_cpu().saturating_sub(before);
        self.quota.charge(used);
        if let Some(polls) = &self.quota.polls {
            polls.record(used);
        }
        result
    }

    /// Polls again and again, as long as the guest computes, nobody else wants its turn, and its quota allows it.
    fn poll_stretch(&mut self, context: &mut Context<'_>, permit: &Permit) -> Poll<F::Output> {
        let (detector, waker) = WakeDetector::reuse(&mut self.waker, context.waker());
        let (mut context, begin) = (Context::from_waker(&waker), Instant::now());
        loop {
            detector.reset();
            let result = self.poll_once(&mut context);
            let now = Instant::now();
            let is_over = now.saturating_duration_since(begin) > STRETCH || permit.is_over();
            if result.is_ready() || is_over || !detector.is_woken() || !self.quota.is_available(now) {
                return result;
            }
        }
    }
}

impl<F> Throttled<F> {
    fn expected(&self) -> Expected {
        self.quota.polls.as_ref().map_or(Expected::Short, PollHistory::expected)
    }

    /// Waits until the next poll may begin; `None` needs no permit.
    fn poll_admission(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<Option<Permit>> {
        let Some(polls) = &self.quota.polls else { return Poll::Ready(None) };
        let long_polls = &self.ticker.long_polls;
        let permit = ready!(self.admission.get_or_insert_with(|| long_polls.admit(polls, now)).poll(context));
        self.admission = None;
        Poll::Ready(Some(permit))
    }
}

impl<F: Future> Future for Throttled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let now = loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(context));
                this.wait = None;
            }
            let now = Instant::now();
            let Some(until) = this.quota.available(now) else { break now };
            // It may be its turn, but it does not run yet: the next one does.
            this.admission = None;
            this.wait = Some(Box::pin(sleep_until(until)));
        };
        let permit = ready!(this.poll_admission(context, now));
        let ticker = this.ticker.clone();
        let _running = ticker.run();
        match &permit {
            Some(permit) if permit.hand_over => hand_over(|| this.poll_stretch(context, permit)),
            _ => this.poll_once(context),
        }
    }
}

impl<F> Drop for Throttled<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        match self.expected() {
            Expected::Short | Expected::Computing => drop(future),
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

    /// A guest whose turn comes while it must wait for CPU time gives the turn to the next.
    #[tokio::test]
    async fn who_waits_for_its_quota_keeps_no_turn() {
        let ticker = Ticker::start(Vec::new(), 1).unwrap();
        let container = |millis| {
            let limits = Limits { cpu_millis: millis, ..Limits::default() };
            let quota = Quota::of_container(limits, Quota::new(None, None), MemoryAccount::new("it", None, None));
            // it uses more than its share
            quota.polls.as_ref().unwrap().share.charge(1_000_000_000);
            quota
        };
        let [first, other] = [Some(1), None].map(container);
        // two containers run: one that is alone needs no turn
        drop(ticker.long_polls.admit(first.polls.as_ref().unwrap(), Instant::now()));
        let mut held = ticker.long_polls.admit(other.polls.as_ref().unwrap(), Instant::now());
        let held = std::future::poll_fn(|context| held.poll(context)).await;
        let run = |quota: &Arc<Quota>| tokio::spawn(Throttled::new(async {}, quota.clone(), ticker.clone()));
        let (one, two) = (run(&first), run(&other));
        tokio::task::yield_now().await;
        first.charge(1_000_000_000);
        assert!(!one.is_finished() && !two.is_finished());
        drop(held);
        tokio::time::timeout(Duration::from_secs(10), two).await.expect("it is its turn").unwrap();
        assert!(!one.is_finished(), "it has no CPU time for a thousand seconds");
        ticker.stop();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pods_limit_holds_for_its_containers_and_limits_change_in_place() {
        let pod = Quota::new(Some(100), None);
        let container = Quota::new(Some(900), Some(pod.clone()));
        used_in_a_second(&container, Duration::from_millis(1)).await;
        let got = used_in_a_second(&container, Duration::from_millis(1)).await.as_millis();
        assert!((90..=112).contains(&got), "{got}");
        pod.set(Limits::default());
        container.set(Limits { cpu_millis: Some(300), ..Limits::default() });
        used_in_a_second(&container, Duration::from_millis(1)).await;
        let got = used_in_a_second(&container, Duration::from_millis(1)).await.as_millis();
        assert!((280..=320).contains(&got), "{got}");
    }
}
