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
    /// A commit failed and the log is not yet open again: the store tries to open it, with a pause between the tries, and takes
    /// no writes meanwhile. Nothing was written. Reads and watches go on, and everything that was acknowledged is intact.
    #[error(
        "nothing was stored: the store is read-only since a commit failed, and tries to open its file again: {cause}"
    )]
    ReadOnly {
        /// The failure of the log.
        cause: Arc<LogError>,
    },
    /// The disk is full. Nothing was written. What makes the store no larger (deletions, changes of objects that are there) is
    /// still taken, and the rest again as soon as there is room.
    #[error(
        "nothing was stored: the disk of the store is full; free some space on it, or delete objects, which still works ({cause})"
    )]
    Full {
        /// What the operating system says.
        cause: Arc<LogError>,
    },
    /// The commit of this write failed, and the log could not be read since: whether the write is stored is known only when it can
    /// be. Read the object then, before writing again.
    #[error("it is not known whether this was stored, since its commit failed: {cause}")]
    Unknown {
        /// The failure of the commit.
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
