//! The service table as rules of the kernel.

use super::state::{Kernel, v4};
use crate::{egress::unmap, network::Inner, slices};
use netns::{Behind, Endpoint, Protocol, Rules, Service};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::sleep;

/// The delay before rules that could not be applied are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the rules in step with the table.
pub(super) async fn run(inner: Arc<Inner>, kernel: Arc<Kernel>) {
    loop {
        inner.services_changed.notified().await;
        while let Err(error) = kernel.node.apply(&of(&inner)).await {
            tracing::warn!(%error, "Services are not up to date in network namespaces");
            sleep(RETRY).await;
        }
    }
}

/// The rules. What only this process can do is given to it: to wake a Service, and to reach endpoints that are no pods.
pub(super) fn of(inner: &Inner) -> Rules {
    let mut services = Vec::new();
    // the last one counts: endpoints that are there go first
    if let Some(SocketAddr::V4(at)) = inner.dns.as_ref().map(|dns| dns.address()) {
        services.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| Service {
            at,
            protocol,
            behind: Behind::Socket,
        }));
    }
    for (protocol, at, port) in inner.table.read().ports() {
        let SocketAddr::V4(at) = at else { continue };
        let is_dns = inner.dns.as_ref().is_some_and(|dns| dns.address() == SocketAddr::V4(at));
        if is_dns && port.is_free() {
            continue;
        }
        let endpoint = |at: &SocketAddr| Some(Endpoint { at: v4(*at).ok()?, weight: 1 });
        let endpoints: Vec<Endpoint> = port.endpoints(false).iter().filter_map(endpoint).collect();
        let elsewhere = |at: &SocketAddr| !inner.config.pod_cidr.contains(&unmap(at.ip()));
        let behind = match port.is_asleep(false) || port.endpoints(false).iter().any(elsewhere) {
            true => Behind::Egress,
            false => Behind::Endpoints { endpoints, affinity: port.affinity() },
        };
        let protocol = match protocol {
            slices::Protocol::Tcp => Protocol::Tcp,
            slices::Protocol::Udp => Protocol::Udp,
        };
        services.push(Service { at, protocol, behind });
    }
    Rules { services, refused: inner.egress.refused() }
}
