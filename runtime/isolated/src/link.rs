//! Calls over a socket, both ways. Either side may be hostile to the other: frames, calls in progress and waiting frames are bounded, and a
//! broken rule ends the link.

use crate::frame::{self, Frame, Kind};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    net::UnixStream,
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Most frames that wait to be written.
const QUEUE: usize = 256;
/// Calls in progress from which on those that are done are looked for.
const MIN_SWEEP: usize = 64;

/// Bytes of a reply, with its descriptors.
pub(crate) type Answer = (Vec<u8>, Vec<OwnedFd>);

/// What answers the calls of the other side.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a call. Dropped when the caller gives up, or the link ends.
    fn call(self: Arc<Self>, bytes: Vec<u8>, descriptors: Vec<OwnedFd>)
    -> Pin<Box<dyn Future<Output = Answer> + Send>>;

    /// Takes a notice, in the order of all frames of the other side. Must not block.
    fn notice(&self, bytes: &[u8], descriptors: Vec<OwnedFd>);
}

/// The limits of what the other side may do.
#[derive(Clone, Copy)]
pub(crate) struct LinkLimits {
    /// Most bytes of a frame.
    pub(crate) frame: usize,
    /// Most calls in progress.
    pub(crate) calls: usize,
}

/// One side of a link. Cheap to clone; it ends with the socket, not with its last clone.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    outgoing: mpsc::Sender<Frame>,
    /// The calls that wait for their replies; `None` after the end.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    next: AtomicU64,
    ended: CancellationToken,
    runtime: Handle,
}

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The link has ended.
    #[error("the process of the pod has ended")]
    Ended,
    /// What arrived cannot be understood.
    #[error("{0}")]
    Invalid(#[from] serde_json::Error),
}

/// A call in progress. Dropping it cancels the call.
pub(crate) struct Call {
    link: Link,
    id: u64,
    reply: oneshot::Receiver<Answer>,
    done: bool,
}

impl Link {
    /// Starts both directions in tasks of the current runtime.
    pub(crate) fn start(socket: UnixStream, limits: LinkLimits, service: Arc<dyn Service>) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let link = Self(Arc::new(Inner {
            outgoing,
            pending: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
            ended: CancellationToken::new(),
            runtime: Handle::current(),
        }));
        let this = link.clone();
        tokio::spawn(async move {
            let both = async {
                tokio::select! {
                    result = this.receive(&socket, limits, service) => result,
                    result = transmit(&socket, queue) => result,
                }
            };
            tokio::select! {
                () = this.0.ended.cancelled() => {}
                result = both => if let Err(error) = result {
                    tracing::debug!(%error, "the link to an isolated pod has ended");
                }
            }
            this.end();
        });
        link
    }

    /// Ends the link: calls in progress fail.
    pub(crate) fn end(&self) {
        self.0.ended.cancel();
        *self.0.pending.lock() = None;
    }

    /// Resolves when the link has ended.
    pub(crate) async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Begins a call.
    pub(crate) async fn begin(&self, call: &impl Serialize, descriptors: Vec<OwnedFd>) -> Result<Call, Failed> {
        let bytes = serde_json::to_vec(call)?;
        let (id, (sender, reply)) = (self.0.next.fetch_add(1, Relaxed), oneshot::channel());
        self.0.pending.lock().as_mut().ok_or(Failed::Ended)?.insert(id, sender);
        let call = Call { link: self.clone(), id, reply, done: false };
        let frame = Frame { kind: Kind::Call, id, bytes, descriptors };
        self.0.outgoing.send(frame).await.map_err(|_| Failed::Ended)?;
        Ok(call)
    }

    /// Calls the other side. Dropping the future cancels the call.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: &impl Serialize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(T, Vec<OwnedFd>), Failed> {
        self.begin(call, descriptors).await?.reply().await
    }

    /// Queues the first frame.
    pub(crate) async fn first(&self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let _ = self.0.outgoing.send(Frame { kind: Kind::Notice, id: 0, bytes, descriptors }).await;
    }

    /// Whether the link has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Queues a notice that must arrive, from anywhere. Its order is that of the calls, unless very much waits.
    pub(crate) fn post(&self, notice: &impl Serialize) {
        let Ok(bytes) = serde_json::to_vec(notice) else { return };
        self.send_soon(Frame { kind: Kind::Notice, id: 0, bytes, descriptors: Vec::new() });
    }

    fn send_soon(&self, frame: Frame) {
        if let Err(mpsc::error::TrySendError::Full(frame)) = self.0.outgoing.try_send(frame) {
            let outgoing = self.0.outgoing.clone();
            self.0.runtime.spawn(async move {
                let _ = outgoing.send(frame).await;
            });
        }
    }

    /// Queues a notice. Returns whether there was room.
    pub(crate) fn try_notice(&self, notice: &impl Serialize, descriptors: Vec<OwnedFd>) -> bool {
        let Ok(bytes) = serde_json::to_vec(notice) else { return false };
        self.0.outgoing.try_send(Frame { kind: Kind::Notice, id: 0, bytes, descriptors }).is_ok()
    }

    /// Queues a notice, when there is room.
    pub(crate) async fn notice(&self, notice: &impl Serialize) {
        if let Ok(bytes) = serde_json::to_vec(notice) {
            let _ = self.0.outgoing.send(Frame { kind: Kind::Notice, id: 0, bytes, descriptors: Vec::new() }).await;
        }
    }

    async fn receive(&self, socket: &UnixStream, limits: LinkLimits, service: Arc<dyn Service>) -> io::Result<()> {
        let mut running: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
        let mut sweep = MIN_SWEEP;
        while let Some(Frame { kind, id, bytes, descriptors }) = frame::read(socket, limits.frame).await? {
            if running.len() >= sweep.min(limits.calls) {
                running.retain(|_, call| !call.is_finished());
                sweep = (2 * running.len()).max(MIN_SWEEP);
            }
            match kind {
                Kind::Reply => {
                    let waiting = self.0.pending.lock().as_mut().and_then(|pending| pending.remove(&id));
                    // a cancelled call has nobody who waits
                    if let Some(waiting) = waiting {
                        let _ = waiting.send((bytes, descriptors));
                    }
                }
                Kind::Notice => service.notice(&bytes, descriptors),
                Kind::Cancel => drop(running.remove(&id)),
                Kind::Call if running.len() >= limits.calls || running.contains_key(&id) => {
                    return Err(io::Error::other("too many calls in progress"));
                }
                Kind::Call => {
                    let (answer, outgoing) = (service.clone().call(bytes, descriptors), self.0.outgoing.clone());
                    let call = tokio::spawn(async move {
                        let (bytes, descriptors) = answer.await;
                        let _ = outgoing.send(Frame { kind: Kind::Reply, id, bytes, descriptors }).await;
                    });
                    running.insert(id, AbortOnDropHandle::new(call));
                }
            }
        }
        Ok(())
    }
}

async fn transmit(socket: &UnixStream, mut queue: mpsc::Receiver<Frame>) -> io::Result<()> {
    while let Some(frame) = queue.recv().await {
        frame::write(socket, &frame).await?;
    }
    Ok(())
}

impl Call {
    /// Waits for the reply, once. Cancel-safe.
    pub(crate) async fn reply<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), Failed> {
        let reply = (&mut self.reply).await;
        self.done = true;
        let (bytes, descriptors) = reply.map_err(|_| Failed::Ended)?;
        Ok((serde_json::from_slice(&bytes)?, descriptors))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(pending) = self.link.0.pending.lock().as_mut() {
            pending.remove(&self.id);
        }
        self.link.send_soon(Frame { kind: Kind::Cancel, id: self.id, bytes: Vec::new(), descriptors: Vec::new() });
    }
}
