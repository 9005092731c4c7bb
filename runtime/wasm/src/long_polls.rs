//! Keeps guests that compute, and those that do not yield, from stalling others.
//!
//! A guest yields at each epoch, but not within one instruction or one host call: `memory.fill` of 1 GiB takes 100 ms and more. A poll of a
//! guest that may take long is therefore made while another thread takes over the tasks of its worker ([`block_in_place`]), so that the
//! kernel shares the cores between the two, and lets the one that serves go first ([`crate::priority`]). This costs some microseconds per poll.
//! Expected to take long is a poll
//!
//! * of a container whose polls took long shortly before: all of a slice, or more than that;
//! * of a container that has an instance with much memory: operations on small memories are short. Guests yield when they get that much
//!   ([`crate::memory`]), so that already the next instruction runs this way.
//!
//! A container that uses more than its share of the CPU time waits for its turn ([`crate::shares`], [`crate::turns`]). So the run queue of the
//! workers holds few polls that compute, also where thousands of guests want to. The number of polls that others take over from is bounded, so
//! that there are always threads.

use crate::{
    memory::MemoryAccount,
    priority,
    shares::{NodeShares, Share},
    turns::{Turn, Turns, Waiting},
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::block_in_place,
    time::Instant,
};

/// CPU time above which a poll was long. A guest that yields at each epoch takes one or two milliseconds.
const LONG: u64 = 5_000_000;

/// CPU time above which a guest computes, instead of answering and waiting. Half of a slice.
const COMPUTES: u64 = 500_000;

/// A container is remembered for a poll this many times as long as it took, and at most [`MOST_REMEMBERED`].
const REMEMBERED: u64 = 500;
const MOST_REMEMBERED: Duration = Duration::from_secs(10);

/// Concurrent polls of large guests that yielded so far, and of light ones that compute, per guest thread.
const POSSIBLE_PER_THREAD: usize = 4;

/// The long polls of a node.
pub(crate) struct LongPolls {
    /// Permits for polls that will be long. One per core, since they compute.
    expected: Arc<Semaphore>,
    /// Permits for polls that may be long.
    possible: Arc<Semaphore>,
    /// Turns of containers that use more than their share. One per core.
    turns: Arc<Turns>,
    shares: NodeShares,
}

/// How long a poll may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Short,
    Computing,
    MaybeLong,
    Long,
}

/// How a poll is made.
pub(crate) struct Permit {
    /// While another thread takes over the tasks of this worker.
    pub(crate) hand_over: bool,
    _permit: Option<OwnedSemaphorePermit>,
    turn: Option<Turn>,
}

/// Waits until a poll may begin.
pub(crate) enum Admission {
    Now(Option<Permit>),
    Permit(Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>),
    Turn(Waiting, bool),
}

impl Permit {
    fn new(hand_over: bool, permit: Option<OwnedSemaphorePermit>, turn: Option<Turn>) -> Self {
        Self { hand_over, _permit: permit, turn }
    }

    /// Whether somebody else is to compute now.
    pub(crate) fn is_over(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::is_over)
    }
}

impl Admission {
    /// Must not be polled after it is ready.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Permit> {
        match self {
            Self::Now(permit) => permit.take().map_or(Poll::Pending, Poll::Ready),
            Self::Permit(waiting) => waiting.as_mut().poll(context).map(|permit| Permit::new(true, Some(permit), None)),
            Self::Turn(waiting, hand_over) => {
                Pin::new(waiting).poll(context).map(|turn| Permit::new(*hand_over, None, Some(turn)))
            }
        }
    }
}

impl LongPolls {
    /// For a node with so many guest threads.
    pub(crate) fn new(threads: usize) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            expected: permits(threads),
            possible: permits(threads.saturating_mul(POSSIBLE_PER_THREAD)),
            turns: Turns::new(threads),
            shares: NodeShares::new(threads),
        }
    }

    /// The blocking threads that long polls take over from the other tasks at most.
    pub(crate) fn blocking_threads(threads: usize) -> usize {
        threads.saturating_mul(2 + POSSIBLE_PER_THREAD)
    }

    /// See [`Turns::pass_on_late`].
    pub(crate) fn pass_on_late_turns(&self) -> bool {
        self.turns.pass_on_late(Instant::now())
    }

    /// How the next poll of a container is made, and when.
    pub(crate) fn admit(&self, history: &PollHistory, now: Instant) -> Admission {
        let (heavy, expected) = (history.share.is_heavy(&self.shares, now), history.expected());
        let wait = |permits: &Arc<Semaphore>| {
            let permits = permits.clone();
            // nobody closes them
            Admission::Permit(Box::pin(async move { permits.acquire_owned().await.expect("the semaphore is open") }))
        };
        match expected {
            Expected::Long => wait(&self.expected),
            _ if heavy => Admission::Turn(self.turns.wait(&history.share), expected != Expected::Short),
            Expected::Short => Admission::Now(Some(Permit::new(false, None, None))),
            Expected::MaybeLong => wait(&self.possible),
            Expected::Computing => {
                let permit = self.possible.clone().try_acquire_owned().ok();
                Admission::Now(Some(Permit::new(permit.is_some(), permit, None)))
            }
        }
    }
}

/// Yields as a guest does at an epoch: the task is woken during its poll.
pub(crate) async fn yield_within_poll() {
    let mut first = true;
    let once = |context: &mut Context<'_>| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    };
    std::future::poll_fn(once).await;
}

/// Runs what may last long. Another thread takes over the other tasks of this worker.
pub(crate) fn hand_over<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(|| priority::computing(work)),
        // tests with one thread, and after the end of the runtime
        _ => work(),
    }
}

/// What is known of the polls of one container.
pub(crate) struct PollHistory {
    memory: Arc<MemoryAccount>,
    begin: Instant,
    /// Until when polls are expected to be long, in microseconds since `begin`.
    long: AtomicU64,
    /// The same for those that compute.
    computing: AtomicU64,
    pub(crate) share: Arc<Share>,
}

impl PollHistory {
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Self {
        let (long, computing) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { memory, begin: Instant::now(), long, computing, share: Arc::default() }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn expected(&self) -> Expected {
        let (long, computing) = (self.long.load(Relaxed), self.computing.load(Relaxed));
        let now = if long.max(computing) == 0 { 0 } else { self.micros() };
        if now < long {
            Expected::Long
        } else if self.memory.is_large() {
            Expected::MaybeLong
        } else if now < computing {
            Expected::Computing
        } else {
            Expected::Short
        }
    }

    /// Records the CPU time of a poll, in nanoseconds.
    pub(crate) fn record(&self, nanos: u64) {
        self.share.charge(nanos);
        let memory = if nanos > LONG { &self.long } else { &self.computing };
        if nanos > COMPUTES {
            let remembered = (nanos / 1000).saturating_mul(REMEMBERED).min(MOST_REMEMBERED.as_micros() as u64);
            memory.fetch_max(self.micros() + remembered, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_had_a_long_poll_is_expected_to_have_another_for_a_while() {
        let history = PollHistory::new(MemoryAccount::new("the container", None, None));
        assert_eq!(history.expected(), Expected::Short);
        history.record(400_000);
        assert_eq!(history.expected(), Expected::Short);
        for (nanos, expected, remembered) in [
            (1_000_000, Expected::Computing, 500),
            (6_000_000, Expected::Long, 3_000),
            (100_000_000, Expected::Long, 10_000),
        ] {
            history.record(nanos);
            tokio::time::advance(Duration::from_millis(remembered - 1)).await;
            assert_eq!(history.expected(), expected, "{nanos}");
            tokio::time::advance(Duration::from_millis(2)).await;
            assert_eq!(history.expected(), Expected::Short, "{nanos}");
        }
    }

    async fn admitted(polls: &LongPolls, history: &PollHistory) -> Option<Permit> {
        let mut admission = polls.admit(history, Instant::now());
        match std::future::poll_fn(|context| Poll::Ready(admission.poll(context))).await {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_expected_to_be_long_do_not_take_all_threads() {
        let polls = LongPolls::new(2);
        let [long, computing, heavy, short] =
            [0; 4].map(|_| PollHistory::new(MemoryAccount::new("the container", None, None)));
        // at first a container is at the border to a heavy one
        let light =
            || [&long, &computing, &heavy, &short].iter().all(|it| !it.share.is_heavy(&polls.shares, Instant::now()));
        assert!(light());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(light());
        long.record(100_000_000);
        let permits = [admitted(&polls, &long).await.unwrap(), admitted(&polls, &long).await.unwrap()];
        assert!(permits.iter().all(|permit| permit.hand_over));
        assert!(admitted(&polls, &long).await.is_none(), "two threads, two permits");
        computing.record(1_000_000);
        let others: Vec<_> = (0..8).map(|_| admitted(&polls, &computing)).collect();
        let others = futures::future::join_all(others).await;
        assert!(others.iter().all(|permit| permit.as_ref().unwrap().hand_over));
        assert!(!admitted(&polls, &computing).await.unwrap().hand_over, "in place, but at once");
        for _ in 0..100 {
            heavy.record(1_000_000);
        }
        assert!(!admitted(&polls, &short).await.unwrap().hand_over);
        let turns = [admitted(&polls, &heavy).await.unwrap(), admitted(&polls, &heavy).await.unwrap()];
        assert!(turns.iter().all(|turn| turn.hand_over));
        assert!(admitted(&polls, &heavy).await.is_none());
        assert!(!admitted(&polls, &short).await.unwrap().hand_over, "who is light does not wait");
        drop(turns);
        assert!(admitted(&polls, &heavy).await.is_some());
    }
}
