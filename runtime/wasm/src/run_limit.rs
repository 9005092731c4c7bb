//! The concurrency limit of a container: how many of its guests run at the same time.
//!
//! A guest holds a permit while it computes, but not while it waits for its client, an outgoing request or a clock. Guests that
//! wait, on slow clients or on each other in a cycle of calls, therefore do not keep other guests from starting. The memory of a waiting
//! guest is charged to the container's memory account, not to this limit.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// How long a guest waits that comes when the queue is full. A guest gives its permit back a moment after its client has the answer, so that
/// the next request of the same client may come before it.
const GRACE: Duration = Duration::from_millis(100);

/// Polls of guests that end meanwhile, else the wait is as long again: on a busy machine [`GRACE`] may pass before the guest that asks its own
/// container has got the CPU time to give its permit back. One that computes ends a poll each millisecond.
const GRACE_POLLS: u64 = 10;

/// How many times the wait is as long at most.
const MOST_GRACES: usize = 20;

/// The concurrency limit of one container, with a bounded FIFO queue of guests that wait to start.
pub(crate) struct RunLimit {
    /// Most guests that run at the same time.
    limit: usize,
    /// Most bytes that the queued guests hold together.
    max_queued_bytes: usize,
    /// Most guests in the queue.
    max_queued: usize,
    state: Mutex<State>,
    created: Instant,
    /// When a guest last ran, in milliseconds since `created`.
    last_run_ms: AtomicU64,
    /// Polls of guests that have ended.
    polls: AtomicU64,
}

struct State {
    running: usize,
    /// The queue. It may contain cancelled entries, whose receivers are closed.
    waiting: VecDeque<oneshot::Sender<RunPermit>>,
    /// Bytes that the queued guests hold.
    queued_bytes: usize,
    /// Queued guests, without cancelled ones.
    queued: usize,
}

/// The queue is full.
#[derive(Debug)]
pub(crate) struct Full;

impl RunLimit {
    pub(crate) fn new(limit: usize, max_queued_bytes: usize, max_queued: usize) -> Arc<Self> {
        let state = Mutex::new(State { running: 0, waiting: VecDeque::new(), queued_bytes: 0, queued: 0 });
        Arc::new(Self {
            limit: limit.max(1),
            max_queued_bytes,
            max_queued,
            state,
            created: Instant::now(),
            last_run_ms: AtomicU64::new(0),
            polls: AtomicU64::new(0),
        })
    }

    /// Acquires a permit to start a guest. Waits in FIFO order while the limit is reached; beyond the queue only for a moment, and only as many
    /// guests as may run. The caller holds `bytes` while it waits. Cancel-safe.
    ///
    /// # Errors
    /// The queue is full, in entries or in bytes.
    pub(crate) async fn begin(self: &Arc<Self>, bytes: usize) -> Result<RunPermit, Full> {
        let (receiver, beyond) = {
            let mut state = self.state.lock();
            if state.running < self.limit {
                state.running += 1;
                return Ok(RunPermit { turns: self.clone(), held: true });
            }
            if state.queued >= self.max_queued.saturating_add(self.limit)
                || state.queued_bytes.saturating_add(bytes) > self.max_queued_bytes
            {
                return Err(Full);
            }
            let beyond = state.queued >= self.max_queued;
            state.queued += 1;
            state.queued_bytes += bytes;
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            (receiver, beyond)
        };
        let _queued = QueuedGuard(self, bytes);
        if beyond { self.grace(receiver).await } else { receiver.await.map_err(|_| Full) }
    }

    /// Waits for a permit beyond the queue.
    async fn grace(&self, mut receiver: oneshot::Receiver<RunPermit>) -> Result<RunPermit, Full> {
        let before = self.polls.load(Relaxed);
        for _ in 0..MOST_GRACES {
            if let Ok(permit) = timeout(GRACE, &mut receiver).await {
                return permit.map_err(|_| Full);
            }
            if self.polls.load(Relaxed) - before >= GRACE_POLLS {
                break;
            }
        }
        Err(Full)
    }

    /// Acquires a permit immediately, even above the limit.
    pub(crate) fn acquire_unlimited(self: &Arc<Self>) -> RunPermit {
        self.state.lock().running += 1;
        RunPermit { turns: self.clone(), held: true }
    }

    /// How long no guest has run, measured from the end of the last poll of a guest.
    pub(crate) fn idle_time(&self) -> Duration {
        self.created.elapsed().saturating_sub(Duration::from_millis(self.last_run_ms.load(Relaxed)))
    }

    fn note_run(&self) {
        self.polls.fetch_add(1, Relaxed);
        self.last_run_ms.store(u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Releases one permit and passes free permits to queued guests.
    fn release(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.running -= 1;
        while state.running < self.limit {
            let Some(next) = state.waiting.pop_front() else { return };
            state.running += 1;
            drop(state);
            let sent = next.send(RunPermit { turns: self.clone(), held: true });
            let unsent = sent.err();
            state = self.state.lock();
            if let Some(mut turn) = unsent {
                // The queued guest was cancelled. Dropping a held permit would call this function recursively.
                turn.held = false;
                state.running -= 1;
            }
        }
    }
}

/// Removes a guest, and the bytes that it holds, from the queue's counts when dropped.
struct QueuedGuard<'a>(&'a RunLimit, usize);

impl Drop for QueuedGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.queued -= 1;
        state.queued_bytes -= self.1;
        if state.waiting.len() > 2 * self.0.limit {
            state.waiting.retain(|sender| !sender.is_closed());
        }
    }
}

/// A permit to run a guest. A guest that waits releases the permit and acquires it again when it continues. Dropping it releases it.
pub(crate) struct RunPermit {
    turns: Arc<RunLimit>,
    /// Whether the permit counts against the limit now.
    held: bool,
}

impl RunPermit {
    /// Acquires the permit again, without waiting and even above the limit: guests that have started take precedence over queued guests.
    fn acquire(&mut self) {
        if !std::mem::replace(&mut self.held, true) {
            self.turns.state.lock().running += 1;
        }
    }

    fn release(&mut self) {
        if std::mem::replace(&mut self.held, false) {
            self.turns.release();
        }
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.release();
    }
}

/// A guest's future that releases its permit while it waits.
pub(crate) struct Alternating<F> {
    future: Pin<Box<F>>,
    turn: RunPermit,
    /// Wraps the waker of the current task, and is replaced when the future moves to another task.
    waker: Option<(Arc<WakeDetector>, Waker)>,
}

/// Detects whether a future is woken during its own poll. A guest that yields at an epoch wakes itself, a guest that waits does not.
pub(crate) struct WakeDetector {
    woken: AtomicBool,
    task: Waker,
}

impl WakeDetector {
    /// A detector for the task of a waker, and its own waker: those in `kept` if they are of that task. They are not reset.
    pub(crate) fn reuse(kept: &mut Option<(Arc<Self>, Waker)>, task: &Waker) -> (Arc<Self>, Waker) {
        match kept {
            Some((detector, waker)) if detector.task.will_wake(task) => (detector.clone(), waker.clone()),
            _ => {
                let detector = Arc::new(Self { woken: AtomicBool::new(false), task: task.clone() });
                kept.insert((detector.clone(), detector.into())).clone()
            }
        }
    }

    pub(crate) fn reset(&self) {
        self.woken.store(false, SeqCst);
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(SeqCst)
    }
}

impl Wake for WakeDetector {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

impl<F: Future> Alternating<F> {
    pub(crate) fn new(future: F, turn: RunPermit) -> Self {
        Self { future: Box::pin(future), turn, waker: None }
    }
}

impl<F: Future> Future for Alternating<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, turn, waker } = &mut *self;
        turn.acquire();
        let (detector, woken) = WakeDetector::reuse(waker, context.waker());
        detector.reset();
        let result = future.as_mut().poll(&mut Context::from_waker(&woken));
        turn.turns.note_run();
        if result.is_ready() || !detector.is_woken() {
            turn.release();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    /// Computes until `end` is set, yielding as guests do.
    async fn spin(end: Arc<AtomicBool>) {
        while !end.load(SeqCst) {
            let mut first = true;
            // Wakes itself during the poll, as a guest does at an epoch. `tokio::task::yield_now` wakes the task later.
            std::future::poll_fn(|context| {
                if std::mem::take(&mut first) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
        }
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_as_another_ends_is_not_refused_although_nobody_may_queue() {
        let turns = RunLimit::new(1, 1000, 0);
        let first = turns.begin(1).await.unwrap();
        let (one, other) = (turns.clone(), turns.clone());
        let next = tokio::spawn(async move { one.begin(1).await });
        settle().await;
        assert!(turns.begin(1).await.is_err(), "as many as may run wait beyond the queue");
        tokio::time::sleep(3 * GRACE).await;
        drop(first);
        let next = next.await.unwrap().expect("it was free before the one that runs got CPU time");
        let since = Instant::now();
        let refused = tokio::spawn(async move { other.begin(1).await.is_err() });
        settle().await;
        (0..GRACE_POLLS).for_each(|_| turns.note_run());
        assert!(refused.await.unwrap(), "the one that runs goes on");
        assert_eq!(since.elapsed(), GRACE);
        drop(next);
        let state = turns.state.lock();
        assert_eq!((state.running, state.queued), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_no_turn_and_who_computes_has() {
        let turns = RunLimit::new(2, 1000, 2);
        let event = Arc::new(Notify::new());
        // Any number of started guests may wait.
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let turn = turns.begin(1).await.unwrap();
            let event = event.clone();
            waiting.push(tokio::spawn(Alternating::new(async move { event.notified().await }, turn)));
            settle().await;
        }
        assert_eq!(turns.state.lock().running, 0);
        let end = Arc::new(AtomicBool::new(false));
        let running: Vec<_> = [turns.begin(1).await.unwrap(), turns.begin(1).await.unwrap()]
            .map(|turn| tokio::spawn(Alternating::new(spin(end.clone()), turn)))
            .into();
        settle().await;
        let (one, other) = (turns.clone(), turns.clone());
        let next = tokio::spawn(async move { one.begin(600).await.is_ok() });
        settle().await;
        assert!(!next.is_finished(), "two compute");
        assert!(turns.begin(600).await.is_err(), "no room to wait");
        drop(turns.acquire_unlimited());
        let gone = tokio::spawn(async move { other.begin(300).await.is_ok() });
        settle().await;
        gone.abort();
        settle().await;
        assert_eq!(turns.state.lock().queued_bytes, 600, "who left takes no room");
        event.notify_waiters();
        for task in waiting {
            task.await.unwrap();
        }
        assert!(!next.is_finished(), "those who went on have given their turns back, not those who compute");
        end.store(true, SeqCst);
        for task in running {
            task.await.unwrap();
        }
        assert!(next.await.unwrap());
        assert_eq!(turns.state.lock().running, 0);
        assert_eq!(turns.state.lock().queued_bytes, 0);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(turns.idle_time(), Duration::from_secs(3));
    }
}
