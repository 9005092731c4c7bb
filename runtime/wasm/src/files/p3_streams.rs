//! The streams of files and folders of WASI 0.3. Each call moves one piece of bounded size, on the guest's thread, so that its CPU time counts
//! for the guest's limit, while another thread takes over the other tasks. Nothing is kept between two calls.

use super::budget::DiskSpace;
use crate::long_polls::hand_over;
use bytes::BytesMut;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::{Errno, ReadWriteFlags, pwritev2},
};
use std::{
    fs::File,
    io::{self, IoSlice},
    os::{fd::AsFd, unix::fs::FileExt},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::PollSemaphore;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Destination, Source, StreamConsumer, StreamProducer, StreamResult, VecBuffer},
};
use wasmtime_wasi::p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

/// Most bytes of one read or write.
const PIECE: usize = 64 << 10;

/// Bytes of one read when the guest provides no buffer.
const BUFFER: usize = 8 << 10;

/// Most entries of a folder that are given at a time.
const ENTRIES: usize = 64;

/// Counts a stream as an open file of its instance until it is dropped.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(crate) fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Relaxed);
        Self(streams.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Reports the result of a stream once. A dropped reporter reports success.
pub(super) struct End(Option<oneshot::Sender<Result<(), ErrorCode>>>);

impl End {
    pub(super) fn new(tell: oneshot::Sender<Result<(), ErrorCode>>) -> Self {
        Self(Some(tell))
    }

    /// Ends the stream.
    fn with(&mut self, result: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(tell) = self.0.take() {
            // the guest may have dropped the future
            let _ = tell.send(result);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.with(Ok(()));
    }
}

/// What the streams share.
struct Stream {
    places: PollSemaphore,
    end: End,
    _counted: Counted,
}

impl Stream {
    fn new(places: Arc<Semaphore>, end: End, counted: Counted) -> Self {
        Self { places: PollSemaphore::new(places), end, _counted: counted }
    }

    /// Waits for a place for a blocking call.
    fn poll_place(
        &mut self,
        context: &mut Context<'_>,
        finish: bool,
    ) -> Result<OwnedSemaphorePermit, Poll<wasmtime::Result<StreamResult>>> {
        match self.places.poll_acquire(context) {
            Poll::Ready(Some(place)) => Ok(place),
            // nobody closes the semaphore
            Poll::Ready(None) => Err(self.end.with(Err(ErrorCode::Interrupted))),
            Poll::Pending if finish => Err(Poll::Ready(Ok(StreamResult::Cancelled))),
            Poll::Pending => Err(Poll::Pending),
        }
    }
}

/// Produces the bytes of a file.
pub(super) struct Reading {
    file: Arc<File>,
    offset: u64,
    stream: Stream,
}

impl Reading {
    pub(super) fn new(file: Arc<File>, offset: u64, places: Arc<Semaphore>, end: End, counted: Counted) -> Self {
        Self { file, offset, stream: Stream::new(places, end, counted) }
    }
}

impl<T> StreamProducer<T> for Reading {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        to: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if to.remaining(store.as_context_mut()) == Some(0) {
            // a file is always ready
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let _place = match self.stream.poll_place(context, finish) {
            Ok(place) => place,
            Err(other) => return other,
        };
        let mut to = to.as_direct(store, BUFFER);
        let piece = to.remaining();
        let length = piece.len().min(PIECE);
        let (file, offset) = (self.file.clone(), self.offset);
        match hand_over(|| file.read_at(&mut piece[..length], offset)) {
            Ok(0) => self.stream.end.with(Ok(())),
            Ok(count) => {
                to.mark_written(count);
                match offset.checked_add(count as u64) {
                    Some(next) => self.offset = next,
                    None => return self.stream.end.with(Err(ErrorCode::Overflow)),
                }
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => self.stream.end.with(Err(error.into())),
        }
    }
}

/// Where a stream writes.
#[derive(Clone, Copy)]
pub(super) enum Position {
    At(u64),
    End,
}

/// Writes the guest's stream to a file, as far as the node's disk limit allows.
pub(super) struct Writing {
    file: Arc<File>,
    position: Position,
    space: Arc<DiskSpace>,
    stream: Stream,
}

impl Writing {
    pub(super) fn new(
        file: Arc<File>,
        position: Position,
        space: Arc<DiskSpace>,
        places: Arc<Semaphore>,
        end: End,
        counted: Counted,
    ) -> Self {
        Self { file, position, space, stream: Stream::new(places, end, counted) }
    }
}

fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
        // not on this file system
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => file.write_at(bytes, fstat(file)?.st_size.try_into().unwrap_or(0)),
        written => Ok(written?),
    }
}

impl<T> StreamConsumer<T> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        from: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut from = from.as_direct(store);
        let length = from.remaining().len().min(PIECE);
        if length == 0 {
            // a file is always ready
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let _place = match self.stream.poll_place(context, finish) {
            Ok(place) => place,
            Err(other) => return other,
        };
        if !self.space.take(length as u64) {
            return self.stream.end.with(Err(ErrorCode::InsufficientSpace));
        }
        let (file, position, bytes) = (self.file.clone(), self.position, &from.remaining()[..length]);
        let written = hand_over(|| match position {
            Position::At(offset) => file.write_at(bytes, offset),
            Position::End => append(&file, bytes),
        });
        match written {
            Ok(0) => self.stream.end.with(Err(ErrorCode::Io)),
            Ok(count) => {
                from.mark_read(count);
                if let Position::At(offset) = position {
                    let Some(next) = offset.checked_add(count as u64) else {
                        return self.stream.end.with(Err(ErrorCode::Overflow));
                    };
                    self.position = Position::At(next);
                }
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => self.stream.end.with(Err(error.into())),
        }
    }
}

/// Produces the entries of a folder.
pub(super) struct Listing {
    entries: Dir,
    stream: Stream,
}

impl Listing {
    /// Opens a folder to list it. Blocks on the disk.
    pub(super) fn open(folder: impl AsFd) -> Result<Dir, Errno> {
        Dir::new(openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    pub(super) fn new(entries: Dir, places: Arc<Semaphore>, end: End, counted: Counted) -> Self {
        Self { entries, stream: Stream::new(places, end, counted) }
    }

    /// The next entries, at most so many. Fewer are the last ones.
    fn next(&mut self, most: usize) -> Result<Vec<DirectoryEntry>, ErrorCode> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some(entry) = self.entries.read()
        {
            let entry = entry.map_err(io::Error::from)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let folder = self.entries.fd().map_err(io::Error::from)?;
                match statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    // it is gone
                    Err(_) => continue,
                }
            }
            let name = entry.file_name().to_str().map_err(|_| ErrorCode::IllegalByteSequence)?.to_owned();
            found.push(DirectoryEntry { type_: descriptor_type(kind), name });
        }
        Ok(found)
    }
}

fn descriptor_type(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Other(None),
    }
}

impl<T> StreamProducer<T> for Listing {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut to: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let most = to.remaining(store.as_context_mut()).unwrap_or(1).min(ENTRIES);
        if most == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let _place = match self.stream.poll_place(context, finish) {
            Ok(place) => place,
            Err(other) => return other,
        };
        match hand_over(|| self.next(most)) {
            Ok(entries) if entries.is_empty() => self.stream.end.with(Ok(())),
            Ok(entries) => {
                to.set_buffer(entries.into());
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(code) => self.stream.end.with(Err(code)),
        }
    }
}
