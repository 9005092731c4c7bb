//! Errors, by what the caller can do.

use crate::{Entry, LogError, Revision};
use std::{fmt, sync::Arc};

/// Why a call failed. No error is worth a blind retry: after [`Error::Conflict`] read again, after [`Error::Compacted`] list again, after
/// [`Error::Future`] wait for the revision.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error<T> {
    /// The expectation of a put or delete did not hold. Nothing was written.
    #[error("conflict: {}", describe(actual))]
    Conflict {
        /// The current entry, which is durable and published. `None` if the key does not exist.
        actual: Option<Arc<Entry<T>>>,
    },
    /// The expectation of another write of the transaction did not hold. Nothing was written.
    #[error("conflict of another write: {}", describe(actual))]
    OtherConflict {
        /// The key of that write.
        key: Arc<str>,
        /// The current entry, as in [`Error::Conflict`].
        actual: Option<Arc<Entry<T>>>,
    },
    /// The revision is older than the history.
    #[error("revision has been compacted, the oldest available is {oldest}")]
    Compacted {
        /// The oldest revision that a snapshot or a watch can start at.
        oldest: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision is in the future, current is {current}")]
    Future {
        /// The newest published revision.
        current: Revision,
    },
    /// A commit failed, and the log is not open yet. The store retries opening it with a back-off, and accepts no writes meanwhile. Nothing
    /// was written. Reads and watches continue, and all acknowledged writes are intact.
    #[error(
        "nothing was stored: the store is read-only since a commit failed, and tries to open its file again: {cause}"
    )]
    ReadOnly {
        /// The error of the log.
        cause: Arc<LogError>,
    },
    /// The disk is full. Nothing was written. Deletions and changes that do not grow the store are still accepted, and other writes as soon
    /// as there is space.
    #[error(
        "nothing was stored: the disk of the store is full; free some space on it, or delete objects, which still works ({cause})"
    )]
    Full {
        /// The error of the operating system.
        cause: Arc<LogError>,
    },
    /// The commit of this write failed, and the log cannot be read at the moment. It is unknown whether the write is stored. Read the
    /// object before writing it again.
    #[error("it is not known whether this was stored, since its commit failed: {cause}")]
    Unknown {
        /// The error of the commit.
        cause: Arc<LogError>,
    },
    /// The key or value is invalid. Nothing was written.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The log cannot be opened or read.
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
