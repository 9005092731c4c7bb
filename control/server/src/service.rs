//! The server as a tower service, for components of this process and for connections.

use crate::{Server, User, caller::Caller, chain};
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use std::{convert::Infallible, sync::Arc, task::Poll};

impl Server {
    /// A service whose requests are those of `user`. The identity is a typed extension that no network client can set.
    pub fn service_for(&self, user: User) -> Service {
        Service { server: self.clone(), caller: Caller::Process(Arc::new(user)) }
    }

    /// A service for a network client without a certificate: its user comes from a bearer token, or is anonymous.
    pub fn service_for_network(&self) -> Service {
        self.service_of_connection(None)
    }

    /// A service for one network connection; `certificate` is the user of its verified client certificate.
    pub(crate) fn service_of_connection(&self, certificate: Option<Arc<User>>) -> Service {
        Service { server: self.clone(), caller: Caller::Network { certificate } }
    }
}

/// The server as a tower service for one caller. Fits `kube::Client::new` and hyper connections.
#[derive(Clone)]
pub struct Service {
    server: Server,
    caller: Caller,
}

impl Service {
    /// Serves one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        chain::handle(&self.server, &self.caller, request.map(Body::new)).await
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.handle(request).await) })
    }
}
