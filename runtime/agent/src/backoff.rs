//! Exponential back-off with Kubernetes' values: 10 s, doubled up to 5 min, reset after 10 min without a failure. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>. The first restart of a container is
//! immediate. Each further restart waits twice as long after the container's exit.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const INITIAL: SignedDuration = SignedDuration::from_secs(10);
const MAXIMUM: SignedDuration = SignedDuration::from_secs(300);
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// A back-off delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The current delay.
    pub delay: SignedDuration,
    /// When the delay was last increased.
    pub updated: Timestamp,
}

impl Backoff {
    /// The back-off after another failure at `event`: doubled, or the initial delay if there was none or it was reset.
    pub fn next(previous: Option<Self>, event: Timestamp, now: Timestamp) -> Self {
        let delay = match previous {
            Some(previous) if event.duration_since(previous.updated) <= FORGET => (previous.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        Self { delay, updated: now }
    }

    /// The end of the back-off of a container that exited at `since`. `None` if it may start now.
    pub fn until(this: Option<Self>, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let this = this?;
        if since.duration_since(this.updated) > FORGET {
            return None;
        }
        let until = since.saturating_add(this.delay).unwrap_or(now);
        (now < until).then_some(until)
    }

    /// The end of the back-off of an operation that failed at the last update, such as a pull.
    pub fn since_update(this: Option<Self>, now: Timestamp) -> Option<Timestamp> {
        let updated = this?.updated;
        Self::until(this, updated, now)
    }
}

/// A duration in Go's format, in whole milliseconds: `10s`, `1m20s`, `1.234s`, `850ms`, `0s`.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".into();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (total, fraction) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if hours > 0 || minutes > 0 {
        text += &format!("{minutes}m");
    }
    text += &seconds.to_string();
    if fraction > 0 {
        text += format!(".{fraction:03}").trim_end_matches('0');
    }
    text + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn the_first_restart_is_free_and_later_ones_double_to_five_minutes() {
        let mut backoff = None;
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..8 {
            // the container ends at once each time
            let until = Backoff::until(backoff, now, now);
            delays.push(until.map_or(0, |until| until.duration_since(now).as_secs()));
            now = until.unwrap_or(now);
            backoff = Some(Backoff::next(backoff, now, now));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_peace_reset_it() {
        let backoff = Some(Backoff { delay: MAXIMUM, updated: at(0) });
        assert_eq!(Backoff::until(backoff, at(601), at(601)), None);
        assert_eq!(Backoff::next(backoff, at(601), at(601)).delay, INITIAL);
        assert!(Backoff::until(backoff, at(599), at(599)).is_some());
    }

    #[test]
    fn durations_print_as_in_go() {
        for (millis, text) in [
            (0, "0s"),
            (850, "850ms"),
            (1200, "1.2s"),
            (1234, "1.234s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
