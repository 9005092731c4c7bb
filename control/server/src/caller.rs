//! The peer of a connection.

use crate::User;
use std::sync::Arc;

/// The peer of a connection, as the transport knows it. Only this crate sets it.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A component of this process.
    Process(Arc<User>),
    /// A network client; `certificate` is the user of its verified client certificate.
    Network { certificate: Option<Arc<User>> },
}
