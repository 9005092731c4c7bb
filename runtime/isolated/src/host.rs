//! What the node does for a child: its pod's network, and the states that it tells. The child may be in the hands of a guest: everything that
//! it can hold is bounded, and belongs to its own pod only.

use crate::{
    link::{Answer, Link, Service},
    pipes,
    protocol::{Bound, NetworkReply, NoticeToChild, NoticeToNode, ToNode},
    requests::Requests,
};
use container::{
    ContainerId, ContainerState,
    net::{
        self, BoundPort, Connection, Datagrams, Error, HttpHandler, Listener, Peer, Request, Response, Serving,
        Sockets, Stream,
    },
};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

/// Most ports, listeners and handlers of a pod.
const MAX_HELD: usize = 1024;

/// Told of the states of containers, in their order.
pub(crate) type OnState = Box<dyn Fn(ContainerId, ContainerState) + Send + Sync>;

/// The node's side of a link.
pub(crate) struct Host {
    sockets: Arc<dyn Sockets>,
    on_state: OnState,
    ready: Mutex<Option<oneshot::Sender<Result<(), String>>>>,
    held: Mutex<HashMap<u64, Held>>,
    next: AtomicU64,
    /// One permit for each stream of this pod, and one of the node's.
    streams: [Arc<Semaphore>; 2],
    link: OnceLock<Link>,
    runtime: Handle,
}

/// What the child holds of the network.
enum Held {
    /// A call is about to change it.
    Busy,
    Port(Box<dyn BoundPort>),
    Listener(Arc<dyn Listener>),
    /// Dropped, they give up what they stand for.
    Datagrams {
        _tasks: [AbortOnDropHandle<()>; 2],
    },
    Serving {
        _serving: Box<dyn Serving>,
    },
}

/// What a stream holds while it exists.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Host {
    /// `of_pod` and `of_node` bound the streams; `ready` is told when the child is.
    pub(crate) fn new(
        sockets: Arc<dyn Sockets>,
        streams: [Arc<Semaphore>; 2],
        ready: oneshot::Sender<Result<(), String>>,
        on_state: OnState,
    ) -> Arc<Self> {
        Arc::new(Self {
            sockets,
            on_state,
            ready: Mutex::new(Some(ready)),
            held: Mutex::default(),
            next: AtomicU64::new(1),
            streams,
            link: OnceLock::new(),
            runtime: Handle::current(),
        })
    }

    /// Sets the link, by which connections are sent.
    pub(crate) fn set_link(&self, link: Link) {
        let _ = self.link.set(link);
    }

    /// Gives up everything that the child held.
    pub(crate) fn clear(&self) {
        let held = std::mem::take(&mut *self.held.lock());
        drop(held);
        *self.ready.lock() = None;
    }

    fn permits(&self) -> net::Result<Permits> {
        let [of_pod, of_node] = self.streams.each_ref().map(|all| all.clone().try_acquire_owned());
        match (of_pod, of_node) {
            (Ok(of_pod), Ok(of_node)) => Ok((of_pod, of_node)),
            _ => Err(Error::Exhausted("open connections of isolated pods".into())),
        }
    }

    fn through(&self, stream: Stream) -> net::Result<OwnedFd> {
        let permits = self.permits()?;
        pipes::through(stream, permits).map_err(|error| Error::Exhausted(error.to_string()))
    }

    /// Takes a place for something that is about to be made.
    fn reserve(&self) -> net::Result<Reserved<'_>> {
        let mut held = self.held.lock();
        if held.len() >= MAX_HELD {
            return Err(Error::Exhausted("ports of an isolated pod".into()));
        }
        let handle = self.next.fetch_add(1, Relaxed);
        held.insert(handle, Held::Busy);
        Ok(Reserved { host: self, handle })
    }

    /// Takes a bound port out, to use it.
    fn take_port(&self, handle: u64) -> net::Result<(Box<dyn BoundPort>, Reserved<'_>)> {
        let mut held = self.held.lock();
        let unknown = || Error::Protocol("no such port".into());
        let place = held.get_mut(&handle).ok_or_else(unknown)?;
        match std::mem::replace(place, Held::Busy) {
            Held::Port(port) => Ok((port, Reserved { host: self, handle })),
            other => {
                *place = other;
                Err(unknown())
            }
        }
    }

    async fn bind(&self, at: SocketAddr) -> net::Result<Bound> {
        let reserved = self.reserve()?;
        let port = self.sockets.bind(at).await?;
        let local = port.local_address();
        Ok(Bound { handle: reserved.fill(Held::Port(port)), local })
    }

    async fn listen(&self, handle: u64) -> net::Result<()> {
        let (port, reserved) = self.take_port(handle)?;
        let listener = port.listen().await?;
        reserved.fill(Held::Listener(Arc::from(listener)));
        Ok(())
    }

    async fn accept(&self, handle: u64) -> net::Result<(SocketAddr, OwnedFd)> {
        let listener = match self.held.lock().get(&handle) {
            Some(Held::Listener(listener)) => listener.clone(),
            _ => return Err(Error::Protocol("no such listener".into())),
        };
        let (stream, peer) = listener.accept().await?;
        Ok((peer, self.through(stream)?))
    }

    async fn connect_from(&self, handle: u64, to: SocketAddr) -> net::Result<(SocketAddr, OwnedFd)> {
        let (port, _reserved) = self.take_port(handle)?;
        let (stream, local) = port.connect(to).await?;
        Ok((local, self.through(stream)?))
    }

    async fn connect(&self, to: SocketAddr) -> net::Result<(SocketAddr, OwnedFd)> {
        let (stream, local) = self.sockets.connect(to).await?;
        Ok((local, self.through(stream)?))
    }

    async fn bind_udp(&self, at: SocketAddr) -> net::Result<(Bound, OwnedFd)> {
        let (reserved, permits) = (self.reserve()?, self.permits()?);
        let socket: Arc<dyn Datagrams> = Arc::from(self.sockets.bind_udp(at).await?);
        let local = socket.local_address();
        let (own, other) = pipes::pair().map_err(|error| Error::Exhausted(error.to_string()))?;
        let (from, to) = own.into_split();
        let to = Arc::new(tokio::sync::Mutex::new(to));
        let (sending, receiving) = (pipes::send_all(socket.clone(), from, to.clone()), pipes::receive_all(socket, to));
        let receive = async move {
            receiving.await;
            drop(permits);
        };
        let tasks = [AbortOnDropHandle::new(tokio::spawn(sending)), AbortOnDropHandle::new(tokio::spawn(receive))];
        Ok((Bound { handle: reserved.fill(Held::Datagrams { _tasks: tasks }), local }, other))
    }

    async fn serve_http(&self, port: u16, handler: u64) -> net::Result<(Bound, OwnedFd)> {
        let reserved = self.reserve()?;
        let (own, other) = pipes::pair().map_err(|error| Error::Exhausted(error.to_string()))?;
        let link = self.link.get().cloned().ok_or_else(|| Error::Protocol("no link yet".into()))?;
        let requests = Requests::start(own).await?;
        let remote =
            RemoteHandler { link, requests, handler, streams: self.streams.clone(), runtime: self.runtime.clone() };
        let serving = self.sockets.serve_http(port, Arc::new(remote)).await?;
        let local = serving.local_address();
        Ok((Bound { handle: reserved.fill(Held::Serving { _serving: serving }), local }, other))
    }

    async fn answer(&self, bytes: &[u8]) -> Answer {
        let call = match serde_json::from_slice(bytes) {
            Ok(call) => call,
            Err(error) => return encode(Err::<(), _>(Error::Protocol(error.to_string())), None),
        };
        match call {
            ToNode::Bind(at) => plain(self.bind(at).await),
            ToNode::Listen(handle) => plain(self.listen(handle).await),
            ToNode::Accept(handle) => with_descriptor(self.accept(handle).await),
            ToNode::ConnectFrom(handle, to) => with_descriptor(self.connect_from(handle, to).await),
            ToNode::Connect(to) => with_descriptor(self.connect(to).await),
            ToNode::BindUdp(at) => with_descriptor(self.bind_udp(at).await),
            ToNode::Resolve(name) => plain(self.sockets.resolve(&name).await),
            ToNode::ServeHttp(port, handler) => with_descriptor(self.serve_http(port, handler).await),
        }
    }
}

fn encode<T: Serialize>(reply: NetworkReply<T>, descriptor: Option<OwnedFd>) -> Answer {
    (serde_json::to_vec(&reply).unwrap_or_default(), descriptor.into_iter().collect())
}

fn plain<T: Serialize>(reply: net::Result<T>) -> Answer {
    encode(reply, None)
}

fn with_descriptor<T: Serialize>(reply: net::Result<(T, OwnedFd)>) -> Answer {
    match reply {
        Ok((value, descriptor)) => encode(Ok(value), Some(descriptor)),
        Err(error) => encode(Err::<T, _>(error), None),
    }
}

/// A place in [`Host::held`], which is freed when this is dropped.
struct Reserved<'a> {
    host: &'a Host,
    handle: u64,
}

impl Reserved<'_> {
    /// Keeps what was made, unless the child has given it up meanwhile.
    fn fill(self, made: Held) -> u64 {
        let handle = self.handle;
        let mut held = self.host.held.lock();
        if let Some(place) = held.get_mut(&handle) {
            *place = made;
        }
        drop(held);
        std::mem::forget(self);
        handle
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.host.held.lock().remove(&self.handle);
    }
}

impl Service for Host {
    fn call(self: Arc<Self>, bytes: Vec<u8>, _: Vec<OwnedFd>) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        Box::pin(async move { self.answer(&bytes).await })
    }

    fn notice(&self, bytes: &[u8], _: Vec<OwnedFd>) {
        match serde_json::from_slice(bytes) {
            Ok(NoticeToNode::Ready(result)) => {
                if let Some(ready) = self.ready.lock().take() {
                    let _ = ready.send(result);
                }
            }
            Ok(NoticeToNode::State(id, state)) => (self.on_state)(id, state),
            Ok(NoticeToNode::Close(handle)) => {
                let held = self.held.lock().remove(&handle);
                drop(held);
            }
            Err(error) => tracing::debug!(%error, "an isolated pod said something unknown"),
        }
    }
}

/// A handler of the child, as the network calls it.
struct RemoteHandler {
    link: Link,
    requests: Requests,
    handler: u64,
    streams: [Arc<Semaphore>; 2],
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpHandler for RemoteHandler {
    async fn call(&self, request: Request, peer: Peer) -> net::Result<Response> {
        self.requests.send(request, Some(&peer)).await
    }

    fn serve(&self, connection: Connection, peer: Peer) {
        let (tcp, descriptor) = match connection {
            // The child has the connection itself: its bytes do not come here.
            Connection::Tcp(socket) => (true, OwnedFd::from(socket)),
            Connection::Stream(stream) => {
                let permits = self.streams.each_ref().map(|all| all.clone().try_acquire_owned());
                if permits.iter().any(Result::is_err) {
                    return;
                }
                let _runtime = self.runtime.enter();
                let Ok(descriptor) = pipes::through(stream, permits) else { return };
                (false, descriptor)
            }
        };
        // Where the child is too slow to take it, the connection is closed, and the client may try another endpoint.
        self.link.try_notice(&NoticeToChild::Connection { handler: self.handler, tcp, peer }, vec![descriptor]);
    }
}
