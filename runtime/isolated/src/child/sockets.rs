//! The network of the pod, as its guests see it: the node's, over the link.

use crate::{
    link::{Call, Failed, Link},
    pipes::{self, Record},
    protocol::{Bound, NetworkReply, NoticeToNode, ToNode},
    requests::{self, Requests},
};
use bytes::Bytes;
use container::net::{
    self, BoundPort, Connection, Datagrams, Error, HttpHandler, Listener, Peer, Request, Response, Serving, Sockets,
    Stream,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

/// Most calls in progress. The node ends a pod that has more than its limit.
const MAX_CALLS: usize = 3072;
/// Datagrams that wait in each direction.
const DATAGRAMS: usize = 64;

/// The network of the pod. Cheap to clone.
#[derive(Clone)]
pub(super) struct PodSockets(Arc<Inner>);

struct Inner {
    link: Link,
    requests: Requests,
    addresses: Vec<IpAddr>,
    calls: Semaphore,
    handlers: Mutex<HashMap<u64, Arc<dyn HttpHandler>>>,
    next: AtomicU64,
    /// Where connections are served and datagrams copied, not on the threads of guests.
    runtime: tokio::runtime::Handle,
}

fn lost(failed: Failed) -> Error {
    Error::Reset(failed.to_string())
}

fn missing() -> Error {
    Error::Protocol("the node sent no socket".into())
}

impl PodSockets {
    pub(super) fn new(link: Link, requests: Requests, addresses: Vec<IpAddr>) -> Self {
        Self(Arc::new(Inner {
            link,
            requests,
            addresses,
            calls: Semaphore::new(MAX_CALLS),
            handlers: Mutex::default(),
            next: AtomicU64::new(1),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    async fn call<T: DeserializeOwned>(&self, call: &ToNode) -> net::Result<(T, Option<OwnedFd>)> {
        let _permit =
            self.0.calls.try_acquire().map_err(|_| Error::Exhausted("calls of a pod to its network".into()))?;
        let (reply, mut descriptors) = self.0.link.call::<NetworkReply<T>>(call, Vec::new()).await.map_err(lost)?;
        Ok((reply?, descriptors.pop()))
    }

    async fn stream(&self, call: &ToNode) -> net::Result<(Stream, SocketAddr)> {
        let (local, descriptor) = self.call(call).await?;
        Ok((stream(descriptor)?, local))
    }

    fn held(&self, bound: Bound) -> Held {
        Held { sockets: self.clone(), bound }
    }

    /// Gives a connection that the node sent to its handler.
    pub(super) fn connection(&self, handler: u64, tcp: bool, descriptor: OwnedFd, peer: Peer) {
        let Some(handler) = self.0.handlers.lock().get(&handler).cloned() else { return };
        if tcp {
            handler.serve(Connection::Tcp(TcpStream::from(descriptor)), peer);
        } else if let Ok(socket) = pipes::received(descriptor) {
            handler.serve(Connection::Stream(Box::new(socket)), peer);
        }
    }
}

fn stream(descriptor: Option<OwnedFd>) -> net::Result<Stream> {
    let socket =
        pipes::received(descriptor.ok_or_else(missing)?).map_err(|error| Error::Exhausted(error.to_string()))?;
    Ok(Box::new(socket))
}

/// Something that the node holds for this pod until this is dropped.
struct Held {
    sockets: PodSockets,
    bound: Bound,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sockets.0.link.post(&NoticeToNode::Close(self.bound.handle));
    }
}

#[async_trait::async_trait]
impl Sockets for PodSockets {
    fn addresses(&self) -> Vec<IpAddr> {
        self.0.addresses.clone()
    }

    async fn bind(&self, at: SocketAddr) -> net::Result<Box<dyn BoundPort>> {
        let (bound, _) = self.call(&ToNode::Bind(at)).await?;
        Ok(Box::new(Port(self.held(bound))))
    }

    async fn connect(&self, to: SocketAddr) -> net::Result<(Stream, SocketAddr)> {
        self.stream(&ToNode::Connect(to)).await
    }

    async fn bind_udp(&self, at: SocketAddr) -> net::Result<Box<dyn Datagrams>> {
        let (bound, descriptor) = self.call(&ToNode::BindUdp(at)).await?;
        let held = self.held(bound);
        let _runtime = self.0.runtime.enter();
        let socket = pipes::received(descriptor.ok_or_else(missing)?);
        let (from, to) = socket.map_err(|error| Error::Exhausted(error.to_string()))?.into_split();
        Ok(Box::new(Udp::new(held, from, to)))
    }

    async fn resolve(&self, name: &str) -> net::Result<Vec<IpAddr>> {
        Ok(self.call(&ToNode::Resolve(name.to_owned())).await?.0)
    }

    async fn http(&self, request: Request) -> net::Result<Response> {
        self.0.requests.send(request, None).await
    }

    async fn serve_http(&self, port: u16, handler: Arc<dyn HttpHandler>) -> net::Result<Box<dyn Serving>> {
        let number = self.0.next.fetch_add(1, Relaxed);
        // before the call: connections may follow its reply at once
        self.0.handlers.lock().insert(number, handler.clone());
        let registered = Registered { sockets: self.clone(), number };
        let (bound, descriptor) = self.call(&ToNode::ServeHttp(port, number)).await?;
        let held = self.held(bound);
        let _runtime = self.0.runtime.enter();
        let socket = pipes::received(descriptor.ok_or_else(missing)?);
        let socket = socket.map_err(|error| Error::Exhausted(error.to_string()))?;
        self.0.runtime.spawn(requests::serve(socket, move |request, peer: Option<Peer>| {
            let handler = handler.clone();
            async move {
                let peer = peer.ok_or_else(|| Error::Protocol("a request without its peer".into()))?;
                handler.call(request, peer).await
            }
        }));
        Ok(Box::new(Served { held, _registered: registered }))
    }
}

/// A handler that connections are given to until this is dropped.
struct Registered {
    sockets: PodSockets,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.0.handlers.lock().remove(&self.number);
    }
}

struct Served {
    held: Held,
    _registered: Registered,
}

impl Serving for Served {
    fn local_address(&self) -> SocketAddr {
        self.held.bound.local
    }
}

struct Port(Held);

#[async_trait::async_trait]
impl BoundPort for Port {
    fn local_address(&self) -> SocketAddr {
        self.0.bound.local
    }

    async fn listen(self: Box<Self>) -> net::Result<Box<dyn Listener>> {
        let ((), _) = self.0.sockets.call(&ToNode::Listen(self.0.bound.handle)).await?;
        Ok(Box::new(Listening { held: self.0, next: tokio::sync::Mutex::default() }))
    }

    async fn connect(self: Box<Self>, to: SocketAddr) -> net::Result<(Stream, SocketAddr)> {
        self.0.sockets.stream(&ToNode::ConnectFrom(self.0.bound.handle, to)).await
    }
}

struct Listening {
    held: Held,
    /// The call for the next connection. It stays when the one who waits for it gives up: its connection would be lost.
    next: tokio::sync::Mutex<Option<Call>>,
}

#[async_trait::async_trait]
impl Listener for Listening {
    fn local_address(&self) -> SocketAddr {
        self.held.bound.local
    }

    async fn accept(&self) -> net::Result<(Stream, SocketAddr)> {
        let mut next = self.next.lock().await;
        let call = match &mut *next {
            Some(call) => call,
            none => {
                let accept = ToNode::Accept(self.held.bound.handle);
                none.insert(self.held.sockets.0.link.begin(&accept, Vec::new()).await.map_err(lost)?)
            }
        };
        let reply = call.reply::<NetworkReply<SocketAddr>>().await;
        *next = None;
        let (reply, mut descriptors) = reply.map_err(lost)?;
        let peer = reply?;
        Ok((stream(descriptors.pop())?, peer))
    }
}

/// A datagram to send, and who waits for the result.
type Outgoing = (Bytes, SocketAddr, oneshot::Sender<net::Result<()>>);

struct Udp {
    held: Held,
    outgoing: mpsc::Sender<Outgoing>,
    received: tokio::sync::Mutex<mpsc::Receiver<(Bytes, SocketAddr)>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Udp {
    fn new(held: Held, from: OwnedReadHalf, to: OwnedWriteHalf) -> Self {
        let (outgoing, to_send) = mpsc::channel(DATAGRAMS);
        let (arrived, received) = mpsc::channel(DATAGRAMS);
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let runtime = held.sockets.0.runtime.clone();
        let tasks = [
            AbortOnDropHandle::new(runtime.spawn(send(to_send, to, waiting.clone()))),
            AbortOnDropHandle::new(runtime.spawn(receive(from, arrived, waiting))),
        ];
        Self { held, outgoing, received: tokio::sync::Mutex::new(received), _tasks: tasks }
    }
}

/// Those who wait for the results of their datagrams, in their order.
type Waiting = Arc<Mutex<VecDeque<oneshot::Sender<net::Result<()>>>>>;

async fn send(mut outgoing: mpsc::Receiver<Outgoing>, mut to: OwnedWriteHalf, waiting: Waiting) {
    while let Some((data, address, sender)) = outgoing.recv().await {
        waiting.lock().push_back(sender);
        if pipes::write_datagram(&mut to, &data, address).await.is_err() {
            return;
        }
    }
}

async fn receive(mut from: OwnedReadHalf, arrived: mpsc::Sender<(Bytes, SocketAddr)>, waiting: Waiting) {
    while let Ok(Some(record)) = pipes::read_record(&mut from).await {
        match record {
            // what finds the queue full is lost
            Record::Datagram(data, address) => drop(arrived.try_send((data, address))),
            Record::Result(result) => {
                if let Some(sender) = waiting.lock().pop_front() {
                    let _ = sender.send(result);
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Datagrams for Udp {
    fn local_address(&self) -> SocketAddr {
        self.held.bound.local
    }

    async fn send_to(&self, data: Bytes, to: SocketAddr) -> net::Result<()> {
        let closed = || Error::Reset("the process of the pod is ending".into());
        let (sender, result) = oneshot::channel();
        self.outgoing.send((data, to, sender)).await.map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    async fn receive(&self) -> net::Result<(Bytes, SocketAddr)> {
        let received = self.received.lock().await.recv().await;
        received.ok_or_else(|| Error::Reset("the socket is closed".into()))
    }
}
