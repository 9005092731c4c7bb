//! Container logs in the CRI format, one file per attempt.
//!
//! Each line is `2026-01-02T15:04:05.000000000Z stdout F text`; a line longer than [`Options::max_line`] is cut into pieces tagged
//! `P`, the last one `F`, as containerd does. The first byte creates the file and its folder. A full file is renamed to
//! `<name>.20260102-150405` and at most [`Options::max_files`] are kept, the current one included (the kubelet's
//! `containerLogMaxSize` and `containerLogMaxFiles`; older files stay uncompressed).
//!
//! The caller's thread never writes to the disk: bytes go to a bounded buffer, which one thread for the whole node ([`Disk`]) writes out. A
//! writer that is faster than the disk or the rate limit waits ([`Log::writable`]), and loses no line. The rate limit allows a follower that reads
//! every 200 ms to see every file before rotation removes it.
//!
//! A failing disk does not stop containers: output that it refuses (for example because it is full) is lost at once, and a writer waits at most
//! [`STALL_TIMEOUT`] for a hanging disk; then output is lost until the disk recovers. The node's log reports the amount; the container's log
//! contains only output of the container.
//!
//! This module does not read logs (the agent does), and does not know the pods of the files.

use crate::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, Weak, mpsc},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

/// How long a writer waits for a disk that does not respond.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Multiple of [`Options::buffer`] that lines of the host, which does not wait, may occupy.
const OVERFLOW: usize = 64;

/// Limits of one container's log.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Bytes after which the file is rotated.
    pub max_size: u64,
    /// Files kept per container, the current one included; at least 2.
    pub max_files: usize,
    /// Bytes of text after which a line is cut.
    pub max_line: usize,
    /// Most bytes that wait for the disk.
    pub buffer: usize,
    /// Bytes per second that the container may log on average. A faster writer waits.
    pub rate: u64,
    /// Bytes that it may log in one burst. Burst and 200 ms of the rate together are less than the size of all files but one.
    pub burst: u64,
}

impl Default for Options {
    fn default() -> Self {
        let (rate, burst) = (16 << 20, 32 << 20);
        Self { max_size: 10 << 20, max_files: 5, max_line: 16 << 10, buffer: 256 << 10, rate, burst }
    }
}

/// The stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Most files that [`Disk`] keeps open. The least recently used one is closed, and opened again when needed.
const OPEN_FILES: usize = 512;

/// The thread that writes all logs of a node. The first byte starts it; it ends when the last handle is dropped and everything is written.
#[derive(Clone, Default)]
pub struct Disk(Arc<OnceLock<mpsc::Sender<Arc<Inner>>>>);

impl Disk {
    /// A disk whose thread is not started yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn queue(&self, log: Arc<Inner>) {
        let sender = self.0.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            // A node that cannot start a thread loses its logs, not its containers: the send below then fails.
            let _ = std::thread::Builder::new().name("container-logs".into()).spawn(move || write_all(&receiver));
            sender
        });
        // Unbounded, but each log is queued at most once.
        if let Err(mpsc::SendError(log)) = sender.send(log) {
            log.discard();
        }
    }
}

fn write_all(queue: &mpsc::Receiver<Arc<Inner>>) {
    let mut open: VecDeque<Weak<Inner>> = VecDeque::new();
    // The output that was lost since the disk failed.
    let mut lost: Option<Lost> = None;
    while let Ok(log) = queue.recv() {
        let Written { opened, missing, error } = log.write_out();
        if opened {
            open.push_back(Arc::downgrade(&log));
        }
        if let Some(error) = &error
            && lost.is_none()
        {
            tracing::warn!(log = %log.path.display(), %error, "output of containers cannot be written and is lost");
        }
        if error.is_some() || missing.lines > 0 {
            lost.get_or_insert_default().add(missing);
        }
        if error.is_none()
            && let Some(Lost { lines, bytes }) = lost.take()
        {
            tracing::warn!(lines, bytes, "output of containers was lost; it is written again");
        }
        while open.len() > OPEN_FILES {
            if let Some(old) = open.pop_front().and_then(|old| old.upgrade()) {
                *old.file.lock() = None;
            }
        }
    }
}

/// The log of one container. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    path: PathBuf,
    options: Options,
    clock: Clock,
    disk: Disk,
    pending: Mutex<Pending>,
    /// Used by the disk's thread, which also closes files of other logs.
    file: Mutex<Option<Open>>,
    progress: Notify,
}

struct Pending {
    bytes: Vec<u8>,
    queued: bool,
    writing: bool,
    /// A writer waited in vain for the disk: output is lost until the disk continues.
    stalled: bool,
    lost: Lost,
    /// The bytes that may be logged at once. Negative after a burst above the limit.
    tokens: f64,
    refilled: Option<Instant>,
}

/// An amount of lost output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    lines: u64,
    bytes: u64,
}

impl Lost {
    fn add(&mut self, more: Self) {
        self.lines += more.lines;
        self.bytes += more.bytes;
    }
}

/// The outcome of a write to the disk.
struct Written {
    /// The write opened the file.
    opened: bool,
    missing: Lost,
    error: Option<io::Error>,
}

struct Open {
    file: File,
    size: u64,
}

impl Log {
    /// Creates a log at `path`. Creates nothing on disk yet.
    pub fn new(path: PathBuf, options: Options, clock: Clock, disk: &Disk) -> Self {
        let pending = Pending {
            bytes: Vec::new(),
            queued: false,
            writing: false,
            stalled: false,
            lost: Lost::default(),
            tokens: options.burst as f64,
            refilled: None,
        };
        Self(Arc::new(Inner {
            path,
            options,
            clock,
            disk: disk.clone(),
            pending: Mutex::new(pending),
            file: Mutex::new(None),
            progress: Notify::new(),
        }))
    }

    /// Returns a writer with its own incomplete line.
    pub fn writer(&self, source: Source) -> Writer {
        Writer { log: self.clone(), source, tail: Vec::new() }
    }

    /// Writes whole lines at once, for messages of the host in the container's log.
    pub fn lines(&self, source: Source, text: &str) {
        let mut writer = self.writer(source);
        writer.write(text.as_bytes());
        writer.finish(true);
    }

    /// The number of bytes that may be written now without waiting.
    pub fn free(&self) -> usize {
        let (mut pending, options) = (self.0.pending.lock(), &self.0.options);
        if pending.stalled {
            return options.buffer;
        }
        match pending.delay(options) {
            Some(_) => 0,
            None => options.buffer.saturating_sub(pending.bytes.len()),
        }
    }

    /// Waits until [`Log::free`] is not 0. Cancel-safe.
    pub async fn writable(&self) {
        let accepted = self.wait_until(|pending, options| pending.stalled || pending.bytes.len() < options.buffer);
        if timeout(STALL_TIMEOUT, accepted).await.is_err() {
            self.0.pending.lock().stalled = true;
            self.0.progress.notify_waiters();
        }
        loop {
            let delay = self.0.pending.lock().delay(&self.0.options);
            let Some(delay) = delay else { return };
            sleep(delay).await;
        }
    }

    /// Waits until everything written has reached the operating system. Does not flush it to the disk. Cancel-safe.
    pub async fn flush(&self) {
        self.wait_until(|pending, _| pending.bytes.is_empty() && !pending.writing).await;
    }

    async fn wait_until(&self, done: impl Fn(&Pending, &Options) -> bool) {
        loop {
            let progress = self.0.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if done(&self.0.pending.lock(), &self.0.options) {
                return;
            }
            progress.await;
        }
    }

    fn emit(&self, pieces: &[(bool, Cow<'_, [u8]>)], source: Source) {
        if pieces.is_empty() {
            return;
        }
        let stamp = format!("{} {}", timestamp(self.0.clock.now()), source.name());
        let mut pending = self.0.pending.lock();
        let before = pending.bytes.len();
        if pending.stalled || before > self.0.options.buffer.saturating_mul(OVERFLOW) {
            let bytes = pieces.iter().map(|(_, text)| text.len() as u64).sum();
            pending.lost.add(Lost { lines: pieces.len() as u64, bytes });
            return;
        }
        for (full, text) in pieces {
            line(&mut pending.bytes, &stamp, *full, text);
        }
        // Time stamps count too, because a flood of empty lines costs disk space like any other output.
        pending.tokens -= (pending.bytes.len() - before) as f64;
        self.queue(&mut pending);
    }

    fn queue(&self, pending: &mut Pending) {
        if !pending.queued && !pending.bytes.is_empty() {
            pending.queued = true;
            self.0.disk.queue(self.0.clone());
        }
    }
}

impl Pending {
    /// The delay until the rate limit allows more bytes. `None` if it allows them now.
    fn delay(&mut self, options: &Options) -> Option<Duration> {
        let now = Instant::now();
        let passed = now - self.refilled.replace(now).unwrap_or(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * options.rate as f64).min(options.burst as f64);
        let delay = -self.tokens / options.rate.max(1) as f64;
        (delay > 0.0).then(|| Duration::from_secs_f64(delay).max(Duration::from_millis(1)))
    }
}

impl Inner {
    /// Writes the pending bytes.
    fn write_out(&self) -> Written {
        let (bytes, mut missing) = {
            let mut pending = self.pending.lock();
            (pending.queued, pending.writing, pending.stalled) = (false, true, false);
            (std::mem::take(&mut pending.bytes), std::mem::take(&mut pending.lost))
        };
        self.progress.notify_waiters();
        let mut file = self.file.lock();
        let closed = file.is_none();
        let error = self.write_file(&mut file, &bytes).err();
        let opened = closed && file.is_some();
        drop(file);
        if error.is_some() {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            missing.add(Lost { lines, bytes: bytes.len() as u64 });
        }
        self.pending.lock().writing = false;
        self.progress.notify_waiters();
        Written { opened, missing, error }
    }

    fn write_file(&self, slot: &mut Option<Open>, bytes: &[u8]) -> io::Result<()> {
        let mut open = match slot.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if open.size > 0 && open.size + bytes.len() as u64 > self.options.max_size {
            drop(open);
            self.rotate()?;
            open = self.open()?;
        }
        if let Err(error) = open.file.write_all(bytes) {
            // Removes an incomplete line, which would corrupt the next one.
            let _ = open.file.set_len(open.size);
            return Err(error);
        }
        open.size += bytes.len() as u64;
        *slot = Some(open);
        Ok(())
    }

    fn open(&self) -> io::Result<Open> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let size = file.metadata()?.len();
        Ok(Open { file, size })
    }

    fn rotate(&self) -> io::Result<()> {
        let stamp = compact(self.clock.now());
        let mut target = suffixed(&self.path, &stamp);
        let mut count = 0;
        while target.exists() {
            count += 1;
            target = suffixed(&self.path, &format!("{stamp}-{count:03}"));
        }
        fs::rename(&self.path, target)?;
        let mut rotated = rotated(&self.path)?;
        let keep = self.options.max_files.saturating_sub(1).max(1);
        while rotated.len() > keep {
            fs::remove_file(rotated.remove(0))?;
        }
        Ok(())
    }

    fn discard(&self) {
        let mut pending = self.pending.lock();
        pending.bytes.clear();
        pending.queued = false;
        drop(pending);
        self.progress.notify_waiters();
    }
}

/// The rotated files of the log at `path`, the oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes one stream to a log and splits it into lines. Dropping the writer logs an incomplete line as a partial one.
pub struct Writer {
    log: Log,
    source: Source,
    tail: Vec<u8>,
}

impl Writer {
    /// The log that it writes to.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Accepts all bytes. The buffer stays within its limit if the caller respects [`Log::free`].
    pub fn write(&mut self, mut bytes: &[u8]) {
        let max = self.log.0.options.max_line;
        let mut pieces: Vec<(bool, Cow<'_, [u8]>)> = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let mut rest = &bytes[..end.unwrap_or(bytes.len())];
            while self.tail.len() + rest.len() > max {
                let (piece, after) = rest.split_at(max - self.tail.len());
                pieces.push((false, self.complete(piece)));
                rest = after;
            }
            let Some(end) = end else {
                self.tail.extend_from_slice(rest);
                break;
            };
            pieces.push((true, self.complete(rest)));
            bytes = &bytes[end + 1..];
        }
        self.log.emit(&pieces, self.source);
    }

    /// Joins the incomplete line and `rest`. Copies only if there is an incomplete line.
    fn complete<'a>(&mut self, rest: &'a [u8]) -> Cow<'a, [u8]> {
        if self.tail.is_empty() {
            return Cow::Borrowed(rest);
        }
        self.tail.extend_from_slice(rest);
        Cow::Owned(std::mem::take(&mut self.tail))
    }

    /// Ends the incomplete line: as a full line, or as a partial one at the end of a process's output.
    pub fn finish(&mut self, full: bool) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.log.emit(&[(full, Cow::Owned(tail))], self.source);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish(false);
    }
}

fn line(out: &mut Vec<u8>, stamp: &str, full: bool, text: &[u8]) {
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(if full { b" F " } else { b" P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Formats RFC 3339 in UTC with nanoseconds, `2026-01-02T15:04:05.000000000Z`. Times before 1970 become 1970.
pub fn timestamp(time: SystemTime) -> String {
    let (date, clock, nanos) = civil(time);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{nanos:09}Z", date.0, date.1, date.2, clock.0, clock.1, clock.2)
}

fn compact(time: SystemTime) -> String {
    let (date, clock, _) = civil(time);
    format!("{:04}{:02}{:02}-{:02}{:02}{:02}", date.0, date.1, date.2, clock.0, clock.1, clock.2)
}

type Civil = ((u64, u64, u64), (u64, u64, u64), u32);

/// Year, month, day, and hour, minute, second in UTC, computed from eras of 400 years (146,097 days).
fn civil(time: SystemTime) -> Civil {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let date = (year + era * 400 + u64::from(month <= 2), month, day - (153 * shifted + 2) / 5 + 1);
    (date, (seconds / 3_600, seconds / 60 % 60, seconds % 60), since.subsec_nanos())
}

#[cfg(test)]
mod tests;
