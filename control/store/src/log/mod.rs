//! The durable side of the store: the interface of logs, and the built-in logs.
//!
//! A log need not be an append-only file. It must make a batch durable atomically and return the live records.
//!
//! The store is the only writer of a [`Log`]. A log with other writers is a [`shared::SharedLog`].

pub(crate) mod memory;
mod pages;
mod record;
pub(crate) mod redb;
pub(crate) mod salvage;
#[cfg(any(test, feature = "contract"))]
pub(crate) mod shared;
mod space;

use crate::Revision;
use async_trait::async_trait;
use bytes::Bytes;
use std::{io, num::NonZeroU64, path::PathBuf, sync::Arc};

/// The durable storage of a store. Life cycle: `replay` once, then `commit` sequentially. After a failed commit, `reopen` until it
/// succeeds. Finally `close`.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Returns the live records and the newest revision.
    async fn replay(&self) -> Result<Replay, LogError>;

    /// Makes the whole batch durable, or none of it. After `Ok`, the batch survives a kill and a power failure. After an error, it is
    /// unknown until the next `reopen` whether the batch is durable, and the store does not commit before.
    async fn commit(&self, batch: Batch) -> Result<(), LogError>;

    /// Closes and opens the log, and reads it as after a restart. Reads from the disk, because after a failed sync the page cache may have
    /// content that never reaches it. May be called again after an error.
    async fn reopen(&self) -> Result<Replay, LogError> {
        self.replay().await
    }

    /// Checks that there is space for more data: [`LogError::Full`] if the space that is reserved for deletions had to be used. Called
    /// after each commit, and repeatedly while it fails. Must be cheap if the disk has free space.
    async fn check_space(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Closes files and releases locks. No other call follows.
    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}

#[async_trait]
impl<L: Log + ?Sized> Log for Arc<L> {
    async fn replay(&self) -> Result<Replay, LogError> {
        (**self).replay().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), LogError> {
        (**self).commit(batch).await
    }

    async fn reopen(&self) -> Result<Replay, LogError> {
        (**self).reopen().await
    }

    async fn check_space(&self) -> Result<(), LogError> {
        (**self).check_space().await
    }

    async fn close(&self) -> Result<(), LogError> {
        (**self).close().await
    }
}

/// The changes of a commit, in the order of their revisions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The newest revision after this batch. The log must keep it even if later changes remove all records.
    pub revision: Revision,
    /// The changes. A key may occur more than once.
    pub changes: Vec<Change>,
}

/// A change of a key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Arc<str>,
    /// The revision of the change.
    pub revision: Revision,
    /// The action on the key.
    pub action: Action,
}

/// The action of a change.
#[derive(Clone, Debug)]
pub enum Action {
    /// Creates or replaces the key.
    Put {
        /// The revision at which the key was created.
        created: Revision,
        /// The expiry in milliseconds since the Unix epoch.
        expires: Option<NonZeroU64>,
        /// The bytes.
        value: Bytes,
    },
    /// Deletes the key.
    Delete,
}

/// The content of a log when the store opens.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The newest committed revision. [`crate::FIRST`] for a new log.
    pub revision: Revision,
    /// The live records, in any order.
    pub records: Vec<Record>,
}

/// A live record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key.
    pub key: Arc<str>,
    /// The revision of its last change.
    pub revision: Revision,
    /// The revision at which the key was created.
    pub created: Revision,
    /// The expiry in milliseconds since the Unix epoch.
    pub expires: Option<NonZeroU64>,
    /// The bytes.
    pub value: Bytes,
}

/// The error of a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process, or another store of this process, has it open.
    #[error("{} is already open: another process uses this data directory", path.display())]
    Held {
        /// The path of the file.
        path: PathBuf,
    },
    /// The disk is full, or a quota or file size limit is reached.
    #[error("{0}")]
    Full(#[source] io::Error),
    /// An I/O error.
    #[error("input/output error: {0}")]
    Io(#[source] io::Error),
    /// The stored data is damaged.
    #[error("it is damaged: {0}")]
    Corrupt(String),
    /// The log is closed, or its thread ended.
    #[error("the log is closed")]
    Closed,
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(error)
            }
            _ => Self::Io(error),
        }
    }
}
