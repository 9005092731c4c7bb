//! Metrics of work queues, under upstream's names, and gauges that are computed when they are scraped. The registry is the composition root's.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    name: String,
}

type Durations = Family<Queue, Histogram, fn() -> Histogram>;

/// A histogram of seconds from 1 µs on, with upstream's buckets.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-6, 10.0, 9))
}

/// The metrics of all queues of a process, by the queue's name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    depth: Family<Queue, Gauge>,
    adds: Family<Queue, Counter>,
    retries: Family<Queue, Counter>,
    waited: Durations,
    worked: Durations,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        let (waited, worked) = (Durations::new_with_constructor(seconds), Durations::new_with_constructor(seconds));
        Self { depth: Family::default(), adds: Family::default(), retries: Family::default(), waited, worked }
    }
}

impl QueueMetrics {
    /// Registers the metrics. To be called once.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Keys that wait", self.depth.clone());
        registry.register("workqueue_adds", "Keys added", self.adds.clone());
        registry.register("workqueue_retries", "Keys added again after a failure", self.retries.clone());
        registry.register("workqueue_queue_duration_seconds", "How long keys wait", self.waited.clone());
        registry.register("workqueue_work_duration_seconds", "How long a key is worked on", self.worked.clone());
    }

    /// The meter of one queue.
    pub(crate) fn of(&self, name: &str) -> Meter {
        let queue = Queue { name: name.to_owned() };
        Meter {
            depth: self.depth.get_or_create_owned(&queue),
            adds: self.adds.get_or_create_owned(&queue),
            retries: self.retries.get_or_create_owned(&queue),
            waited: self.waited.get_or_create_owned(&queue),
            worked: self.worked.get_or_create_owned(&queue),
        }
    }
}

/// The metrics of one queue.
#[derive(Clone)]
pub(crate) struct Meter {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
}

struct Reading<F> {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    read: F,
}

impl<F> fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<L: AsRef<str>, F: Fn() -> Vec<(L, i64)> + Send + Sync + 'static> Collector for Reading<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        if self.label.is_empty() {
            let number = (self.read)().first().map_or(0, |(_, number)| *number);
            return ConstGauge::new(number).encode(metric);
        }
        for (value, number) in (self.read)() {
            ConstGauge::new(number).encode(metric.encode_family(&[(self.label, value.as_ref())])?)?;
        }
        Ok(())
    }
}

/// Registers a gauge that is computed when it is scraped: one number for each value of `label`, or a single one if `label` is empty.
pub fn gauge<L: AsRef<str> + 'static>(
    registry: &mut Registry,
    (name, help): (&'static str, &'static str),
    label: &'static str,
    read: impl Fn() -> Vec<(L, i64)> + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Reading { name, help, label, read }));
}
