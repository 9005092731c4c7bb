//! The network's metrics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dial {
    result: &'static str,
}

/// Where dials of Services led. Counting is one atomic addition.
pub(crate) struct Metrics {
    dials: Family<Dial, Counter>,
    pub(crate) endpoint: Counter,
    pub(crate) no_endpoint: Counter,
    pub(crate) no_port: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let dials = Family::<Dial, Counter>::default();
        let of = |result| dials.get_or_create_owned(&Dial { result });
        Self { endpoint: of("endpoint"), no_endpoint: of("no_endpoint"), no_port: of("no_port"), dials }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("sampan_network_service_dials", "Dials of Services, by where they led", self.dials.clone());
    }
}
