//! What the rest of the node sees of the network: [`Network`] attaches pods, [`Dialer`] reaches them.

use crate::{
    http,
    kernel::NamespaceSockets,
    network::{Inner, Route, Source, VirtualNetwork},
    pod::{Bound, Pod},
    slices::Protocol,
    sockets::PodSockets,
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
        let known = self.inner.pods.read().by_id.get(&spec.id).cloned();
        let id = spec.id.clone();
        let attached = match spec.kernel {
            true => self.attach_kernel(spec).await?,
            false => self.attached(self.inner.join(spec)?).await?,
        };
        let pod = self.inner.pods.read().by_id.get(&id).cloned();
        // of one that is attached again they are open already
        if let Some(pod) = pod.filter(|pod| known.is_none_or(|known| !Arc::ptr_eq(&known, pod)))
            && let Err(error) = self.open_host_ports(&pod).await
        {
            self.detach(&id).await;
            return Err(error);
        }
        Ok(attached)
    }

    async fn detach(&self, id: &str) {
        let left = self.inner.leave(id);
        // also of one that a former process attached
        self.inner.disconnect(id).await;
        if let Some(pod) = left {
            self.inner.pools[usize::from(pod.spec.kernel)].lock().free(pod.address);
        }
    }

    fn view(&self, id: &str) -> Option<Arc<dyn Sockets>> {
        let pod = self.inner.pods.read().by_id.get(id).cloned()?;
        Some(self.sockets(pod))
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
            Route::Pod { pod, port, by_loopback } => match pod.tcp(port, by_loopback)? {
                Bound::Kernel => self.inner.dial(&pod, port, by_loopback, self.cluster_peer().address).await.map(drop),
                _ => Ok(()),
            },
            Route::Host { to, .. } => self.inner.open_host(to).await.map(drop),
            Route::Dns(_) => Ok(()),
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
    /// Attaches a pod that needs a network namespace. Nothing changes where this machine has none.
    async fn attach_kernel(&self, spec: PodNetwork) -> Result<Attachment> {
        self.inner.kernel().await?;
        let id = spec.id.clone();
        let known = self.inner.pods.read().by_id.get(&id).cloned();
        if known.as_ref().is_some_and(|pod| !pod.spec.kernel) {
            self.detach(&id).await;
        }
        let former = self.inner.former_address(&id).await;
        let pod = self.inner.join(PodNetwork { address: former.or(spec.address), ..spec })?;
        let attached = self.attached(pod).await;
        if attached.is_err() && known.is_none_or(|pod| !pod.spec.kernel) {
            self.detach(&id).await;
        }
        attached
    }

    async fn attached(&self, pod: Arc<Pod>) -> Result<Attachment> {
        let sandbox = match self.inner.namespace(&pod).await? {
            Some(path) => Sandbox::Namespace(path),
            None => Sandbox::Virtual,
        };
        Ok(Attachment { addresses: vec![pod.address], sockets: self.sockets(pod), sandbox })
    }

    fn sockets(&self, pod: Arc<Pod>) -> Arc<dyn Sockets> {
        match pod.spec.kernel {
            true => Arc::new(NamespaceSockets::new(self.clone(), pod)),
            false => Arc::new(PodSockets::new(self.clone(), pod)),
        }
    }

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

impl Inner {
    /// The pod of an id; a new one gets an address.
    fn join(&self, spec: PodNetwork) -> Result<Arc<Pod>> {
        let mut pods = self.pods.write();
        if let Some(pod) = pods.by_id.get(&spec.id) {
            return Ok(pod.clone());
        }
        let mut pool = self.pools[usize::from(spec.kernel)].lock();
        let wanted = spec.address.filter(|address| pool.claim(*address));
        let full = || Error::Exhausted(format!("all addresses of {} are taken", self.config.node_cidr));
        let address = wanted.or_else(|| pool.take()).ok_or_else(full)?;
        let pod = Pod::new(spec, address, self.config.limits, self.ports_changed.clone());
        pods.by_address.insert(address, pod.clone());
        pods.by_id.insert(pod.spec.id.clone(), pod.clone());
        Ok(pod)
    }

    /// Removes a pod. Its address is freed later, when its namespace is gone: nobody else gets it before.
    fn leave(&self, id: &str) -> Option<Arc<Pod>> {
        let mut pods = self.pods.write();
        let pod = pods.by_id.remove(id)?;
        pods.by_address.remove(&pod.address);
        pod.close();
        Some(pod)
    }
}
