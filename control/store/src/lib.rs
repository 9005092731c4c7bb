//! The store: bytes with revisions under sorted keys, in memory, made durable by a [`Log`].
//!
//! It has one global revision, optimistic writes ([`Expect`]), group commit by one writer task, snapshots at a revision, ordered watches,
//! and expiry. An acknowledged write is durable. It is published (to [`Store::get`], snapshots and watches) after it is durable and in the
//! order of revisions.
//!
//! It does not know Kubernetes. Keys and bytes are the server's, and what the server keeps in addition to the bytes (parsed labels, cached
//! rows) is its [`Payload`]. A write can have others with which it happens or does not happen ([`Transaction`]): a Service and its addresses.
//!
//! **Who assigns revisions.** An embedded log ([`Log`]: memory, redb) is *sequenced*: this store is its only writer, so that the
//! `sequencer` checks expectations in memory, assigns revisions to changes, and commits many changes at once. A log with other writers
//! (`SharedLog`, for example etcd) is *followed*: the state in memory may be stale, so that each write is a conditional transaction of the
//! log, which also assigns its revision. The store applies the log's changes, whoever made them, and answers a write when it has reached
//! the write's revision. Both use one `Publisher`, which makes changes visible in order. Therefore callers see the same behaviour over
//! both, which the contract tests verify. Stored bytes contain no revision, because a shared log assigns it only afterwards. A follower
//! that sequenced in memory would have to lock out the other writers, and a sequencer with one transaction per write would lose the group
//! commit, which makes it fast.
//!
//! No shared log is built in: `SharedLog`, the follower and `Store::follow` are compiled only with the feature `contract`. The first shared
//! log removes this condition.
//!
//! The semantics are those of etcd that the Kubernetes API server relies on: see "Efficient detection of changes" in the page *Kubernetes
//! API Concepts*.

#![warn(unreachable_pub, clippy::large_futures, clippy::let_underscore_future)]
#![cfg_attr(not(test), warn(clippy::too_many_lines, clippy::wildcard_imports))]

mod changes;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod error;
#[cfg(any(test, feature = "contract"))]
mod follower;
mod history;
mod log;
mod map;
mod options;
mod queue;
mod repair;
mod request;
mod sequencer;
mod state;
mod store;
mod watch;

pub use bytes::Bytes;
pub use changes::Changes;
pub use error::Error;
#[cfg(any(test, feature = "contract"))]
pub use log::shared::{Outcome, SharedLog};
pub use log::{
    Action, Batch, Change, Log, LogError, Record, Replay,
    memory::Memory,
    redb::Redb,
    salvage::{Gap, Salvage},
};
pub use options::Options;
pub use request::{Transaction, Write};
pub use store::{Snapshot, Store};
pub use watch::Watch;

use std::{fmt, num::NonZeroU64, sync::Arc, time::SystemTime};

/// The number of a change. The store has one sequence. Revisions are greater than 1, never decrease and are never reused, neither after
/// deletions and compaction nor after a restart.
pub type Revision = u64;

/// The revision of an empty store. The first write gets the next revision.
pub const FIRST: Revision = 1;

/// What the user of the store keeps in addition to the stored bytes of each entry.
///
/// [`Bytes`] refers to shared memory. A payload that needs the bytes with an insertion should keep slices of `stored` and the insertion,
/// not a second copy.
pub trait Payload: Send + Sync + 'static {
    /// Creates the payload of an entry. Called once per entry before any reader or watch sees it, and for each live entry when the store is
    /// opened. It runs on the writer task and must neither block nor panic.
    fn publish(key: &str, revision: Revision, stored: Bytes) -> Self;
}

impl Payload for () {
    fn publish(_: &str, _: Revision, _: Bytes) -> Self {}
}

/// A key at one revision. Immutable, and shared by readers, watches and history.
#[non_exhaustive]
pub struct Entry<T> {
    /// The key.
    pub key: Arc<str>,
    /// The revision of the last change.
    pub revision: Revision,
    /// The revision at which the key was created.
    pub created: Revision,
    /// The expiry in milliseconds since the Unix epoch, by the store's clock.
    pub expires: Option<NonZeroU64>,
    /// The bytes of the put.
    pub stored: Bytes,
    /// The payload of the bytes.
    pub payload: T,
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("created", &self.created)
            .field("bytes", &self.stored.len())
            .finish_non_exhaustive()
    }
}

/// The expectation of a write about its key. If it does not hold, the write fails with [`Error::Conflict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists, and its last change has this revision.
    At(Revision),
}

/// A change, as watches report it.
pub struct Event<T> {
    /// The revision of the change.
    pub revision: Revision,
    /// The entry before the change. `None` if the change created it.
    pub before: Option<Arc<Entry<T>>>,
    /// The entry after the change. `None` if the change deleted it.
    pub after: Option<Arc<Entry<T>>>,
}

impl<T> Event<T> {
    /// The changed key.
    pub fn key(&self) -> &Arc<str> {
        let entry = self.after.as_ref().or(self.before.as_ref());
        &entry.expect("an event has a before or an after").key
    }
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, before: self.before.clone(), after: self.after.clone() }
    }
}

impl<T> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("revision", &self.revision)
            .field("before", &self.before)
            .field("after", &self.after)
            .finish()
    }
}

/// A wall clock. Expiry continues over restarts and therefore needs more than tokio's clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that reads `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Milliseconds since the Unix epoch; 0 for times before it.
    pub(crate) fn millis(&self) -> u64 {
        (self.0)()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
