//! Compressed archives: gzip and zstd, which their first bytes tell, whatever a media type says.

use crate::error::{Fault, damaged};
use flate2::read::MultiGzDecoder;
use std::io::{self, BufReader, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a zstd frame, bytes, which is memory of the decoder.
const MAX_WINDOW: u64 = 16 << 20;

/// Reads what a plain, gzip or zstd file holds.
pub(crate) fn decompress(file: impl Read + 'static) -> Result<Box<dyn Read>, Fault> {
    let mut source = Source { ahead: Vec::new(), file: BufReader::new(Box::new(file)) };
    let kind = suffix(source.peek().map_err(damaged)?);
    Ok(match kind {
        "+gzip" => Box::new(MultiGzDecoder::new(BufReader::new(source))),
        "+zstd" => Box::new(Zstd { source: Some(source), frame: None }),
        _ => Box::new(source),
    })
}

/// What a file that begins with these bytes adds to the media type of a layer.
pub(crate) fn suffix(start: &[u8]) -> &'static str {
    match start {
        _ if start.starts_with(&GZIP) => "+gzip",
        _ if start.starts_with(&ZSTD) || is_skippable(start) => "+zstd",
        _ => "",
    }
}

/// Whether a skippable frame of zstd begins here (RFC 8878, 3.1.2): tables of contents of zstd:chunked and of parallel compressors.
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// A file, and the bytes of it that were looked at.
struct Source {
    ahead: Vec<u8>,
    file: BufReader<Box<dyn Read>>,
}

impl Source {
    /// The next four bytes; fewer at the end.
    fn peek(&mut self) -> io::Result<&[u8]> {
        let lacking = 4_usize.saturating_sub(self.ahead.len());
        (&mut self.file).take(lacking as u64).read_to_end(&mut self.ahead)?;
        Ok(&self.ahead)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.file.read(buffer);
        }
        let count = self.ahead.as_slice().read(buffer)?;
        self.ahead.drain(..count);
        Ok(count)
    }
}

type Frame = ruzstd::decoding::StreamingDecoder<Source, ruzstd::decoding::FrameDecoder>;

/// All frames of a zstd file.
struct Zstd {
    source: Option<Source>,
    frame: Option<Box<Frame>>,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                let (source, _) = self.frame.take().map(|frame| frame.into_parts()).expect("it is there");
                self.source = Some(source);
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            let start = source.peek()?;
            if start.is_empty() {
                return Ok(0);
            }
            if is_skippable(start) {
                let mut head = [0; 8];
                source.read_exact(&mut head)?;
                let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
                io::copy(&mut (&mut source).take(length.into()), &mut io::sink())?;
                self.source = Some(source);
                continue;
            }
            self.frame = Some(Box::new(Frame::new_with_max_window_size(source, MAX_WINDOW).map_err(io::Error::other)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_several_frames_are_read_to_their_end() {
        let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        for (file, want, kind) in [
            (b"plain".to_vec(), "plain", ""),
            (Vec::new(), "", ""),
            (zstd(b"one"), "one", "+zstd"),
            ([zstd(b"one"), zstd(b"two")].concat(), "onetwo", "+zstd"),
            (
                [skipped.clone(), zstd(b"one"), skipped.clone(), zstd(b"two"), skipped.clone()].concat(),
                "onetwo",
                "+zstd",
            ),
            // a frame that says to be longer than the file holds nothing
            ([zstd(b"one"), vec![0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255]].concat(), "one", "+zstd"),
        ] {
            assert_eq!(suffix(&file), kind);
            let mut text = String::new();
            decompress(io::Cursor::new(file)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, want);
        }
        for bad in [vec![0x50, 0x2a, 0x4d, 0x18, 1], [zstd(b"one"), vec![1]].concat()] {
            let read = decompress(io::Cursor::new(bad)).unwrap().read_to_end(&mut Vec::new());
            read.expect_err("a broken frame");
        }
    }
}
