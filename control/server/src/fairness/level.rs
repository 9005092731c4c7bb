//! A priority level at work: the lock around its requests, the seats that they hold, and the wait for a seat. The lock is held for one change at a
//! time and never while anybody waits.

use super::{
    Clock, Nanos,
    config::{PriorityLevel, Response},
    counts::Counts,
    demand::Smoothed,
    queueset::{Arrival, Place, QueueSet, Start, Ticket, Totals},
    shares::{self, Bounds},
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// A priority level.
pub(super) struct Level {
    pub(super) name: String,
    pub(super) clock: Clock,
    requests: Mutex<QueueSet<Waiter>>,
    /// The most seats of one list; 0 for no bound of its own.
    widest: AtomicU32,
    share: Mutex<Share>,
}

/// What the level has of the server's seats.
#[derive(Clone, Copy, Default)]
struct Share {
    exempt: bool,
    bounds: Bounds,
    demand: Smoothed,
}

/// A request that waits.
struct Waiter {
    level: Arc<Level>,
    counts: Arc<Counts>,
    seat: oneshot::Sender<Seat>,
}

impl Level {
    /// A level without seats.
    pub(super) fn new(name: &str, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            clock,
            requests: Mutex::new(QueueSet::new(Response::Reject, 0, clock.now())),
            widest: AtomicU32::default(),
            share: Mutex::default(),
        })
    }

    /// Takes over what is configured. The seats follow by [`adjust`].
    pub(super) fn configure(&self, now: Nanos, level: &PriorityLevel, bounds: Bounds) {
        let mut share = self.share.lock();
        (share.exempt, share.bounds) = (level.response == Response::Exempt, bounds);
        self.widest.store(shares::widest(bounds.nominal, level.response), Ordering::Relaxed);
        self.requests.lock().configure(now, level.response);
    }

    /// The most seats of one list; 0 for no bound of its own.
    pub(super) fn widest(&self) -> u32 {
        self.widest.load(Ordering::Relaxed)
    }

    /// The requests that are served, those that wait, in how many queues, and how many there were.
    pub(super) fn count(&self) -> ((usize, usize), usize, Totals) {
        let requests = self.requests.lock();
        (requests.requests(), requests.busy_queues(), requests.totals())
    }

    /// Changes something, and then serves as many of those that wait as there are seats for.
    fn change<T>(&self, now: Nanos, change: impl FnOnce(&mut QueueSet<Waiter>) -> T) -> T {
        let mut requests = self.requests.lock();
        let made = change(&mut requests);
        while let Some((waiter, ticket)) = requests.next(now) {
            // A request that has just gone away gives its seat back, for which it needs the lock.
            MutexGuard::unlocked(&mut requests, || waiter.serve(ticket));
        }
        made
    }
}

/// Shares the seats among the levels by what they needed lately.
pub(super) fn adjust(levels: &[Arc<Level>], now: Nanos) {
    let mut all = Vec::with_capacity(levels.len());
    for level in levels {
        let observed = level.requests.lock().take_demand(now);
        let mut share = level.share.lock();
        share.demand = share.demand.with(&observed);
        all.push((share.exempt, share.bounds, share.demand));
    }
    for (level, seats) in levels.iter().zip(shares::adjust(&all)) {
        level.change(now, |requests| requests.set_seats(now, seats));
    }
}

impl Waiter {
    fn serve(self, ticket: Ticket) {
        self.counts.waiting.dec();
        // Whoever does not wait any more drops the seat.
        drop(self.seat.send(Seat::new(self.level, self.counts, ticket)));
    }
}

/// The seats of a request that is served, until it is dropped.
pub(crate) struct Seat {
    level: Arc<Level>,
    counts: Arc<Counts>,
    ticket: Ticket,
}

impl Seat {
    fn new(level: Arc<Level>, counts: Arc<Counts>, ticket: Ticket) -> Self {
        counts.dispatched.inc();
        counts.executing.inc();
        Self { level, counts, ticket }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counts.executing.dec();
        let now = self.level.clock.now();
        self.level.change(now, |requests| requests.finish(now, &self.ticket));
    }
}

/// Seats of a level. Waits at most for `patience`, and drops its place if nobody waits for it any more.
///
/// # Errors
/// The request is refused: the reason, by upstream's name.
pub(super) async fn enter(
    (level, counts): (&Arc<Level>, &Arc<Counts>),
    arrival: Arrival,
    patience: Duration,
) -> Result<Seat, &'static str> {
    let (now, mut answer) = (level.clock.now(), None);
    let wake = || {
        let (seat, receiver) = oneshot::channel();
        answer = Some(receiver);
        Waiter { level: level.clone(), counts: counts.clone(), seat }
    };
    let start = level.requests.lock().start(now, arrival, wake);
    let (place, answer) = match (start, answer) {
        (Start::Now(ticket), _) => return Ok(Seat::new(level.clone(), counts.clone(), ticket)),
        (Start::Refused(reason), _) => return Err(reason),
        (Start::Later(place), answer) => (place, answer.expect("a request that waits has what wakes it")),
    };
    counts.waiting.inc();
    let mut wait = Wait { level, counts, place: Some(place), answer };
    // There may be seats that are too few for those before it.
    level.change(now, |_| ());
    match timeout(patience, &mut wait.answer).await {
        Ok(Ok(seat)) => {
            wait.place = None;
            Ok(seat)
        }
        _ => {
            wait.leave();
            Err(TIMED_OUT)
        }
    }
}

/// Upstream's name for a request that has waited for too long, or whose client has gone.
const TIMED_OUT: &str = "time-out";

/// The wait of one request.
struct Wait<'a> {
    level: &'a Level,
    counts: &'a Counts,
    place: Option<Place>,
    answer: oneshot::Receiver<Seat>,
}

impl Wait<'_> {
    /// Gives the place up, or the seat that has just come. Whether there was either.
    fn leave(&mut self) -> bool {
        let Some(place) = self.place.take() else { return false };
        let now = self.level.clock.now();
        if self.level.change(now, |requests| requests.cancel(now, place)) {
            self.counts.waiting.dec();
        }
        true
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.leave() {
            self.counts.refused(TIMED_OUT);
        }
    }
}
