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
    decisions: Histogram,
    preemptions: Counter,
    victims: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(seconds),
            decisions: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
        }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("scheduler_schedule_attempts", "Tries to schedule a pod, by result", self.attempts.clone());
        let help = "How long a try takes, binding included";
        registry.register("scheduler_scheduling_attempt_duration_seconds", help, self.durations.clone());
        let help = "How long it takes to find a node for a pod";
        registry.register("scheduler_scheduling_algorithm_duration_seconds", help, self.decisions.clone());
        let help = "How often room was looked for by preemption";
        registry.register("scheduler_preemption_attempts", help, self.preemptions.clone());
        registry.register("scheduler_preemption_victims", "Pods that are preempted for one", self.victims.clone());
    }

    /// Records how long it took to find a node.
    pub(crate) fn decided(&self, took: Duration) {
        self.decisions.observe(took.as_secs_f64());
    }

    /// Counts a pod for which room is looked for.
    pub(crate) fn preempts(&self) {
        self.preemptions.inc();
    }

    /// Records how many pods are preempted for one.
    #[expect(clippy::cast_precision_loss, reason = "a node has fewer pods than 2^52")]
    pub(crate) fn preempted(&self, victims: usize) {
        self.victims.observe(victims as f64);
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
        metrics.decided(Duration::from_millis(2));
        metrics.preempts();
        metrics.preempted(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let labels = "{profile=\"default-scheduler\",result=\"scheduled\"}";
        for line in [
            format!("scheduler_schedule_attempts_total{labels} 1"),
            format!("scheduler_scheduling_attempt_duration_seconds_sum{labels} 0.003"),
            "scheduler_scheduling_algorithm_duration_seconds_sum 0.002".to_owned(),
            "scheduler_preemption_attempts_total 1".to_owned(),
            "scheduler_preemption_victims_sum 3.0".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
