//! Calls to the helper. Several may be under way; it answers them by their numbers.

use crate::{
    Error, Result,
    packet::{self, Packet},
    protocol::{Answer, Ask, Numbered},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{io::Interest, net::UnixDatagram, sync::oneshot, time::timeout};
use tokio_util::task::AbortOnDropHandle;

type Reply = (Answer, Vec<OwnedFd>);
/// The calls under way; `None` after the end of the connection.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>;

/// A connection to the helper. It ends when this is dropped.
pub(crate) struct Link {
    socket: Arc<UnixDatagram>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
    _reader: AbortOnDropHandle<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Gone {
    /// The helper has ended.
    Ended,
    /// It did not answer in time.
    Late,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // the type is that of tokio which sends and receives whole messages; the socket knows its kind by itself
        let socket = Arc::new(UnixDatagram::from_std(socket.into())?);
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (of_reader, answers) = (socket.clone(), waiting.clone());
        let reader = tokio::spawn(async move {
            while let Ok(Some(Packet { bytes, descriptors })) =
                of_reader.async_io(Interest::READABLE, || packet::receive(&of_reader)).await
            {
                let Ok(Numbered { call, body }) = serde_json::from_slice::<Numbered<Answer>>(&bytes) else { break };
                let caller = answers.lock().as_mut().and_then(|waiting| waiting.remove(&call));
                if let Some(caller) = caller {
                    let _ = caller.send((body, descriptors));
                }
            }
            *answers.lock() = None;
        });
        Ok(Self { socket, waiting, next: AtomicU64::new(0), _reader: AbortOnDropHandle::new(reader) })
    }

    /// Whether the helper has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.waiting.lock().is_none()
    }

    /// Asks the helper, and waits for its answer.
    pub(crate) async fn call(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>], limit: Duration) -> Result<Reply, Gone> {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = serde_json::to_vec(&Numbered { call, body: ask }).map_err(|_| Gone::Ended)?;
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().as_mut().ok_or(Gone::Ended)?.insert(call, sender);
        let exchange = async {
            let send = || packet::send(&self.socket, &bytes, descriptors);
            self.socket.async_io(Interest::WRITABLE, send).await.map_err(|_| Gone::Ended)?;
            answer.await.map_err(|_| Gone::Ended)
        };
        let result = timeout(limit, exchange).await.unwrap_or(Err(Gone::Late));
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&call);
        }
        result
    }

    /// Tells the helper to end, without waiting for it.
    pub(crate) fn end(&self) {
        if let Ok(bytes) = serde_json::to_vec(&Numbered { call: u64::MAX, body: Ask::End }) {
            let _ = packet::send(&self.socket, &bytes, &[]);
        }
    }
}

/// What a failed answer is for the caller.
pub(crate) fn done(reply: Reply) -> Result<Reply> {
    match reply.0 {
        Answer::Failed(text) => Err(Error::Failed(text)),
        Answer::Unsupported(text) => Err(Error::Unsupported(text)),
        _ => Ok(reply),
    }
}
