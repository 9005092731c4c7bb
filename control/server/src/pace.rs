//! Whether a client takes what it asked for. hyper asks a body for its next piece only when the peer has room for it, so that a body
//! whose peer does not read is never asked again: its own deadline would never be looked at, and what it holds (a watch's events, a
//! list's entries) would stay. A piece that waits longer than [`STALL`] therefore ends the HTTP/2 stream or the HTTP/1.1 connection.

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

/// Longest piece, bytes: what a peer that does not read makes the server buffer.
const PIECE: usize = 64 * 1024;
/// How long a peer may leave a piece of an answer, or written bytes, untaken.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// Marks an answer that somebody may read as slowly as they like: a log in a pager. It holds next to nothing.
#[derive(Clone, Copy)]
pub struct Unhurried;

tokio::task_local! {
    /// Of the HTTP/2 stream or the HTTP/1.1 connection that is being served.
    pub(crate) static PACE: Arc<Pace>;
}

/// Since when a piece of the answer has been waiting for the peer, and whether that matters.
#[derive(Default)]
pub(crate) struct Pace {
    waiting: Mutex<Option<Instant>>,
    unhurried: AtomicBool,
}

impl Pace {
    /// Whether the answer under way may be read as slowly as its reader likes.
    pub(crate) fn is_unhurried(&self) -> bool {
        self.unhurried.load(Ordering::Relaxed)
    }

    /// Says so of the answer that begins.
    pub(crate) fn set_unhurried(&self, unhurried: bool) {
        self.unhurried.store(unhurried, Ordering::Relaxed);
    }

    /// Does the work; `None` when the peer stalled. Dropping the work frees what it holds.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut limit: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            // Pieces are made while the work is polled only: nothing has to wake this.
            let Some(since) = *self.waiting.lock() else {
                limit = None;
                return Poll::Pending;
            };
            let sleep = limit.get_or_insert_with(|| Box::pin(sleep_until(since + STALL)));
            if sleep.deadline() != since + STALL {
                sleep.as_mut().reset(since + STALL);
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// A body in small pieces that notes when they are taken.
pub(crate) struct Paced {
    body: Body,
    /// Of the last piece that the body gave.
    rest: Bytes,
    pace: Arc<Pace>,
}

impl Paced {
    /// Of an answer to the stream or connection that is being served.
    pub(crate) fn new(body: Body, pace: Arc<Pace>) -> Self {
        // A peer without room for the first byte stalls too, whether or not hyper asks for a piece before there is room.
        *pace.waiting.lock() = Some(Instant::now());
        Self { body, rest: Bytes::new(), pace }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut frame = match self.rest.is_empty() {
            true => Pin::new(&mut self.body).poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest))))),
        };
        if let Poll::Ready(Some(Ok(whole))) = &mut frame
            && let Some(data) = whole.data_mut()
            && data.len() > PIECE
        {
            self.rest = data.split_off(PIECE);
        }
        let waits = matches!(frame, Poll::Ready(Some(Ok(_))));
        *self.pace.waiting.lock() = waits.then(Instant::now);
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

impl Drop for Paced {
    fn drop(&mut self) {
        *self.pace.waiting.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body::Body as _;

    /// Takes one piece at a time, with a pause after each.
    async fn read(mut body: Paced, pause: Duration) {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frame.expect("a piece");
            tokio::time::sleep(pause).await;
        }
    }

    fn endless(pace: &Arc<Pace>, pieces: usize) -> Paced {
        let pieces = futures::stream::repeat(Bytes::from_static(b"x")).take(pieces);
        Paced::new(Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>)), pace.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_served_and_who_does_not_read_is_cut() {
        for (pause, served) in [(STALL / 2, true), (STALL * 2, false)] {
            let pace = Arc::<Pace>::default();
            let begun = Instant::now();
            assert_eq!(pace.run(read(endless(&pace, 5), pause)).await.is_some(), served);
            assert_eq!(begun.elapsed() < STALL * 2, !served, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_never_begun_to_be_read_is_cut() {
        let pace = Arc::<Pace>::default();
        let unread = async {
            let _body = Paced::new(Body::from("all"), pace.clone());
            std::future::pending::<()>().await;
        };
        let ended = tokio::time::timeout(STALL * 2, pace.run(unread)).await;
        assert!(ended.expect("an end").is_none());
    }

    #[tokio::test]
    async fn long_pieces_are_cut_and_nothing_is_lost() {
        let text: Vec<u8> = (0..PIECE * 2 + 10).map(|at| at.to_le_bytes()[0]).collect();
        let mut body = Paced::new(Body::from(text.clone()), Arc::default());
        let mut got = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((text.len() - got.len()) as u64));
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.expect("a piece").expect("a piece");
            let data = frame.into_data().expect("data");
            assert!(data.len() <= PIECE);
            got.extend_from_slice(&data);
        }
        assert_eq!(got, text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_answer_and_the_time_after_an_answer_are_no_stall() {
        let pace = Arc::<Pace>::default();
        let quiet = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let body = Paced::new(Body::from_stream(quiet), pace.clone());
        assert!(tokio::time::timeout(STALL * 10, pace.run(read(body, Duration::ZERO))).await.is_err(), "still served");
        let mut last = Paced::new(Body::from("all"), pace.clone());
        let idle = async {
            poll_fn(|cx| Pin::new(&mut last).poll_frame(cx)).await.expect("a piece").expect("a piece");
            drop(last);
            tokio::time::sleep(STALL * 10).await;
        };
        assert!(pace.run(idle).await.is_some());
    }
}
