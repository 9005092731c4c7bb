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

/// A flow schema and its priority level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FlowLabels {
    pub(crate) priority_level: String,
    pub(crate) flow_schema: String,
}

/// Why requests of a flow schema are refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusalLabels {
    pub(crate) priority_level: String,
    pub(crate) flow_schema: String,
    pub(crate) reason: &'static str,
}

/// What priority and fairness counts.
#[derive(Clone, Default)]
pub(crate) struct FlowMetrics {
    pub(crate) dispatched: Family<FlowLabels, Counter>,
    pub(crate) refused: Family<RefusalLabels, Counter>,
    pub(crate) executing: Family<FlowLabels, Gauge>,
    pub(crate) waiting: Family<FlowLabels, Gauge>,
}

impl FlowMetrics {
    fn register(&self, registry: &mut Registry) {
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        let what = "Requests that were given a seat, by priority level and flow schema";
        registry.register(name("dispatched_requests"), what, self.dispatched.clone());
        let what = "Requests that were refused, by priority level, flow schema and reason";
        registry.register(name("rejected_requests"), what, self.refused.clone());
        let what = "Requests that have a seat, by priority level and flow schema";
        registry.register(name("current_executing_requests"), what, self.executing.clone());
        let what = "Requests that wait for a seat, by priority level and flow schema";
        registry.register(name("current_inqueue_requests"), what, self.waiting.clone());
    }
}

/// What the server counts.
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) watches: Gauge,
    pub(crate) panics: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) flows: FlowMetrics,
}

impl Metrics {
    pub(crate) fn new(registry: Arc<Mutex<Registry>>) -> Self {
        let made = Self {
            registry,
            requests: Family::default(),
            watches: Gauge::default(),
            panics: Counter::default(),
            unreadable: Counter::default(),
            flows: FlowMetrics::default(),
        };
        let mut registry = made.registry.lock();
        registry.register("apiserver_request", "Requests by verb, resource and code", made.requests.clone());
        registry.register("apiserver_longrunning_requests", "Watches under way", made.watches.clone());
        registry.register("apiserver_request_panics", "Requests that panicked", made.panics.clone());
        let what = "Stored objects that lists left out since they are none";
        registry.register("sampan_store_unreadable_objects", what, made.unreadable.clone());
        made.flows.register(&mut registry);
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
