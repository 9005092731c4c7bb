//! The agent's metrics, with upstream's names where upstream has the metric.

use crate::pod::Role;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Started {
    container_type: &'static str,
}

/// Counters are updated when an event happens, gauges are read at each scrape.
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
    /// Counts a started container.
    pub(crate) fn started(&self, role: Role) {
        let container_type = match role {
            Role::App => "container",
            Role::Init | Role::Sidecar => "init_container",
            Role::Ephemeral => "ephemeral_container",
        };
        self.started.get_or_create(&Started { container_type }).inc();
    }

    /// Registers the metrics. `running` returns the number of running pods and containers.
    pub(crate) fn register(
        &self,
        registry: &mut Registry,
        running: impl Fn() -> (usize, usize) + Clone + Send + Sync + 'static,
    ) {
        registry.register("kubelet_started_containers", "Containers started, by type", self.started.clone());
        registry.register("kubelet_container_restarts", "Containers started again", self.restarts.clone());
        let help = "From the first sight of a pod until all its containers have been started";
        registry.register("kubelet_pod_start_duration_seconds", help, self.pod_start.clone());
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let pods = running.clone();
        client::metrics::gauge(registry, ("kubelet_running_pods", "Pods with a running container"), "", move || {
            vec![("", number(pods().0))]
        });
        let what = ("kubelet_running_containers", "Containers that run");
        client::metrics::gauge(registry, what, "container_state", move || vec![("running", number(running().1))]);
    }
}
