//! Detects clients that stop reading their response. hyper polls a body for its next chunk only when the peer has room for it, so that the
//! body of such a client is never polled again: its own deadline would never fire, and what it holds (a watch's events, a list's entries)
//! would stay in memory. A chunk that waits longer than [`SLOW_CLIENT_TIMEOUT`] therefore ends the HTTP/2 stream or the HTTP/1.1 connection.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest chunk, bytes: what the server buffers for a peer that does not read.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a peer may leave a chunk of a response, or written bytes, unread.
pub(crate) const SLOW_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// An extension of a response that exempts it from [`SLOW_CLIENT_TIMEOUT`]: a log in a pager, which holds almost no memory.
#[derive(Clone, Copy)]
pub struct AllowSlowReader;

tokio::task_local! {
    /// The detector of the HTTP/2 stream or HTTP/1.1 connection that is being served.
    pub(crate) static STALL_DETECTOR: Arc<StallDetector>;
}

/// Since when a chunk of the response has been waiting for the peer, and whether the response is exempt.
#[derive(Default)]
pub(crate) struct StallDetector {
    waiting: Mutex<Option<Instant>>,
    exempt: AtomicBool,
}

impl StallDetector {
    /// Whether the current response is exempt from the timeout.
    pub(crate) fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Relaxed)
    }

    /// Sets this for the response that begins.
    pub(crate) fn set_exempt(&self, exempt: bool) {
        self.exempt.store(exempt, Ordering::Relaxed);
    }

    /// Runs the future; `None` when the peer stalled. The future is then dropped, and with it what it holds.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut limit: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            // A chunk is only made while `work` is polled, so nothing else has to wake this future.
            let Some(since) = *self.waiting.lock() else {
                limit = None;
                return Poll::Pending;
            };
            let sleep = limit.get_or_insert_with(|| Box::pin(sleep_until(since + SLOW_CLIENT_TIMEOUT)));
            if sleep.deadline() != since + SLOW_CLIENT_TIMEOUT {
                sleep.as_mut().reset(since + SLOW_CLIENT_TIMEOUT);
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// A body in small chunks that tells the detector when the peer takes them.
pub(crate) struct MonitoredBody {
    body: Body,
    /// The rest of the last frame of `body`.
    rest: Bytes,
    detector: Arc<StallDetector>,
}

impl MonitoredBody {
    /// The body of a response; `detector` is that of its stream or connection.
    pub(crate) fn new(body: Body, detector: Arc<StallDetector>) -> Self {
        // A peer without room for the first byte stalls too, whether or not hyper polls the body before there is room.
        *detector.waiting.lock() = Some(Instant::now());
        Self { body, rest: Bytes::new(), detector }
    }
}

impl http_body::Body for MonitoredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut frame = match self.rest.is_empty() {
            true => Pin::new(&mut self.body).poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest))))),
        };
        if let Poll::Ready(Some(Ok(whole))) = &mut frame
            && let Some(data) = whole.data_mut()
            && data.len() > CHUNK_BYTES
        {
            self.rest = data.split_off(CHUNK_BYTES);
        }
        let waits = matches!(frame, Poll::Ready(Some(Ok(_))));
        *self.detector.waiting.lock() = waits.then(Instant::now);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for MonitoredBody {
    fn drop(&mut self) {
        *self.detector.waiting.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body::Body as _;

    /// Takes one piece at a time, with a pause after each.
    async fn read(mut body: MonitoredBody, pause: Duration) {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frame.expect("a piece");
            tokio::time::sleep(pause).await;
        }
    }

    fn endless(detector: &Arc<StallDetector>, pieces: usize) -> MonitoredBody {
        let pieces = futures::stream::repeat(Bytes::from_static(b"x")).take(pieces);
        MonitoredBody::new(Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>)), detector.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_served_and_who_does_not_read_is_cut() {
        for (pause, served) in [(SLOW_CLIENT_TIMEOUT / 2, true), (SLOW_CLIENT_TIMEOUT * 2, false)] {
            let detector = Arc::<StallDetector>::default();
            let begun = Instant::now();
            assert_eq!(detector.run(read(endless(&detector, 5), pause)).await.is_some(), served);
            assert_eq!(begun.elapsed() < SLOW_CLIENT_TIMEOUT * 2, !served, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_never_begun_to_be_read_is_cut() {
        let detector = Arc::<StallDetector>::default();
        let unread = async {
            let _body = MonitoredBody::new(Body::from("all"), detector.clone());
            std::future::pending::<()>().await;
        };
        let ended = tokio::time::timeout(SLOW_CLIENT_TIMEOUT * 2, detector.run(unread)).await;
        assert!(ended.expect("an end").is_none());
    }

    #[tokio::test]
    async fn long_pieces_are_cut_and_nothing_is_lost() {
        let text: Vec<u8> = (0..CHUNK_BYTES * 2 + 10).map(|at| at.to_le_bytes()[0]).collect();
        let mut body = MonitoredBody::new(Body::from(text.clone()), Arc::default());
        let mut got = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((text.len() - got.len()) as u64));
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.expect("a piece").expect("a piece");
            let data = frame.into_data().expect("data");
            assert!(data.len() <= CHUNK_BYTES);
            got.extend_from_slice(&data);
        }
        assert_eq!(got, text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_answer_and_the_time_after_an_answer_are_no_stall() {
        let detector = Arc::<StallDetector>::default();
        let quiet = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let body = MonitoredBody::new(Body::from_stream(quiet), detector.clone());
        assert!(
            tokio::time::timeout(SLOW_CLIENT_TIMEOUT * 10, detector.run(read(body, Duration::ZERO))).await.is_err(),
            "still served"
        );
        let mut last = MonitoredBody::new(Body::from("all"), detector.clone());
        let idle = async {
            poll_fn(|cx| Pin::new(&mut last).poll_frame(cx)).await.expect("a piece").expect("a piece");
            drop(last);
            tokio::time::sleep(SLOW_CLIENT_TIMEOUT * 10).await;
        };
        assert!(detector.run(idle).await.is_some());
    }
}
