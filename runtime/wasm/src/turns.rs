//! Turns: how many guests of a container run at a time. A guest has one while it computes, not while it waits for its client, for a
//! request of its own, for a file or for a clock: however many wait, whether for slow clients or in a circle of calls, others can begin.
//!
//! What a guest keeps while it waits is memory, which has its own account.

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
use tokio::{sync::oneshot, time::Instant};

/// The turns of one container.
pub(crate) struct Turns {
    /// Guests that run at a time.
    most: usize,
    /// Bytes that those who wait to begin may take together.
    room: usize,
    /// How many may wait.
    queue: usize,
    state: Mutex<State>,
    begin: Instant,
    /// When a guest last ran, in milliseconds from the beginning.
    ran: AtomicU64,
}

struct State {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// Bytes that those who wait take.
    taken: usize,
    /// How many wait.
    queued: usize,
}

/// Too many wait to begin.
#[derive(Debug)]
pub(crate) struct Full;

impl Turns {
    pub(crate) fn new(most: usize, room: usize, queue: usize) -> Arc<Self> {
        let state = Mutex::new(State { running: 0, waiting: VecDeque::new(), taken: 0, queued: 0 });
        Arc::new(Self { most: most.max(1), room, queue, state, begin: Instant::now(), ran: AtomicU64::new(0) })
    }

    /// A turn to begin. Waits, in order, while as many run as may; who waits takes `bytes` meanwhile. Cancel-safe.
    pub(crate) async fn begin(self: &Arc<Self>, bytes: usize) -> Result<Turn, Full> {
        let receiver = {
            let mut state = self.state.lock();
            if state.running < self.most {
                state.running += 1;
                return Ok(Turn { turns: self.clone(), has: true });
            }
            if state.queued >= self.queue || state.taken.saturating_add(bytes) > self.room {
                return Err(Full);
            }
            state.queued += 1;
            state.taken += bytes;
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        let _waiting = Waiting(self, bytes);
        receiver.await.map_err(|_| Full)
    }

    /// A turn beside all others, at once.
    pub(crate) fn extra(self: &Arc<Self>) -> Turn {
        self.state.lock().running += 1;
        Turn { turns: self.clone(), has: true }
    }

    /// How long no guest has run.
    pub(crate) fn quiet(&self) -> Duration {
        self.begin.elapsed().saturating_sub(Duration::from_millis(self.ran.load(Relaxed)))
    }

    fn note_run(&self) {
        self.ran.store(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    fn give_back(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.running -= 1;
        while state.running < self.most {
            let Some(next) = state.waiting.pop_front() else { return };
            state.running += 1;
            drop(state);
            let sent = next.send(Turn { turns: self.clone(), has: true });
            let unsent = sent.err();
            state = self.state.lock();
            if let Some(mut turn) = unsent {
                // It is not waited for any more. Dropping it would come back here.
                turn.has = false;
                state.running -= 1;
            }
        }
    }
}

struct Waiting<'a>(&'a Turns, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.queued -= 1;
        state.taken -= self.1;
        if state.waiting.len() > 2 * self.0.most {
            state.waiting.retain(|sender| !sender.is_closed());
        }
    }
}

/// A guest that runs, or that may: given back when dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    has: bool,
}

impl Turn {
    /// A guest that goes on does not wait for it: those who have begun come before those who have not.
    fn take(&mut self) {
        if !std::mem::replace(&mut self.has, true) {
            self.turns.state.lock().running += 1;
        }
    }

    fn give(&mut self) {
        if std::mem::replace(&mut self.has, false) {
            self.turns.give_back();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give();
    }
}

/// A guest's future that gives its turn back while it waits.
pub(crate) struct Alternating<F> {
    future: Pin<Box<F>>,
    turn: Turn,
    /// Of the task, and what stands before it.
    waker: Option<(Arc<Nudge>, Waker)>,
}

/// Tells whether a future was woken while it was polled: a guest that gives way at an epoch is, one that waits is not.
struct Nudge {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

impl<F: Future> Alternating<F> {
    pub(crate) fn new(future: F, turn: Turn) -> Self {
        Self { future: Box::pin(future), turn, waker: None }
    }
}

impl<F: Future> Future for Alternating<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, turn, waker } = &mut *self;
        turn.take();
        if !waker.as_ref().is_some_and(|(nudge, _)| nudge.task.will_wake(context.waker())) {
            let nudge = Arc::new(Nudge { woken: AtomicBool::new(false), task: context.waker().clone() });
            *waker = Some((nudge.clone(), nudge.into()));
        }
        let Some((nudge, woken)) = waker else { return Poll::Pending };
        nudge.woken.store(false, SeqCst);
        let result = future.as_mut().poll(&mut Context::from_waker(woken));
        turn.turns.note_run();
        if result.is_ready() || !nudge.woken.load(SeqCst) {
            turn.give();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    /// Runs until told, giving way as guests do.
    async fn spin(end: Arc<AtomicBool>) {
        while !end.load(SeqCst) {
            let mut first = true;
            // As an epoch makes a guest give way; tokio's own would wake it later.
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
    async fn who_waits_has_no_turn_and_who_computes_has() {
        let turns = Turns::new(2, 1000, 2);
        let event = Arc::new(Notify::new());
        // As many as you like may wait, each of them begun.
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
        drop(turns.extra());
        let gone = tokio::spawn(async move { other.begin(300).await.is_ok() });
        settle().await;
        gone.abort();
        settle().await;
        assert_eq!(turns.state.lock().taken, 600, "who left takes no room");
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
        assert_eq!(turns.state.lock().taken, 0);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(turns.quiet(), Duration::from_secs(3));
    }
}
