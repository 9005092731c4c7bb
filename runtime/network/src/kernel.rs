//! The kernel's part of the network: the node's network namespace, with the pods that have one of their own. It is made when the first of them
//! comes; until then there is none, and it costs nothing.

mod dns;
mod mirror;
mod outgoing;
mod rules;
mod sockets;
pub(crate) mod state;

use crate::{network::Inner, pod::Pod};
use container::net::{Error, Result, Stream};
use netns::{Node, Options, Place};
use state::{Kernel, error_at, v4, without_delay};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
};
use tokio::{net::UdpSocket, time::timeout};

pub(crate) use sockets::NamespaceSockets;

impl Inner {
    /// The kernel's part, which is made now if it is not there.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it is not configured, or this machine cannot.
    pub(crate) async fn kernel(self: &Arc<Self>) -> Result<&Arc<Kernel>> {
        self.kernel.get_or_try_init(|| self.start_kernel()).await
    }

    async fn start_kernel(self: &Arc<Self>) -> Result<Arc<Kernel>> {
        let (Some(mode), Some(layout)) = (&self.config.kernel, self.config.layout()) else {
            return Err(Error::Unsupported("this node has no network namespaces for pods".into()));
        };
        let options = Options {
            program: mode.program.clone(),
            args: mode.args.clone(),
            env: Vec::new(),
            folder: mode.folder.clone(),
            layout,
        };
        let own = SocketAddr::new(layout.node.into(), 0);
        let node = Node::open(options).await.map_err(|error| error_at(error, own))?;
        let egress = Arc::new(node.egress().await.map_err(|error| error_at(error, own))?);
        let kernel = Arc::new(Kernel { node, datagrams: Default::default() });
        // from now on pods are connected with what is here; the rest follows at once, and again when something changes
        kernel.node.apply(&rules::of(self)).await.map_err(|error| error_at(error, own))?;
        self.run(rules::run(self.clone(), kernel.clone()));
        self.run(mirror::run(self.clone(), kernel.clone()));
        if let Some(server) = &self.dns {
            self.run(dns::run(self.clone(), kernel.clone(), server.clone()));
        }
        self.run(outgoing::connections(self.clone(), egress.clone()));
        self.run(outgoing::flows(self.clone(), egress));
        Ok(kernel)
    }

    /// Runs a task as long as the network.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move { token.run_until_cancelled(task).await });
    }

    /// The network namespace of a pod, if it has one. It is made now if it is not there.
    pub(crate) async fn namespace(self: &Arc<Self>, pod: &Pod) -> Result<Option<PathBuf>> {
        if !pod.spec.kernel {
            return Ok(None);
        }
        let kernel = self.kernel().await?;
        let at = SocketAddr::new(pod.address, 0);
        let address = *v4(at)?.ip();
        // what a former process left at this address is of nobody who was attached since
        for (id, _) in kernel.node.pods().into_iter().filter(|(id, other)| *other == address && *id != pod.spec.id) {
            kernel.node.detach(&id).await.map_err(|error| error_at(error, at))?;
        }
        let attached = kernel.node.attach(&pod.spec.id, address).await;
        attached.map(|pod| Some(pod.path())).map_err(|error| error_at(error, at))
    }

    /// The address that a former process gave to a pod which is still there.
    pub(crate) async fn former_address(self: &Arc<Self>, id: &str) -> Option<IpAddr> {
        Some(self.kernel().await.ok()?.node.pod(id)?.address().into())
    }

    /// Takes the link of a pod that has left, if it has one.
    pub(crate) async fn disconnect(&self, id: &str) {
        if let Some(kernel) = self.kernel.get().filter(|kernel| kernel.node.pod(id).is_some())
            && let Err(error) = kernel.node.detach(id).await
        {
            tracing::warn!(%error, pod = id, "the network namespace of a pod is not removed");
        }
    }

    /// Connects to a pod that has a namespace, for a pod or for the cluster at `from`.
    pub(crate) async fn dial(&self, pod: &Pod, port: u16, by_loopback: bool, from: SocketAddr) -> Result<Stream> {
        let to = if by_loopback { Ipv4Addr::LOCALHOST.into() } else { pod.address };
        let to = v4(SocketAddr::new(to, port))?;
        let caller = self.pod_at(from.ip()).filter(|caller| caller.spec.kernel);
        let (place, source) = match &caller {
            _ if by_loopback => (Place::Pod(&pod.spec.id), None),
            Some(caller) => (Place::Pod(&caller.spec.id), None),
            None => (Place::Node, self.source(from)),
        };
        let Some(kernel) = self.kernel.get() else { return Err(Error::Unreachable(to.to_string())) };
        let dial = kernel.node.connect(place, source, to);
        match timeout(self.config.limits.connect_timeout, dial).await {
            Err(_) => Err(Error::TimedOut(format!("connect to {to}"))),
            Ok(Err(netns::Error::Io(error))) if error.kind() == ErrorKind::AddrInUse => Err(Error::AddressInUse(from)),
            Ok(Err(error)) => Err(error_at(error, to.into())),
            Ok(Ok(stream)) => Ok(Box::new(without_delay(stream))),
        }
    }

    /// The source address that a pod shall see: that of a virtual pod, or of who is outside. The node's own otherwise, by itself.
    fn source(&self, from: SocketAddr) -> Option<SocketAddrV4> {
        let from = v4(from).ok()?;
        let nobody = from.ip().is_loopback() || from.ip().is_unspecified() || self.config.node_internal() == *from.ip();
        (!nobody).then_some(from)
    }

    /// A UDP socket of the node itself, for one client of a port of the host.
    pub(crate) async fn node_socket(self: &Arc<Self>) -> Result<UdpSocket> {
        let at = SocketAddr::new(self.config.node_internal(), 0);
        let made = self.kernel().await?.node.bind_udp(Place::Node, v4(at)?).await;
        made.map_err(|error| error_at(error, at))
    }

    /// Sends a datagram of a virtual pod's port to a pod that has a namespace.
    pub(crate) async fn send_datagram(
        self: &Arc<Self>,
        pod: &Pod,
        port: u16,
        data: &[u8],
        to: SocketAddr,
    ) -> Result<()> {
        let kernel = self.kernel().await?;
        let socket = mirror::datagrams(self, kernel, v4(SocketAddr::new(pod.address, port))?).await?;
        socket.send_to(data, to).await.map(drop).map_err(|error| error_at(error.into(), to))
    }
}
