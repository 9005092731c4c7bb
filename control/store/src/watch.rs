//! Watches: the events under a prefix, in order, to readers that keep up.

use crate::Event;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc;

/// The events under a prefix after a revision, each once and in order of revision.
///
/// Live events wait in a bounded queue. A watch whose queue is full is cut: it still yields what was queued, then `None`
/// for ever, and [`Watch::lagged`] is true. The reader then lists and watches anew. Nobody ever waits for a watch.
pub struct Watch<T> {
    /// Events that had happened when the watch began.
    past: VecDeque<Event<T>>,
    live: mpsc::Receiver<Event<T>>,
    lagged: Arc<AtomicBool>,
}

impl<T> Watch<T> {
    /// The next event; waits for it. `None` when the watch has been cut or the store is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<T>> {
        match self.past.pop_front() {
            Some(event) => Some(event),
            None => self.live.recv().await,
        }
    }

    /// The next event if there is one by now.
    pub fn try_next(&mut self) -> Option<Event<T>> {
        self.past.pop_front().or_else(|| self.live.try_recv().ok())
    }

    /// Whether the watch was cut because it was too slow.
    pub fn lagged(&self) -> bool {
        self.lagged.load(Ordering::Acquire)
    }
}

/// The store's end of a watch.
pub(crate) struct Watcher<T> {
    prefix: Box<str>,
    live: mpsc::Sender<Event<T>>,
    lagged: Arc<AtomicBool>,
}

impl<T> Watcher<T> {
    pub(crate) fn new(prefix: &str, past: VecDeque<Event<T>>, queue: usize) -> (Self, Watch<T>) {
        let (sender, live) = mpsc::channel(queue);
        let lagged = Arc::new(AtomicBool::new(false));
        (Self { prefix: prefix.into(), live: sender, lagged: lagged.clone() }, Watch { past, live, lagged })
    }

    pub(crate) fn deliver(&mut self, events: &[Event<T>]) {
        for event in events.iter().filter(|event| event.key().starts_with(&*self.prefix)) {
            match self.live.try_send(event.clone()) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(_)) => return self.lagged.store(true, Ordering::Release),
            }
        }
    }

    /// Whether anybody reads, and keeps up.
    pub(crate) fn alive(&self) -> bool {
        !self.live.is_closed() && !self.lagged.load(Ordering::Acquire)
    }
}
