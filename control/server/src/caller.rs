//! Who is at the other end of a connection.

use crate::User;
use std::sync::Arc;

/// Who is at the other end, as the transport knows it. Set by this crate only.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A part of this process.
    Process(Arc<User>),
    /// The network; perhaps with a verified client certificate.
    Network { certificate: Option<Arc<User>> },
}
