//! The handle of a store. Reads are from memory, writes go through the task that makes changes.

use crate::{
    Bytes, Changes, Entry, Error, Event, Expect, Log, LogError, Options, Payload, Revision, Watch,
    map::{Iter, Map},
    request::{Request, Transaction, Write},
    sequencer::Sequencer,
    state::{Progress, Publisher, State},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// The maximum number of queued writes. Further calls wait.
const QUEUE: usize = 1024;
/// The maximum length of a key in bytes.
const MAX_KEY_BYTES: usize = 4096;

/// A store. Clones are the same store. When the last clone is dropped, the writer completes the queued requests and stops.
pub struct Store<T: Payload> {
    state: Arc<State<T>>,
    requests: mpsc::Sender<Request<T>>,
    progress: Progress,
}

impl<T: Payload> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), requests: self.requests.clone(), progress: self.progress.clone() }
    }
}

impl<T: Payload> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl<T: Payload> Store<T> {
    /// Reads an embedded log and starts its sequencer on the current tokio runtime.
    pub async fn open(log: impl Log, options: Options) -> Result<Self, Error<T>> {
        let log: Arc<dyn Log> = Arc::new(log);
        let (publisher, progress) = Publisher::new(log.replay().await?, options).await?;
        let state = publisher.state.clone();
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Sequencer::new(publisher, log, queue).run());
        Ok(Self { state, requests, progress })
    }

    /// Reads a shared log and starts its follower on the current tokio runtime.
    #[cfg(any(test, feature = "contract"))]
    pub async fn follow(log: impl crate::SharedLog, options: Options) -> Result<Self, Error<T>> {
        let (publisher, progress) = Publisher::new(log.read().await?, options).await?;
        let state = publisher.state.clone();
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(crate::follower::Follower::new(publisher, Arc::new(log), queue).run());
        Ok(Self { state, requests, progress })
    }

    /// The newest published revision.
    pub fn revision(&self) -> Revision {
        self.state.head.read().revision
    }

    /// The newest published entry of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry<T>>> {
        self.state.head.read().map.get(key).cloned()
    }

    /// The state at a revision, by default the newest. Takes O(1) for the newest, and at most about a millisecond for an older one.
    pub fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot<T>, Error<T>> {
        {
            let head = self.state.head.read();
            let newest = Snapshot { revision: head.revision, map: head.map.clone() };
            match at {
                None => return Ok(newest),
                Some(revision) if revision == newest.revision => return Ok(newest),
                Some(_) => {}
            }
        }
        let revision = at.expect("the newest has been returned above");
        let past = self.state.history.lock().at(revision)?;
        Ok(Snapshot { revision, map: past.rebuild() })
    }

    /// Creates or replaces a key. When it returns `Ok`, the write is durable and published. With `ttl`, the key is deleted after that time
    /// (within about a second), unless it is put again before. If the caller stops waiting, the write may still happen.
    pub async fn put(
        &self,
        key: &str,
        expect: Expect,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry<T>>, Error<T>> {
        self.put_with(key, expect, value, ttl, Vec::new()).await
    }

    /// The same, with other writes: all happen, or none ([`Error::OtherConflict`]).
    pub async fn put_with(
        &self,
        key: &str,
        expect: Expect,
        value: Bytes,
        ttl: Option<Duration>,
        with: Vec<Write>,
    ) -> Result<Arc<Entry<T>>, Error<T>> {
        let write = Write { key: key.into(), expect, value: Some(value), ttl };
        let event = self.write(Transaction { write, with }).await?;
        Ok(event.after.expect("a put leaves an entry"))
    }

    /// Deletes a key. Returns the event with the revision of the deletion and the last entry. `Expect::Absent` always conflicts.
    pub async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Arc<Entry<T>>), Error<T>> {
        self.delete_with(key, expect, Vec::new()).await
    }

    /// The same, with other writes: all happen, or none ([`Error::OtherConflict`]).
    pub async fn delete_with(
        &self,
        key: &str,
        expect: Expect,
        with: Vec<Write>,
    ) -> Result<(Revision, Arc<Entry<T>>), Error<T>> {
        let write = Write { key: key.into(), expect, value: None, ttl: None };
        let event = self.write(Transaction { write, with }).await?;
        Ok((event.revision, event.before.expect("what was deleted was there")))
    }

    async fn write(&self, transaction: Transaction) -> Result<Event<T>, Error<T>> {
        let mut keys = Vec::with_capacity(transaction.with.len() + 1);
        for Write { key, value, .. } in std::iter::once(&transaction.write).chain(&transaction.with) {
            if value.is_some() && key.is_empty() {
                return Err(Error::Invalid("the key is empty"));
            }
            if value.is_some() && key.len() > MAX_KEY_BYTES {
                return Err(Error::Invalid("the key is longer than 4096 bytes"));
            }
            if keys.contains(&key) {
                return Err(Error::Invalid("a key is written twice in one transaction"));
            }
            keys.push(key);
        }
        let (reply, answer) = oneshot::channel();
        self.send(Request::Write(transaction, reply)).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Watches the events under `prefix` after `since`.
    pub fn watch(&self, prefix: &str, since: Revision) -> Result<Watch<T>, Error<T>> {
        self.state.history.lock().watch(prefix, since, self.state.options.watch_queue)
    }

    /// The newest revision, and the events under `prefix` after `since` up to it, without a watch.
    pub fn events_since(&self, prefix: &str, since: Revision) -> Result<(Revision, Vec<Event<T>>), Error<T>> {
        self.state.history.lock().events_since(prefix, since)
    }

    /// Tracks the revision of the last change under `prefix`, from now on.
    pub fn changes(&self, prefix: &str) -> Changes {
        let mut all = self.state.changes.lock();
        all.retain(Changes::is_used);
        let changes = Changes::new(prefix, self.revision());
        all.push(changes.clone());
        changes
    }

    /// Waits until `revision` is published.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Error<T>> {
        let mut published = self.progress.published.clone();
        let done = published.wait_for(|now| *now >= revision).await;
        done.map(drop).map_err(|_| Error::Closed)
    }

    /// Waits until all events up to `revision` are delivered to the watches.
    pub async fn wait_until_delivered(&self, revision: Revision) -> Result<(), Error<T>> {
        let mut delivered = self.progress.delivered.clone();
        let done = delivered.wait_for(|now| *now >= revision).await;
        done.map(drop).map_err(|_| Error::Closed)
    }

    /// Removes the history up to and including `revision`. Snapshots and watches can no longer start before it.
    pub fn compact(&self, revision: Revision) {
        self.state.history.lock().compact(revision);
    }

    /// Why the store does not accept every write at the moment. `None` if it does.
    pub fn failure(&self) -> Option<Arc<LogError>> {
        self.state.failure()
    }

    /// A receiver of the changes of [`Store::failure`].
    pub fn failures(&self) -> watch::Receiver<Option<Arc<LogError>>> {
        self.state.failure.subscribe()
    }

    /// Resolves when the writer has ended, after [`Store::close`] or because of an internal error. Nothing can be written any more.
    pub async fn ended(&self) {
        let _ = self.progress.published.clone().wait_for(|_| false).await;
    }

    /// Completes queued writes, closes the log and all watches. Later writes fail with [`Error::Closed`], reads continue to work.
    pub async fn close(self) -> Result<(), Error<T>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Close(reply)).await?;
        answer.await.unwrap_or(Err(LogError::Closed)).map_err(Error::Log)
    }

    async fn send(&self, request: Request<T>) -> Result<(), Error<T>> {
        self.requests.send(request).await.map_err(|_| Error::Closed)
    }
}

/// The state at one revision. It keeps the entries of its revision in memory.
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

    /// The entries under `prefix` in key order, after the whole key `start_after` if given.
    pub fn range<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Range<'a, T> {
        let before = |key: &str| key < prefix || start_after.is_some_and(|start| key <= start);
        Range { entries: self.map.iter_from(before), prefix }
    }

    /// The number of entries under `prefix`. Takes O(log n).
    pub fn count(&self, prefix: &str) -> usize {
        self.map.count(prefix)
    }

    /// The number of entries under `prefix` after the whole key `start_after`. Takes O(log n).
    pub fn count_after(&self, prefix: &str, start_after: &str) -> usize {
        let end = self.map.rank(|key| key < prefix || key.starts_with(prefix));
        end.saturating_sub(self.map.rank(|key| key < prefix || key <= start_after))
    }
}

/// The iterator of [`Snapshot::range`].
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
