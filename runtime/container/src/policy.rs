//! How a container's HTTP handler is served, as plain values.

use std::time::Duration;

/// How the HTTP handler of one container is served. The default: a new instance for each request, and the node's own bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    /// Which instance answers a request.
    pub instances: InstancePolicy,
    /// Time after which a request is cut; `None` is never.
    pub request_timeout: Option<Duration>,
    /// Requests that compute at a time, at least 1; `None`: as many as the node allows each container. A reused instance of a handler of WASI
    /// 0.3 has at most as many requests at a time, whether they compute or wait.
    pub max_concurrent: Option<usize>,
    /// Requests that may wait for their turn; `None`: as many as fit into the memory that the node keeps for them, which always holds.
    pub max_queued: Option<usize>,
    /// Whether each request is a line in the container's log.
    pub access_log: bool,
    /// Whether a request without a W3C trace context (`traceparent`) gets one, and the requests that the guest makes meanwhile carry it.
    pub trace_context: bool,
}

/// Which instance of a component answers a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstancePolicy {
    /// A new one, so that nothing of a request is left for the next.
    #[default]
    PerRequest,
    /// One that has answered others, if one is idle; for a handler of WASI 0.3 one that may be answering others at the time.
    Reuse(Reuse),
}

/// How long an instance is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Requests that it answers, at least 1.
    pub max_requests: u64,
    /// Time from its beginning after which it takes no more requests.
    pub max_age: Duration,
    /// Time that it may be idle.
    pub max_idle: Duration,
    /// Instances that are made before a request needs them, and kept although idle.
    pub min: usize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { max_requests: 1000, max_age: Duration::from_secs(3600), max_idle: Duration::from_secs(30), min: 0 }
    }
}
