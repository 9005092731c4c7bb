//! Recovery after a failed commit: the log is opened again, with delayed retries, and its content decides whether the commit is durable.
//!
//! The decision relies only on what was read again. The log is either in the state before the failed commit, which then never happened, or
//! in the state after it, which then did happen. It must contain all acknowledged writes. A log in any other state is damaged, and the
//! store stays read-only.

use crate::{Event, LogError, Replay, Revision, map::Map, request::Answer};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::Instant;

/// The first attempt is immediate, the second after this delay, and each further one after twice the delay.
const RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// A commit: the state after it, and its waiting callers.
pub(crate) struct Commit<T> {
    pub(crate) revision: Revision,
    pub(crate) map: Map<T>,
    pub(crate) events: Vec<Event<T>>,
    pub(crate) answers: Vec<Answer<T>>,
}

/// A log that is not open.
pub(crate) struct Repair<T> {
    /// The commit that failed.
    pub(crate) lost: Commit<T>,
    /// The attempt in progress.
    pub(crate) work: Option<BoxFuture<'static, Result<Replay, LogError>>>,
    /// When the next attempt begins.
    pub(crate) next: Instant,
    pause: Duration,
}

/// Whether the log contains a failed commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It does.
    Stored,
    /// It does not.
    Absent,
}

impl<T> Repair<T> {
    pub(crate) fn new(lost: Commit<T>) -> Self {
        Self { lost, work: None, next: Instant::now(), pause: RETRY_DELAY }
    }

    /// Schedules the next attempt after a failed one.
    pub(crate) fn wait(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(MAX_RETRY_DELAY);
    }

    /// Compares the log's content with the state that was published before the commit.
    pub(crate) fn find_commit(&self, replay: &Replay, revision: Revision, map: &Map<T>) -> Result<Found, LogError> {
        let (found, expected) = match replay.revision {
            at if at == self.lost.revision => (Found::Stored, &self.lost.map),
            at if at == revision => (Found::Absent, map),
            at => return Err(LogError::Corrupt(format!("it is at revision {at}, and {revision} was acknowledged"))),
        };
        let same = |record: &crate::Record| {
            expected.get(&record.key).is_some_and(|e| e.revision == record.revision && e.stored == record.value)
        };
        match replay.records.iter().find(|record| !same(record)) {
            None if replay.records.len() == expected.len() => Ok(found),
            None => Err(LogError::Corrupt("it has lost records that were acknowledged".into())),
            Some(record) => Err(LogError::Corrupt(format!("the record {} is not the acknowledged one", record.key))),
        }
    }
}
