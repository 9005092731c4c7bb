//! The handle: reads from memory, writes through the writer task.

use crate::{
    Bytes, Changes, Clock, Entry, Error, Event, Expect, Log, LogError, Payload, Record, Revision, Watch,
    history::History,
    map::{Iter, Map},
    watch::{FanOut, Newcomers},
    writer::{Request, Writer},
};
use parking_lot::{Mutex, RwLock};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// Writes that may wait for the writer task; a further one waits for room in the call.
const WAITING: usize = 1024;
/// Longest key, bytes.
const LONGEST_KEY: usize = 4096;

/// Limits and the clock of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long past revisions can be listed and watched.
    pub history: Duration,
    /// How many events history keeps at most, whatever their age.
    pub ring: usize,
    /// How many bytes of replaced and deleted values history keeps at most.
    pub history_bytes: usize,
    /// How many events may wait in one watch before it is cut.
    pub watch_queue: usize,
    /// Wall-clock time, for expiry.
    pub clock: Clock,
}

impl Options {
    /// Five minutes, 100,000 events, 64 MiB of history; 8,192 events per watch.
    pub fn new(clock: Clock) -> Self {
        Self { history: Duration::from_secs(300), ring: 100_000, history_bytes: 64 << 20, watch_queue: 8192, clock }
    }
}

/// The store. A clone is the same store. Once the last one is dropped the writer ends what is queued and stops.
pub struct Store<T: Payload> {
    shared: Arc<Shared<T>>,
    requests: mpsc::Sender<Request<T>>,
    published: watch::Receiver<Revision>,
    delivered: watch::Receiver<Revision>,
}

impl<T: Payload> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            requests: self.requests.clone(),
            published: self.published.clone(),
            delivered: self.delivered.clone(),
        }
    }
}

impl<T: Payload> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// What readers and the writer share. Lock order: `history`, then `head`, then `changes`.
pub(crate) struct Shared<T> {
    /// The newest published state.
    pub(crate) head: RwLock<Head<T>>,
    pub(crate) history: Mutex<History<T>>,
    pub(crate) changes: Mutex<Vec<Changes>>,
    /// Why the store does not take every write at the moment.
    pub(crate) failure: watch::Sender<Option<Arc<LogError>>>,
    pub(crate) options: Options,
}

pub(crate) struct Head<T> {
    pub(crate) revision: Revision,
    pub(crate) map: Map<T>,
}

impl<T: Payload> Store<T> {
    /// Reads the log and starts the writer task on the current tokio runtime.
    pub async fn open(log: impl Log, options: Options) -> Result<Self, Error<T>> {
        let log: Arc<dyn Log> = Arc::new(log);
        let replay = log.replay().await?;
        let revision = replay.revision;
        let build = move || replay.records.into_iter().map(entry::<T>).collect::<Map<T>>();
        let map = match tokio::task::spawn_blocking(build).await {
            Ok(map) => map,
            Err(error) => return Err(LogError::Corrupt(format!("a record cannot be understood: {error}")).into()),
        };
        tracing::debug!(revision, entries = map.len(), "store opened");
        let newcomers = Newcomers::new();
        let shared = Arc::new(Shared {
            head: RwLock::new(Head { revision, map: map.clone() }),
            history: Mutex::new(History::new(revision, map.clone(), newcomers.clone())),
            changes: Mutex::default(),
            failure: watch::Sender::new(None),
            options,
        });
        let (requests, queue) = mpsc::channel(WAITING);
        let (publish, published) = watch::channel(revision);
        let (told, delivered) = watch::channel(revision);
        let (commits, fan_out) = FanOut::new(newcomers, told);
        tokio::spawn(fan_out.run());
        tokio::spawn(Writer::new(shared.clone(), log, queue, (publish, commits), revision, map).run());
        Ok(Self { shared, requests, published, delivered })
    }

    /// The newest published revision.
    pub fn revision(&self) -> Revision {
        self.shared.head.read().revision
    }

    /// The newest published entry of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry<T>>> {
        self.shared.head.read().map.get(key).cloned()
    }

    /// The state at a revision, the newest by default: O(1) for the newest, about a millisecond at worst for an older one.
    pub fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot<T>, Error<T>> {
        {
            let head = self.shared.head.read();
            let newest = Snapshot { revision: head.revision, map: head.map.clone() };
            match at {
                None => return Ok(newest),
                Some(revision) if revision == newest.revision => return Ok(newest),
                Some(_) => {}
            }
        }
        let revision = at.expect("the newest has been returned above");
        let past = self.shared.history.lock().at(revision)?;
        Ok(Snapshot { revision, map: past.rebuild() })
    }

    /// Creates or replaces a key. When it returns `Ok`, the write is durable and published. With `ttl`, the key is
    /// deleted that long after now (within a second or so), unless it is put again before. If the caller stops waiting,
    /// the write may still happen.
    pub async fn put(
        &self,
        key: &str,
        expect: Expect,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry<T>>, Error<T>> {
        if key.is_empty() {
            return Err(Error::Invalid("the key is empty"));
        }
        if key.len() > LONGEST_KEY {
            return Err(Error::Invalid("the key is longer than 4096 bytes"));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Request::Put { key: key.into(), expect, value, ttl, reply }).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Deletes a key. Answers with the revision of the deletion and the last state. `Expect::Absent` always conflicts.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Arc<Entry<T>>), Error<T>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Delete { key: key.into(), expect, reply }).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// The events under `prefix` after `since`.
    pub fn watch(&self, prefix: &str, since: Revision) -> Result<Watch<T>, Error<T>> {
        self.shared.history.lock().watch(prefix, since, self.shared.options.watch_queue)
    }

    /// When something under `prefix` changes, from now on.
    pub fn changes(&self, prefix: &str) -> Changes {
        let mut all = self.shared.changes.lock();
        all.retain(Changes::is_used);
        let changes = Changes::new(prefix, self.revision());
        all.push(changes.clone());
        changes
    }

    /// Waits until `revision` is published.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Error<T>> {
        let mut published = self.published.clone();
        let done = published.wait_for(|now| *now >= revision).await;
        done.map(drop).map_err(|_| Error::Closed)
    }

    /// Waits until the watches have been told of everything up to `revision`.
    pub async fn wait_until_delivered(&self, revision: Revision) -> Result<(), Error<T>> {
        let mut delivered = self.delivered.clone();
        let done = delivered.wait_for(|now| *now >= revision).await;
        done.map(drop).map_err(|_| Error::Closed)
    }

    /// Forgets history up to and with `revision`: snapshots and watches can no longer start before it.
    pub fn compact(&self, revision: Revision) {
        self.shared.history.lock().compact(revision);
    }

    /// Why the store does not take every write at the moment; `None` if it does.
    pub fn failure(&self) -> Option<Arc<LogError>> {
        self.shared.failure()
    }

    /// The same, to wait for changes of it.
    pub fn failures(&self) -> watch::Receiver<Option<Arc<LogError>>> {
        self.shared.failure.subscribe()
    }

    /// Resolves when the writer has ended: after [`Store::close`], or because of a fault in it. Nothing can be written any more.
    pub async fn ended(&self) {
        let _ = self.published.clone().wait_for(|_| false).await;
    }

    /// Ends what is queued, gives back the log's files and ends all watches. Later writes fail with [`Error::Closed`];
    /// reads of what is in memory still work.
    pub async fn close(self) -> Result<(), Error<T>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Close { reply }).await?;
        answer.await.unwrap_or(Err(LogError::Closed)).map_err(Error::Log)
    }

    async fn send(&self, request: Request<T>) -> Result<(), Error<T>> {
        self.requests.send(request).await.map_err(|_| Error::Closed)
    }
}

fn entry<T: Payload>(record: Record) -> Arc<Entry<T>> {
    let Record { key, revision, created, expires, value } = record;
    let payload = T::publish(&key, revision, value.clone());
    Arc::new(Entry { key, revision, created, expires, stored: value, payload })
}

/// The state at one revision. Holding one keeps the entries of that time in memory.
pub struct Snapshot<T> {
    revision: Revision,
    map: Map<T>,
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, map: self.map.clone() }
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} entries at {})", self.map.len(), self.revision)
    }
}

impl<T> Snapshot<T> {
    /// The revision of this state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry<T>>> {
        self.map.get(key)
    }

    /// The entries under `prefix` in the order of their keys, those after the whole key `start_after` if given.
    pub fn range<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Range<'a, T> {
        let before = |key: &str| key < prefix || start_after.is_some_and(|start| key <= start);
        Range { entries: self.map.iter_from(before), prefix }
    }

    /// How many entries are under `prefix`: O(log n).
    pub fn count(&self, prefix: &str) -> usize {
        self.map.count(prefix)
    }

    /// How many entries are under `prefix` after the whole key `start_after`: O(log n).
    pub fn count_after(&self, prefix: &str, start_after: &str) -> usize {
        let end = self.map.rank(|key| key < prefix || key.starts_with(prefix));
        end.saturating_sub(self.map.rank(|key| key < prefix || key <= start_after))
    }
}

/// See [`Snapshot::range`].
pub struct Range<'a, T> {
    entries: Iter<'a, T>,
    prefix: &'a str,
}

impl<'a, T> Iterator for Range<'a, T> {
    type Item = &'a Arc<Entry<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().filter(|entry| entry.key.starts_with(self.prefix))
    }
}

impl<T> Shared<T> {
    pub(crate) fn failure(&self) -> Option<Arc<LogError>> {
        self.failure.borrow().clone()
    }

    /// Makes a commit visible to readers.
    pub(crate) fn publish(&self, revision: Revision, map: Map<T>, events: Vec<Event<T>>) {
        let now = tokio::time::Instant::now();
        let mut history = self.history.lock();
        let before = std::mem::replace(&mut *self.head.write(), Head { revision, map: map.clone() });
        // After the state is there to be read, and before the writer answers.
        self.changes.lock().iter().for_each(|changes| changes.note(revision, &events));
        history.append(now, events, revision, map);
        history.prune(now, &self.options);
        drop(history);
        drop(before);
    }
}
