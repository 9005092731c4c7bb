//! Byte streams and datagrams between node and child. Each has a socket of its own: none waits for another, and the kernel bounds what waits.

use bytes::Bytes;
use container::net::{self, Datagrams, Stream};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
};

/// Kinds of [`Record`].
const DATAGRAM: u8 = 0;
const RESULT: u8 = 1;

/// Bytes of a buffer of a copied stream.
const BUFFER: usize = 16 << 10;

/// A pair of sockets: one for this process, one to be sent.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (own, other) = StdStream::pair()?;
    own.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, other.into()))
}

/// A socket that was received.
pub(crate) fn received(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdStream::from(descriptor);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Sends a stream's bytes through a pair of sockets, of which the other end is returned. `held` is dropped when both directions have ended.
pub(crate) fn through(mut stream: Stream, held: impl Send + 'static) -> io::Result<OwnedFd> {
    let (mut own, other) = pair()?;
    tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut own, BUFFER, BUFFER).await;
        drop(held);
    });
    Ok(other)
}

/// Writes a datagram: `[length: u16][port: u16][16 bytes of address, IPv4 mapped][family: u8]`, then its bytes.
pub(crate) async fn write_datagram(to: &mut OwnedWriteHalf, data: &[u8], address: SocketAddr) -> io::Result<()> {
    let length = u16::try_from(data.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut wire = Vec::with_capacity(21 + data.len());
    wire.extend(length.to_le_bytes());
    wire.extend(address.port().to_le_bytes());
    let (bytes, family) = match address.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().octets(), 4),
        IpAddr::V6(ip) => (ip.octets(), 6),
    };
    wire.extend(bytes);
    wire.push(family);
    wire.extend(data);
    to.write_all(&wire).await
}

/// Reads a datagram; `None` at the end. Not cancel-safe.
pub(crate) async fn read_datagram(from: &mut OwnedReadHalf) -> io::Result<Option<(Bytes, SocketAddr)>> {
    let mut head = [0; 21];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => drop(other?),
    }
    let [l0, l1, p0, p1, address @ .., family] = head;
    let address = std::net::Ipv6Addr::from(address);
    let ip = match (family, address.to_ipv4_mapped()) {
        (4, Some(ip)) => IpAddr::V4(ip),
        (6, _) => IpAddr::V6(address),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut data = vec![0; usize::from(u16::from_le_bytes([l0, l1]))];
    from.read_exact(&mut data).await?;
    Ok(Some((data.into(), SocketAddr::new(ip, u16::from_le_bytes([p0, p1])))))
}

/// The node's half of a UDP socket: sends what the child writes, and tells it each result. Ends with the socket.
pub(crate) async fn send_all(socket: Arc<dyn Datagrams>, mut from: OwnedReadHalf, to: Arc<Mutex<OwnedWriteHalf>>) {
    while let Ok(Some((data, address))) = read_datagram(&mut from).await {
        let result = socket.send_to(data, address).await;
        let Ok(text) = serde_json::to_vec(&result) else { return };
        let mut wire = vec![RESULT];
        wire.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        wire.extend(text);
        if to.lock().await.write_all(&wire).await.is_err() {
            return;
        }
    }
}

/// The other half: gives the child what is received. While the child does not read, the network loses datagrams.
pub(crate) async fn receive_all(socket: Arc<dyn Datagrams>, to: Arc<Mutex<OwnedWriteHalf>>) {
    while let Ok((data, address)) = socket.receive().await {
        let mut to = to.lock().await;
        if to.write_all(&[DATAGRAM]).await.is_err() || write_datagram(&mut to, &data, address).await.is_err() {
            return;
        }
    }
}

/// What the node writes to a socket of datagrams.
pub(crate) enum Record {
    Datagram(Bytes, SocketAddr),
    /// Of the sent datagrams, in their order.
    Result(net::Result<()>),
}

/// Reads what [`send_all`] and [`receive_all`] write; `None` at the end. Not cancel-safe.
pub(crate) async fn read_record(from: &mut OwnedReadHalf) -> io::Result<Option<Record>> {
    match from.read_u8().await {
        Ok(DATAGRAM) => Ok(read_datagram(from).await?.map(|(data, address)| Record::Datagram(data, address))),
        Ok(RESULT) => {
            let mut text = vec![0; from.read_u32_le().await? as usize];
            from.read_exact(&mut text).await?;
            Ok(Some(Record::Result(serde_json::from_slice(&text)?)))
        }
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_keep_their_ends_and_addresses() {
        let (a, b) = pair().unwrap();
        let ((mut from, _keep), (_reader, mut to)) = (received(b).unwrap().into_split(), a.into_split());
        let sent: Vec<(&[u8], SocketAddr)> = vec![
            (b"one", "10.0.0.1:53".parse().unwrap()),
            (b"", "[::1]:9".parse().unwrap()),
            (b"two", "[::ffff:10.0.0.1]:9".parse().unwrap()),
        ];
        for (data, address) in &sent {
            write_datagram(&mut to, data, *address).await.unwrap();
        }
        drop((to, _reader));
        for (data, address) in sent {
            assert_eq!(read_datagram(&mut from).await.unwrap(), Some((Bytes::copy_from_slice(data), address)));
        }
        assert_eq!(read_datagram(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stream_ends_in_each_direction_on_its_own() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut other = received(through(Box::new(near), ()).unwrap()).unwrap();
        other.write_all(b"ask").await.unwrap();
        other.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ask");
        far.write_all(b"answer").await.unwrap();
        drop(far);
        text.clear();
        other.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }
}
