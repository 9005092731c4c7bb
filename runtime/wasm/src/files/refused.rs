//! Why a folder cannot be opened.

use container::MountError;
use std::io;

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The pod, or all guests together, have too many open files.
    #[error("the volumes cannot be opened: guests of this node hold too many files open")]
    Full,
    /// The folder was removed or replaced.
    #[error("mount {0} cannot be opened: {1}")]
    Mount(String, MountError),
    /// The root cannot be copied for the first write, or a folder of it is gone from the copy.
    #[error("the root folder cannot be written: {0}")]
    Root(io::Error),
}
