//! Connections that are relayed byte by byte. Each takes two descriptors, so that their number is limited per node. At the limit the
//! connections that have been idle for the longest are closed; while none is idle, new ones are refused.

use container::net::Stream;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long a connection must be idle before it may be closed for a new one.
const MIN_IDLE: Duration = Duration::from_secs(10);

/// How many idle connections are closed at once, because a scan of all takes a moment.
const EVICTED_AT_ONCE: usize = 64;

/// The relayed connections of the node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relayed {
    limit: usize,
    begin: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Arc<State>>,
}

struct State {
    /// The time of the last activity, milliseconds since the start.
    last: AtomicU64,
    cut: CancellationToken,
}

/// A slot for one connection, released when dropped.
pub(crate) struct Place {
    relayed: Relayed,
    number: u64,
    state: Arc<State>,
}

impl Relayed {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, begin: Instant::now(), inner: Arc::default() }
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.inner.lock().open.len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A slot for one more connection, or `None`.
    pub(crate) fn enter(&self) -> Option<Place> {
        let now = self.now();
        let mut inner = self.inner.lock();
        if inner.open.len() >= self.limit {
            inner.make_place(now);
        }
        if inner.open.len() >= self.limit {
            return None;
        }
        let state = Arc::new(State { last: AtomicU64::new(now), cut: CancellationToken::new() });
        let number = inner.next;
        inner.next += 1;
        inner.open.insert(number, state.clone());
        Some(Place { relayed: self.clone(), number, state })
    }
}

impl Inner {
    fn make_place(&mut self, now: u64) {
        let limit = u64::try_from(MIN_IDLE.as_millis()).unwrap_or(u64::MAX);
        let silent = self.open.iter().map(|(number, state)| (state.last.load(Relaxed), *number));
        let mut silent: Vec<_> = silent.filter(|(last, _)| now.saturating_sub(*last) >= limit).collect();
        silent.sort_unstable();
        for (_, number) in silent.into_iter().take(EVICTED_AT_ONCE) {
            if let Some(state) = self.open.remove(&number) {
                state.cut.cancel();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relayed.inner.lock().open.remove(&self.number);
    }
}

impl Place {
    /// Copies bytes both ways until both ends are done, or the slot is evicted.
    pub(crate) async fn copy(self, a: Stream, b: Stream) {
        let [mut a, mut b] =
            [a, b].map(|stream| ActivityStream { stream, relayed: self.relayed.clone(), state: self.state.clone() });
        let copy = tokio::io::copy_bidirectional(&mut a, &mut b);
        // An error means that a peer is gone; then both ends are dropped.
        let _ = self.state.cut.run_until_cancelled(copy).await;
    }
}

/// One end of a connection, whose reads count as activity.
struct ActivityStream {
    stream: Stream,
    relayed: Relayed,
    state: Arc<State>,
}

impl AsyncRead for ActivityStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.last.store(self.relayed.now(), Relaxed);
        }
        read
    }
}

impl AsyncWrite for ActivityStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::sleep,
    };

    /// A relayed connection: its two ends.
    fn connection(relayed: &Relayed) -> Option<(DuplexStream, DuplexStream)> {
        let place = relayed.enter()?;
        let ((a, near), (b, far)) = (duplex(64), duplex(64));
        tokio::spawn(place.copy(Box::new(near), Box::new(far)));
        Some((a, b))
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_silent_make_place_and_those_that_talk_do_not() {
        let relayed = Relayed::new(2);
        let mut silent = connection(&relayed).expect("room");
        let mut talks = connection(&relayed).expect("room");
        assert!(connection(&relayed).is_none(), "both are new");
        sleep(MIN_IDLE - Duration::from_secs(1)).await;
        // what only one end says counts
        talks.0.write_all(b"x").await.expect("sent");
        assert_eq!(talks.1.read_u8().await.expect("relayed"), b'x');
        assert!(connection(&relayed).is_none(), "one second too soon");
        sleep(Duration::from_secs(1)).await;
        let third = connection(&relayed).expect("the silent one makes place");
        assert_eq!(relayed.open(), 2);
        assert_eq!(silent.0.read(&mut [0]).await.expect("an end"), 0);
        assert_eq!(silent.1.read(&mut [0]).await.expect("an end"), 0);
        talks.1.write_all(b"y").await.expect("sent");
        assert_eq!(talks.0.read_u8().await.expect("relayed"), b'y');
        assert!(connection(&relayed).is_none());
        drop((talks, third));
        while relayed.open() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
