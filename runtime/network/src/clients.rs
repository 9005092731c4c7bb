//! The clients of UDP ports of the host, to whom guests of this process answer.

use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};
use tokio::sync::mpsc;

/// Datagrams of a client that wait; further ones are lost.
pub(crate) const WAITING: usize = 64;
/// The first port of the node that stands for a client.
const FIRST_PORT: u16 = 32_768;

/// The clients to whom guests of this process answer, by the port of the node that stands for them.
#[derive(Default)]
pub(crate) struct Clients {
    waiting: Mutex<HashMap<u16, mpsc::Sender<Bytes>>>,
    next: AtomicU16,
}

impl Clients {
    /// Gives what a guest sends to a port of the node to the client that it stands for. Says whether there is one.
    pub(crate) fn answer(&self, port: u16, data: &Bytes) -> bool {
        let client = self.waiting.lock().get(&port).cloned();
        client.map(|client| client.try_send(data.clone())).is_some()
    }

    /// A new client, and what it is answered. `None` when all ports are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<(Client, mpsc::Receiver<Bytes>)> {
        let (sender, answers) = mpsc::channel(WAITING);
        let mut waiting = self.waiting.lock();
        let mut ports = (FIRST_PORT..=u16::MAX).map(|_| FIRST_PORT | self.next.fetch_add(1, Ordering::Relaxed));
        let port = ports.find(|port| !waiting.contains_key(port))?;
        waiting.insert(port, sender);
        Some((Client { all: self.clone(), port }, answers))
    }
}

/// A client, until it is dropped.
pub(crate) struct Client {
    all: Arc<Clients>,
    /// The port of the node that stands for it.
    pub(crate) port: u16,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.all.waiting.lock().remove(&self.port);
    }
}
