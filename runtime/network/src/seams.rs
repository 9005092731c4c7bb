//! What the rest of the node sees of the network: [`Network`] attaches pods, [`Dialer`] reaches them.

use crate::{
    http,
    network::{Route, Source, VirtualNetwork},
    pod::Pod,
    sockets::PodSockets,
    table::Protocol,
};
use ::http::{HeaderValue, header::HOST};
use container::net::{
    Attachment, Connection, Dialer, Error, Network, Peer, PodNetwork, Request, Response, Result, Sandbox, Sockets,
    Stream, Via,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

#[async_trait::async_trait]
impl Network for VirtualNetwork {
    async fn attach(&self, spec: PodNetwork) -> Result<Attachment> {
        let inner = &self.inner;
        let mut pods = inner.pods.write();
        let pod = match pods.by_id.get(&spec.id) {
            Some(pod) => pod.clone(),
            None => {
                let mut pool = inner.pool.lock();
                let wanted = spec.address.filter(|address| pool.claim(*address));
                let full = || Error::Exhausted(format!("all addresses of {} are taken", inner.config.node_cidr));
                let address = wanted.or_else(|| pool.take()).ok_or_else(full)?;
                let pod = Pod::new(spec, address, inner.config.limits);
                pods.by_address.insert(address, pod.clone());
                pods.by_id.insert(pod.spec.id.clone(), pod.clone());
                pod
            }
        };
        drop(pods);
        let addresses = vec![pod.address];
        let sockets: Arc<dyn Sockets> = Arc::new(PodSockets::new(self.clone(), pod));
        Ok(Attachment { addresses, sockets, sandbox: Sandbox::Virtual })
    }

    async fn detach(&self, id: &str) {
        let mut pods = self.inner.pods.write();
        if let Some(pod) = pods.by_id.remove(id) {
            pods.by_address.remove(&pod.address);
            pod.close();
            self.inner.pool.lock().free(pod.address);
        }
    }

    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>> {
        let pod = self.inner.pods.read().by_id.get(id).cloned()?;
        Some(Arc::new(PodSockets::new(self.clone(), pod)))
    }

    fn list(&self) -> Vec<(Arc<str>, IpAddr)> {
        self.inner.pods.read().by_id.iter().map(|(id, pod)| (id.clone(), pod.address)).collect()
    }
}

#[async_trait::async_trait]
impl Dialer for VirtualNetwork {
    async fn connect(&self, to: SocketAddr) -> Result<Stream> {
        let route = self.awake_route(to).await?;
        self.inner.open(&route, self.cluster_peer()).await
    }

    async fn reachable(&self, to: SocketAddr) -> Result<()> {
        match self.cluster_route(to)? {
            Route::Pod { pod, port, by_loopback } => pod.tcp(port, by_loopback).map(drop),
            Route::Host { to, .. } => self.inner.open_host(to).await.map(drop),
        }
    }

    async fn http(&self, to: SocketAddr, mut request: Request) -> Result<Response> {
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(&to.to_string()).map_err(|e| Error::Protocol(e.to_string()))?;
            request.headers_mut().insert(HOST, host);
        }
        let route = self.awake_route(to).await?;
        http::send(&self.inner, &route, self.cluster_peer(), request).await
    }

    async fn hand_over(&self, connection: Connection, peer: Peer, to: SocketAddr) -> Result<()> {
        let route = self.awake_route(to).await?;
        self.inner.hand_over(connection, peer, &route).await
    }
}

impl VirtualNetwork {
    fn cluster_route(&self, to: SocketAddr) -> Result<Route> {
        self.inner.route(Source::Cluster(self.node_internal()), to, Protocol::Tcp)
    }

    async fn awake_route(&self, to: SocketAddr) -> Result<Route> {
        self.inner.route_awake(Source::Cluster(self.node_internal()), to).await
    }

    fn cluster_peer(&self) -> Peer {
        Peer { address: SocketAddr::new(self.node_internal(), 0), via: Via::Cluster }
    }
}
