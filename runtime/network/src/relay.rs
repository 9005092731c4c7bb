//! Connections that are relayed byte by byte. Each is two descriptors, so that there is a bound for the node. When it is reached, those over
//! which nothing has gone for the longest make place; while all of them are busy, new ones are refused.

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

/// How long nothing must have gone over a connection before it makes place.
const SILENT: Duration = Duration::from_secs(10);

/// How many make place at once: to look at all of them takes a moment.
const SHARE: usize = 64;

/// All relayed connections of the node. A clone is the same.
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
    /// When something went over it last, in milliseconds since the beginning.
    last: AtomicU64,
    cut: CancellationToken,
}

/// Room for one connection, given back when dropped.
pub(crate) struct Place {
    relayed: Relayed,
    number: u64,
    state: Arc<State>,
}

impl Relayed {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, begin: Instant::now(), inner: Arc::default() }
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.inner.lock().open.len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Room for one more, or `None`.
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
        let limit = u64::try_from(SILENT.as_millis()).unwrap_or(u64::MAX);
        let silent = self.open.iter().map(|(number, state)| (state.last.load(Relaxed), *number));
        let mut silent: Vec<_> = silent.filter(|(last, _)| now.saturating_sub(*last) >= limit).collect();
        silent.sort_unstable();
        for (_, number) in silent.into_iter().take(SHARE) {
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
    /// Copies bytes both ways until both ends are done, or somebody needs the place.
    pub(crate) async fn copy(self, a: Stream, b: Stream) {
        let [mut a, mut b] =
            [a, b].map(|stream| Heard { stream, relayed: self.relayed.clone(), state: self.state.clone() });
        let copy = tokio::io::copy_bidirectional(&mut a, &mut b);
        // An error is a peer that went away; both ends are dropped then.
        let _ = self.state.cut.run_until_cancelled(copy).await;
    }
}

/// One end: what is read from it has gone over the connection.
struct Heard {
    stream: Stream,
    relayed: Relayed,
    state: Arc<State>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.last.store(self.relayed.now(), Relaxed);
        }
        read
    }
}

impl AsyncWrite for Heard {
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
        sleep(SILENT - Duration::from_secs(1)).await;
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
