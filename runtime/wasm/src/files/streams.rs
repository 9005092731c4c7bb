//! Blocking file calls of guests, and the streams of files that components read and write.
//!
//! A call runs on the guest's own thread, so that its CPU time counts for the guest's limit, and another thread takes over the other tasks
//! meanwhile. wasmtime-wasi would give reads and writes of streams to other threads; the streams here never let it.

use crate::{files::budget::DiskSpace, long_polls::hand_over};
use bytes::Bytes;
use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::Semaphore;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

/// Bytes that are read for a guest that waits for a file without having asked for a number of them, as by wasmtime-wasi.
const READ_AHEAD: usize = 4096;

/// Runs a blocking file call on this thread. `places` bounds their number.
///
/// Guests yield at the next epoch, at which their quota is checked, however many calls they make until then: a yield after each would cost other
/// threads more than most calls take.
pub(crate) async fn in_place<T>(places: &Semaphore, call: impl Future<Output = T>) -> T {
    let _place = places.acquire().await;
    let mut call = pin!(call);
    poll_fn(|context| hand_over(|| call.as_mut().poll(context))).await
}

/// Runs a blocking call on an open file at once, which has no need to wait for anything else; `None` if there is no place for it.
fn at_once<T>(places: &Semaphore, call: impl Future<Output = StreamResult<T>>) -> Option<StreamResult<T>> {
    let _place = places.try_acquire().ok()?;
    let mut call = pin!(call);
    match hand_over(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop()))) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => Some(Err(StreamError::trap("the file was opened for another thread"))),
    }
}

/// A stream from a file.
pub(crate) struct FileInput {
    inner: DynInputStream,
    places: Arc<Semaphore>,
    /// What was read ahead.
    ahead: Option<StreamResult<Bytes>>,
}

impl FileInput {
    pub(crate) fn new(inner: DynInputStream, places: Arc<Semaphore>) -> Self {
        Self { inner, places, ahead: None }
    }

    fn take_ahead(&mut self, size: usize) -> Option<StreamResult<Bytes>> {
        let mut ahead = self.ahead.take()?;
        if let Ok(bytes) = &mut ahead
            && bytes.len() > size
        {
            let taken = bytes.split_to(size);
            self.ahead = Some(ahead);
            return Some(Ok(taken));
        }
        Some(ahead)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {
        if self.ahead.is_none() {
            self.ahead = Some(in_place(&self.places, self.inner.blocking_read(READ_AHEAD)).await);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let ahead = self.take_ahead(size).or_else(|| at_once(&self.places, self.inner.blocking_read(size)));
        ahead.unwrap_or_else(|| Ok(Bytes::new()))
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.take_ahead(size) {
            Some(ahead) => ahead,
            None => in_place(&self.places, self.inner.blocking_read(size)).await,
        }
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// A stream to a file, whose writes count against the node's disk limit.
pub(crate) struct FileOutput {
    inner: DynOutputStream,
    space: Arc<DiskSpace>,
    places: Arc<Semaphore>,
    /// What is not written yet, since there was no place.
    pending: Option<Bytes>,
    /// How a write failed, until the guest asks.
    failed: Option<StreamError>,
}

impl FileOutput {
    pub(crate) fn new(inner: DynOutputStream, space: Arc<DiskSpace>, places: Arc<Semaphore>) -> Self {
        Self { inner, space, places, pending: None, failed: None }
    }

    fn take(&self, bytes: &Bytes) -> StreamResult<()> {
        match self.space.take(bytes.len() as u64) {
            true => Ok(()),
            false => Err(StreamError::LastOperationFailed(io::Error::from(rustix::io::Errno::NOSPC).into())),
        }
    }

    /// Writes what is pending, if there is a place.
    fn write_pending(&mut self) {
        let Some(bytes) = self.pending.clone() else { return };
        if let Some(written) = at_once(&self.places, self.inner.blocking_write_and_flush(bytes)) {
            self.pending = None;
            self.failed = written.err();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {
        if let Some(bytes) = self.pending.take() {
            self.failed = in_place(&self.places, self.inner.blocking_write_and_flush(bytes)).await.err();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for FileOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.pending.is_some() || self.failed.is_some() {
            return Err(StreamError::trap("write not permitted: check_write not called first"));
        }
        self.take(&bytes)?;
        self.pending = Some(bytes);
        self.write_pending();
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.failed.take().map_or_else(|| self.inner.flush(), Err)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.write_pending();
        match (self.failed.take(), &self.pending) {
            (Some(failed), _) => Err(failed),
            (None, Some(_)) => Ok(0),
            (None, None) => self.inner.check_write(),
        }
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        self.take(&bytes)?;
        in_place(&self.places, self.inner.blocking_write_and_flush(bytes)).await
    }

    async fn cancel(&mut self) {
        self.ready().await;
        self.inner.cancel().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::budget::DiskSpace;
    use parking_lot::Mutex;

    /// Takes what is written, and fails from the second write on.
    #[derive(Clone, Default)]
    struct File(Arc<Mutex<Vec<Bytes>>>);

    #[wasmtime_wasi::async_trait]
    impl Pollable for File {
        async fn ready(&mut self) {}
    }

    #[wasmtime_wasi::async_trait]
    impl OutputStream for File {
        fn write(&mut self, _: Bytes) -> StreamResult<()> {
            Err(StreamError::trap("only in place"))
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(100)
        }

        async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
            let mut written = self.0.lock();
            written.push(bytes);
            if written.len() > 1 { Err(StreamError::Closed) } else { Ok(()) }
        }
    }

    #[wasmtime_wasi::async_trait]
    impl Pollable for Text {
        async fn ready(&mut self) {}
    }

    /// Gives what is asked for, at most 10 bytes at a time.
    struct Text;

    #[wasmtime_wasi::async_trait]
    impl InputStream for Text {
        fn read(&mut self, size: usize) -> StreamResult<Bytes> {
            Ok(Bytes::from_static(&[b'x'; 10]).slice(..size.min(10)))
        }
    }

    #[tokio::test]
    async fn writes_without_a_place_are_made_later_and_their_errors_are_told() {
        let (file, places) = (File::default(), Arc::new(Semaphore::new(0)));
        let space = DiskSpace::new(Arc::new(|| 1000));
        let mut stream = FileOutput::new(Box::new(file.clone()), space, places.clone());
        stream.write(Bytes::from_static(b"one")).unwrap();
        assert_eq!((stream.check_write().unwrap(), file.0.lock().len()), (0, 0));
        assert!(stream.write(Bytes::from_static(b"two")).is_err(), "it was told to wait");
        places.add_permits(1);
        assert_eq!((stream.check_write().unwrap(), file.0.lock().len()), (100, 1));
        stream.write(Bytes::from_static(b"two")).unwrap();
        assert_eq!(*file.0.lock(), ["one", "two"]);
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        assert_eq!(stream.check_write().unwrap(), 100);
        assert!(stream.blocking_write_and_flush(Bytes::from(vec![0; 2000])).await.is_err(), "the disk is full");
        assert_eq!(file.0.lock().len(), 2);
    }

    #[tokio::test]
    async fn reads_without_a_place_are_made_when_the_guest_waits() {
        let places = Arc::new(Semaphore::new(0));
        let mut stream = FileInput::new(Box::new(Text), places.clone());
        assert_eq!(stream.read(4).unwrap(), "");
        places.add_permits(1);
        stream.ready().await;
        assert_eq!(stream.read(4).unwrap(), "xxxx");
        assert_eq!(stream.blocking_read(100).await.unwrap(), "xxxxxx", "what was read ahead");
        assert_eq!(stream.read(3).unwrap(), "xxx");
        assert_eq!(stream.read(0).unwrap(), "");
    }
}
