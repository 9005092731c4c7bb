//! Reads and writes frames. Pure. Data is returned in the pieces in which it arrives, so that a frame of 16 MiB needs no 16 MiB.

use super::{
    Error,
    headers::{Headers, Reader, Writer},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The version in control frames: 3.1 is 3 on the wire.
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
/// The maximum length of a control frame in bytes.
const MAX_CONTROL_FRAME_BYTES: usize = 16 << 10;
/// The maximum length of a returned piece of data in bytes.
const PIECE: usize = 16 << 10;
/// The length of a frame header in bytes.
const HEAD: usize = 8;
/// Stream ids have 31 bits.
const ID: u32 = 0x7fff_ffff;
const FIN: u8 = 1;

/// A frame, with the fields that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream.
    SynStream { id: u32, fin: bool, headers: Headers },
    /// Accepts a stream.
    SynReply { id: u32, fin: bool, headers: Headers },
    /// Resets a stream.
    RstStream { id: u32, status: u32 },
    /// A ping, which must be returned.
    Ping(u32),
    /// No further streams are accepted.
    GoAway { last: u32, status: u32 },
    /// Bytes of a stream. `fin` marks the last ones.
    Data { id: u32, fin: bool, bytes: Bytes },
    /// SETTINGS, HEADERS, WINDOW_UPDATE and unknown frames.
    Other,
}

/// Reads and writes the frames of a connection.
#[derive(Default)]
pub(crate) struct Codec {
    reader: Reader,
    writer: Writer,
    /// The rest of a data frame: its stream, whether it is the last one, and the number of bytes.
    data: Option<(u32, bool, usize)>,
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = Error;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if let Some((id, last, left)) = self.data {
            return Ok(self.piece(from, id, last, left));
        }
        let Some(mut head) = from.get(..HEAD) else { return Ok(None) };
        let first = head.get_u32();
        let flags = head.get_u8();
        let length = usize::try_from(head.get_uint(3)).unwrap_or(usize::MAX);
        if first & !ID == 0 {
            from.advance(HEAD);
            return Ok(self.piece(from, first, flags & FIN != 0, length));
        }
        let (version, kind) = ((first >> 16) as u16 & !CONTROL, first as u16);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if length > MAX_CONTROL_FRAME_BYTES {
            return Err(Error::TooLong("a control frame", MAX_CONTROL_FRAME_BYTES));
        }
        if from.len() < HEAD + length {
            from.reserve(HEAD + length - from.len());
            return Ok(None);
        }
        from.advance(HEAD);
        let body = from.split_to(length);
        self.control(kind, flags & FIN != 0, &body).map(Some)
    }
}

impl Codec {
    /// Returns the bytes of a data frame that have arrived.
    fn piece(&mut self, from: &mut BytesMut, id: u32, last: bool, left: usize) -> Option<Frame> {
        let bytes = from.split_to(left.min(from.len()).min(PIECE)).freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some((id, last, left));
        if left > 0 && bytes.is_empty() {
            return None;
        }
        Some(Frame::Data { id, fin: last && left == 0, bytes })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Frame, Error> {
        let short = |_| Error::Malformed("a control frame is cut short");
        Ok(match kind {
            1 => {
                let id = body.try_get_u32().map_err(short)? & ID;
                // The associated stream and the priority are ignored.
                body.try_get_u32().map_err(short)?;
                body.try_get_u16().map_err(short)?;
                Frame::SynStream { id, fin, headers: self.reader.read(body)? }
            }
            2 => {
                let id = body.try_get_u32().map_err(short)? & ID;
                Frame::SynReply { id, fin, headers: self.reader.read(body)? }
            }
            3 => Frame::RstStream {
                id: body.try_get_u32().map_err(short)? & ID,
                status: body.try_get_u32().map_err(short)?,
            },
            6 => Frame::Ping(body.try_get_u32().map_err(short)?),
            7 => Frame::GoAway {
                last: body.try_get_u32().map_err(short)? & ID,
                status: body.try_get_u32().map_err(short)?,
            },
            8 => {
                // Decoded although ignored, because the compression of later frames depends on it.
                body.try_get_u32().map_err(short)?;
                self.reader.read(body)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }
}

impl Encoder<Frame> for Codec {
    type Error = Error;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), Error> {
        match frame {
            Frame::Data { id, fin, bytes } => {
                out.reserve(HEAD + bytes.len());
                out.put_u32(id & ID);
                head(out, fin, bytes.len());
                out.put_slice(&bytes);
            }
            Frame::SynStream { id, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(id);
                body.put_u32(0);
                body.put_u16(0);
                self.writer.write(&headers, &mut body);
                control(out, 1, fin, &body);
            }
            Frame::SynReply { id, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(id);
                self.writer.write(&headers, &mut body);
                control(out, 2, fin, &body);
            }
            Frame::RstStream { id, status } => pair(out, 3, id, status),
            Frame::Ping(id) => control(out, 6, false, &id.to_be_bytes()),
            Frame::GoAway { last, status } => pair(out, 7, last, status),
            Frame::Other => {}
        }
        Ok(())
    }
}

fn head(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u8(if fin { FIN } else { 0 });
    out.put_uint(length as u64, 3);
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, body: &[u8]) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    head(out, fin, body.len());
    out.put_slice(body);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&first.to_be_bytes());
    body[4..].copy_from_slice(&second.to_be_bytes());
    control(out, kind, false, &body);
}
