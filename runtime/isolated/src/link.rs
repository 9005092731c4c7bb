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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    const LIMITS: LinkLimits = LinkLimits { frame: 1 << 10, calls: 8 };

    /// Never answers `wait`, and everything else with itself. Counts what waits.
    struct Echo {
        running: Arc<Semaphore>,
        noticed: mpsc::UnboundedSender<String>,
    }

    impl Service for Echo {
        fn call(self: Arc<Self>, bytes: Vec<u8>, _: Vec<OwnedFd>) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
            Box::pin(async move {
                if bytes == b"\"wait\"" {
                    let _running = self.running.acquire().await;
                    std::future::pending::<()>().await;
                }
                (bytes, Vec::new())
            })
        }

        fn notice(&self, bytes: &[u8], _: Vec<OwnedFd>) {
            let _ = self.noticed.send(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    fn side(socket: UnixStream) -> (Link, Arc<Semaphore>, mpsc::UnboundedReceiver<String>) {
        let (running, (noticed, notices)) = (Arc::new(Semaphore::new(100)), mpsc::unbounded_channel());
        let link = Link::start(socket, LIMITS, Arc::new(Echo { running: running.clone(), noticed }));
        (link, running, notices)
    }

    async fn until(semaphore: &Semaphore, permits: usize) {
        while semaphore.available_permits() != permits {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn both_sides_call_each_other_and_cancel() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((a, of_a, mut notices), (b, of_b, _)) = (side(a), side(b));
        for round in 0..200 {
            let next = round + 1;
            let (from_a, from_b) = tokio::join!(a.call::<u32>(&round, vec![]), b.call::<u32>(&next, vec![]));
            assert_eq!((from_a.unwrap().0, from_b.unwrap().0), (round, next));
        }
        let waiting = a.begin(&"wait", vec![]).await.unwrap();
        until(&of_b, 99).await;
        drop(waiting);
        until(&of_b, 100).await;
        assert_eq!(of_a.available_permits(), 100);
        b.post(&1);
        assert!(b.try_notice(&2, vec![]));
        assert_eq!((notices.recv().await.unwrap(), notices.recv().await.unwrap()), ("1".into(), "2".into()));
    }

    #[tokio::test]
    async fn who_breaks_a_rule_is_cut_off_and_whoever_waits_is_told() {
        // too many calls at a time
        let (a, b) = UnixStream::pair().unwrap();
        let ((a, ..), (b, of_b, _)) = (side(a), side(b));
        let mut calls = Vec::new();
        for _ in 0..=LIMITS.calls {
            calls.push(a.begin(&"wait", vec![]).await.unwrap());
        }
        b.ended().await;
        for call in &mut calls {
            assert!(matches!(call.reply::<()>().await, Err(Failed::Ended)));
        }
        until(&of_b, 100).await;
        assert!(matches!(a.call::<()>(&1, vec![]).await, Err(Failed::Ended)) && a.has_ended());

        // too long a frame, and what is no frame
        for wrong in [&[0xff; 32][..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let (a, b) = UnixStream::pair().unwrap();
            let (b, ..) = side(b);
            a.writable().await.unwrap();
            a.try_write(wrong).unwrap();
            b.ended().await;
        }
    }
}
