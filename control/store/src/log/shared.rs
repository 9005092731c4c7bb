//! The interface of a log with other writers, such as etcd, which assigns revisions. No such log is built in. The follower is tested with
//! an in-memory one.

use super::{Batch, LogError, Replay};
use crate::{Revision, Transaction};
use async_trait::async_trait;

/// A log with other writers. Life cycle: `read` once, then concurrent `write` calls beside one `changes_after`.
#[async_trait]
pub trait SharedLog: Send + Sync + 'static {
    /// Returns all records and the newest revision.
    ///
    /// # Errors
    /// The log cannot be read.
    async fn read(&self) -> Result<Replay, LogError>;

    /// Writes in one transaction if all expectations hold.
    ///
    /// # Errors
    /// It is unknown whether the write happened.
    async fn write(&self, transaction: Transaction) -> Result<Outcome, LogError>;

    /// Returns the changes after a revision in order, and those of one revision together. Waits until there are some. The log deletes
    /// expired keys, which are changes too. Cancel-safe.
    ///
    /// # Errors
    /// The log cannot be read, or the changes are no longer available. The call is repeated after a pause.
    async fn changes_after(&self, revision: Revision) -> Result<Batch, LogError>;
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All writes are durable; the first, which is answered, has this revision.
    Written(Revision),
    /// An expectation did not hold at this revision.
    Refused(Revision),
}
