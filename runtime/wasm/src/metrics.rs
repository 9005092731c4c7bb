//! The runtime's metrics. Counters and histograms are updated when an event happens, gauges are read at each scrape.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{fmt, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    result: &'static str,
}

type Requests = Family<Label, Histogram, fn() -> Histogram>;

/// Holds the histogram of each status class, so that a request needs no lookup in the [`Family`].
pub(crate) struct Metrics {
    all_requests: Requests,
    requests: [Histogram; STATUS_CLASSES.len()],
    compilations: Family<Label, Counter>,
    pub(crate) cached: Counter,
    pub(crate) compiled: Counter,
    pub(crate) failed: Counter,
    functions: Family<Label, Counter>,
    pub(crate) functions_cached: Counter,
    pub(crate) functions_compiled: Counter,
    pub(crate) compile_seconds: Histogram,
    pub(crate) traps: Counter,
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Default for Metrics {
    fn default() -> Self {
        let all_requests = Requests::new_with_constructor(|| Histogram::new(exponential_buckets(1e-5, 4.0, 12)));
        let compilations = Family::<Label, Counter>::default();
        let functions = Family::<Label, Counter>::default();
        let counter = |result| compilations.get_or_create_owned(&Label { result });
        let function = |result| functions.get_or_create_owned(&Label { result });
        Self {
            requests: STATUS_CLASSES.map(|result| all_requests.get_or_create_owned(&Label { result })),
            all_requests,
            cached: counter("cached"),
            compiled: counter("compiled"),
            failed: counter("failed"),
            functions_cached: function("cached"),
            functions_compiled: function("compiled"),
            compilations,
            functions,
            compile_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 14)),
            traps: Counter::default(),
        }
    }
}

impl Metrics {
    /// Records a request whose response head is available `took` after its arrival.
    pub(crate) fn answered(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUS_CLASSES.len()) - 1;
        self.requests[class].observe(took.as_secs_f64());
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("sampan_wasm");
        let help = "Images made ready, by where the code came from";
        registry.register("images_prepared", help, self.compilations.clone());
        let help =
            "Functions of images that were compiled with those of the version before, by where the code came from";
        registry.register("functions_compiled", help, self.functions.clone());
        registry.register("compile_duration_seconds", "How long compiling takes", self.compile_seconds.clone());
        registry.register("guest_traps", "Guests that trapped", self.traps.clone());
        let help = "From a request to the head of its answer, by class of status";
        registry.register("http_request_duration_seconds", help, self.all_requests.clone());
    }
}

/// The values of the gauges at one moment.
pub(crate) struct GaugeValues {
    pub(crate) instances: u64,
    pub(crate) instances_idle: u64,
    pub(crate) slots: u64,
    pub(crate) slots_taken: u64,
    pub(crate) memory: u64,
    pub(crate) resident: u64,
}

/// Collects the gauges at each scrape. The function returns `None` after the runtime was dropped.
pub(crate) struct GaugeCollector<F>(pub(crate) F);

impl<F> fmt::Debug for GaugeCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GaugeCollector")
    }
}

impl<F: Fn() -> Option<GaugeValues> + Send + Sync + 'static> Collector for GaugeCollector<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(values) = (self.0)() else { return Ok(()) };
        for (name, help, value) in [
            ("sampan_wasm_instances", "Guest instances that exist", values.instances),
            ("sampan_wasm_instances_idle", "Of them, those that wait for a request", values.instances_idle),
            ("sampan_wasm_places", "Guest instances that may exist at a time", values.slots),
            ("sampan_wasm_places_taken", "Places that instances have or are about to have", values.slots_taken),
            ("sampan_wasm_memory_bytes", "Memory that guests hold", values.memory),
            ("sampan_wasm_resident_bytes", "Memory that is kept for the next instances", values.resident),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}
