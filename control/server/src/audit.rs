//! The audit point of the chain: one record of each request, when its answer is known. Follows the stage `ResponseComplete` of upstream's audit
//! events; policies and backends come with an [`Audit`] that has them.

use crate::User;
use std::sync::Arc;

/// What is known of a request when its answer is.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// The `Audit-Id` of the answer.
    pub id: String,
    /// `get`, `create` and so on; for documents the lower-case method.
    pub verb: String,
    /// The whole decoded path.
    pub path: String,
    /// Who asked; `None` when authentication failed.
    pub user: Option<Arc<User>>,
    /// As whom, if as somebody else.
    pub impersonated: Option<Arc<User>>,
    /// The HTTP status.
    pub code: u16,
}

/// Takes note of requests. It must neither block nor fail: a backend that writes has a bounded queue of its own.
pub trait Audit: Send + Sync + 'static {
    /// A request has been answered; a stream has begun.
    fn answered(&self, event: Event);
}
