//! Probes: timing, and thresholds of consecutive results. Pure. The checks are in [`crate::check`], the scheduling is the prober's.
//!
//! Follows <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>.

use crate::handle::ProbeKind;
use k8s_openapi::api::core::v1::{Container, Probe};
use std::time::Duration;

/// Counts consecutive results of a probe of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThresholdCounter {
    last: Option<bool>,
    consecutive: i32,
    result: Option<bool>,
}

impl ThresholdCounter {
    /// The initial result: liveness succeeded, readiness failed, startup unknown.
    pub fn new(kind: ProbeKind) -> Self {
        let result = match kind {
            ProbeKind::Startup => None,
            ProbeKind::Liveness => Some(true),
            ProbeKind::Readiness => Some(false),
        };
        Self { last: None, consecutive: 0, result }
    }

    /// Adds the result of a check. Returns the result of the probe if it changed.
    pub fn add(&mut self, probe: &Probe, passed: bool) -> Option<bool> {
        self.consecutive = if self.last == Some(passed) { self.consecutive.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let needed = if passed { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.consecutive < needed.max(1) || self.result == Some(passed) {
            return None;
        }
        self.result = Some(passed);
        Some(passed)
    }
}

/// A container's probe of this kind.
pub fn of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
}

/// The delay before the first check.
pub fn initial_delay(probe: &Probe) -> Duration {
    seconds(probe.initial_delay_seconds, 0)
}

/// The period, at least one second.
pub fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10).max(Duration::from_secs(1))
}

/// The timeout of a check, at least one second.
pub fn timeout(probe: &Probe) -> Duration {
    seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1))
}

/// The probe's own grace period for the container's stop.
pub fn grace(probe: &Probe) -> Option<Duration> {
    probe.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).map(|s| Duration::from_secs(s.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(kind: ProbeKind, success: i32, failure: i32, results: &str) -> Vec<Option<bool>> {
        let probe = Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut counter = ThresholdCounter::new(kind);
        results.chars().map(|c| counter.add(&probe, c == '+')).collect()
    }

    #[test]
    fn verdicts_change_after_as_many_results_in_a_row_as_asked() {
        use ProbeKind::{Liveness, Readiness, Startup};
        let (yes, no) = (Some(true), Some(false));
        for (kind, success, failure, results, expected) in [
            (Readiness, 1, 3, "+", vec![yes]),
            (Readiness, 2, 3, "+-++", vec![None, None, None, yes]),
            (Readiness, 1, 2, "+-+--", vec![yes, None, None, None, no]),
            (Readiness, 1, 1, "--", vec![None, None]),
            (Liveness, 1, 3, "---", vec![None, None, no]),
            (Liveness, 1, 3, "--+--", vec![None, None, None, None, None]),
            (Startup, 1, 2, "-+", vec![None, yes]),
            (Startup, 1, 2, "--", vec![None, no]),
        ] {
            assert_eq!(verdicts(kind, success, failure, results), expected, "{kind:?} {results}");
        }
    }
}
