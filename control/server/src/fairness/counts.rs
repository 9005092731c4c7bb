//! What is counted of the requests of a flow schema.

use crate::metrics::{FlowLabels, FlowMetrics, RefusalLabels};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

/// The metrics of a schema, looked up once.
pub(super) struct Counts {
    labels: FlowLabels,
    metrics: FlowMetrics,
    /// Requests that got a seat.
    pub(super) dispatched: Counter,
    /// Those that have one.
    pub(super) executing: Gauge,
    /// Those that wait for one.
    pub(super) waiting: Gauge,
}

impl Counts {
    pub(super) fn new(metrics: &FlowMetrics, labels: FlowLabels) -> Self {
        Self {
            dispatched: metrics.dispatched.get_or_create(&labels).clone(),
            executing: metrics.executing.get_or_create(&labels).clone(),
            waiting: metrics.waiting.get_or_create(&labels).clone(),
            metrics: metrics.clone(),
            labels,
        }
    }

    /// Counts a request that is refused.
    pub(super) fn refused(&self, reason: &'static str) {
        let FlowLabels { priority_level, flow_schema } = self.labels.clone();
        self.metrics.refused.get_or_create(&RefusalLabels { priority_level, flow_schema, reason }).inc();
    }

    /// Whether both are of the same schema and level.
    pub(super) fn are_of(&self, other: &Self) -> bool {
        self.labels == other.labels
    }

    /// Takes the metrics out. What was refused stays: it is counted for ever.
    pub(super) fn forget(&self) {
        self.metrics.dispatched.remove(&self.labels);
        self.metrics.executing.remove(&self.labels);
        self.metrics.waiting.remove(&self.labels);
    }
}
