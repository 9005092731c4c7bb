//! What containers and the node use of CPU and memory. CPU time is read every [`EVERY`], so that a rate is known at once when somebody asks;
//! who asks gets the use of the last 10 to 25 seconds, as of metrics-server.

use crate::{pod, shared::Shared, state::AttemptState};
use container::Stats;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Time between two readings, as of metrics-server.
const EVERY: Duration = Duration::from_secs(15);
/// The shortest time of which a rate is told.
const SHORTEST: SignedDuration = SignedDuration::from_secs(10);
/// A container that began before this is rated by two readings only: its mean since the start says nothing of now.
const FRESH: SignedDuration = SignedDuration::from_secs(60);
/// Containers that are read without a pause for other tasks.
const BATCH: usize = 256;

/// What a node's own process uses. What cannot be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the start in nanoseconds, of the guests as well.
    pub cpu_nanos: Option<u64>,
    /// Resident memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// CPU used per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds per second.
    pub(crate) nano_cores: u64,
    /// The time that it is the mean of.
    pub(crate) window: SignedDuration,
}

/// One reading of a running container.
pub(crate) struct Sample {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    /// The attempt.
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Timestamp,
    pub(crate) stats: Stats,
    pub(crate) rate: Option<Rate>,
}

/// One reading of the node.
pub(crate) struct OfNode {
    pub(crate) usage: Usage,
    pub(crate) rate: Option<Rate>,
}

/// CPU times at one time.
#[derive(Default)]
struct Reading {
    at: Option<Timestamp>,
    node: Option<u64>,
    /// By the beginning of the attempt's id, which is random.
    containers: HashMap<u64, u64>,
}

/// The last two readings.
#[derive(Default)]
pub(crate) struct Readings(Mutex<[Reading; 2]>);

fn key(id: &str) -> u64 {
    id.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

impl Readings {
    fn push(&self, reading: Reading) {
        let mut all = self.0.lock();
        let [last, before] = &mut *all;
        *before = std::mem::replace(last, reading);
    }

    /// The newest reading that is old enough to be rated against.
    fn base(&self, now: Timestamp, value: impl Fn(&Reading) -> Option<u64>) -> Option<(Timestamp, u64)> {
        let all = self.0.lock();
        all.iter().find_map(|reading| {
            let at = reading.at.filter(|at| now.duration_since(*at) >= SHORTEST)?;
            Some((at, value(reading)?))
        })
    }
}

/// The use since the base.
fn rate((at, before): (Timestamp, u64), now: Timestamp, cpu_nanos: u64) -> Option<Rate> {
    let window = now.duration_since(at);
    let nanos = u128::try_from(window.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
    let used = u128::from(cpu_nanos.saturating_sub(before)) * 1_000_000_000;
    Some(Rate { nano_cores: u64::try_from(used / nanos).ok()?, window })
}

/// What runs at this moment, by pod.
pub(crate) async fn samples(shared: &Shared) -> Vec<Sample> {
    let now = shared.now();
    let mut samples = Vec::new();
    for pod in shared.cluster.pods.list() {
        let Some(handle) = shared.pods.lock().get(pod::uid(&pod)).cloned() else { continue };
        for (name, record) in &handle.state().containers {
            let Some(attempt) = record.current.as_ref() else { continue };
            let AttemptState::Running { started_at } = attempt.state else { continue };
            let Some(runtime) = shared.runtimes.get(&attempt.runtime) else { continue };
            let Ok(stats) = runtime.stats(&attempt.id.as_str().into()).await else { continue };
            let of = key(&attempt.id);
            let base = shared.readings.base(now, |reading| reading.containers.get(&of).copied());
            let age = now.duration_since(started_at);
            let base = base.or_else(|| (SHORTEST..FRESH).contains(&age).then_some((started_at, 0)));
            samples.push(Sample {
                pod: pod.clone(),
                container: name.clone(),
                id: attempt.id.clone(),
                image: attempt.image.clone(),
                started: started_at,
                stats,
                rate: base.and_then(|base| rate(base, now, stats.cpu_nanos)),
            });
            if samples.len().is_multiple_of(BATCH) {
                tokio::task::yield_now().await;
            }
        }
    }
    samples
}

/// What the node uses at this moment.
pub(crate) fn of_node(shared: &Shared) -> OfNode {
    let (now, usage) = (shared.now(), (shared.options.usage)());
    let base = shared.readings.base(now, |reading| reading.node);
    let rate = usage.cpu_nanos.and_then(|cpu| rate(base?, now, cpu));
    OfNode { usage, rate }
}

async fn read(shared: &Shared) -> Reading {
    let mut reading =
        Reading { at: Some(shared.now()), node: (shared.options.usage)().cpu_nanos, containers: HashMap::new() };
    let handles: Vec<_> = shared.pods.lock().values().cloned().collect();
    for handles in handles.chunks(BATCH) {
        for handle in handles {
            for attempt in
                handle.state().containers.values().filter(|r| r.is_running()).filter_map(|r| r.current.as_ref())
            {
                let Some(runtime) = shared.runtimes.get(&attempt.runtime) else { continue };
                if let Ok(stats) = runtime.stats(&attempt.id.as_str().into()).await {
                    reading.containers.insert(key(&attempt.id), stats.cpu_nanos);
                }
            }
        }
        tokio::task::yield_now().await;
    }
    reading
}

/// Reads until `token` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        let reading = read(&shared).await;
        shared.readings.push(reading);
    }
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
        let cpu = |reading: &Reading| reading.containers.get(&7).copied();
        assert_eq!(readings.base(at(100), cpu), None);
        let reading = |seconds, cpu| Reading { at: Some(at(seconds)), node: None, containers: [(7, cpu)].into() };
        readings.push(reading(100, 5));
        assert_eq!(readings.base(at(109), cpu), None, "too short a time");
        assert_eq!(readings.base(at(110), cpu), Some((at(100), 5)));
        readings.push(reading(115, 9));
        assert_eq!(readings.base(at(116), cpu), Some((at(100), 5)));
        assert_eq!(readings.base(at(125), cpu), Some((at(115), 9)));
        assert_eq!(readings.base(at(125), |reading| reading.node), None);
    }

    #[test]
    fn a_rate_is_nanoseconds_per_second() {
        let half = rate((at(100), 1_000), at(120), 10_000_001_000).unwrap();
        assert_eq!((half.nano_cores, half.window.as_secs()), (500_000_000, 20));
        assert_eq!(rate((at(100), 9), at(110), 3).unwrap().nano_cores, 0, "a counter that began anew");
    }
}
