//! Reads container logs: CRI lines, rotated files, and following. The counterpart of `container::log`.
//!
//! Follows the semantics of `kubectl logs` and <https://kubernetes.io/docs/concepts/cluster-administration/logging/>. Following polls the
//! file, so that a line is seen at most [`POLL_INTERVAL`] after it was written.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often a followed file is read.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes per read.
const CHUNK: usize = 64 << 10;
/// Limits of a termination message that is taken from the log, as upstream's.
const MAX_TAIL_BYTES: u64 = 8 << 10;
const MAX_TAIL_LINES: usize = 80;
const MAX_MESSAGE_BYTES: usize = 2048;

/// Which part of a log to read, as `v1.PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only this number of lines at the end.
    pub tail: Option<usize>,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Prefix each line with its time.
    pub timestamps: bool,
    /// At most this number of bytes.
    pub limit: Option<usize>,
    /// Continue while the container runs.
    pub follow: bool,
    /// Only `stdout` or `stderr`.
    pub stream: Option<Stream>,
}

/// The stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a CRI log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time as written in the log.
    pub time: &'a str,
    /// The stream that it was written to.
    pub stream: Stream,
    /// The next entry continues this line.
    pub partial: bool,
    /// The text without the newline.
    pub text: &'a [u8],
}

/// Parses `TIME STREAM TAG TEXT`. Returns `None` for other formats.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = parts.next()?.split(|b| *b == b':').next()? == b"P";
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// The log files of an attempt: rotated files, the oldest first, and then the current one.
pub fn files(current: &Path) -> Vec<PathBuf> {
    let Some(name) = current.file_name().and_then(|n| n.to_str()) else { return Vec::new() };
    let prefix = format!("{name}.");
    let entries = current.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let names = entries.into_iter().flatten().flatten().map(|e| e.path());
    let mut rotated: Vec<_> =
        names.filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix))).collect();
    rotated.sort();
    rotated.push(current.to_owned());
    rotated
}

/// Formats CRI lines for the user.
struct Printer {
    wanted: LogOptions,
    left: usize,
    /// The previous entry was partial: the line's time is already printed.
    inside: bool,
    /// A line at or after `since` was found.
    begun: bool,
}

impl Printer {
    fn new(wanted: LogOptions) -> Self {
        let (left, begun) = (wanted.limit.unwrap_or(usize::MAX), wanted.since.is_none());
        Self { wanted, left, inside: false, begun }
    }

    fn shows(&mut self, line: &Line<'_>) -> bool {
        if !self.begun {
            let time = line.time.parse::<Timestamp>().ok();
            self.begun = time.is_none_or(|time| self.wanted.since.is_none_or(|since| time >= since));
        }
        self.begun && self.wanted.stream.is_none_or(|wanted| wanted == line.stream)
    }

    fn print(&mut self, line: &Line<'_>, out: &mut BytesMut) {
        if self.wanted.timestamps && !self.inside {
            self.put(line.time.as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(line.text, out);
        if !line.partial {
            self.put(b"\n", out);
        }
        self.inside = line.partial;
    }

    fn put(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let part = &bytes[..bytes.len().min(self.left)];
        out.put_slice(part);
        self.left -= part.len();
    }
}

/// Reads the log of an attempt. Its functions block on the disk.
///
/// Files are identified by their inode, because rotation renames the file that is being read. The next file is always the one that was
/// created after it.
pub struct Reader {
    path: PathBuf,
    printer: Printer,
    file: Option<std::fs::File>,
    /// A newer file exists, so that this one does not grow any more.
    closed: bool,
    rest: Vec<u8>,
}

impl Reader {
    /// Opens the log whose current file is `path`, which need not exist yet. `tail` reads through the rotated files first.
    pub fn open(path: &Path, wanted: LogOptions) -> io::Result<Self> {
        let mut printer = Printer::new(wanted.clone());
        let mut file = None;
        if let Some(tail) = wanted.tail {
            let files = files(path);
            let (index, offset) = find_tail(&files, tail, &mut printer)?;
            if let Some(mut opened) = files.get(index).and_then(|path| std::fs::File::open(path).ok()) {
                opened.seek(SeekFrom::Start(offset))?;
                file = Some(opened);
            }
        }
        Ok(Self { path: path.to_owned(), printer, file, closed: false, rest: Vec::new() })
    }

    /// Reads the next piece. `None` if there is no more output at the moment, or if the limit is reached ([`Reader::is_full`]).
    pub fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = BytesMut::new();
        while !self.is_full() && out.len() < CHUNK {
            if self.file.is_none() && !self.advance()? {
                break;
            }
            let Some(file) = &mut self.file else { break };
            let begin = self.rest.len();
            self.rest.resize(begin + CHUNK, 0);
            let read = file.read(&mut self.rest[begin..])?;
            self.rest.truncate(begin + read);
            if read == 0 && !self.advance()? {
                break;
            }
            self.print(&mut out);
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    /// Moves from the end of a file to the next file. Returns false if there is none.
    fn advance(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let name = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        loop {
            let files: Vec<_> =
                files(&self.path).into_iter().filter_map(|path| Some((name(path.metadata().ok()?), path))).collect();
            let open = self.file.as_ref().map(|file| file.metadata().map(name)).transpose()?;
            // If the open file was removed, it was the oldest, and the first remaining file follows it.
            let at = open.and_then(|open| files.iter().position(|(file, _)| *file == open));
            let Some((wanted, path)) = files.get(at.map_or(0, |at| at + 1)) else { return Ok(false) };
            if open.is_some() && !std::mem::replace(&mut self.closed, true) {
                // Read the file once more: lines may have been written after its end was reached.
                return Ok(true);
            }
            match std::fs::File::open(path) {
                Ok(file) if name(file.metadata()?) == *wanted => {
                    (self.file, self.closed) = (Some(file), false);
                    return Ok(true);
                }
                // The file was rotated or removed meanwhile.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the byte limit is reached.
    pub fn is_full(&self) -> bool {
        self.printer.left == 0
    }

    fn print(&mut self, out: &mut BytesMut) {
        let mut begin = 0;
        while let Some(end) = self.rest[begin..].iter().position(|b| *b == b'\n') {
            if let Some(line) = parse(&self.rest[begin..begin + end])
                && self.printer.shows(&line)
            {
                self.printer.print(&line, out);
            }
            begin += end + 1;
        }
        self.rest.drain(..begin);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
    }
}

/// The file and offset of the first of the last `tail` lines.
fn find_tail(files: &[PathBuf], tail: usize, printer: &mut Printer) -> io::Result<(usize, u64)> {
    let mut starts: VecDeque<(usize, u64)> = VecDeque::new();
    let mut end = (files.len().saturating_sub(1), 0);
    let mut inside = false;
    for (index, path) in files.iter().enumerate() {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = io::BufReader::with_capacity(CHUNK, file);
        let (mut offset, mut line) = (0, Vec::new());
        while io::BufRead::read_until(&mut reader, b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            if let Some(parsed) = parse(&line[..line.len() - 1])
                && printer.shows(&parsed)
            {
                if !inside {
                    starts.push_back((index, offset));
                    if starts.len() > tail {
                        starts.pop_front();
                    }
                }
                inside = parsed.partial;
            }
            offset += line.len() as u64;
            line.clear();
        }
        end = (index, offset);
    }
    // Printing checks `since` again, which changes nothing for these lines.
    Ok(starts.front().copied().unwrap_or(end))
}

/// The end of a log as a termination message: at most 80 lines and 2 KiB, as upstream's.
pub fn termination_message(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(MAX_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let lines: Vec<_> = bytes.split(|b| *b == b'\n').filter_map(parse).collect();
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(MAX_TAIL_LINES)..] {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let text = String::from_utf8_lossy(&text);
    let from =
        (text.len().saturating_sub(MAX_MESSAGE_BYTES)..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[from..].to_owned()
}

#[cfg(test)]
mod tests;
