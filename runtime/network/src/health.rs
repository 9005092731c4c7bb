//! Health check ports of Services with `type: LoadBalancer` and `externalTrafficPolicy: Local`, at which load balancers ask whether this node
//! has an endpoint. As with kube-proxy, the port listens whether or not a load balancer was assigned, and answers each request alike: 200 with
//! a ready endpoint of this node, 503 without, and the number of them in a header and in JSON.
//!
//! Unlike there, a Service that was scaled to zero because it was idle takes traffic, since the first connection wakes it: the answer is 200,
//! with the weight of one endpoint.

use crate::{
    network::{Inner, VirtualNetwork},
    nodeport::{RETRY, accept_each, bind},
    table::{Health, Name},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::{collections::BTreeMap, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections of one port that are answered at a time; further ones are reset.
const MOST: usize = 64;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// Bytes of a request's head.
const MAX_HEAD: usize = 8 * 1024;
/// How many endpoints the node has, for balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Called once when a health check port cannot be opened. It is tried again until it is open or no longer wanted.
pub type HealthReport = Arc<dyn Fn(&Name, u16, &io::Error) + Send + Sync>;

/// The health check ports of a node. A drop closes the listeners.
pub struct HealthPorts {
    network: VirtualNetwork,
    report: HealthReport,
    taken: BTreeMap<Name, (u16, CancellationToken)>,
}

impl HealthPorts {
    /// Without ports.
    pub fn new(network: VirtualNetwork, report: HealthReport) -> Self {
        Self { network, report, taken: BTreeMap::new() }
    }

    /// Opens the ports of the table's Services, and closes others.
    pub fn sync(&mut self) {
        let wanted = self.network.inner.table.read().health_ports();
        self.taken.retain(|name, (number, token)| {
            let keep = wanted.get(name) == Some(number);
            if !keep {
                token.cancel();
            }
            keep
        });
        for (name, number) in wanted {
            if !self.taken.contains_key(&name) {
                let token = self.network.inner.token.child_token();
                self.taken.insert(name.clone(), (number, token.clone()));
                let (inner, report) = (self.network.inner.clone(), self.report.clone());
                let keep = async move { keep(&inner, &name, number, &report).await };
                self.network.inner.tasks.spawn(async move { token.run_until_cancelled(keep).await });
            }
        }
    }
}

impl Drop for HealthPorts {
    fn drop(&mut self) {
        self.taken.values().for_each(|(_, token)| token.cancel());
    }
}

/// Listens, as soon as the port is free.
async fn keep(inner: &Arc<Inner>, name: &Name, number: u16, report: &HealthReport) -> Infallible {
    let at = SocketAddr::new(inner.config.node_address, number);
    let (mut wait, mut reported) = (RETRY.0, false);
    let listener = loop {
        let error = match bind(at).and_then(|socket| socket.listen(BACKLOG)) {
            Ok(listener) => break listener,
            Err(error) => error,
        };
        if !std::mem::replace(&mut reported, true) {
            report(name, number, &error);
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    };
    let places = Arc::new(Semaphore::new(MOST));
    tracing::info!(service = %format_args!("{}/{}", name.0, name.1), %at, "health check port open");
    accept_each(at, &listener, |socket, _| {
        let Ok(place) = places.clone().try_acquire_owned() else {
            let _ = socket.set_zero_linger(); // without it the client sees an end instead of a reset
            return;
        };
        let (inner, name) = (inner.clone(), name.clone());
        let token = inner.token.clone();
        let tasks = inner.tasks.clone();
        tasks.spawn(async move { token.run_until_cancelled(serve(&inner, &name, socket, place)).await });
    })
    .await
}

/// Answers the request of a connection, and closes it.
async fn serve(inner: &Inner, name: &Name, socket: TcpStream, _place: OwnedSemaphorePermit) {
    let tell = service_fn(|_| async { Ok::<_, Infallible>(answer(name, inner.table.read().health(name))) });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.keep_alive(false).max_buf_size(MAX_HEAD);
    match timeout(PATIENCE, builder.serve_connection(TokioIo::new(socket), tell)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a health check ended"),
        Err(_) => tracing::debug!("a health check took too long"),
    }
}

/// The answer for a Service; without health it is gone, and its port about to close.
fn answer(name: &Name, health: Option<Health>) -> Response<Full<Bytes>> {
    let (local, asleep) = health.map_or((0, false), |health| (health.local, health.asleep));
    let weight = if asleep { local.max(1) } else { local };
    // The values are names of Kubernetes: nothing of them needs an escape. Spaces and order are those of kube-proxy.
    let text = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": true\n}}",
        name.0, name.1
    );
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = if weight > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(weight));
    response
}
