//! The writer task: it checks expectations, assigns revisions, groups changes into commits, and publishes them.
//!
//! While a commit is in progress, the next one is prepared from the requests that arrive; it starts when the first has ended. Therefore a
//! single write is committed at once, and under load a commit contains all writes that arrived during the previous one, without a timer. A
//! prepared change becomes visible only after its commit succeeded. If a commit fails, the prepared changes after it fail too, and so do
//! all writes until the log is open again: see [`crate::repair`]. While the disk is full, writes that do not grow the store are still
//! accepted.

use crate::{
    Action, Batch, Bytes, Change, Entry, Error, Event, Expect, Log, LogError, Payload, Replay, Revision,
    map::Map,
    repair::{Commit, Found, Repair},
    request::{Answer, Request, Transaction, Write},
    state::Publisher,
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
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

/// Most changes in a commit. Other requests wait in the queue.
const MAX_CHANGES: usize = 1024;
/// Most value bytes in a commit, unless a single value is larger.
const MAX_BYTES: usize = 16 << 20;
/// The longest sleep, so that a changed wall clock is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// How often the space of a full disk is checked, and how long a commit that failed for lack of space overrides the result of such a check.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// By how many bytes an object may grow on a full disk: a deletion first sets a field of the object, and then its status changes.
const MAX_GROWTH: usize = 1024;

/// A commit that is being prepared.
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
        self.changes.len() < MAX_CHANGES && self.answers.len() < MAX_CHANGES && self.bytes < MAX_BYTES
    }
}

/// A change that can be made.
struct Planned<T> {
    change: Change,
    before: Option<Arc<Entry<T>>>,
    after: Option<Arc<Entry<T>>>,
}

fn removal<T>(last: Arc<Entry<T>>, revision: Revision) -> Planned<T> {
    let change = Change { key: last.key.clone(), revision, action: Action::Delete };
    Planned { change, before: Some(last), after: None }
}

/// A commit in progress, followed by a check of the free space.
type InFlight<T> = (BoxFuture<'static, (Result<(), LogError>, Result<(), LogError>)>, Commit<T>);

/// The events that wake the writer.
enum WakeReason<T> {
    Committed(Commit<T>, Result<(), LogError>, Result<(), LogError>),
    Reopened(Result<Replay, LogError>),
    RoomChecked(Result<(), LogError>),
}

pub(crate) struct Sequencer<T> {
    publisher: Publisher<T>,
    log: Arc<dyn Log>,
    requests: mpsc::Receiver<Request<T>>,
    /// The state and revision after all prepared changes.
    map: Map<T>,
    revision: Revision,
    prepared: Prepared<T>,
    in_flight: Option<InFlight<T>>,
    /// The log is not open, because a commit failed.
    repair: Option<Repair<T>>,
    /// The disk is full: the time of the next check, and the check in progress.
    disk_full: Option<Instant>,
    space_check: Option<BoxFuture<'static, Result<(), LogError>>>,
    /// The expiry times of exactly the entries of `map` that have one.
    expiries: BTreeSet<(NonZeroU64, Arc<str>)>,
    closing: Option<oneshot::Sender<Result<(), LogError>>>,
}

impl<T: Payload> Sequencer<T> {
    /// Creates the sequencer of a log whose content is in the publisher.
    pub(crate) fn new(publisher: Publisher<T>, log: Arc<dyn Log>, requests: mpsc::Receiver<Request<T>>) -> Self {
        let (revision, map) = publisher.state.newest();
        let expiries = expiries(&map);
        Self {
            publisher,
            log,
            requests,
            map,
            revision,
            prepared: Prepared::new(),
            in_flight: None,
            repair: None,
            disk_full: None,
            // The disk may be full at the start.
            space_check: None,
            expiries,
            closing: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut arrived = Vec::new();
        let mut open = true;
        self.on_space_checked(self.log.check_space().await);
        while open || self.in_flight.is_some() || !self.prepared.answers.is_empty() || !self.prepared.changes.is_empty()
        {
            let room = open && self.prepared.has_room();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                woken = woken(&mut self.in_flight, &mut self.repair, &mut self.space_check) => {
                    self.wake(woken);
                    self.publisher.tell().await;
                    // yields, so that callers which were just answered can add their next write to this commit
                    tokio::task::yield_now().await;
                    while self.prepared.has_room() && let Ok(request) = self.requests.try_recv() {
                        self.take(request);
                    }
                }
                count = self.requests.recv_many(&mut arrived, MAX_CHANGES), if room => {
                    open = count > 0;
                    for request in arrived.drain(..) {
                        self.take(request);
                    }
                }
                () = sleep_until(wake), if room => {} // the loop does the work that is due
            }
            self.begin_repair_or_check();
            if open {
                self.expire();
            }
            self.start_commit();
        }
        if let Some(repair) = self.repair.take() {
            self.unknown(repair.lost.answers);
        }
        let result = self.log.close().await;
        if let Some(reply) = self.closing.take() {
            drop(reply.send(result));
        } else if let Err(error) = result {
            tracing::warn!(%error, "closing the log failed");
        }
    }

    fn wake(&mut self, woken: WakeReason<T>) {
        match woken {
            WakeReason::Committed(commit, Ok(()), room) => {
                self.publish(commit);
                self.on_space_checked(room);
            }
            WakeReason::Committed(commit, Err(error), _) => self.commit_failed(commit, error),
            WakeReason::Reopened(result) => self.reopened(result),
            WakeReason::RoomChecked(room) => self.on_space_checked(room),
        }
    }

    /// Removes expired history. Returns when there is more work without a request: an expiry of an entry or of history.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let expiry = self.expiries.first().filter(|_| self.repair.is_none()).map(|(at, _)| {
            now + Duration::from_millis(at.get().saturating_sub(self.publisher.state.options.clock.millis()))
        });
        let old = self.publisher.state.history.lock().prune(now, &self.publisher.state.options);
        let try_again = self.repair.as_ref().filter(|repair| repair.work.is_none()).map(|repair| repair.next);
        let look = self.disk_full.filter(|_| self.space_check.is_none());
        let longest = now + MAX_SLEEP;
        [expiry, old, try_again, look].into_iter().flatten().fold(longest, Instant::min)
    }

    fn take(&mut self, request: Request<T>) {
        match request {
            Request::Write(transaction, reply) => match self.write(transaction) {
                Err(error @ (Error::ReadOnly { .. } | Error::Full { .. })) => drop(reply.send(Err(error))),
                result => self.prepared.answers.push(Answer { reply, result }),
            },
            Request::Close(reply) => {
                self.requests.close(); // what is queued is still received, then nothing
                self.closing = Some(reply);
            }
        }
    }

    /// Makes all changes of a transaction, or none.
    fn write(&mut self, Transaction { write, with }: Transaction) -> Result<Event<T>, Error<T>> {
        let mut revision = self.revision + 1 + with.len() as Revision;
        let main = self.plan(write, revision)?;
        let mut others = Vec::with_capacity(with.len());
        revision = self.revision;
        for write in with {
            revision += 1;
            let key = write.key.clone();
            others.push(self.plan(write, revision).map_err(|error| match error {
                Error::Conflict { actual } => Error::OtherConflict { key, actual },
                other => other,
            })?);
        }
        for other in others {
            self.change(other);
        }
        Ok(self.change(main))
    }

    /// The change that a write makes at a revision, if its expectation holds.
    fn plan(&self, write: Write, revision: Revision) -> Result<Planned<T>, Error<T>> {
        let Write { key, expect, value, ttl } = write;
        let before = self.check(&key, expect)?;
        match value {
            Some(value) => self.put(key, before, value, ttl, revision),
            None => before.map(|last| removal(last, revision)).ok_or(Error::Conflict { actual: None }),
        }
    }

    fn put(
        &self,
        key: Arc<str>,
        before: Option<Arc<Entry<T>>>,
        value: Bytes,
        ttl: Option<Duration>,
        revision: Revision,
    ) -> Result<Planned<T>, Error<T>> {
        if self.disk_full.is_some()
            && before.as_ref().is_none_or(|before| value.len() > before.stored.len() + MAX_GROWTH)
            && let Some(cause) = self.publisher.state.failure()
        {
            return Err(Error::Full { cause });
        }
        let payload = catch_unwind(AssertUnwindSafe(|| T::publish(&key, revision, value.clone())))
            .map_err(|_| Error::Invalid("the value cannot be published"))?;
        let expires = ttl.and_then(|ttl| {
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            NonZeroU64::new(self.publisher.state.options.clock.millis().saturating_add(ttl))
        });
        let key = before.as_ref().map_or(key, |before| before.key.clone());
        let created = before.as_ref().map_or(revision, |before| before.created);
        let entry = Arc::new(Entry { key: key.clone(), revision, created, expires, stored: value.clone(), payload });
        let change = Change { key, revision, action: Action::Put { created, expires, value } };
        Ok(Planned { change, before, after: Some(entry) })
    }

    /// The entry that a write replaces, if the expectation holds.
    fn check(&self, key: &str, expect: Expect) -> Result<Option<Arc<Entry<T>>>, Error<T>> {
        if self.repair.is_some()
            && let Some(cause) = self.publisher.state.failure()
        {
            return Err(Error::ReadOnly { cause });
        }
        let actual = self.map.get(key).cloned();
        let revision = actual.as_ref().map(|entry| entry.revision);
        let expected = match expect {
            Expect::Absent => None,
            Expect::At(revision) => Some(revision),
        };
        if revision == expected { Ok(actual) } else { Err(Error::Conflict { actual }) }
    }

    fn change(&mut self, Planned { change, before, after }: Planned<T>) -> Event<T> {
        self.revision = change.revision;
        if let Some(before) = &before
            && let Some(at) = before.expires
        {
            self.expiries.remove(&(at, before.key.clone()));
        }
        match &after {
            None => drop(self.map.remove(&change.key)),
            Some(entry) => {
                self.prepared.bytes += entry.stored.len();
                self.map.insert(entry.clone());
                if let Some(at) = entry.expires {
                    self.expiries.insert((at, entry.key.clone()));
                }
            }
        }
        let event = Event { revision: change.revision, before, after };
        self.prepared.events.push(event.clone());
        self.prepared.changes.push(change);
        event
    }

    /// Deletes expired entries, as many as fit into the current commit.
    fn expire(&mut self) {
        if self.repair.is_some() {
            return;
        }
        let now = self.publisher.state.options.clock.millis();
        while self.prepared.has_room()
            && let Some((at, key)) = self.expiries.first()
            && at.get() <= now
        {
            let last = self.map.get(key).expect("an expiry belongs to an entry").clone();
            self.change(removal(last, self.revision + 1));
        }
    }

    /// Starts the next commit if none is in progress.
    fn start_commit(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let Prepared { changes, events, answers, .. } = std::mem::replace(&mut self.prepared, Prepared::new());
        if changes.is_empty() {
            answers.into_iter().for_each(Answer::send); // refused writes only: what they refer to is published
            return;
        }
        let (log, batch) = (self.log.clone(), Batch { revision: self.revision, changes });
        let work = async move {
            let committed = log.commit(batch).await;
            let room = if committed.is_ok() { log.check_space().await } else { Ok(()) };
            (committed, room)
        };
        let commit = Commit { revision: self.revision, map: self.map.clone(), events, answers };
        self.in_flight = Some((Box::pin(work), commit));
    }

    /// Publishes a durable commit.
    fn publish(&mut self, commit: Commit<T>) {
        self.publisher.publish(commit.revision, commit.map, commit.events);
        commit.answers.into_iter().for_each(Answer::send);
    }

    /// Handles a failed commit: later prepared commits are dropped, and the log is read to learn whether the failed one is durable.
    fn commit_failed(&mut self, commit: Commit<T>, error: LogError) {
        tracing::error!(%error, "a commit failed: the store is read-only until its file could be opened again");
        let cause = Arc::new(error);
        self.publisher.state.failure.send_replace(Some(cause.clone()));
        let prepared = std::mem::replace(&mut self.prepared, Prepared::new());
        prepared.answers.into_iter().for_each(|answer| answer.fail(Error::ReadOnly { cause: cause.clone() }));
        (self.disk_full, self.space_check) = (None, None);
        self.repair = Some(Repair::new(commit));
    }

    /// Opens the log again, or checks the space of a full disk, if that is due.
    fn begin_repair_or_check(&mut self) {
        let now = Instant::now();
        if let Some(repair) = self.repair.as_mut().filter(|repair| repair.work.is_none() && repair.next <= now) {
            let log = self.log.clone();
            repair.work = Some(Box::pin(async move { log.reopen().await }));
        }
        if self.disk_full.is_some_and(|at| at <= now) && self.space_check.is_none() && self.in_flight.is_none() {
            let log = self.log.clone();
            self.space_check = Some(Box::pin(async move { log.check_space().await }));
        }
    }

    /// Handles the result of opening the log again.
    fn reopened(&mut self, result: Result<Replay, LogError>) {
        let Some(mut repair) = self.repair.take() else { return };
        let (revision, map) = self.publisher.state.newest();
        match result.and_then(|replay| repair.find_commit(&replay, revision, &map)) {
            Ok(found) => self.recovered(repair.lost, found, revision, map),
            Err(error) => {
                tracing::error!(%error, "the store's file cannot be opened again yet");
                self.unknown(std::mem::take(&mut repair.lost.answers));
                repair.wait();
                self.repair = Some(repair);
            }
        }
    }

    fn recovered(&mut self, lost: Commit<T>, found: Found, revision: Revision, map: Map<T>) {
        let Some(cause) = self.publisher.state.failure() else { return };
        tracing::warn!(?found, %cause, "the store's file is open again after a failed commit");
        let full = matches!(*cause, LogError::Full(_));
        (self.map, self.revision) = (map, revision);
        match found {
            Found::Stored => {
                (self.map, self.revision) = (lost.map.clone(), lost.revision);
                self.publish(lost);
            }
            Found::Absent => lost.answers.into_iter().for_each(|answer| {
                let cause = cause.clone();
                answer.fail(if full { Error::Full { cause } } else { Error::ReadOnly { cause } });
            }),
        }
        self.expiries = expiries(&self.map);
        if full {
            self.disk_full = Some(Instant::now() + SPACE_CHECK_INTERVAL);
        } else {
            self.publisher.state.failure.send_replace(None);
        }
    }

    /// Handles the result of a check of the free space.
    fn on_space_checked(&mut self, room: Result<(), LogError>) {
        match room {
            Ok(()) if self.disk_full.is_none() => {}
            // A commit failed for lack of space a moment ago, which overrides the check.
            Ok(()) if self.space_check.is_none() && self.disk_full.is_some_and(|at| at > Instant::now()) => {}
            Ok(()) => {
                tracing::warn!("the store's disk has room again");
                self.disk_full = None;
                self.publisher.state.failure.send_replace(None);
            }
            Err(error) => {
                if self.disk_full.is_none() {
                    tracing::error!(%error, "the store's disk is full: it takes only what makes it no larger");
                    self.publisher.state.failure.send_replace(Some(Arc::new(error)));
                }
                self.disk_full = Some(Instant::now() + SPACE_CHECK_INTERVAL);
            }
        }
        self.space_check = None;
    }

    fn unknown(&self, answers: Vec<Answer<T>>) {
        let Some(cause) = self.publisher.state.failure() else { return };
        answers.into_iter().for_each(|answer| answer.fail(Error::Unknown { cause: cause.clone() }));
    }
}

fn expiries<T>(map: &Map<T>) -> BTreeSet<(NonZeroU64, Arc<str>)> {
    map.iter_from(|_| false).filter_map(|entry| Some((entry.expires?, entry.key.clone()))).collect()
}

/// Waits for the commit in progress.
async fn woken<T>(
    in_flight: &mut Option<InFlight<T>>,
    repair: &mut Option<Repair<T>>,
    space_check: &mut Option<BoxFuture<'static, Result<(), LogError>>>,
) -> WakeReason<T> {
    if let Some((work, _)) = in_flight {
        let (committed, room) = work.as_mut().await;
        let (_, commit) = in_flight.take().expect("it was there");
        return WakeReason::Committed(commit, committed, room);
    }
    if let Some(work) = repair.as_mut().and_then(|repair| repair.work.as_mut()) {
        let result = work.as_mut().await;
        if let Some(repair) = repair {
            repair.work = None;
        }
        return WakeReason::Reopened(result);
    }
    match space_check {
        Some(check) => WakeReason::RoomChecked(check.as_mut().await),
        None => std::future::pending().await,
    }
}
