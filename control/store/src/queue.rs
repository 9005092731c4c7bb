//! The queue between the task that delivers events and one watch: bounded, with one writer and one reader, and in one small allocation.
//! Delivering an event to ten thousand watches is dominated by cache misses, so that a delivery must touch as little memory as possible.

use crate::Event;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};
use tokio::task::coop;

/// The capacity that an empty queue keeps, in events.
const KEPT_CAPACITY: usize = 4;

/// Creates a queue with a maximum number of events.
pub(crate) fn queue<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { events: VecDeque::new(), reader: None, limit, lagged: false, ended: false, unread: false };
    let state = Arc::new(Mutex::new(state));
    (Sender(state.clone()), Receiver(state))
}

struct State<T> {
    events: VecDeque<Event<T>>,
    /// The waker of the receiver.
    reader: Option<Waker>,
    limit: usize,
    /// An event did not fit.
    lagged: bool,
    /// The sender was dropped.
    ended: bool,
    /// The receiver was dropped.
    unread: bool,
}

impl<T> State<T> {
    fn pop(&mut self) -> Option<Event<T>> {
        let event = self.events.pop_front()?;
        if self.events.is_empty() && self.events.capacity() > KEPT_CAPACITY {
            self.events = VecDeque::new();
        }
        Some(event)
    }
}

/// The writing end of the queue.
pub(crate) struct Sender<T>(Arc<Mutex<State<T>>>);

impl<T> Sender<T> {
    /// Queues an event and wakes the receiver. Returns false if there is no receiver or the queue is full: the event and all further events
    /// are then lost.
    pub(crate) fn send(&self, event: &Event<T>) -> bool {
        let mut state = self.0.lock();
        if state.unread || state.lagged || state.events.len() >= state.limit {
            state.lagged = !state.unread;
            return false;
        }
        state.events.push_back(event.clone());
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// Whether there is a receiver that keeps up.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.0.lock();
        !state.unread && !state.lagged
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// The reading end of the queue.
pub(crate) struct Receiver<T>(Arc<Mutex<State<T>>>);

impl<T> Receiver<T> {
    /// Returns the next event, or `None` if the queue is empty and the sender was dropped. Takes part in tokio's cooperative scheduling.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let mut state = self.0.lock();
        let event = state.pop();
        if event.is_none() && !state.ended {
            if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                let before = state.reader.replace(cx.waker().clone());
                drop(state);
                drop(before); // outside of the lock: it may be the last reference to a task
            }
            return Poll::Pending;
        }
        budget.made_progress();
        Poll::Ready(event)
    }

    /// Returns the next event if there is one.
    pub(crate) fn try_next(&mut self) -> Option<Event<T>> {
        self.0.lock().pop()
    }

    /// Whether an event did not fit.
    pub(crate) fn lagged(&self) -> bool {
        self.0.lock().lagged
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.unread = true;
        let unread = (std::mem::take(&mut state.events), state.reader.take());
        drop(state);
        drop(unread); // outside of the lock: it may be the last reference to large values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Entry};
    use std::future::poll_fn;
    use tokio::task::yield_now;

    fn event(revision: u64) -> Event<()> {
        let entry = Entry { key: "k".into(), revision, created: 1, expires: None, stored: Bytes::new(), payload: () };
        Event { revision, before: None, after: Some(Arc::new(entry)) }
    }

    async fn next(receiver: &mut Receiver<()>) -> Option<u64> {
        poll_fn(|cx| receiver.poll_next(cx)).await.map(|event| event.revision)
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_an_event_and_by_the_end() {
        let (sender, mut receiver) = queue(10);
        let reader = tokio::spawn(async move { [next(&mut receiver).await, next(&mut receiver).await] });
        yield_now().await;
        assert!(sender.send(&event(7)));
        yield_now().await;
        drop(sender);
        assert_eq!(reader.await.expect("no panic"), [Some(7), None]);
    }

    #[tokio::test]
    async fn what_finds_no_room_ends_the_queue_after_what_did() {
        let (sender, mut receiver) = queue(2);
        assert_eq!([1, 2, 3].map(|revision| sender.send(&event(revision))), [true, true, false]);
        assert!(!sender.is_alive() && receiver.lagged());
        assert_eq!(next(&mut receiver).await, Some(1));
        assert!(!sender.send(&event(4)), "there is room, but an event is missing");
        drop(sender);
        assert_eq!([next(&mut receiver).await, next(&mut receiver).await], [Some(2), None]);
    }

    #[tokio::test]
    async fn nobody_holds_what_nobody_reads() {
        let (sender, receiver) = queue(10);
        let event = event(1);
        let entry = event.after.clone().expect("there");
        assert!(sender.send(&event));
        drop(receiver);
        drop(event);
        assert_eq!(Arc::strong_count(&entry), 1);
        assert!(!sender.is_alive() && !sender.send(&self::event(2)));
    }

    #[tokio::test]
    async fn a_queue_that_was_long_is_small_again() {
        let (sender, mut receiver) = queue(1000);
        for revision in 0..1000 {
            assert!(sender.send(&event(revision)));
        }
        for revision in 0..1000 {
            assert_eq!(next(&mut receiver).await, Some(revision));
        }
        assert!(receiver.0.lock().events.capacity() <= KEPT_CAPACITY);
    }

    #[tokio::test]
    async fn a_reader_that_always_has_something_lets_others_run() {
        let (sender, mut receiver) = queue(10_000);
        for revision in 0..10_000 {
            assert!(sender.send(&event(revision)));
        }
        let mut read = std::pin::pin!(async { while next(&mut receiver).await.is_some() {} });
        assert!(futures::poll!(&mut read).is_pending(), "it reads all in one go");
        drop(sender);
        read.await;
    }
}
