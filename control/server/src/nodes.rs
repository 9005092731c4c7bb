//! The connection to the kubelets: requests on the kubelet's own paths (`/containerLogs/NS/POD/CONTAINER` and so on), by node. On a single
//! node the composition root joins the trait to the agent by a function call.

use axum::body::Body;
use http::{Request, Response};

/// Why a node cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Calls a node's kubelet paths.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// Sends one request to the kubelet of `node`; the path is the kubelet's. The body of the response is a stream.
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, Unreachable>;
}

/// No nodes: an API server by itself.
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    async fn call(&self, node: &str, _: Request<Body>) -> Result<Response<Body>, Unreachable> {
        Err(Unreachable(format!("no way to node {node:?}")))
    }
}
