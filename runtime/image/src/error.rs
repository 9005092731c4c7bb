//! Failures, one variant per reason that Kubernetes shows for a waiting container.

use std::io;

/// Why an image is not there. Cheap to clone: several pods may wait for one pull.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The name is not one. Asking again does not help.
    #[error("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {cause}")]
    InvalidImageName {
        /// The name as it was given.
        image: String,
        /// What is wrong with it.
        cause: String,
    },
    /// It is not in the store, and must not be pulled.
    #[error("Container image \"{image}\" is not present with pull policy of Never{hint}")]
    ErrImageNeverPull {
        /// The name as it was given.
        image: String,
        /// What the user can do, or nothing.
        hint: String,
    },
    /// The store has something for this name that cannot be read.
    #[error("Failed to inspect image \"{image}\": {cause}")]
    ImageInspectError {
        /// The name as it was given.
        image: String,
        /// What happened.
        cause: String,
    },
    /// The registry does not work at the moment. Asking again later may help.
    #[error("image pull failed for {image} because the registry is unavailable: {cause}{hint}")]
    RegistryUnavailable {
        /// The full name.
        image: String,
        /// What the registry said.
        cause: String,
        /// What the user can do, or nothing.
        hint: String,
    },
    /// The pull failed: not found, not allowed, not reachable, not what it says it is.
    #[error("failed to pull and unpack image \"{image}\": {cause}{hint}")]
    ErrImagePull {
        /// The full name.
        image: String,
        /// What happened.
        cause: String,
        /// What the user can do, or nothing.
        hint: String,
    },
    /// A file given to `load`, or an image given to `push` or `remove`, cannot be used.
    #[error("{0}")]
    Refused(String),
    /// The content store cannot be read or written.
    #[error("content store: {0}")]
    Store(String),
}

impl Error {
    /// The reason as it appears in a container's waiting state. For failures that no container waits for, and those of the
    /// store, that of a failed pull.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidImageName { .. } => "InvalidImageName",
            Self::ErrImageNeverPull { .. } => "ErrImageNeverPull",
            Self::ImageInspectError { .. } => "ImageInspectError",
            Self::RegistryUnavailable { .. } => "RegistryUnavailable",
            Self::ErrImagePull { .. } | Self::Refused(_) | Self::Store(_) => "ErrImagePull",
        }
    }
}

/// What can go wrong below the name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The registry answered 404.
    NotFound(String),
    /// The registry answered 401 or 403.
    Denied(String),
    /// The registry answered that it does not work.
    Unavailable(String),
    /// The connection failed; what has arrived is kept.
    Network(String),
    /// What arrived is not what it should be.
    Content(String),
    /// The content store failed.
    Store(String),
}

impl Fault {
    pub(crate) fn content(text: impl Into<String>) -> Self {
        Self::Content(text.into())
    }

    /// The disk is full, for that reason.
    pub(crate) fn full(why: &str) -> Self {
        Self::Store(format!(
            "{why}; free some space on its disk, or remove images that no pod uses: sampan image prune"
        ))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::full(&error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

impl From<Fault> for Error {
    /// For operations without a pull behind them.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(text) => Self::Store(text),
            Fault::NotFound(text)
            | Fault::Denied(text)
            | Fault::Unavailable(text)
            | Fault::Network(text)
            | Fault::Content(text) => Self::Refused(text),
        }
    }
}

/// An archive of an image that breaks off or is none.
pub(crate) fn damaged(error: io::Error) -> Fault {
    Fault::content(format!("the archive cannot be read: {error}"))
}
