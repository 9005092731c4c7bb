//! The protocol between API server and node on the stream of an exec or attach, after the upgrade ([`PROTOCOL`]): frames of
//! `[channel: u8][length: u32, big endian][bytes]`.
//!
//! | channel | from | bytes |
//! | --- | --- | --- |
//! | [`STDIN`] | server | input; an empty frame ends it |
//! | [`STDOUT`], [`STDERR`] | node | output; an empty frame ends it |
//! | [`STATUS`] | node | the result, a `metav1.Status` as JSON: the last frame |
//! | [`RESIZE`] | server | the terminal's size as clients send it, `{"Width":80,"Height":24}`; split at any byte |
//! | [`KEEPALIVE`] | node | empty, periodically, so that the sender detects a closed connection |
//!
//! Either side ends the session by closing the stream. Each exec has a separate stream, whose back-pressure applies to all its channels.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The name of the protocol in `Upgrade`.
pub const PROTOCOL: &str = "sampan-frames";
/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// The result of the command.
pub const STATUS: u8 = 3;
/// Sizes of the terminal.
pub const RESIZE: u8 = 4;
/// Keep-alive.
pub const KEEPALIVE: u8 = 5;
/// The maximum length of a frame's bytes.
pub const MAX_FRAME_BYTES: usize = 64 << 10;

/// Writes bytes as one or more frames.
///
/// # Errors
/// The stream fails.
pub async fn write<W: AsyncWrite + Unpin>(to: &mut W, channel: u8, bytes: &[u8]) -> io::Result<()> {
    let (first, rest) = bytes.split_at(bytes.len().min(MAX_FRAME_BYTES));
    for piece in std::iter::once(first).chain(rest.chunks(MAX_FRAME_BYTES)) {
        let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(5 + piece.len());
        frame.push(channel);
        frame.extend(length.to_be_bytes());
        frame.extend(piece);
        to.write_all(&frame).await?;
    }
    to.flush().await
}

/// Reads a frame. Returns its channel and bytes, or `None` at the end of the stream. Not cancel-safe.
///
/// # Errors
/// The stream fails or ends within a frame, or the frame is longer than [`MAX_FRAME_BYTES`].
pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Option<(u8, Vec<u8>)>> {
    let channel = match from.read_u8().await {
        Ok(channel) => channel,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some((channel, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut wire = Vec::new();
        let long: Vec<u8> = (0..MAX_FRAME_BYTES + 7).map(|at| at.to_le_bytes()[0]).collect();
        for (channel, bytes) in [(STDIN, &b"hello"[..]), (STDOUT, b""), (STDERR, &long)] {
            write(&mut wire, channel, bytes).await.expect("written");
        }
        assert_eq!(wire[..10], *b"\0\0\0\0\x05hello");
        let mut from = &wire[..];
        let mut next = async || read(&mut from).await.expect("a frame");
        assert_eq!(next().await, Some((STDIN, b"hello".to_vec())));
        assert_eq!(next().await, Some((STDOUT, Vec::new())));
        assert_eq!(next().await, Some((STDERR, long[..MAX_FRAME_BYTES].to_vec())));
        assert_eq!(next().await, Some((STDERR, long[MAX_FRAME_BYTES..].to_vec())));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn what_is_cut_or_too_long_is_an_error() {
        for bytes in [&b"\x01"[..], b"\x01\0\0\0", b"\x01\0\0\0\x05hell", b"\x01\0\x01\0\x01x"] {
            read(&mut &bytes[..]).await.expect_err("no frame");
        }
    }
}
