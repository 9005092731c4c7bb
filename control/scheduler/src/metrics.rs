//! The scheduler's metrics, under upstream's names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

/// The metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    attempts: Family<Attempt, Counter>,
    durations: Family<Attempt, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self { attempts: Family::default(), durations: Family::new_with_constructor(seconds) }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("scheduler_schedule_attempts", "Tries to schedule a pod, by result", self.attempts.clone());
        let help = "How long a try takes, binding included";
        registry.register("scheduler_scheduling_attempt_duration_seconds", help, self.durations.clone());
    }

    /// Counts an attempt with its result: `scheduled`, `unschedulable` or `error`.
    pub(crate) fn tried(&self, profile: &str, result: &'static str, took: Duration) {
        let attempt = Attempt { profile: profile.to_owned(), result };
        self.attempts.get_or_create(&attempt).inc();
        self.durations.get_or_create(&attempt).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_counted_and_timed() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.tried("default-scheduler", "scheduled", Duration::from_millis(3));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let labels = "{profile=\"default-scheduler\",result=\"scheduled\"}";
        for line in [
            format!("scheduler_schedule_attempts_total{labels} 1"),
            format!("scheduler_scheduling_attempt_duration_seconds_sum{labels} 0.003"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
