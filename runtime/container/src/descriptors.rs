//! Bytes with file descriptors (SCM_RIGHTS) on a Unix socket: what the protocols to processes of ours have in common.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::{io::Interest, net::UnixStream};

/// Most descriptors of a message.
pub const MAX: usize = 4;

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "too many descriptors")
}

/// Sends all bytes; the descriptors go with the first. Not cancel-safe.
///
/// # Errors
/// The stream fails, or there are more than [`MAX`] descriptors.
pub async fn send(to: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while let Some(rest @ [_, ..]) = bytes.get(sent..) {
        let with: &[BorrowedFd<'_>] = if sent == 0 { &descriptors } else { &[] };
        sent += to.async_io(Interest::WRITABLE, || send_once(to, rest, with)).await?;
    }
    Ok(())
}

fn send_once(to: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(too_many());
    }
    Ok(sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Fills a buffer, and adds the descriptors that come with its bytes. Returns whether it did: at the end of the stream it reads nothing. Not
/// cancel-safe.
///
/// # Errors
/// The stream fails or ends within the buffer, or there are more than [`MAX`] descriptors.
pub async fn fill(from: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match from.async_io(Interest::READABLE, || receive(from, rest, descriptors)).await? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(true)
}

/// Receives what is there: bytes, and the descriptors that come with them.
///
/// # Errors
/// As [`fill`].
pub fn receive(from: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX {
        return Err(too_many());
    }
    Ok(received.bytes)
}
