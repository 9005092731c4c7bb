//! The one task that writes: it checks expectations, numbers changes, folds them into commits, and publishes.
//!
//! While one commit is on its way to the disk the next one is prepared from what arrives; it starts when the first has
//! ended. So a lone write is committed at once, and under load a commit carries whatever queued during the last one,
//! without a timer. A prepared change becomes visible only when its commit has ended well. If a commit fails, it and
//! all later writes fail.

use crate::{
    Action, Batch, Bytes, Change, Entry, Error, Event, Expect, Log, LogError, Payload, Revision, map::Map,
    store::Shared,
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

/// Most changes in one commit; the rest waits in the queue.
const MOST_CHANGES: usize = 1024;
/// Most value bytes in one commit, unless a single value is larger.
const MOST_BYTES: usize = 16 << 20;
/// Longest sleep, so that a wall clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

type PutReply<T> = oneshot::Sender<Result<Arc<Entry<T>>, Error<T>>>;
type DeleteReply<T> = oneshot::Sender<Result<(Revision, Arc<Entry<T>>), Error<T>>>;

pub(crate) enum Request<T> {
    Put { key: Arc<str>, expect: Expect, value: Bytes, ttl: Option<Duration>, reply: PutReply<T> },
    Delete { key: Arc<str>, expect: Expect, reply: DeleteReply<T> },
    Close { reply: oneshot::Sender<Result<(), LogError>> },
}

/// An answer that is sent when everything it tells of is durable and published.
enum Answer<T> {
    Put(PutReply<T>, Result<Arc<Entry<T>>, Error<T>>),
    Delete(DeleteReply<T>, Result<(Revision, Arc<Entry<T>>), Error<T>>),
}

impl<T> Answer<T> {
    fn send(self) {
        // A caller that no longer waits has dropped its end.
        match self {
            Answer::Put(reply, result) => drop(reply.send(result)),
            Answer::Delete(reply, result) => drop(reply.send(result)),
        }
    }

    fn fail(self, cause: &Arc<LogError>) {
        let error = Error::ReadOnly { cause: cause.clone() };
        match self {
            Answer::Put(reply, _) => drop(reply.send(Err(error))),
            Answer::Delete(reply, _) => drop(reply.send(Err(error))),
        }
    }
}

/// A commit in the making.
struct Prepared<T> {
    changes: Vec<Change>,
    events: Vec<Event<T>>,
    answers: Vec<Answer<T>>,
    bytes: usize,
}

impl<T> Prepared<T> {
    fn new() -> Self {
        Self { changes: Vec::new(), events: Vec::new(), answers: Vec::new(), bytes: 0 }
    }

    fn has_room(&self) -> bool {
        self.changes.len() < MOST_CHANGES && self.answers.len() < MOST_CHANGES && self.bytes < MOST_BYTES
    }
}

/// A commit on its way to the disk.
struct Flying<T> {
    commit: BoxFuture<'static, Result<(), LogError>>,
    revision: Revision,
    map: Map<T>,
    events: Vec<Event<T>>,
    answers: Vec<Answer<T>>,
}

pub(crate) struct Writer<T: Payload> {
    shared: Arc<Shared<T>>,
    log: Arc<dyn Log>,
    requests: mpsc::Receiver<Request<T>>,
    publish: watch::Sender<Revision>,
    /// The state and revision after everything prepared.
    map: Map<T>,
    revision: Revision,
    prepared: Prepared<T>,
    flying: Option<Flying<T>>,
    /// When which key expires, for exactly the entries of `map` that do.
    expiries: BTreeSet<(NonZeroU64, Arc<str>)>,
    closing: Option<oneshot::Sender<Result<(), LogError>>>,
}

impl<T: Payload> Drop for Writer<T> {
    fn drop(&mut self) {
        self.shared.history.lock().close();
    }
}

impl<T: Payload> Writer<T> {
    pub(crate) fn new(
        shared: Arc<Shared<T>>,
        log: Arc<dyn Log>,
        requests: mpsc::Receiver<Request<T>>,
        publish: watch::Sender<Revision>,
        revision: Revision,
        map: Map<T>,
    ) -> Self {
        let expiring = map.iter_from(|_| false).filter_map(|entry| Some((entry.expires?, entry.key.clone())));
        let expiries = expiring.collect();
        let (prepared, flying, closing) = (Prepared::new(), None, None);
        Self { shared, log, requests, publish, map, revision, prepared, flying, expiries, closing }
    }

    pub(crate) async fn run(mut self) {
        let mut arrived = Vec::new();
        let mut open = true;
        while open || self.flying.is_some() || !self.prepared.answers.is_empty() || !self.prepared.changes.is_empty() {
            let room = open && self.prepared.has_room();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                result = async {
                    match &mut self.flying {
                        Some(flying) => flying.commit.as_mut().await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.landed(result);
                    // Who has just been answered may have more to write: let it join this commit, not the one after.
                    tokio::task::yield_now().await;
                    while self.prepared.has_room() && let Ok(request) = self.requests.try_recv() {
                        self.take(request);
                    }
                }
                count = self.requests.recv_many(&mut arrived, MOST_CHANGES), if room => {
                    open = count > 0;
                    for request in arrived.drain(..) {
                        self.take(request);
                    }
                }
                () = sleep_until(wake), if room => {} // what is due is done below
            }
            if open {
                self.expire();
            }
            self.launch();
        }
        let result = self.log.close().await;
        if let Some(reply) = self.closing.take() {
            drop(reply.send(result));
        } else if let Err(error) = result {
            tracing::warn!(%error, "closing the log failed");
        }
    }

    /// Forgets old history. Returns when something is to be done although nobody asks: an expiry, or more to forget.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let expiry =
            self.expiries.first().filter(|_| self.shared.failure.get().is_none()).map(|(at, _)| {
                now + Duration::from_millis(at.get().saturating_sub(self.shared.options.clock.millis()))
            });
        let old = self.shared.history.lock().prune(now, &self.shared.options);
        let longest = now + LONGEST_SLEEP;
        [expiry, old].into_iter().flatten().fold(longest, Instant::min)
    }

    fn take(&mut self, request: Request<T>) {
        match request {
            Request::Put { key, expect, value, ttl, reply } => match self.put(key, expect, value, ttl) {
                Err(Error::ReadOnly { cause }) => drop(reply.send(Err(Error::ReadOnly { cause }))),
                result => self.prepared.answers.push(Answer::Put(reply, result)),
            },
            Request::Delete { key, expect, reply } => match self.delete(&key, expect) {
                Err(Error::ReadOnly { cause }) => drop(reply.send(Err(Error::ReadOnly { cause }))),
                result => self.prepared.answers.push(Answer::Delete(reply, result)),
            },
            Request::Close { reply } => {
                self.requests.close(); // what is queued is still received, then nothing
                self.closing = Some(reply);
            }
        }
    }

    fn put(
        &mut self,
        key: Arc<str>,
        expect: Expect,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Arc<Entry<T>>, Error<T>> {
        let before = self.check(&key, expect)?;
        let revision = self.revision + 1;
        let payload = catch_unwind(AssertUnwindSafe(|| T::publish(&key, revision, value.clone())))
            .map_err(|_| Error::Invalid("the value cannot be published"))?;
        let expires = ttl.and_then(|ttl| {
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            NonZeroU64::new(self.shared.options.clock.millis().saturating_add(ttl))
        });
        let key = before.as_ref().map_or(key, |before| before.key.clone());
        let created = before.as_ref().map_or(revision, |before| before.created);
        let entry = Arc::new(Entry { key: key.clone(), revision, created, expires, stored: value.clone(), payload });
        self.prepared.bytes += value.len();
        self.change(
            Change { key, revision, action: Action::Put { created, expires, value } },
            before,
            Some(entry.clone()),
        );
        Ok(entry)
    }

    fn delete(&mut self, key: &str, expect: Expect) -> Result<(Revision, Arc<Entry<T>>), Error<T>> {
        match self.check(key, expect)? {
            None => Err(Error::Conflict { actual: None }),
            Some(last) => Ok((self.remove(last.clone()), last)),
        }
    }

    fn remove(&mut self, last: Arc<Entry<T>>) -> Revision {
        let revision = self.revision + 1;
        self.change(Change { key: last.key.clone(), revision, action: Action::Delete }, Some(last), None);
        revision
    }

    /// The entry that a write replaces, if it is what the writer expects.
    fn check(&self, key: &str, expect: Expect) -> Result<Option<Arc<Entry<T>>>, Error<T>> {
        if let Some(cause) = self.shared.failure.get() {
            return Err(Error::ReadOnly { cause: cause.clone() });
        }
        let actual = self.map.get(key).cloned();
        let revision = actual.as_ref().map(|entry| entry.revision);
        let expected = match expect {
            Expect::Absent => None,
            Expect::At(revision) => Some(revision),
        };
        if revision == expected { Ok(actual) } else { Err(Error::Conflict { actual }) }
    }

    fn change(&mut self, change: Change, before: Option<Arc<Entry<T>>>, after: Option<Arc<Entry<T>>>) {
        self.revision = change.revision;
        if let Some(before) = &before
            && let Some(at) = before.expires
        {
            self.expiries.remove(&(at, before.key.clone()));
        }
        match &after {
            None => drop(self.map.remove(&change.key)),
            Some(entry) => {
                self.map.insert(entry.clone());
                if let Some(at) = entry.expires {
                    self.expiries.insert((at, entry.key.clone()));
                }
            }
        }
        self.prepared.events.push(Event { revision: change.revision, before, after });
        self.prepared.changes.push(change);
    }

    /// Deletes what has expired, as far as the commit in the making has room.
    fn expire(&mut self) {
        if self.shared.failure.get().is_some() {
            return;
        }
        let now = self.shared.options.clock.millis();
        while self.prepared.has_room()
            && let Some((at, key)) = self.expiries.first()
            && at.get() <= now
        {
            let last = self.map.get(key).expect("an expiry belongs to an entry").clone();
            self.remove(last);
        }
    }

    /// Starts the next commit if none is under way.
    fn launch(&mut self) {
        if self.flying.is_some() {
            return;
        }
        let Prepared { changes, events, answers, .. } = std::mem::replace(&mut self.prepared, Prepared::new());
        if changes.is_empty() {
            answers.into_iter().for_each(Answer::send); // refusals only: what they tell is published
            return;
        }
        let (log, batch) = (self.log.clone(), Batch { revision: self.revision, changes });
        let commit = Box::pin(async move { log.commit(batch).await });
        self.flying = Some(Flying { commit, revision: self.revision, map: self.map.clone(), events, answers });
    }

    /// A commit has ended: publishes it, or gives up writing.
    fn landed(&mut self, result: Result<(), LogError>) {
        let Some(Flying { revision, map, events, answers, .. }) = self.flying.take() else { return };
        match result {
            Ok(()) => {
                self.shared.publish(revision, map, events);
                self.publish.send_replace(revision);
                answers.into_iter().for_each(Answer::send);
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed, the store is read-only");
                let cause = self.shared.failure.get_or_init(|| Arc::new(error)).clone();
                let prepared = std::mem::replace(&mut self.prepared, Prepared::new());
                answers.into_iter().chain(prepared.answers).for_each(|answer| answer.fail(&cause));
            }
        }
    }
}
