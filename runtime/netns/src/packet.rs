//! Packets between this process and the helper: one message each, with the descriptors that go with it (`SOCK_SEQPACKET`, `SCM_RIGHTS`). The
//! kernel keeps their ends, so that nothing can be cut or joined.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Most bytes of a packet. The largest is a page of pods; rules go in a file of their own.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// Most descriptors of a packet.
pub(crate) const MAX_DESCRIPTORS: usize = 64;

/// What was received.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Two connected sockets.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a packet.
pub(crate) fn send(to: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let too_large = bytes.is_empty() || bytes.len() > MAX_BYTES || descriptors.len() > MAX_DESCRIPTORS;
    if too_large || !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a packet is empty or too large"));
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a packet; `None` when the other end is closed.
pub(crate) fn receive(from: impl AsFd) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; MAX_BYTES];
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is too large"));
    }
    bytes.truncate(received.bytes);
    Ok((!bytes.is_empty()).then_some(Packet { bytes, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn packets_keep_their_ends_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&a, b"one", &[]).unwrap();
        send(&a, b"two", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(receive(&b).unwrap().unwrap().bytes, b"one");
        let mut two = receive(&b).unwrap().unwrap();
        assert_eq!((&two.bytes[..], two.descriptors.len()), (&b"two"[..], 1));
        std::fs::File::from(two.descriptors.pop().unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn what_is_too_large_is_an_error_on_both_sides() {
        let (a, b) = pair().unwrap();
        assert!(send(&a, &vec![7; MAX_BYTES + 1], &[]).is_err());
        assert!(send(&a, b"", &[]).is_err(), "it would be an end");
        send(&a, &vec![7; MAX_BYTES], &[]).unwrap();
        assert_eq!(receive(&b).unwrap().unwrap().bytes.len(), MAX_BYTES);
        rustix::net::send(&a, &vec![7; MAX_BYTES + 1], SendFlags::empty()).unwrap();
        assert!(receive(&b).is_err());
        let many: Vec<OwnedFd> = (0..=MAX_DESCRIPTORS).map(|_| a.try_clone().unwrap()).collect();
        let many: Vec<BorrowedFd<'_>> = many.iter().map(AsFd::as_fd).collect();
        assert!(send(&a, b"x", &many).is_err());
    }
}
