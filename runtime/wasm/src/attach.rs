//! Attached clients (`kubectl attach`): they receive what the container's program writes, and what they send is the program's standard input.

use bytes::Bytes;
use container::{
    Stdin, Streams,
    log::{STALL_TIMEOUT, Source},
};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::timeout,
};

/// Most queued chunks of output of one client. The program waits when half of them are queued; a client that reads nothing for
/// [`STALL_TIMEOUT`] is disconnected.
const QUEUE: usize = 64;

/// Most bytes of standard input that the program has not read. The client waits when the buffer is full.
const STDIN_BUFFER: usize = 8 << 10;

/// The clients that are attached to one container.
#[derive(Default)]
pub(crate) struct AttachedStreams {
    /// Whether `subscribers` is not empty, read without the lock.
    any: AtomicBool,
    subscribers: Mutex<Vec<Subscriber>>,
}

struct Subscriber {
    sources: &'static [Source],
    sender: mpsc::Sender<Bytes>,
}

impl AttachedStreams {
    /// Returns what the program writes to `sources` from now on.
    fn subscribe(&self, sources: &'static [Source]) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.subscribers.lock().push(Subscriber { sources, sender });
        self.any.store(true, SeqCst);
        receiver
    }

    /// Sends output to the subscribers. Drops those whose queue is full or closed.
    pub(crate) fn publish(&self, source: Source, bytes: &[u8]) {
        if !self.any.load(SeqCst) || bytes.is_empty() {
            return;
        }
        let (mut subscribers, bytes) = (self.subscribers.lock(), Bytes::copy_from_slice(bytes));
        subscribers.retain(|subscriber| {
            !subscriber.sources.contains(&source) || subscriber.sender.try_send(bytes.clone()).is_ok()
        });
        self.any.store(!subscribers.is_empty(), SeqCst);
    }

    /// Whether the program has to wait for a subscriber: half of its queue is full. The other half is for concurrent writers, as a handler
    /// has many instances.
    pub(crate) fn must_wait(&self) -> bool {
        self.any.load(SeqCst) && self.subscribers.lock().iter().any(Subscriber::must_wait)
    }

    /// Waits until [`AttachedStreams::must_wait`] is false. Cancel-safe.
    pub(crate) async fn ready(&self) {
        while self.any.load(SeqCst) {
            let stalled =
                self.subscribers.lock().iter().find(|subscriber| subscriber.must_wait()).map(|it| it.sender.clone());
            let Some(sender) = stalled else { return };
            if !matches!(timeout(STALL_TIMEOUT, sender.reserve_many(QUEUE / 2)).await, Ok(Ok(_))) {
                self.subscribers.lock().retain(|subscriber| !subscriber.sender.same_channel(&sender));
            }
        }
    }

    /// Disconnects all subscribers: the output has ended.
    pub(crate) fn close(&self) {
        self.subscribers.lock().clear();
        self.any.store(false, SeqCst);
    }
}

impl Subscriber {
    fn must_wait(&self) -> bool {
        self.sender.capacity() < QUEUE / 2 && !self.sender.is_closed()
    }
}

/// Both ends of a container's standard input.
pub(crate) struct Input {
    /// The program's end, until the program starts.
    read: Mutex<Option<DuplexStream>>,
    /// The clients' end; `None` once the input is closed.
    write: Arc<tokio::sync::Mutex<Option<DuplexStream>>>,
    once: bool,
}

impl Input {
    /// Returns `None` if the container has no standard input.
    pub(crate) fn new(stdin: Stdin) -> Option<Self> {
        if stdin == Stdin::Empty {
            return None;
        }
        let (read, write) = duplex(STDIN_BUFFER);
        let write = Arc::new(tokio::sync::Mutex::new(Some(write)));
        Some(Self { read: Mutex::new(Some(read)), write, once: stdin == Stdin::Once })
    }

    /// Takes the program's end; later calls return `None`.
    pub(crate) fn take(&self) -> Option<DuplexStream> {
        self.read.lock().take()
    }

    /// Copies a client's input to the program until the client closes it.
    async fn feed(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; STDIN_BUFFER];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let mut write = self.write.lock().await;
            let written = match &mut *write {
                Some(to) if count > 0 => to.write_all(&buffer[..count]).await.is_ok(),
                _ => false,
            };
            if !written {
                if self.once {
                    *write = None;
                }
                return;
            }
        }
    }
}

/// Copies chunks to a stream until either side is closed. Without a stream the chunks are discarded.
pub(crate) async fn pump(mut from: mpsc::Receiver<Bytes>, to: Option<impl AsyncWrite + Unpin>) {
    let Some(mut to) = to else {
        while from.recv().await.is_some() {}
        return;
    };
    while let Some(bytes) = from.recv().await {
        // flushed at once: the reader may be a person
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Connects a client's streams to a container until the container's output ends or the client disconnects.
pub(crate) async fn attach(attached: &AttachedStreams, input: Option<&Input>, terminal: bool, streams: Streams) {
    let Streams { stdin, stdout, stderr, resize } = streams;
    // WASI has no call for the size of a terminal
    drop(resize);
    // a terminal has a single output stream
    let stdout_sources: &'static [Source] =
        if terminal && stderr.is_none() { &[Source::Stdout, Source::Stderr] } else { &[Source::Stdout] };
    let stdin_only = stdout.is_none() && stderr.is_none();
    let out = stdout.is_some().then(|| attached.subscribe(stdout_sources));
    let err = stderr.is_some().then(|| attached.subscribe(&[Source::Stderr]));
    let output = async {
        let copy = async |from, to| {
            if let Some(from) = from {
                pump(from, to).await;
            }
        };
        tokio::join!(copy(out, stdout), copy(err, stderr));
    };
    let feed = async {
        if let (Some(input), Some(stdin)) = (input, stdin) {
            input.feed(stdin).await;
        }
        if !stdin_only {
            // the output goes on after the end of the input
            std::future::pending::<()>().await;
        }
    };
    match stdin_only {
        true => feed.await,
        false => tokio::select! { () = output => {}, () = feed => {} },
    }
}
