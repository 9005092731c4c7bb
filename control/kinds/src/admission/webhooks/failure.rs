//! Why a webhook does not admit a request.

use api::Status;

/// Why a webhook does not admit a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be asked, for this reason. Its policy says whether that counts.
    Calling(String),
    /// It refused, or what it answered cannot be done.
    Refused(Status),
}
