//! What can go wrong, by what a caller can do about it.

use crate::{Entry, LogError, Revision};
use std::{fmt, sync::Arc};

/// Why a call failed. No variant is worth a blind retry: after [`Error::Conflict`] read again, after
/// [`Error::Compacted`] list again, after [`Error::Future`] wait for the revision.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error<T> {
    /// The expectation of a put or delete did not hold. Nothing was written.
    #[error("conflict: {}", describe(actual))]
    Conflict {
        /// The entry there is, already durable and published; `None`: the key does not exist.
        actual: Option<Arc<Entry<T>>>,
    },
    /// The revision is older than the history that is kept.
    #[error("revision has been compacted, the oldest available is {oldest}")]
    Compacted {
        /// The oldest revision that a snapshot or a watch can start at.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision is in the future, current is {current}")]
    Future {
        /// The newest published revision.
        current: Revision,
    },
    /// A commit failed (disk full, I/O error): the store takes no more writes until it is opened again. Reads and
    /// watches go on, and everything that was acknowledged is intact. Whether the write that failed first has
    /// reached the disk is only known after the next open.
    #[error("the store is read-only since a commit failed: {cause}")]
    ReadOnly {
        /// The failure of the log.
        cause: Arc<LogError>,
    },
    /// The key or the value cannot be stored. Nothing was written.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The log could not be opened or read.
    #[error(transparent)]
    Log(#[from] LogError),
}

fn describe<T>(actual: &Option<Arc<Entry<T>>>) -> String {
    match actual {
        Some(entry) => format!("{} exists at revision {}", entry.key, entry.revision),
        None => "the key does not exist".into(),
    }
}

impl<T> fmt::Debug for Error<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
