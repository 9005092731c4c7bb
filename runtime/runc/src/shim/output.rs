//! What a container's program writes: to its log, and to the clients that are attached.

use crate::stream::Stream;
use container::log::{Log, STALL_TIMEOUT, Source};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// Most bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// Most clients that are attached to one container.
const MAX_CLIENTS: usize = 32;

/// A client's ends of output.
pub(crate) struct Client {
    pub(crate) stdout: Option<Stream>,
    pub(crate) stderr: Option<Stream>,
    /// Whether it gets standard error with standard output.
    pub(crate) joined: bool,
    gone: Cell<bool>,
    left: Notify,
}

impl Client {
    pub(crate) fn new(stdout: Option<Stream>, stderr: Option<Stream>, terminal: bool) -> Rc<Self> {
        let joined = terminal && stderr.is_none();
        Rc::new(Self { stdout, stderr, joined, gone: Cell::new(false), left: Notify::new() })
    }

    /// Waits until it gets nothing more.
    pub(crate) async fn left(&self) {
        if !self.gone.get() {
            self.left.notified().await;
        }
    }

    fn leave(&self) {
        self.gone.set(true);
        self.left.notify_one();
    }

    async fn write(&self, source: Source, bytes: &[u8]) {
        let to = match source {
            Source::Stderr if !self.joined => &self.stderr,
            _ => &self.stdout,
        };
        let Some(to) = to else { return };
        if !matches!(timeout(STALL_TIMEOUT, to.write_all(bytes)).await, Ok(Ok(()))) {
            self.leave();
        }
    }
}

/// The clients of one container.
#[derive(Default)]
pub(crate) struct Clients(RefCell<Vec<Rc<Client>>>);

impl Clients {
    /// Adds one. `false`: there are too many.
    pub(crate) fn add(&self, client: Rc<Client>) -> bool {
        let mut clients = self.0.borrow_mut();
        clients.retain(|client| !client.gone.get());
        let has_room = clients.len() < MAX_CLIENTS;
        if has_room {
            clients.push(client);
        }
        has_room
    }

    pub(crate) fn remove(&self, client: &Rc<Client>) {
        client.leave();
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(client, other));
    }

    /// The output has ended.
    pub(crate) fn close(&self) {
        for client in self.0.take() {
            client.leave();
        }
    }

    async fn write(&self, source: Source, bytes: &[u8]) {
        let clients = self.0.borrow().clone();
        for client in clients.into_iter().filter(|client| !client.gone.get()) {
            client.write(source, bytes).await;
        }
    }
}

/// Copies one output of a program to its log and its clients until it ends. A program that writes faster than the log or a client takes it waits.
pub(crate) async fn pump(from: Rc<Stream>, source: Source, log: Log, clients: Rc<Clients>) {
    let mut writer = log.writer(source);
    let mut buffer = Vec::new();
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let room = log.free();
        if room == 0 {
            log.writable().await;
            continue;
        }
        // none while the program says nothing
        buffer.resize(CHUNK, 0);
        let free = buffer.get_mut(..room.min(CHUNK)).unwrap_or_default();
        match from.try_read(free) {
            Some(Ok(count @ 1..)) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                writer.write(bytes);
                clients.write(source, bytes).await;
            }
            Some(Ok(0) | Err(_)) => return,
            None => buffer = Vec::new(),
        }
        tokio::task::yield_now().await;
    }
}

/// Copies a client's input to a program until either ends.
pub(crate) async fn feed(from: &Stream, to: &Stream) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

/// Waits for the pumps of a program that has ended, but not for a process of it that keeps its output open.
pub(crate) async fn drain(pumps: Vec<tokio::task::JoinHandle<()>>, at_most: Duration) {
    let deadline = tokio::time::Instant::now() + at_most;
    for pump in pumps {
        let abort = pump.abort_handle();
        if tokio::time::timeout_at(deadline, pump).await.is_err() {
            abort.abort();
        }
    }
}
