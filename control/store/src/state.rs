//! The state that readers share, and the [`Publisher`], which alone makes changes visible.

use crate::{
    Changes, Entry, Error, Event, LogError, Options, Payload, Record, Replay, Revision,
    history::History,
    map::Map,
    watch::{FanOut, NewWatchers, Published},
};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// The state that readers and the publishing task share. Lock order: `history`, then `head`, then `changes`.
pub(crate) struct State<T> {
    /// The newest published state.
    pub(crate) head: RwLock<Head<T>>,
    pub(crate) history: Mutex<History<T>>,
    pub(crate) changes: Mutex<Vec<Changes>>,
    /// Why the store does not accept every write at the moment.
    pub(crate) failure: watch::Sender<Option<Arc<LogError>>>,
    pub(crate) options: Options,
}

pub(crate) struct Head<T> {
    pub(crate) revision: Revision,
    pub(crate) map: Map<T>,
}

impl<T> State<T> {
    pub(crate) fn failure(&self) -> Option<Arc<LogError>> {
        self.failure.borrow().clone()
    }

    /// The newest published revision and its state.
    pub(crate) fn newest(&self) -> (Revision, Map<T>) {
        let head = self.head.read();
        (head.revision, head.map.clone())
    }

    fn publish(&self, revision: Revision, map: Map<T>, events: Vec<Event<T>>) {
        let now = Instant::now();
        let mut history = self.history.lock();
        let before = std::mem::replace(&mut *self.head.write(), Head { revision, map: map.clone() });
        // After the state is readable, and before the writer is answered.
        self.changes.lock().iter().for_each(|changes| changes.note(revision, &events));
        history.append(now, events, revision, map);
        history.prune(now, &self.options);
        drop(history);
        drop(before);
    }
}

/// Publishes changes in the order of their revisions. Dropping it closes all watches.
pub(crate) struct Publisher<T> {
    pub(crate) state: Arc<State<T>>,
    published: watch::Sender<Revision>,
    /// The task that delivers events to watches, and the commit that it receives next.
    commits: mpsc::Sender<Published<T>>,
    undelivered: Option<Published<T>>,
}

/// The newest revisions that are visible to readers and delivered to watches.
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) published: watch::Receiver<Revision>,
    pub(crate) delivered: watch::Receiver<Revision>,
}

impl<T: Payload> Publisher<T> {
    /// Creates a publisher with the content of a log.
    pub(crate) async fn new(replay: Replay, options: Options) -> Result<(Self, Progress), Error<T>> {
        let revision = replay.revision;
        let build = move || replay.records.into_iter().map(entry::<T>).collect::<Map<T>>();
        let map = match tokio::task::spawn_blocking(build).await {
            Ok(map) => map,
            Err(error) => return Err(LogError::Corrupt(format!("a record cannot be understood: {error}")).into()),
        };
        tracing::debug!(revision, entries = map.len(), "store opened");
        let newcomers = NewWatchers::new();
        let state = Arc::new(State {
            head: RwLock::new(Head { revision, map: map.clone() }),
            history: Mutex::new(History::new(revision, map, newcomers.clone())),
            changes: Mutex::default(),
            failure: watch::Sender::new(None),
            options,
        });
        let (publish, published) = watch::channel(revision);
        let (deliver, delivered) = watch::channel(revision);
        let (commits, fan_out) = FanOut::new(newcomers, deliver);
        tokio::spawn(fan_out.run());
        Ok((Self { state, published: publish, commits, undelivered: None }, Progress { published, delivered }))
    }
}

impl<T> Publisher<T> {
    /// Makes durable changes visible to readers. `map` is the state after them. Callers are answered afterwards.
    pub(crate) fn publish(&mut self, revision: Revision, map: Map<T>, events: Vec<Event<T>>) {
        self.undelivered = Some((revision, events.clone()));
        self.state.publish(revision, map, events);
        self.published.send_replace(revision);
    }

    /// Queues the published events for the watches. Called once after each [`Publisher::publish`]. Waits if too many commits are queued.
    pub(crate) async fn tell(&mut self) {
        if let Some(commit) = self.undelivered.take()
            && self.commits.send(commit).await.is_err()
        {
            tracing::error!("nobody hands events to the watches any more");
        }
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.state.history.lock().close();
    }
}

/// The entry of a record of the log.
pub(crate) fn entry<T: Payload>(record: Record) -> Arc<Entry<T>> {
    let Record { key, revision, created, expires, value } = record;
    let payload = T::publish(&key, revision, value.clone());
    Arc::new(Entry { key, revision, created, expires, stored: value, payload })
}
