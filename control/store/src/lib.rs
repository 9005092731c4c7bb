//! The store: revisioned bytes under sorted keys, held in memory and made durable by a [`Log`].
//!
//! What it is: one global revision, optimistic writes ([`Expect`]), group commit by one writer task, snapshots at a
//! revision, ordered watches, expiry. An acknowledged write is durable, and is published (to [`Store::get`],
//! snapshots, watches) strictly after it is durable and in the order of revisions.
//!
//! What it is not: it knows no Kubernetes. Keys and bytes are the server's; what the server wants beside the bytes
//! (the spliced form, parsed labels, cached rows) is the [`Payload`] it supplies. There is no transaction over several
//! keys, because Kubernetes needs none.
//!
//! **Who gives a revision.** An embedded log ([`Log`]: memory, redb) is *sequenced*: this store is its only writer, so the `sequencer`
//! checks expectations in memory, numbers the changes, and commits many of them at once. A log with other writers (`SharedLog`: etcd,
//! say) is *followed*: what memory holds may be old, so each write is a conditional transaction there, which also numbers it; memory
//! takes in the log's changes, whoever made them, and a write is answered when memory has reached its revision. Both end in one
//! `Publisher`, which alone makes changes visible, in order. So a caller sees the same store over either, which the contract suite
//! shows, and nothing above the store knows which one it is: stored bytes hold no revision, because a shared log tells it only afterwards.
//! A follower that sequenced in memory would have to lock the others out, and a sequencer that asked a transaction of its own file for
//! each write would lose the group commit, which is what makes it fast.
//!
//! No shared log is built in: `SharedLog`, the follower and `Store::follow` are compiled with the feature `contract` only. Whoever adds
//! a shared log removes this condition.
//!
//! The semantics follow those of etcd as the Kubernetes API server relies on them: see "Efficient detection of changes"
//! in the page *Kubernetes API Concepts*.

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
pub use request::Write;
pub use store::{Snapshot, Store};
pub use watch::Watch;

use std::{fmt, num::NonZeroU64, sync::Arc, time::SystemTime};

/// The number of a change. One sequence for the whole store; it starts above 1, never decreases and is never reused,
/// neither after deletes and compaction nor after a restart.
pub type Revision = u64;

/// The revision of an empty store. The first write gets the next one.
pub const FIRST: Revision = 1;

/// What a user of the store keeps beside the stored bytes of each entry.
///
/// [`Bytes`] is a reference to shared memory: a payload that needs the bytes with something spliced in does best to
/// keep slices of `stored` and the piece between them, instead of a second copy.
pub trait Payload: Send + Sync + 'static {
    /// Makes the payload of one revision of one key: called once for it, before any reader or watcher sees it, and
    /// for every live entry when the store is opened. It runs on the writer task: it must neither block nor panic.
    fn publish(key: &str, revision: Revision, stored: Bytes) -> Self;
}

impl Payload for () {
    fn publish(_: &str, _: Revision, _: Bytes) -> Self {}
}

/// One revision of one key. Immutable and shared: readers, watchers and history hold the same one.
#[non_exhaustive]
pub struct Entry<T> {
    /// The key.
    pub key: Arc<str>,
    /// The revision of the last change.
    pub revision: Revision,
    /// The revision at which the key came to be (since it was last absent).
    pub created: Revision,
    /// When it expires: milliseconds since the Unix epoch by the store's clock.
    pub expires: Option<NonZeroU64>,
    /// The bytes as they were put.
    pub stored: Bytes,
    /// What the user of the store made of them.
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

/// What a writer believes about a key; the write is refused with [`Error::Conflict`] when that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists, and this is the revision of its last change.
    At(Revision),
}

/// One change, as watchers see it.
pub struct Event<T> {
    /// The revision of the change; of the deletion for a delete.
    pub revision: Revision,
    /// The entry before the change. `None`: the change created it.
    pub before: Option<Arc<Entry<T>>>,
    /// The entry after the change. `None`: the change deleted it.
    pub after: Option<Arc<Entry<T>>>,
}

impl<T> Event<T> {
    /// The key that changed.
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

/// Wall-clock time, passed in: expiry is kept across restarts and so needs more than tokio's clock.
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
