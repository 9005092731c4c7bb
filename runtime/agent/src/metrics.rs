//! The agent's metrics, under upstream's names where there are some.

use crate::{
    pod::Role,
    shared::Shared,
    state::{PodState, Record},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::sync::{Arc, Weak};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Started {
    container_type: &'static str,
}

/// What is counted as it happens; what runs is read when somebody looks.
pub(crate) struct Metrics {
    started: Family<Started, Counter>,
    pub(crate) restarts: Counter,
    pub(crate) pod_start: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let pod_start = Histogram::new(exponential_buckets(0.005, 2.0, 18));
        Self { started: Family::default(), restarts: Counter::default(), pod_start }
    }
}

impl Metrics {
    /// A container was started.
    pub(crate) fn started(&self, role: Role) {
        let container_type = if role == Role::App { "container" } else { "init_container" };
        self.started.get_or_create(&Started { container_type }).inc();
    }
}

/// Pods and containers that run.
fn running(shared: &Weak<Shared>) -> (i64, i64) {
    let Some(shared) = shared.upgrade() else { return (0, 0) };
    let handles: Vec<_> = shared.pods.lock().values().cloned().collect();
    let of = |state: &PodState| state.containers.values().filter(|record| Record::is_running(record)).count();
    let counts: Vec<_> = handles.iter().map(|handle| of(&handle.state())).filter(|count| *count > 0).collect();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    (number(counts.len()), number(counts.iter().sum()))
}

pub(crate) fn register(shared: &Arc<Shared>, registry: &mut Registry) {
    let metrics = &shared.metrics;
    registry.register("kubelet_started_containers", "Containers started, by type", metrics.started.clone());
    registry.register("kubelet_container_restarts", "Containers started again", metrics.restarts.clone());
    let help = "From the first sight of a pod until all its containers have been started";
    registry.register("kubelet_pod_start_duration_seconds", help, metrics.pod_start.clone());
    let this = Arc::downgrade(shared);
    client::metrics::gauge(registry, ("kubelet_running_pods", "Pods with a running container"), "", move || {
        vec![("", running(&this).0)]
    });
    let this = Arc::downgrade(shared);
    let what = ("kubelet_running_containers", "Containers that run");
    client::metrics::gauge(registry, what, "container_state", move || vec![("running", running(&this).1)]);
}
