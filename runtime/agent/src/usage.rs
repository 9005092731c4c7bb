//! CPU and memory usage of containers and of the node. CPU times are sampled every [`SAMPLE_INTERVAL`], so that a rate is available at
//! once. It covers the last 10 to 25 seconds, like that of metrics-server.

use crate::{
    pod,
    readings::{Counters, MIN_RATE_WINDOW, Rate, Reading, Usage, key, rate, request_rate},
    shared::Shared,
    state::AttemptState,
};
use container::Stats;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The sample interval, as of metrics-server.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// A container without a sample is rated since its start if it is younger than this: later, the mean since the start is meaningless.
const MAX_SINCE_START: SignedDuration = SignedDuration::from_secs(60);
/// The number of containers that are sampled before other tasks may run.
const BATCH_SIZE: usize = 256;

/// The usage of a running container.
pub(crate) struct Sample {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    /// The id of the attempt.
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Timestamp,
    pub(crate) stats: Stats,
    pub(crate) rate: Option<Rate>,
    /// Requests a second, in thousandths, over the window of the rate.
    pub(crate) request_rate: Option<u64>,
}

/// The usage of the node.
pub(crate) struct NodeSample {
    pub(crate) usage: Usage,
    pub(crate) rate: Option<Rate>,
}

/// The usage of all running containers, ordered by pod.
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
            let base = shared.readings.baseline(now, |reading| reading.containers.get(&of).copied());
            let age = now.duration_since(started_at);
            let base = base.or_else(|| {
                let start = Counters { cpu_nanos: 0, requests: 0 };
                (MIN_RATE_WINDOW..MAX_SINCE_START).contains(&age).then_some((started_at, start))
            });
            samples.push(Sample {
                pod: pod.clone(),
                container: name.clone(),
                id: attempt.id.clone(),
                image: attempt.image.clone(),
                started: started_at,
                stats,
                rate: base.and_then(|(at, base)| rate((at, base.cpu_nanos), now, stats.cpu_nanos)),
                request_rate: base
                    .and_then(|(at, base)| request_rate((at, base.requests), now, (stats.requests, stats.busy))),
            });
            if samples.len().is_multiple_of(BATCH_SIZE) {
                tokio::task::yield_now().await;
            }
        }
    }
    samples
}

/// The usage of the node.
pub(crate) fn node_sample(shared: &Shared) -> NodeSample {
    let (now, usage) = (shared.now(), (shared.options.usage)());
    let base = shared.readings.baseline(now, |reading| reading.node);
    let rate = usage.cpu_nanos.and_then(|cpu| rate(base?, now, cpu));
    NodeSample { usage, rate }
}

async fn read(shared: &Shared) -> Reading {
    let mut reading =
        Reading { at: Some(shared.now()), node: (shared.options.usage)().cpu_nanos, containers: HashMap::new() };
    let handles: Vec<_> = shared.pods.lock().values().cloned().collect();
    for handles in handles.chunks(BATCH_SIZE) {
        for handle in handles {
            for attempt in
                handle.state().containers.values().filter(|r| r.is_running()).filter_map(|r| r.current.as_ref())
            {
                let Some(runtime) = shared.runtimes.get(&attempt.runtime) else { continue };
                if let Ok(stats) = runtime.stats(&attempt.id.as_str().into()).await {
                    let counters = Counters { cpu_nanos: stats.cpu_nanos, requests: stats.requests };
                    reading.containers.insert(key(&attempt.id), counters);
                }
            }
        }
        tokio::task::yield_now().await;
    }
    reading
}

/// Samples CPU times until `token` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        let reading = read(&shared).await;
        shared.readings.push(reading);
    }
}
