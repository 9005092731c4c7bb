//! The server as a value: what it is made of, how it is called in process, and how objects are looked up inside it.

use crate::{
    Ids, Objects, Settings, User,
    admission::{self, Admission},
    advice::ImageAdvice,
    bootstrap, chain,
    discovery::Discovery,
    health::Checks,
    kinds,
    limits::Limits,
    metrics::Metrics,
    nodes::Nodes,
    openapi::OpenApi,
    payload::Item,
    registry::Registry,
    reviews,
    tokens::Tokens,
};
use api::{Clock, Object};
use arc_swap::ArcSwap;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, task::Poll};
use store::Store;
use tokio_util::sync::CancellationToken;

/// What a server is made of.
pub struct Options {
    /// Where objects live.
    pub store: Store<Item>,
    /// Wall-clock time.
    pub clock: Clock,
    /// Uids and generated names.
    pub ids: Ids,
    /// Addresses and ports of Services.
    pub settings: Settings,
    /// Signs and checks ServiceAccount tokens.
    pub tokens: Tokens,
    /// The way to the kubelets' paths.
    pub nodes: Arc<dyn Nodes>,
    /// Where the API can be reached from pods: what Service `default/kubernetes` points to.
    pub advertise: SocketAddr,
    /// Ends watches and other long answers; cancel it with (or before) the token of [`Server::serve`], which waits for requests.
    pub shutdown: CancellationToken,
    /// Identifies this process in its Lease; unique per running server.
    pub identity: String,
    /// What is known about images, for warnings.
    pub image_advice: Option<ImageAdvice>,
    /// The process's metrics, shown at `/metrics`.
    pub metrics: Arc<Mutex<prometheus_client::registry::Registry>>,
}

/// The API server. A clone is the same server.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store<Item>,
    pub(crate) clock: Clock,
    pub(crate) ids: Arc<Ids>,
    pub(crate) registry: ArcSwap<Registry>,
    pub(crate) admission: Vec<Arc<dyn Admission>>,
    pub(crate) tokens: Tokens,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) limits: Limits,
    pub(crate) checks: Checks,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    pub(crate) image_advice: Option<ImageAdvice>,
    pub(crate) advertise: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) identity: String,
}

impl Server {
    /// Builds the server: the registry, allocators rebuilt from what is stored, and the objects that must exist.
    ///
    /// # Errors
    /// When the objects that must exist cannot be written.
    pub async fn new(options: Options) -> anyhow::Result<Self> {
        let resources = kinds::all(&options.settings).into_iter().chain(reviews::all());
        let registry = Registry::new(resources);
        let server = Self(Arc::new(Inner {
            store: options.store,
            clock: options.clock,
            ids: Arc::new(options.ids),
            registry: ArcSwap::from_pointee(registry),
            admission: admission::all(&options.settings),
            tokens: options.tokens,
            nodes: options.nodes,
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            limits: Limits::default(),
            checks: Checks::default(),
            metrics: Metrics::new(options.metrics),
            settings: options.settings,
            image_advice: options.image_advice,
            advertise: options.advertise,
            shutdown: options.shutdown,
            identity: options.identity,
        }));
        let store = server.0.store.clone();
        // Not for liveness: a store that fails mends itself when it can, and a restart mends nothing that it cannot.
        server.0.checks.register("store", true, move || match store.failure() {
            Some(failure) => Err(format!("not every write can be stored: {failure}")),
            None => Ok(()),
        });
        server.rebuild_allocators();
        bootstrap::ensure(&server).await?;
        Ok(server)
    }

    fn rebuild_allocators(&self) {
        let Ok(snapshot) = self.0.store.snapshot(None) else { return };
        for resource in self.0.registry.load().all() {
            if resource.review.is_some() || resource.converts() || !resource.strategy.rebuilds() {
                continue;
            }
            for entry in snapshot.range(&resource.prefix(), None) {
                resource.strategy.loaded(&entry.payload.view(resource).object());
            }
        }
    }

    /// Keeps what the server owns up to date (Service `kubernetes`, its endpoints and the server's Lease) until `shutdown`.
    pub async fn run(&self) {
        bootstrap::run(self).await;
    }

    /// Readiness and liveness checks; other parts register theirs here.
    pub fn checks(&self) -> &Checks {
        &self.0.checks
    }

    /// The stored objects, read without HTTP: for parts of this process that hold the same rights as the server (token checks).
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(self.clone())
    }

    /// A tower service that acts as `user`: the identity is a typed extension, which nothing from the network can set.
    pub fn service_for(&self, user: User) -> Service {
        Service { server: self.clone(), caller: Caller::Process(Arc::new(user)) }
    }

    /// A service for a caller from the network without a client certificate: it is who its bearer token says, or anonymous.
    pub fn service_for_network(&self) -> Service {
        self.service_of_connection(None)
    }

    /// A service for one connection from the network; `certificate` is the user of its verified client certificate.
    pub(crate) fn service_of_connection(&self, certificate: Option<Arc<User>>) -> Service {
        Service { server: self.clone(), caller: Caller::Network { certificate } }
    }
}

impl Objects for Server {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let registry = self.0.registry.load();
        let resource = registry.find(group, resource)?;
        let entry = self.0.store.get(&resource.key(namespace, name))?;
        Some(Arc::new(entry.payload.view(resource).object()))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let registry = self.0.registry.load();
        let (Some(resource), Ok(snapshot)) = (registry.find(group, resource), self.0.store.snapshot(None)) else {
            return Vec::new();
        };
        let mut prefix = resource.prefix();
        if resource.namespaced && !namespace.is_empty() {
            prefix = format!("{prefix}{namespace}/");
        }
        snapshot.range(&prefix, None).map(|e| Arc::new(e.payload.view(resource).object())).collect()
    }
}

/// Who is at the other end, as the transport knows it. Set by this crate only.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A part of this process.
    Process(Arc<User>),
    /// The network; perhaps with a verified client certificate.
    Network { certificate: Option<Arc<User>> },
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
