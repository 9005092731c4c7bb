//! The audit point of the chain: one event for each request, when its response is known. Follows the stage `ResponseComplete` of upstream's
//! audit events. Policies and backends are up to the [`Audit`].

use crate::User;
use std::{collections::BTreeMap, sync::Arc};

/// A request and its response.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// The `Audit-Id` of the response.
    pub id: String,
    /// `get`, `create` and so on; for documents the lower-case method.
    pub verb: String,
    /// The whole decoded path.
    pub path: String,
    /// The user; `None` when authentication failed.
    pub user: Option<Arc<User>>,
    /// The impersonated user, if any.
    pub impersonated: Option<Arc<User>>,
    /// The HTTP status.
    pub code: u16,
    /// What admission said about the request.
    pub annotations: BTreeMap<String, String>,
}

/// Receives audit events. It must neither block nor fail: a backend that writes has a bounded queue of its own.
pub trait Audit: Send + Sync + 'static {
    /// Called when a request has been answered, or its stream has begun.
    fn answered(&self, event: Event);
}
