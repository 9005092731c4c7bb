//! Those who look on at a running container: what its program writes goes to them as well, and what they write is its standard input.

use bytes::Bytes;
use container::{
    Stdin, Streams,
    log::{PATIENCE, Source},
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

/// Pieces that one who looks on may be behind. The program waits for who takes nothing, and not longer than [`PATIENCE`]: then that one is
/// left behind, and its streams end.
const BEHIND: usize = 64;

/// Bytes of standard input that the program has not read.
const INPUT: usize = 8 << 10;

/// Whoever looks on at one container.
#[derive(Default)]
pub(crate) struct Attached {
    any: AtomicBool,
    viewers: Mutex<Vec<Viewer>>,
}

struct Viewer {
    sources: &'static [Source],
    sender: mpsc::Sender<Bytes>,
}

impl Attached {
    /// All that is written from now on.
    fn join(&self, sources: &'static [Source]) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.viewers.lock().push(Viewer { sources, sender });
        self.any.store(true, SeqCst);
        receiver
    }

    /// Tells them.
    pub(crate) fn say(&self, source: Source, bytes: &[u8]) {
        if !self.any.load(SeqCst) || bytes.is_empty() {
            return;
        }
        let (mut viewers, bytes) = (self.viewers.lock(), Bytes::copy_from_slice(bytes));
        viewers.retain(|viewer| !viewer.sources.contains(&source) || viewer.sender.try_send(bytes.clone()).is_ok());
        self.any.store(!viewers.is_empty(), SeqCst);
    }

    /// Whether one of them is so far behind that the program should wait. Many instances of a handler write at a time: there is room for them.
    pub(crate) fn is_behind(&self) -> bool {
        self.any.load(SeqCst) && self.viewers.lock().iter().any(Viewer::is_behind)
    }

    /// Waits until none is. Cancel-safe.
    pub(crate) async fn room(&self) {
        while self.any.load(SeqCst) {
            let behind = self.viewers.lock().iter().find(|viewer| viewer.is_behind()).map(|it| it.sender.clone());
            let Some(sender) = behind else { return };
            if !matches!(timeout(PATIENCE, sender.reserve_many(BEHIND / 2)).await, Ok(Ok(_))) {
                self.viewers.lock().retain(|viewer| !viewer.sender.same_channel(&sender));
            }
        }
    }

    /// There will be nothing more.
    pub(crate) fn end(&self) {
        self.viewers.lock().clear();
        self.any.store(false, SeqCst);
    }
}

impl Viewer {
    fn is_behind(&self) -> bool {
        self.sender.capacity() < BEHIND / 2 && !self.sender.is_closed()
    }
}

/// A container's standard input: both ends.
pub(crate) struct Input {
    /// For the program, until it begins.
    read: Mutex<Option<DuplexStream>>,
    /// For who looks on; gone once the input has ended.
    write: Arc<tokio::sync::Mutex<Option<DuplexStream>>>,
    once: bool,
}

impl Input {
    /// As the container asks for it; `None`: it has none.
    pub(crate) fn new(stdin: Stdin) -> Option<Self> {
        if stdin == Stdin::Empty {
            return None;
        }
        let (read, write) = duplex(INPUT);
        let write = Arc::new(tokio::sync::Mutex::new(Some(write)));
        Some(Self { read: Mutex::new(Some(read)), write, once: stdin == Stdin::Once })
    }

    /// The program's end, once.
    pub(crate) fn take(&self) -> Option<DuplexStream> {
        self.read.lock().take()
    }

    /// Copies to the program until the source ends.
    async fn feed(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; INPUT];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let mut write = self.write.lock().await;
            let taken = match &mut *write {
                Some(to) if count > 0 => to.write_all(&buffer[..count]).await.is_ok(),
                _ => false,
            };
            if !taken {
                if self.once {
                    *write = None;
                }
                return;
            }
        }
    }
}

/// Copies pieces to a stream until there are no more, or until nobody takes them. What was not asked for goes nowhere.
pub(crate) async fn pump(mut from: mpsc::Receiver<Bytes>, to: Option<impl AsyncWrite + Unpin>) {
    let Some(mut to) = to else {
        while from.recv().await.is_some() {}
        return;
    };
    while let Some(bytes) = from.recv().await {
        // written at once: who reads is a person
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Joins a container's streams until it ends or they do.
pub(crate) async fn attach(attached: &Attached, input: Option<&Input>, terminal: bool, streams: Streams) {
    let Streams { stdin, stdout, stderr, resize } = streams;
    // no program here can ask how large a terminal is
    drop(resize);
    // a terminal has one output
    let shown: &'static [Source] =
        if terminal && stderr.is_none() { &[Source::Stdout, Source::Stderr] } else { &[Source::Stdout] };
    let nothing = stdout.is_none() && stderr.is_none();
    let out = stdout.is_some().then(|| attached.join(shown));
    let err = stderr.is_some().then(|| attached.join(&[Source::Stderr]));
    let show = async {
        let show = async |from, to| {
            if let Some(from) = from {
                pump(from, to).await;
            }
        };
        tokio::join!(show(out, stdout), show(err, stderr));
    };
    let feed = async {
        if let (Some(input), Some(stdin)) = (input, stdin) {
            input.feed(stdin).await;
        }
        if !nothing {
            // its end is not the end of what is shown
            std::future::pending::<()>().await;
        }
    };
    match nothing {
        true => feed.await,
        false => tokio::select! { () = show => {}, () = feed => {} },
    }
}
