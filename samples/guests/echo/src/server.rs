//! Answers with what it is sent: one `poll` waits for the listener, for each connection and for the UDP socket.

use crate::{blocking, print, show, socket_address};
use wasip2::{
    io::{
        poll::{Pollable, poll},
        streams::{InputStream, OutputStream, StreamError},
    },
    sockets::{
        instance_network::instance_network,
        network::{ErrorCode, IpAddress, IpAddressFamily, Network},
        tcp::{ShutdownType, TcpSocket},
        tcp_create_socket::create_tcp_socket,
        udp::{IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket},
        udp_create_socket::create_udp_socket,
    },
};

/// A connection. Its streams are dropped before their socket.
struct Connection {
    input: InputStream,
    output: OutputStream,
    socket: TcpSocket,
    /// What was read and is still to be written.
    pending: Vec<u8>,
    ended: bool,
}

impl Connection {
    fn subscribe(&self) -> Pollable {
        if self.pending.is_empty() { self.input.subscribe() } else { self.output.subscribe() }
    }

    /// Whether it goes on.
    fn proceed(&mut self) -> bool {
        if self.pending.is_empty() {
            match self.input.read(64 << 10) {
                Ok(bytes) => self.pending = bytes,
                Err(StreamError::Closed) => self.ended = true,
                Err(_) => return false,
            }
        }
        if !self.pending.is_empty() {
            let Ok(room) = self.output.check_write() else { return false };
            let rest = self.pending.split_off(self.pending.len().min(room as usize));
            if self.output.write(&self.pending).is_err() {
                return false;
            }
            self.pending = rest;
        }
        if self.ended && self.pending.is_empty() {
            // The peer may be gone.
            let _ = self.socket.shutdown(ShutdownType::Send);
            return false;
        }
        true
    }
}

struct Datagrams {
    incoming: IncomingDatagramStream,
    outgoing: OutgoingDatagramStream,
    _socket: UdpSocket,
}

impl Datagrams {
    fn proceed(&self) -> Result<(), ErrorCode> {
        for datagram in self.incoming.receive(16)? {
            let answer = OutgoingDatagram { data: datagram.data, remote_address: Some(datagram.remote_address) };
            self.outgoing.subscribe().block();
            if self.outgoing.check_send()? > 0 {
                // An answer may be lost, as on any network.
                let _ = self.outgoing.send(&[answer]);
            }
        }
        Ok(())
    }
}

pub fn serve(port: u16) -> Result<(), ErrorCode> {
    let network = instance_network();
    let listener = listen(&network, port)?;
    let datagrams = bind(&network, port)?;
    print(&format!("listening on {}\n", show(&listener.local_address()?)));
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut pollables = vec![listener.subscribe(), datagrams.incoming.subscribe()];
        pollables.extend(connections.iter().map(Connection::subscribe));
        let mut ready = poll(&pollables.iter().collect::<Vec<_>>());
        drop(pollables);
        ready.sort_unstable();
        for at in ready.into_iter().rev() {
            match at {
                0 => match listener.accept() {
                    Ok((socket, input, output)) => {
                        print(&format!("connection from {}\n", show(&socket.remote_address()?)));
                        connections.push(Connection { input, output, socket, pending: Vec::new(), ended: false });
                    }
                    Err(ErrorCode::WouldBlock) => {}
                    Err(error) => return Err(error),
                },
                1 => datagrams.proceed()?,
                at => {
                    if !connections[at as usize - 2].proceed() {
                        connections.swap_remove(at as usize - 2);
                    }
                }
            }
        }
    }
}

fn listen(network: &Network, port: u16) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, socket_address(IpAddress::Ipv4((0, 0, 0, 0)), port))?;
    blocking(socket.subscribe(), || socket.finish_bind())?;
    socket.start_listen()?;
    blocking(socket.subscribe(), || socket.finish_listen())?;
    Ok(socket)
}

fn bind(network: &Network, port: u16) -> Result<Datagrams, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, socket_address(IpAddress::Ipv4((0, 0, 0, 0)), port))?;
    blocking(socket.subscribe(), || socket.finish_bind())?;
    let (incoming, outgoing) = socket.stream(None)?;
    Ok(Datagrams { incoming, outgoing, _socket: socket })
}
