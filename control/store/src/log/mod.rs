//! The durable side of the store: what a log must do, and the logs there are.
//!
//! A log need not be an append-only file: it must make a batch durable as one, and give back the live records.
//!
//! The store is the only writer of a [`Log`]. A log that others write as well is a [`shared::SharedLog`].

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

/// Where the store keeps what it must not lose. Life cycle: `replay` once, then `commit`, one at a time and each waited for,
/// after a failed one `reopen` until it succeeds, then `close`.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Everything that was committed and not overwritten or deleted since, and the newest revision.
    async fn replay(&self) -> Result<Replay, LogError>;

    /// Makes the whole batch durable, or none of it: when this returns `Ok`, it survives a kill and a power cut.
    /// After an error it is unknown until the next `reopen` whether the batch is there; the store commits nothing before.
    async fn commit(&self, batch: Batch) -> Result<(), LogError>;

    /// Gives back what is open, opens it anew, and reads what is there as after a restart: from the disk itself, since what the
    /// operating system still has in memory after a failed sync may never reach it. May be called again after an error.
    async fn reopen(&self) -> Result<Replay, LogError> {
        self.replay().await
    }

    /// Whether more can be stored than is now: [`LogError::Full`] if the space that is kept back for deletions had to be touched.
    /// Called after each commit, and again while it fails: cheap if the disk has free space.
    async fn room(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Gives back files and locks. Nothing is called after it.
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

    async fn room(&self) -> Result<(), LogError> {
        (**self).room().await
    }

    async fn close(&self) -> Result<(), LogError> {
        (**self).close().await
    }
}

/// The changes of one commit, in the order of their revisions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The newest revision after this batch. It must be kept even if a later change removes every record.
    pub revision: Revision,
    /// The changes; a key may occur more than once.
    pub changes: Vec<Change>,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Arc<str>,
    /// The revision of this change.
    pub revision: Revision,
    /// What happens to the key.
    pub action: Action,
}

/// What happens to a key.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is created or replaced.
    Put {
        /// The revision at which the key came to be.
        created: Revision,
        /// When it expires: milliseconds since the Unix epoch.
        expires: Option<NonZeroU64>,
        /// The bytes.
        value: Bytes,
    },
    /// It goes away.
    Delete,
}

/// What a log gives back when the store opens.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The newest revision that was committed; [`crate::FIRST`] for a new log.
    pub revision: Revision,
    /// The live records, in any order.
    pub records: Vec<Record>,
}

/// One live record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key.
    pub key: Arc<str>,
    /// The revision of its last change.
    pub revision: Revision,
    /// The revision at which the key came to be.
    pub created: Revision,
    /// When it expires: milliseconds since the Unix epoch.
    pub expires: Option<NonZeroU64>,
    /// The bytes.
    pub value: Bytes,
}

/// Why a log failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process, or another store of this one, has it open.
    #[error("{} is already open: another process uses this data directory", path.display())]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full, or a quota or limit of file sizes is reached.
    #[error("{0}")]
    Full(#[source] io::Error),
    /// Reading or writing failed.
    #[error("input/output error: {0}")]
    Io(#[source] io::Error),
    /// The stored data is damaged.
    #[error("it is damaged: {0}")]
    Corrupt(String),
    /// The log was closed, or its thread ended.
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
