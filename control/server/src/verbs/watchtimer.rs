//! The timers of a watch: bookmarks, its timeout, and the end of what is watched: the server's shutdown, or another definition of a custom resource.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Interval of bookmarks for clients that allow them.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Reports the end, timeout and due bookmarks. Polling a timer and a cancellation for each event is expensive, so that the waker is registered
/// once, and later polls only compare times.
pub(super) struct WatchTimer {
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    end: CancellationToken,
    /// Fires at the timeout or the next bookmark.
    timer: Pin<Box<Sleep>>,
    deadline: Instant,
    bookmarks: bool,
    /// The waker that is registered with `ended` and `timer`.
    registered: Option<Waker>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    End,
    Bookmark,
}

impl WatchTimer {
    pub(super) fn new(end: &CancellationToken, timeout: Duration, bookmarks: bool) -> Self {
        let deadline = Instant::now() + timeout;
        let ended = Box::pin(end.clone().cancelled_owned());
        let timer = Box::pin(sleep_until(Self::next(deadline, bookmarks)));
        Self { ended, end: end.clone(), timer, deadline, bookmarks, registered: None }
    }

    fn next(deadline: Instant, bookmarks: bool) -> Instant {
        if bookmarks { deadline.min(Instant::now() + BOOKMARK_INTERVAL) } else { deadline }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        if !self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let register = poll_fn(|cx| {
                let (_, _) = (self.ended.as_mut().poll(cx), self.timer.as_mut().poll(cx));
                Poll::Ready(())
            });
            // unconstrained, because a task without budget would not register its waker
            let _ = pin!(unconstrained(register)).poll(cx);
            self.registered = Some(cx.waker().clone());
        }
        if self.end.is_cancelled() {
            return Poll::Ready(Due::End);
        }
        let now = Instant::now();
        if now < self.timer.deadline() {
            return Poll::Pending;
        }
        if now >= self.deadline {
            return Poll::Ready(Due::End);
        }
        self.timer.as_mut().reset(Self::next(self.deadline, self.bookmarks));
        self.registered = None;
        Poll::Ready(Due::Bookmark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{task::coop, time::timeout};

    async fn due(timer: &mut WatchTimer) -> Due {
        timeout(LIMIT, poll_fn(|cx| timer.poll(cx))).await.expect("it wakes the task")
    }

    const LIMIT: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_whoever_polled_it_last() {
        let (server, begun) = (CancellationToken::new(), Instant::now());
        let mut timer = WatchTimer::new(&server, BOOKMARK_INTERVAL * 3 / 2, true);
        let elsewhere = async move { poll_fn(|cx| Poll::Ready(timer.poll(cx).is_pending())).await.then_some(timer) };
        let mut timer = tokio::spawn(elsewhere).await.expect("no panic").expect("nothing is due");
        for (wanted, after) in [(Due::Bookmark, BOOKMARK_INTERVAL), (Due::End, BOOKMARK_INTERVAL * 3 / 2)] {
            assert_eq!(due(&mut timer).await, wanted);
            assert_eq!(begun.elapsed(), after);
        }
        let mut timer = WatchTimer::new(&server, LIMIT * 2, false);
        let end = tokio::spawn(async move { due(&mut timer).await });
        tokio::task::yield_now().await;
        server.cancel();
        assert_eq!(end.await.expect("no panic"), Due::End);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_a_task_that_had_done_much_when_it_polled() {
        let mut timer = WatchTimer::new(&CancellationToken::new(), BOOKMARK_INTERVAL, false);
        let mut busy = true;
        let end = poll_fn(|cx| {
            if std::mem::take(&mut busy) {
                while let Poll::Ready(budget) = coop::poll_proceed(cx) {
                    budget.made_progress();
                }
            }
            timer.poll(cx)
        });
        assert_eq!(timeout(LIMIT, end).await.expect("it wakes"), Due::End);
    }
}
