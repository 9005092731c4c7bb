//! What a log must do that others write as well, such as etcd: it numbers the changes. No such log is built in; the follower of one is
//! proven over one in memory.

use super::{Batch, LogError, Replay};
use crate::{Revision, Write};
use async_trait::async_trait;

/// A log with other writers. Life cycle: `read` once, then `write`, many at a time, beside one `changes_after`.
#[async_trait]
pub trait SharedLog: Send + Sync + 'static {
    /// All records, and the newest revision.
    ///
    /// # Errors
    /// When it cannot be reached or read.
    async fn read(&self) -> Result<Replay, LogError>;

    /// One transaction: it writes if the expectation holds.
    ///
    /// # Errors
    /// When it is unknown whether the write happened.
    async fn write(&self, write: Write) -> Result<Outcome, LogError>;

    /// The changes after a revision in their order, those of one revision never apart; waits until there are some. What has expired is
    /// deleted by the log, as a change among the others. Cancel-safe.
    ///
    /// # Errors
    /// When it cannot be reached, or the changes are no longer kept. It is called again after a pause.
    async fn changes_after(&self, revision: Revision) -> Result<Batch, LogError>;
}

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable, and this is the revision of its change.
    Written(Revision),
    /// The expectation did not hold at this revision.
    Refused(Revision),
}
