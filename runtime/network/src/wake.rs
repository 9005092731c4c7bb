//! Asks the control plane for Deployments that were scaled to zero and for which connections wait: an annotation of an EndpointSlice of the
//! Service, which stays until they serve. One write for each time that a Service is woken, whatever the number of connections and nodes.

use crate::{network::VirtualNetwork, table::Name};
use api::annotations::{SCALED_TO_ZERO, WAKE_REQUESTED};
use client::{Client, Patch, meta};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The longest that one request to the API may take; it is made again as long as somebody waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node asks with.
pub struct Waker {
    /// A client with the node's rights.
    pub client: Client,
    /// Wall-clock time.
    pub clock: api::Clock,
}

/// The slice to write to; `None` where somebody has asked already, or the Service does not sleep.
fn unasked(slices: &[Arc<EndpointSlice>]) -> Option<&Arc<EndpointSlice>> {
    let has = |slice: &Arc<EndpointSlice>, key: &str| meta::annotation(&slice.metadata, key).is_some();
    let marked = || slices.iter().filter(|slice| has(slice, SCALED_TO_ZERO));
    if marked().any(|slice| has(slice, WAKE_REQUESTED)) { None } else { marked().next() }
}

impl Waker {
    /// Asks for each Service for which somebody waits, until it is dropped. `slices` are those of a Service.
    pub(crate) async fn run(&self, network: &VirtualNetwork, slices: impl Fn(&Name) -> Vec<Arc<EndpointSlice>>) {
        loop {
            let due = network.inner.holds.due().await;
            let names = due.iter().filter_map(|service| service.split_once('/'));
            let found = names.map(|(namespace, name)| slices(&(namespace.to_owned(), name.to_owned())));
            let asked = found.filter_map(|slices| unasked(&slices).cloned()).map(|slice| self.ask(slice));
            futures::future::join_all(asked).await;
        }
    }

    async fn ask(&self, slice: Arc<EndpointSlice>) {
        let (namespace, name) = (meta::namespace(&slice.metadata), meta::name(&slice.metadata));
        let now = api::time::rfc3339(self.clock.now());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {WAKE_REQUESTED: now}}}));
        match timeout(PATIENCE, self.client.patch::<EndpointSlice>(namespace, name, patch)).await {
            Ok(Ok(_)) => tracing::info!(slice = %format_args!("{namespace}/{name}"), "a request waits: asked to wake"),
            Ok(Err(error)) => tracing::info!(slice = %format_args!("{namespace}/{name}"), %error, "cannot ask to wake"),
            Err(_) => tracing::info!(slice = %format_args!("{namespace}/{name}"), "the API does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_for_once() {
        let slice = |name: &str, annotations: serde_json::Value| -> Arc<EndpointSlice> {
            let value =
                json!({"metadata": {"name": name, "annotations": annotations}, "addressType": "IPv4", "endpoints": []});
            Arc::new(serde_json::from_value(value).expect("a slice"))
        };
        let awake = slice("awake", json!({}));
        let asleep = slice("asleep", json!({SCALED_TO_ZERO: "web"}));
        let asked = slice("asked", json!({SCALED_TO_ZERO: "web", WAKE_REQUESTED: "now"}));
        for (slices, wanted) in [
            (vec![], None),
            (vec![awake.clone()], None),
            (vec![awake.clone(), asleep.clone()], Some("asleep")),
            (vec![asleep, asked], None),
        ] {
            assert_eq!(unasked(&slices).map(|slice| meta::name(&slice.metadata)), wanted);
        }
    }
}
