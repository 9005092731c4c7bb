//! The latest samples of CPU time, and rates computed from them. Pure.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;

/// The shortest time over which a rate is computed.
pub(crate) const MIN_RATE_WINDOW: SignedDuration = SignedDuration::from_secs(10);

/// The usage of the node's process. Unreadable values are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the start in nanoseconds, including the guests'.
    pub cpu_nanos: Option<u64>,
    /// Resident memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// A rate of CPU usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds per second.
    pub(crate) nano_cores: u64,
    /// The time over which the rate is averaged.
    pub(crate) window: SignedDuration,
}

/// What a container has used and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) cpu_nanos: u64,
    pub(crate) requests: u64,
}

/// The CPU times of the node and its containers at one time, in nanoseconds.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) at: Option<Timestamp>,
    pub(crate) node: Option<u64>,
    /// By the key of the attempt's id.
    pub(crate) containers: HashMap<u64, Counters>,
}

/// The last two samples.
#[derive(Default)]
pub(crate) struct Readings(Mutex<[Reading; 2]>);

/// A container's key: the first 64 bits of its random id.
pub(crate) fn key(id: &str) -> u64 {
    id.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

impl Readings {
    pub(crate) fn push(&self, reading: Reading) {
        let mut all = self.0.lock();
        let [last, before] = &mut *all;
        *before = std::mem::replace(last, reading);
    }

    /// The newest sample that is at least [`MIN_RATE_WINDOW`] old, with its time.
    pub(crate) fn baseline<T>(&self, now: Timestamp, value: impl Fn(&Reading) -> Option<T>) -> Option<(Timestamp, T)> {
        let all = self.0.lock();
        all.iter().find_map(|reading| {
            let at = reading.at.filter(|at| now.duration_since(*at) >= MIN_RATE_WINDOW)?;
            Some((at, value(reading)?))
        })
    }
}

/// The rate since the baseline.
pub(crate) fn rate((at, before): (Timestamp, u64), now: Timestamp, cpu_nanos: u64) -> Option<Rate> {
    let window = now.duration_since(at);
    let nanos = u128::try_from(window.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
    let used = u128::from(cpu_nanos.saturating_sub(before)) * 1_000_000_000;
    Some(Rate { nano_cores: u64::try_from(used / nanos).ok()?, window })
}

/// Requests a second since the baseline, in thousandths. Those that are served at this moment count too, however long ago they came: what
/// serves is not idle.
pub(crate) fn request_rate(
    (at, before): (Timestamp, u64),
    now: Timestamp,
    (requests, busy): (u64, u64),
) -> Option<u64> {
    let millis = u128::try_from(now.duration_since(at).as_millis()).ok().filter(|millis| *millis > 0)?;
    u64::try_from(u128::from(requests.saturating_sub(before).max(busy)) * 1_000_000 / millis).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_rate_is_of_the_newest_reading_that_is_old_enough() {
        let readings = Readings::default();
        let cpu = |reading: &Reading| reading.containers.get(&7).map(|counters| counters.cpu_nanos);
        assert_eq!(readings.baseline(at(100), cpu), None);
        let reading = |seconds, cpu_nanos| {
            let counters = Counters { cpu_nanos, requests: 0 };
            Reading { at: Some(at(seconds)), node: None, containers: [(7, counters)].into() }
        };
        readings.push(reading(100, 5));
        assert_eq!(readings.baseline(at(109), cpu), None, "too short a time");
        assert_eq!(readings.baseline(at(110), cpu), Some((at(100), 5)));
        readings.push(reading(115, 9));
        assert_eq!(readings.baseline(at(116), cpu), Some((at(100), 5)));
        assert_eq!(readings.baseline(at(125), cpu), Some((at(115), 9)));
        assert_eq!(readings.baseline(at(125), |reading| reading.node), None);
    }

    #[test]
    fn a_rate_is_nanoseconds_per_second() {
        let half = rate((at(100), 1_000), at(120), 10_000_001_000).unwrap();
        assert_eq!((half.nano_cores, half.window.as_secs()), (500_000_000, 20));
        assert_eq!(request_rate((at(100), 5), at(120), (35, 4)), Some(1_500));
        assert_eq!(request_rate((at(100), 5), at(120), (5, 4)), Some(200), "what came before and is served still");
        assert_eq!(
            (request_rate((at(100), 9), at(110), (3, 0)), request_rate((at(100), 9), at(100), (9, 0))),
            (Some(0), None)
        );
        assert_eq!(rate((at(100), 9), at(110), 3).unwrap().nano_cores, 0, "a counter that began anew");
    }
}
