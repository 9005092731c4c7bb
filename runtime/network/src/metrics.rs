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
    pub(crate) held: Counter,
    pub(crate) not_held: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let dials = Family::<Dial, Counter>::default();
        let of = |result| dials.get_or_create_owned(&Dial { result });
        let (endpoint, no_endpoint, no_port) = (of("endpoint"), of("no_endpoint"), of("no_port"));
        Self { endpoint, no_endpoint, no_port, held: of("held"), not_held: of("not_held"), dials }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("sampan_network_service_dials", "Dials of Services, by where they led", self.dials.clone());
    }
}
