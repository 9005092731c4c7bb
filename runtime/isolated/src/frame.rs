//! Frames on the socket between node and child: `[length: u32][descriptors: u8][kind: u8][0: u16][id: u64]`, little endian, then the bytes. The
//! descriptors of a frame go with its first byte (SCM_RIGHTS).

use container::descriptors;
use std::{io, os::fd::OwnedFd};
use tokio::net::UnixStream;

const HEAD: usize = 16;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Asks for a reply of the same id.
    Call,
    /// Answers a call.
    Reply,
    /// The caller does not wait for the reply any more.
    Cancel,
    /// Wants no reply.
    Notice,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Call, Self::Reply, Self::Cancel, Self::Notice];

    fn byte(self) -> u8 {
        Self::ALL.iter().position(|kind| *kind == self).map_or(0, |at| at as u8)
    }
}

/// One message.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Writes a frame. Not cancel-safe.
pub(crate) async fn write(to: &UnixStream, frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.bytes.len()).map_err(io::Error::other)?;
    let mut wire = Vec::with_capacity(HEAD + frame.bytes.len());
    wire.extend(length.to_le_bytes());
    wire.push(u8::try_from(frame.descriptors.len()).map_err(io::Error::other)?);
    wire.extend([frame.kind.byte(), 0, 0]);
    wire.extend(frame.id.to_le_bytes());
    wire.extend(&frame.bytes);
    descriptors::send(to, &wire, &frame.descriptors).await
}

/// Reads a frame of at most `max` bytes; `None` at the end of the stream. Not cancel-safe.
pub(crate) async fn read(from: &UnixStream, max: usize) -> io::Result<Option<Frame>> {
    let (mut head, mut descriptors) = ([0; HEAD], Vec::new());
    if !descriptors::fill(from, &mut head, &mut descriptors).await? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, count, kind, _, _, id @ ..] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let kind = Kind::ALL.get(usize::from(kind)).copied().ok_or_else(|| invalid("an unknown kind of frame"))?;
    if length > max {
        return Err(invalid("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    if !bytes.is_empty() && !descriptors::fill(from, &mut bytes, &mut descriptors).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if descriptors.len() != usize::from(count) {
        return Err(invalid("a frame without its descriptors"));
    }
    Ok(Some(Frame { kind, id: u64::from_le_bytes(id), bytes, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Write},
    };

    fn frame(kind: Kind, id: u64, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Frame {
        Frame { kind, id, bytes: bytes.to_vec(), descriptors }
    }

    #[tokio::test]
    async fn frames_arrive_whole_with_their_own_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let long = vec![7; 300_000];
        let send = async {
            write(&a, &frame(Kind::Call, 1, b"one", vec![])).await.unwrap();
            write(&a, &frame(Kind::Notice, 2, b"", vec![OwnedFd::from(reader)])).await.unwrap();
            write(&a, &frame(Kind::Reply, u64::MAX, &long, vec![])).await.unwrap();
            drop(a);
        };
        let receive = async {
            let one = read(&b, 1 << 20).await.unwrap().unwrap();
            assert_eq!((one.kind, one.id, &one.bytes[..], one.descriptors.len()), (Kind::Call, 1, &b"one"[..], 0));
            let mut two = read(&b, 1 << 20).await.unwrap().unwrap();
            writer.write_all(b"through").unwrap();
            drop(writer);
            let mut text = String::new();
            File::from(two.descriptors.pop().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
            let three = read(&b, 1 << 20).await.unwrap().unwrap();
            assert_eq!((three.kind, three.id, three.bytes.len()), (Kind::Reply, u64::MAX, 300_000));
            assert!(read(&b, 1 << 20).await.unwrap().is_none());
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn what_is_too_long_cut_or_without_its_descriptors_is_an_error() {
        let one = |head: &[u8]| {
            let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
            a.write_all(head).unwrap();
            b.set_nonblocking(true).unwrap();
            async move { read(&UnixStream::from_std(b).unwrap(), 100).await }
        };
        let mut head = [0; HEAD];
        assert!(one(&head).await.unwrap().is_some());
        assert!(one(&head[..9]).await.is_err(), "cut");
        head[0] = 101;
        assert!(one(&head).await.is_err(), "too long");
        head[0] = 3;
        assert!(one(&head).await.is_err(), "the bytes are missing");
        head = [0; HEAD];
        head[4] = 1;
        assert!(one(&head).await.is_err(), "the descriptor is missing");
        head = [0; HEAD];
        head[5] = 9;
        assert!(one(&head).await.is_err(), "an unknown kind");
    }
}
