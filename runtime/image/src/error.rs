//! Errors, one variant per reason of a waiting container in Kubernetes.

use std::io;

/// Why an image is not available. Cheap to clone: several pods may wait for one pull.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The name is invalid. A retry does not help.
    #[error("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {cause}")]
    InvalidImageName {
        /// The name as it was given.
        image: String,
        /// Why it is invalid.
        cause: String,
    },
    /// The image is not in the store and must not be pulled.
    #[error("Container image \"{image}\" is not present with pull policy of Never{hint}")]
    ErrImageNeverPull {
        /// The name as it was given.
        image: String,
        /// What the user can do, or nothing.
        hint: String,
    },
    /// The stored image of this name cannot be read.
    #[error("Failed to inspect image \"{image}\": {cause}")]
    ImageInspectError {
        /// The name as it was given.
        image: String,
        /// What happened.
        cause: String,
    },
    /// The registry is unavailable. A later retry may help.
    #[error("image pull failed for {image} because the registry is unavailable: {cause}{hint}")]
    RegistryUnavailable {
        /// The full name.
        image: String,
        /// What the registry said.
        cause: String,
        /// What the user can do, or nothing.
        hint: String,
    },
    /// The pull failed: not found, denied, not reachable, or invalid content.
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
    /// The reason in the waiting state of a container. Errors of the store, and those that no container waits for, have the reason of a
    /// failed pull.
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

/// An error without the name of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The registry answered 404.
    NotFound(String),
    /// The registry answered 401 or 403.
    Denied(String),
    /// The registry answered that it is unavailable.
    Unavailable(String),
    /// The connection failed; the received bytes are kept.
    Network(String),
    /// The received content is invalid.
    Content(String),
    /// The content store failed.
    Store(String),
}

impl Fault {
    pub(crate) fn content(text: impl Into<String>) -> Self {
        Self::Content(text.into())
    }

    /// The disk is full.
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

/// The fault for a truncated or invalid archive.
pub(crate) fn damaged(error: io::Error) -> Fault {
    Fault::content(format!("the archive cannot be read: {error}"))
}
