//! Messages on the socket of a shim: `[length: u32, little endian][descriptors: u8]`, then JSON. The descriptors of a message go with its first
//! byte (SCM_RIGHTS).

use container::descriptors;
use serde::{Serialize, de::DeserializeOwned};
use std::{io, os::fd::OwnedFd};
use tokio::net::UnixStream;

/// Most bytes of a message: a container may have a megabyte of environment, and JSON doubles some of it.
const MAX_BYTES: usize = 16 << 20;

const HEAD: usize = 5;

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Writes a message. Not cancel-safe.
pub(crate) async fn write<T: Serialize>(to: &UnixStream, message: &T, descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut wire = vec![0; HEAD];
    serde_json::to_writer(&mut wire, message)?;
    let length = u32::try_from(wire.len() - HEAD).map_err(io::Error::other)?;
    wire[..4].copy_from_slice(&length.to_le_bytes());
    wire[4] = u8::try_from(descriptors.len()).map_err(io::Error::other)?;
    descriptors::send(to, &wire, descriptors).await
}

/// Reads a message; `None` at the end of the stream. Not cancel-safe.
///
/// # Errors
/// The stream fails, or what comes is no message.
pub(crate) async fn read<T: DeserializeOwned>(from: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut head, mut descriptors) = ([0; HEAD], Vec::new());
    if !descriptors::fill(from, &mut head, &mut descriptors).await? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, count] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_BYTES {
        return Err(invalid("a message is too long"));
    }
    let mut bytes = vec![0; length];
    if !descriptors::fill(from, &mut bytes, &mut descriptors).await? && length > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if descriptors.len() != usize::from(count) {
        return Err(invalid("a message without its descriptors"));
    }
    Ok(Some((serde_json::from_slice(&bytes)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Write},
    };

    #[tokio::test]
    async fn messages_arrive_whole_with_their_own_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let long = "x".repeat(300_000);
        let send = async {
            write(&a, &"one", &[]).await.unwrap();
            write(&a, &(), &[OwnedFd::from(reader)]).await.unwrap();
            write(&a, &long, &[]).await.unwrap();
            drop(a);
        };
        let receive = async {
            assert_eq!(read::<String>(&b).await.unwrap().unwrap().0, "one");
            let ((), mut descriptors) = read::<()>(&b).await.unwrap().unwrap();
            writer.write_all(b"through").unwrap();
            drop(writer);
            let mut text = String::new();
            File::from(descriptors.pop().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
            assert_eq!(read::<String>(&b).await.unwrap().unwrap().0, long);
            assert!(read::<String>(&b).await.unwrap().is_none());
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn what_is_too_long_cut_or_without_its_descriptors_is_an_error() {
        for wire in [&b"\xff\xff\xff\xff\0"[..], b"\x02\0\0", b"\x02\0\0\0\0{", b"\x02\0\0\0\x01{}", b"\x01\0\0\0\0{"] {
            let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
            a.write_all(wire).unwrap();
            drop(a);
            b.set_nonblocking(true).unwrap();
            let read = read::<serde_json::Value>(&UnixStream::from_std(b).unwrap()).await;
            assert!(read.is_err(), "{wire:?}");
        }
    }
}
