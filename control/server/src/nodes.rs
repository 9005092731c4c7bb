//! The way to the kubelets: one trait giving, per node, a service that speaks the kubelet's own paths (`/containerLogs/NS/POD/CONTAINER`
//! and so on). On one node the composition root joins it to the agent by a function call.

use axum::body::Body;
use http::{Request, Response};

/// A reason why a node cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Calls a node's kubelet paths.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// Sends one request to the kubelet of `node`; the path is the kubelet's. The answer's body streams.
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, Unreachable>;
}

/// No node at all: a server that stands alone.
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    async fn call(&self, node: &str, _: Request<Body>) -> Result<Response<Body>, Unreachable> {
        Err(Unreachable(format!("no way to node {node:?}")))
    }
}
