//! UDP ports of the host: what clients send goes to a pod, and what it answers back to them. A pod sees the node's address, and a port for each client.

use crate::{
    clients::WAITING,
    network::Inner,
    pod::{Datagram, Pod},
};
use bytes::Bytes;
use container::net::Result;
use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::UdpSocket, sync::mpsc, time::sleep};

/// How long a client and a pod may be silent until they count as strangers.
const IDLE: Duration = Duration::from_secs(60);
/// Most clients of a port at a time; what others send is lost.
const MAX_CLIENTS: usize = 1024;
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_507;
/// The delay after an error of a socket, mostly out of memory.
const PAUSE: Duration = Duration::from_millis(100);

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
