//! The task of a store over a [`SharedLog`]. Each write is a conditional transaction of the log, and the store follows the log's changes,
//! whoever made them. A write is answered when the store has reached its revision, so that callers read their own writes.
//!
//! While the changes cannot be read, the state stays as it is and no write is started, because it could not be answered.

use crate::{
    Action, Batch, Change, Entry, Error, Event, Expect, LogError, Payload, Record, Revision, Transaction,
    log::shared::{Outcome, SharedLog},
    map::Map,
    request::{Answer, Reply, Request},
    state::{Publisher, entry},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

/// Most writes in flight. Other writes wait in the queue.
const MAX_WRITES: usize = 1024;
/// The pause before the changes are requested again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest sleep if no history expires.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// A write whose transaction is in flight or has ended, and its caller.
struct Written<T> {
    key: Arc<str>,
    /// The keys and expectations of the other writes of the transaction.
    with: Vec<(Arc<str>, Expect)>,
    /// The expectation of the key.
    expect: Expect,
    reply: Reply<T>,
    outcome: Result<Outcome, LogError>,
}

pub(crate) struct Follower<T> {
    publisher: Publisher<T>,
    log: Arc<dyn SharedLog>,
    requests: mpsc::Receiver<Request<T>>,
    map: Map<T>,
    revision: Revision,
    under_way: FuturesUnordered<BoxFuture<'static, Written<T>>>,
    /// Ended transactions, by the revision that the store must reach before they are answered.
    ended: BTreeMap<Revision, Vec<Written<T>>>,
    closing: Option<oneshot::Sender<Result<(), LogError>>>,
}

impl<T: Payload> Follower<T> {
    /// Creates the follower of a log whose content is in the publisher.
    pub(crate) fn new(publisher: Publisher<T>, log: Arc<dyn SharedLog>, requests: mpsc::Receiver<Request<T>>) -> Self {
        let (revision, map) = publisher.state.newest();
        let (under_way, ended) = (FuturesUnordered::new(), BTreeMap::new());
        Self { publisher, log, requests, map, revision, under_way, ended, closing: None }
    }

    pub(crate) async fn run(mut self) {
        let mut open = true;
        let log = self.log.clone();
        let mut changes = follow(log.clone(), self.revision, Duration::ZERO);
        while open || !self.under_way.is_empty() || !self.ended.is_empty() {
            let room = open && self.under_way.len() + self.ended.len() < MAX_WRITES;
            let old = self.publisher.state.history.lock().prune(Instant::now(), &self.publisher.state.options);
            let wake = old.unwrap_or_else(|| Instant::now() + MAX_SLEEP);
            tokio::select! {
                batch = &mut changes => {
                    let pause = if batch.is_ok() { Duration::ZERO } else { RETRY_DELAY };
                    self.follow(batch);
                    self.publisher.tell().await;
                    changes = follow(log.clone(), self.revision, pause);
                }
                Some(written) = self.under_way.next() => self.ended(written),
                request = self.requests.recv(), if room => match request {
                    Some(request) => self.take(request),
                    None => open = false,
                },
                () = sleep_until(wake) => {}
            }
        }
        if let Some(reply) = self.closing.take() {
            drop(reply.send(Ok(())));
        }
    }

    fn take(&mut self, request: Request<T>) {
        match request {
            Request::Write(transaction, reply) => match self.publisher.state.failure() {
                Some(cause) => drop(reply.send(Err(Error::ReadOnly { cause }))),
                None => {
                    let (log, Transaction { write, with }) = (self.log.clone(), &transaction);
                    let (key, expect) = (write.key.clone(), write.expect);
                    let with = with.iter().map(|other| (other.key.clone(), other.expect)).collect();
                    self.under_way.push(Box::pin(async move {
                        let outcome = log.write(transaction).await;
                        Written { key, with, expect, reply, outcome }
                    }));
                }
            },
            Request::Close(reply) => {
                self.requests.close(); // what is queued is still received, then nothing
                self.closing = Some(reply);
            }
        }
    }

    fn ended(&mut self, written: Written<T>) {
        match written.outcome {
            Ok(Outcome::Written(at) | Outcome::Refused(at)) if at > self.revision => {
                self.ended.entry(at).or_default().push(written);
            }
            _ => self.answer(written),
        }
    }

    /// Answers the writes whose revisions are reached.
    fn answer(&self, Written { key, with, expect, reply, outcome }: Written<T>) {
        let result = match outcome {
            Ok(Outcome::Written(at)) => self.event(at, &key).ok_or_else(|| {
                let cause = std::io::Error::other("its change has left the history");
                Error::Unknown { cause: Arc::new(cause.into()) }
            }),
            Ok(Outcome::Refused(_)) => Err(self.conflict(&key, expect, with)),
            Err(error) => Err(Error::Unknown { cause: Arc::new(error) }),
        };
        Answer { reply, result }.send();
    }

    /// Why a transaction was refused, by what is known now. Where its expectations hold meanwhile, another write is blamed, so that the caller
    /// tries again.
    fn conflict(&self, key: &str, expect: Expect, mut with: Vec<(Arc<str>, Expect)>) -> Error<T> {
        let actual = |key: &str| self.map.get(key).cloned();
        let holds = |key: &str, expect: Expect| match expect {
            Expect::Absent => actual(key).is_none(),
            Expect::At(revision) => actual(key).is_some_and(|entry| entry.revision == revision),
        };
        let broken = with.iter().position(|(key, expect)| !holds(key, *expect));
        let place = broken.or_else(|| with.len().checked_sub(1)).filter(|_| holds(key, expect));
        match place.map(|place| with.swap_remove(place)) {
            Some((other, _)) => Error::OtherConflict { actual: actual(&other), key: other },
            None => Error::Conflict { actual: actual(key) },
        }
    }

    /// The event of a key at a revision.
    fn event(&self, at: Revision, key: &str) -> Option<Event<T>> {
        let history = self.publisher.state.history.lock();
        let events = history.after(at - 1).take_while(|event| event.revision == at);
        events.into_iter().find(|event| &**event.key() == key).cloned()
    }

    /// Applies changes of the log.
    fn follow(&mut self, batch: Result<Batch, LogError>) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(%error, "the changes of the log cannot be had: the store is read-only until they can");
                self.publisher.state.failure.send_replace(Some(Arc::new(error)));
                return;
            }
        };
        let events = batch.changes.into_iter().filter_map(|change| self.apply(change)).collect();
        self.revision = batch.revision;
        self.publisher.publish(self.revision, self.map.clone(), events);
        self.publisher.state.failure.send_if_modified(|failure| failure.take().is_some());
        let later = self.ended.split_off(&(self.revision + 1));
        std::mem::replace(&mut self.ended, later).into_values().flatten().for_each(|written| self.answer(written));
    }

    fn apply(&mut self, change: Change) -> Option<Event<T>> {
        let Change { key, revision, action } = change;
        let before = self.map.get(&key).cloned();
        let after: Option<Arc<Entry<T>>> = match action {
            Action::Put { created, expires, value } => Some(entry(Record { key, revision, created, expires, value })),
            Action::Delete => {
                before.as_ref()?; // created and deleted before it became visible
                drop(self.map.remove(&key));
                None
            }
        };
        if let Some(entry) = &after {
            self.map.insert(entry.clone());
        }
        Some(Event { revision, before, after })
    }
}

/// Requests the changes after a revision, after a pause.
fn follow(log: Arc<dyn SharedLog>, revision: Revision, pause: Duration) -> BoxFuture<'static, Result<Batch, LogError>> {
    Box::pin(async move {
        sleep(pause).await;
        log.changes_after(revision).await
    })
}
