//! How a container's HTTP handler is served. Plain data.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the HTTP handler of a container is served. The default is a new instance per request, and the node's own limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPolicy {
    /// Which instance serves a request.
    pub instances: InstancePolicy,
    /// The timeout of a request. `None` means no timeout.
    pub request_timeout: Option<Duration>,
    /// The maximum number of requests that run concurrently, at least 1. `None` means the node's limit per container. A reused instance of a
    /// WASI 0.3 handler has at most this many requests, whether they compute or wait.
    pub max_concurrent: Option<usize>,
    /// The maximum number of queued requests. `None` means as many as fit into the node's memory for queued requests, which always limits
    /// them.
    pub max_queued: Option<usize>,
    /// Whether the container's log has a line per request.
    pub access_log: bool,
    /// Whether a request without a W3C trace context (`traceparent`) gets one, which the guest's own requests then carry.
    pub trace_context: bool,
}

/// Which instance of a component serves a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstancePolicy {
    /// A new instance, so that requests share no state.
    #[default]
    PerRequest,
    /// An idle instance that has served other requests, if there is one. A WASI 0.3 handler may serve several requests at the same time.
    Reuse(Reuse),
}

/// The limits of reusing an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// The number of requests that an instance serves, at least 1.
    pub max_requests: u64,
    /// The age after which an instance gets no more requests.
    pub max_age: Duration,
    /// How long an instance may be idle.
    pub max_idle: Duration,
    /// The number of instances that are created in advance and kept while idle.
    pub min: usize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { max_requests: 1000, max_age: Duration::from_secs(3600), max_idle: Duration::from_secs(30), min: 0 }
    }
}
