//! What a watch waits for besides events.

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

/// How often a bookmark is sent to a client that allows them.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// The end of the server, that of the watch, and the time of the next bookmark. An event must not cost what it costs to poll for these: whom
/// they wake is told them once, and then the clock is looked at.
pub(super) struct Alarm {
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    server: CancellationToken,
    /// At the end or the next bookmark.
    timer: Pin<Box<Sleep>>,
    deadline: Instant,
    bookmarks: bool,
    /// Whom the two above wake.
    wakes: Option<Waker>,
}

/// What an alarm says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    End,
    Bookmark,
}

impl Alarm {
    pub(super) fn new(server: &CancellationToken, life: Duration, bookmarks: bool) -> Self {
        let deadline = Instant::now() + life;
        let shutdown = Box::pin(server.clone().cancelled_owned());
        let timer = Box::pin(sleep_until(Self::next(deadline, bookmarks)));
        Self { shutdown, server: server.clone(), timer, deadline, bookmarks, wakes: None }
    }

    fn next(deadline: Instant, bookmarks: bool) -> Instant {
        if bookmarks { deadline.min(Instant::now() + BOOKMARKS) } else { deadline }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        if !self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let enrol = poll_fn(|cx| {
                let (_, _) = (self.shutdown.as_mut().poll(cx), self.timer.as_mut().poll(cx));
                Poll::Ready(())
            });
            // Unconstrained: a task that has done much in its turn would enrol with nobody.
            let _ = pin!(unconstrained(enrol)).poll(cx);
            self.wakes = Some(cx.waker().clone());
        }
        if self.server.is_cancelled() {
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
        self.wakes = None;
        Poll::Ready(Due::Bookmark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{task::coop, time::timeout};

    async fn due(alarm: &mut Alarm) -> Due {
        timeout(LONG, poll_fn(|cx| alarm.poll(cx))).await.expect("it wakes who polls it")
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_whoever_polled_it_last() {
        let (server, begun) = (CancellationToken::new(), Instant::now());
        let mut alarm = Alarm::new(&server, BOOKMARKS * 3 / 2, true);
        let elsewhere = async move { poll_fn(|cx| Poll::Ready(alarm.poll(cx).is_pending())).await.then_some(alarm) };
        let mut alarm = tokio::spawn(elsewhere).await.expect("no panic").expect("nothing is due");
        for (wanted, after) in [(Due::Bookmark, BOOKMARKS), (Due::End, BOOKMARKS * 3 / 2)] {
            assert_eq!(due(&mut alarm).await, wanted);
            assert_eq!(begun.elapsed(), after);
        }
        let mut alarm = Alarm::new(&server, LONG * 2, false);
        let end = tokio::spawn(async move { due(&mut alarm).await });
        tokio::task::yield_now().await;
        server.cancel();
        assert_eq!(end.await.expect("no panic"), Due::End);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_a_task_that_had_done_much_when_it_polled() {
        let mut alarm = Alarm::new(&CancellationToken::new(), BOOKMARKS, false);
        let mut busy = true;
        let end = poll_fn(|cx| {
            if std::mem::take(&mut busy) {
                while let Poll::Ready(budget) = coop::poll_proceed(cx) {
                    budget.made_progress();
                }
            }
            alarm.poll(cx)
        });
        assert_eq!(timeout(LONG, end).await.expect("it wakes"), Due::End);
    }
}
