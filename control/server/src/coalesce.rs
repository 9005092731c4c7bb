//! Coalesces the writes of an HTTP/2 connection. h2 writes and flushes each frame with a payload by itself, and TLS turns each write into a
//! record and a system call: one event for ten watches of a connection would cost ten of both. Here frames are buffered until the connection
//! has nothing more to write, and each poll of the connection is delayed once, so that more streams are ready by then.

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most buffered bytes: two TLS records. With more, the connection waits for the peer.
const BUFFER_LIMIT: usize = 32 * 1024;
/// First size of the buffer, bytes.
const FIRST_ALLOCATION: usize = 4096;

/// A stream that buffers what is written until [`Coalesced::run`] has polled the connection. A clone is the same stream.
pub(crate) struct Coalesced<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Coalesced<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<S> {
    stream: S,
    /// Empty, and without memory, between two polls of the connection.
    buffer: BytesMut,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes the buffered bytes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.buffer.advance(written),
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Buffers as much of a write as fits.
    fn poll_buffer(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= BUFFER_LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        let before = self.buffer.len();
        let all = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(BUFFER_LIMIT - before);
        if self.buffer.capacity() - before < all {
            // Reserved once, because growth by doubling would copy the frames again and again.
            self.buffer.reserve(if before + all <= FIRST_ALLOCATION {
                FIRST_ALLOCATION
            } else {
                BUFFER_LIMIT - before
            });
        }
        for piece in pieces {
            let room = BUFFER_LIMIT - self.buffer.len();
            self.buffer.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Poll::Ready(Ok(self.buffer.len() - before))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Coalesced<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, buffer: BytesMut::new() })))
    }

    /// Runs the connection that reads and writes this stream, and writes the buffered bytes after each poll of it.
    ///
    /// # Errors
    /// A write failed.
    pub(crate) async fn run<F: Future>(self, connection: F) -> io::Result<F::Output> {
        let mut connection = pin!(connection);
        let mut yielded = false;
        poll_fn(|cx| {
            // Whatever woke the connection has mostly woken more of its streams, which add their frames first.
            yielded = !yielded;
            if yielded {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            let mut inner = self.0.lock();
            match inner.poll_drain(cx) {
                Poll::Ready(Ok(())) => inner.buffer = BytesMut::new(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            Poll::Pending
        })
        .await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_buffer(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_buffer(cx, bufs)
    }

    /// True, so that h2 does not copy payloads into a buffer of its own.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: [`Coalesced::run`] flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::mpsc,
        time::timeout,
    };

    /// Counts writes.
    struct Counted(DuplexStream, mpsc::UnboundedSender<usize>);

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.0).poll_write(cx, buf);
            if let Poll::Ready(Ok(bytes)) = written {
                self.1.send(bytes).expect("counted");
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// A connection that writes what it is given, each piece with a flush as h2 does, and its other end.
    fn connection(
        room: usize,
    ) -> (mpsc::UnboundedSender<Vec<u8>>, DuplexStream, mpsc::UnboundedReceiver<usize>, impl Future<Output = ()>) {
        let (ours, theirs) = duplex(room);
        let (pieces, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let (count, writes) = mpsc::unbounded_channel();
        let coalesced = Coalesced::new(Counted(ours, count));
        let mut io = coalesced.clone();
        let work = async move {
            while let Some(piece) = queue.recv().await {
                io.write_all(&piece).await.expect("written");
                io.flush().await.expect("flushed");
            }
            io.shutdown().await.expect("shut down");
        };
        (pieces, theirs, writes, async move { coalesced.run(work).await.expect("no error") })
    }

    #[tokio::test]
    async fn what_streams_write_in_one_turn_is_one_write() {
        let (pieces, mut theirs, mut writes, connection) = connection(1 << 20);
        let connection = tokio::spawn(connection);
        let (event, _) = tokio::sync::broadcast::channel(1);
        for _ in 0..10 {
            let (mut event, pieces) = (event.subscribe(), pieces.clone());
            tokio::spawn(async move {
                while event.recv().await.is_ok() {
                    pieces.send(vec![b'x'; 500]).expect("sent");
                }
            });
        }
        drop(pieces);
        for _ in 0..3 {
            event.send(()).expect("watched");
            assert_eq!(writes.recv().await, Some(5000));
        }
        drop(event);
        connection.await.expect("ended");
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.expect("read");
        assert_eq!((all.len(), writes.recv().await), (15_000, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_waited_for_and_nothing_is_lost() {
        let (pieces, mut theirs, _writes, connection) = connection(1000);
        let sent: Vec<u8> = (0..3 * BUFFER_LIMIT).map(|at| at.to_le_bytes()[0]).collect();
        for piece in sent.chunks(5000) {
            pieces.send(piece.to_vec()).expect("sent");
        }
        drop(pieces);
        let mut connection = pin!(connection);
        assert!(timeout(Duration::from_secs(60), &mut connection).await.is_err(), "there was room for everything");
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(theirs.read_to_end(&mut got), connection);
        read.expect("read");
        assert!(got == sent);
    }

    #[tokio::test]
    async fn a_write_that_fails_ends_the_connection() {
        let (ours, theirs) = duplex(10);
        drop(theirs);
        let coalesced = Coalesced::new(ours);
        let mut io = coalesced.clone();
        let work = async move {
            io.write_all(b"x").await.expect("kept");
            std::future::pending::<()>().await;
        };
        let error = timeout(Duration::from_secs(60), coalesced.run(work)).await.expect("an end").expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
