//! Keeps guests that do not yield from stalling others.
//!
//! A guest yields at each epoch, but not within one instruction or one host call: `memory.fill` of 1 GiB takes 100 ms and more. A poll of a
//! guest that may last long is therefore made while another thread takes over the tasks of its worker ([`block_in_place`]), so that the
//! kernel shares the cores between the two. This costs some microseconds per poll. A poll may last long
//!
//! * if an instance of the container has much memory: operations on small memories are short. Guests yield when they get that much
//!   ([`crate::memory`]), so that already the next instruction runs this way;
//! * if a poll of the container lasted long shortly before.
//!
//! The number of such polls is bounded, so that the others always have threads.

use crate::memory::MemoryAccount;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::block_in_place,
    time::Instant,
};

/// CPU time above which a poll was long. A guest that yields at each epoch takes one or two milliseconds.
const LONG: Duration = Duration::from_millis(5);

/// How long a container is remembered for its last long poll.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Concurrent polls of large guests that yielded so far, per guest thread.
const POSSIBLE_PER_THREAD: usize = 4;

/// The long polls of a node.
pub(crate) struct LongPolls {
    /// Permits for polls that will be long. One per core, since they compute.
    expected: Arc<Semaphore>,
    /// Permits for polls that may be long.
    possible: Arc<Semaphore>,
}

/// How long a poll may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Short,
    MaybeLong,
    Long,
}

impl LongPolls {
    /// For a node with so many guest threads.
    pub(crate) fn new(threads: usize) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { expected: permits(threads), possible: permits(threads.saturating_mul(POSSIBLE_PER_THREAD)) }
    }

    /// The blocking threads that long polls take over from the other tasks at most.
    pub(crate) fn blocking_threads(threads: usize) -> usize {
        threads.saturating_mul(1 + POSSIBLE_PER_THREAD)
    }

    /// Waits for a permit; `None` needs none.
    pub(crate) fn permit(&self, length: Expected) -> Option<impl Future<Output = OwnedSemaphorePermit> + use<>> {
        let permits = match length {
            Expected::Short => return None,
            Expected::MaybeLong => &self.possible,
            Expected::Long => &self.expected,
        };
        let permits = permits.clone();
        // nobody closes them
        Some(async move { permits.acquire_owned().await.expect("the semaphore is open") })
    }
}

/// Runs what may last long. Another thread takes over the other tasks of this worker.
pub(crate) fn hand_over<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        // tests with one thread, and after the end of the runtime
        _ => work(),
    }
}

/// What is known of the polls of one container.
pub(crate) struct PollHistory {
    memory: Arc<MemoryAccount>,
    begin: Instant,
    /// When the last long poll ended, in milliseconds since `begin`; 0 if there was none.
    last_long_ms: AtomicU64,
}

impl PollHistory {
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Self {
        Self { memory, begin: Instant::now(), last_long_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn expected(&self) -> Expected {
        let last = self.last_long_ms.load(Relaxed);
        if last > 0 && self.now_ms().saturating_sub(last) < REMEMBERED.as_millis() as u64 {
            return Expected::Long;
        }
        if self.memory.is_large() { Expected::MaybeLong } else { Expected::Short }
    }

    /// Records the CPU time of a poll, in nanoseconds.
    pub(crate) fn record(&self, nanos: u64) {
        if u128::from(nanos) > LONG.as_nanos() {
            self.last_long_ms.store(self.now_ms().max(1), Relaxed);
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
        history.record(2_000_000);
        assert_eq!(history.expected(), Expected::Short);
        history.record(100_000_000);
        assert_eq!(history.expected(), Expected::Long);
        tokio::time::advance(REMEMBERED - Duration::from_millis(2)).await;
        assert_eq!(history.expected(), Expected::Long);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(history.expected(), Expected::Short);
    }

    #[tokio::test]
    async fn those_who_are_expected_to_be_long_do_not_take_all_threads() {
        let polls = LongPolls::new(2);
        assert!(polls.permit(Expected::Short).is_none());
        let one = polls.permit(Expected::Long).unwrap().await;
        let _two = polls.permit(Expected::Long).unwrap().await;
        let mut next = Box::pin(polls.permit(Expected::Long).unwrap());
        let pending = tokio::time::timeout(Duration::ZERO, &mut next).await;
        assert!(pending.is_err(), "two threads, two permits");
        let _other = polls.permit(Expected::MaybeLong).unwrap().await;
        drop(one);
        drop(next.await);
    }
}
