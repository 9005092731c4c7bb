//! The server's metrics, registered into the one registry that the composition root owns, under upstream's names.

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: String,
    pub(crate) resource: String,
    pub(crate) code: u16,
}

/// What the server counts.
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) watches: Gauge,
    pub(crate) panics: Counter,
    pub(crate) unreadable: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: Arc<Mutex<Registry>>) -> Self {
        let made = Self {
            registry,
            requests: Family::default(),
            watches: Gauge::default(),
            panics: Counter::default(),
            unreadable: Counter::default(),
        };
        let mut registry = made.registry.lock();
        registry.register("apiserver_request", "Requests by verb, resource and code", made.requests.clone());
        registry.register("apiserver_longrunning_requests", "Watches under way", made.watches.clone());
        registry.register("apiserver_request_panics", "Requests that panicked", made.panics.clone());
        let what = "Stored objects that lists left out since they are none";
        registry.register("sampan_store_unreadable_objects", what, made.unreadable.clone());
        drop(registry);
        made
    }

    /// Everything in the process's registry, as OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}
