//! Header blocks, compressed with one context per direction of a connection.
//!
//! Sent blocks are not compressed: a server sends few headers, and zlib's stored blocks avoid the 256 KiB of memory of a compressor.

use super::{Error, dictionary};
use bytes::{Buf, BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// The maximum length of an uncompressed block in bytes. Kubernetes' are shorter than 100.
const MAX_HEADER_BLOCK_BYTES: usize = 16 << 10;
/// The header of a zlib stream with a dictionary: a window of 32 KiB, and the checksum of SPDY/3's dictionary.
const START: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block, which ends a sync flush.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Names and values. Names are in lower case on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// The value of a name in lower case, or an empty string.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// Reads header blocks.
#[derive(Default)]
pub(super) struct Reader(Option<Decompress>);

impl Reader {
    /// Decodes the next block.
    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Error> {
        let broken = || Error::Malformed("a header block cannot be decompressed");
        let zlib = self.0.get_or_insert_with(|| Decompress::new(true));
        let mut output = Vec::with_capacity(512);
        while !input.is_empty() {
            if output.len() == output.capacity() {
                if output.len() >= MAX_HEADER_BLOCK_BYTES {
                    return Err(Error::TooLong("a header block", MAX_HEADER_BLOCK_BYTES));
                }
                output.reserve_exact(output.len());
            }
            let (read, written) = (zlib.total_in(), zlib.total_out());
            let status = match zlib.decompress_vec(input, &mut output, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    zlib.set_dictionary(&dictionary::bytes()).map_err(|_| broken())?;
                    Status::Ok
                }
                Err(_) => return Err(broken()),
            };
            let read = usize::try_from(zlib.total_in() - read).map_err(|_| broken())?;
            input = input.get(read..).ok_or_else(broken)?;
            let stuck = read == 0 && zlib.total_out() == written && output.len() < output.capacity();
            if status == Status::StreamEnd || (stuck && status == Status::BufError) {
                return Err(broken());
            }
        }
        Ok(output)
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Error> {
    let broken = || Error::Malformed("a header block is cut short");
    let text = |block: &mut &[u8]| {
        let length = usize::try_from(block.try_get_u32().map_err(|_| broken())?).map_err(|_| broken())?;
        let (text, rest) = block.split_at_checked(length).ok_or_else(broken)?;
        *block = rest;
        String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed("a header is no text"))
    };
    let count = block.try_get_u32().map_err(|_| broken())?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut block)?;
        if name.is_empty() || headers.0.iter().any(|(known, _)| *known == name) {
            return Err(Error::Malformed("a header has no name, or one that was there before"));
        }
        headers.0.push((name, text(&mut block)?));
    }
    Ok(headers)
}

/// Writes header blocks.
#[derive(Default)]
pub(super) struct Writer {
    begun: bool,
}

impl Writer {
    /// Appends a block.
    pub(super) fn write(&mut self, headers: &Headers, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.begun, true) {
            out.put_slice(&START);
        }
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut block = BytesMut::new();
        block.put_u32(length(headers.0.len()));
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(length(text.len()));
            block.put_slice(text.as_bytes());
        }
        for piece in block.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            out.put_u8(0);
            out.put_u16_le(length);
            out.put_u16_le(!length);
            out.put_slice(piece);
        }
        out.put_slice(&FLUSH);
    }
}
