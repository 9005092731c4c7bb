//! UDP ports of the host: what clients send goes to a pod, and what it answers back to them. A pod sees the node's address, and a port for each client.

use crate::{
    network::Inner,
    pod::{Datagram, Pod},
};
use bytes::Bytes;
use container::net::Result;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tokio::{net::UdpSocket, sync::mpsc, time::sleep};

/// How long a client and a pod may be silent until they count as strangers.
const IDLE: Duration = Duration::from_secs(60);
/// Most clients of a port at a time; what others send is lost.
const MAX_CLIENTS: usize = 1024;
/// Datagrams of a client that wait; further ones are lost.
const WAITING: usize = 64;
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_507;
/// The delay after an error of a socket, mostly out of memory.
const PAUSE: Duration = Duration::from_millis(100);
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

    fn enter(self: &Arc<Self>) -> Option<(Client, mpsc::Receiver<Bytes>)> {
        let (sender, answers) = mpsc::channel(WAITING);
        let mut waiting = self.waiting.lock();
        let mut ports = (FIRST_PORT..=u16::MAX).map(|_| FIRST_PORT | self.next.fetch_add(1, Ordering::Relaxed));
        let port = ports.find(|port| !waiting.contains_key(port))?;
        waiting.insert(port, sender);
        Some((Client { all: self.clone(), port }, answers))
    }
}

/// A client, until it is dropped.
struct Client {
    all: Arc<Clients>,
    port: u16,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.all.waiting.lock().remove(&self.port);
    }
}

/// Relays between the clients of a socket and the pods that `pick` chooses for them. Never ends.
pub(crate) async fn relay(inner: &Arc<Inner>, socket: UdpSocket, pick: impl Fn(SocketAddr) -> Option<(Arc<Pod>, u16)>) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        let (data, from) = match receive(&socket).await {
            Ok(received) => received,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        if clients.get(&from).is_none_or(mpsc::Sender::is_closed) {
            if clients.len() >= MAX_CLIENTS {
                clients.retain(|_, client| !client.is_closed());
            }
            let Some((pod, port)) = pick(from).filter(|_| clients.len() < MAX_CLIENTS) else { continue };
            let (sender, waiting) = mpsc::channel(WAITING);
            clients.insert(from, sender);
            let (inner, socket) = (inner.clone(), socket.clone());
            inner.clone().tasks.spawn(async move {
                let token = inner.token.clone();
                let work = token.run_until_cancelled(serve(&inner, &pod, port, waiting, &socket, from));
                if let Some(Some(Err(error))) = pod.left.run_until_cancelled(work).await {
                    tracing::debug!(%error, %from, pod = pod.label(), "a client of a UDP port is not served");
                }
            });
        }
        if let Some(client) = clients.get(&from) {
            // lost when too many wait, as on any network
            let _ = client.try_send(data);
        }
    }
}

/// The next datagram. A socket that waits holds no buffer.
async fn receive(socket: &UdpSocket) -> io::Result<Datagram> {
    loop {
        socket.readable().await?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        match socket.try_recv_from(&mut buffer) {
            Ok((size, from)) => return Ok((Bytes::copy_from_slice(&buffer[..size]), from)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Serves one client until nothing has come for a while.
async fn serve(
    inner: &Arc<Inner>,
    pod: &Arc<Pod>,
    port: u16,
    mut waiting: mpsc::Receiver<Bytes>,
    socket: &UdpSocket,
    client: SocketAddr,
) -> Result<()> {
    let to = SocketAddr::new(pod.address, port);
    if pod.spec.kernel {
        let own = inner.node_socket().await?;
        loop {
            tokio::select! {
                data = waiting.recv() => {
                    let Some(data) = data else { return Ok(()) };
                    let _ = own.send_to(&data, to).await;
                }
                answer = receive(&own) => match answer {
                    Ok((data, from)) if from == to => drop(socket.send_to(&data, client).await),
                    // of somebody else, or nobody has the port
                    Ok(_) | Err(_) => {}
                },
                () = sleep(IDLE) => return Ok(()),
            }
        }
    }
    let Some((own, mut answers)) = inner.clients.enter() else { return Ok(()) };
    let from = SocketAddr::new(inner.config.node_internal(), own.port);
    loop {
        tokio::select! {
            data = waiting.recv() => {
                let Some(data) = data else { return Ok(()) };
                pod.deliver(port, false, (data, from));
            }
            answer = answers.recv() => {
                let Some(data) = answer else { return Ok(()) };
                let _ = socket.send_to(&data, client).await;
            }
            () = sleep(IDLE) => return Ok(()),
        }
    }
}
