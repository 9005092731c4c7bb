//! The requests of one priority level: those that are served, and those that wait in queues for a seat. Pure: the time, the hash of a flow and
//! what wakes a request come from outside. Follows KEP-1040, "Fair Queuing for Server Requests".
//!
//! Virtual time is the work that each queue with requests could have had so far, if all of them had got the same. The next request comes from the
//! queue whose next work would be done first in that time. What a request costs is guessed when it begins, and corrected when it ends. A queue
//! exists while it has requests, so that queues without any cost nothing, however many are configured.

use super::{
    Nanos,
    config::Queuing,
    config::Response,
    dealer::deal,
    demand::{Demand, Observed},
};
use std::collections::{HashMap, VecDeque, hash_map::Entry};

/// Seats × nanoseconds. No sum overflows.
type Work = i128;

/// How long a request is supposed to take before it has ended: upstream's 3 ms.
const GUESS: Work = 3_000_000;

/// The index of a queue.
type Index = u32;

/// The requests of a level. `W` is what wakes one that waits.
pub(super) struct QueueSet<W> {
    response: Response,
    seats: u32,
    queues: HashMap<Index, Queue<W>>,
    /// Virtual time, and the time up to which it has gone on.
    virtual_time: Work,
    at: Nanos,
    /// The queue from which the last waiting request came: the next of equal ones comes from a later queue.
    last: Index,
    /// How many requests have come: the number of the next one.
    come: u64,
    executing: usize,
    seats_taken: u32,
    waiting: usize,
    seats_wanted: u32,
    demand: Demand,
    totals: Totals,
}

/// How many requests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) cancelled: u64,
}

struct Queue<W> {
    /// The virtual time at which its next request begins.
    next: Work,
    /// In the order in which they came.
    waiting: VecDeque<Waiting<W>>,
    /// The seats for which they wait.
    seats_wanted: u64,
    executing: usize,
}

struct Waiting<W> {
    number: u64,
    seats: u32,
    arrived: Work,
    wake: W,
}

/// A request to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The hash of its flow.
    pub(super) flow: u64,
    /// How many seats it takes, at least 1.
    pub(super) seats: u32,
    /// It waits also in a queue that is full.
    pub(super) patient: bool,
}

/// A request that is served, until it is given to [`QueueSet::finish`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    queue: Option<Index>,
    seats: u32,
    begun: Nanos,
}

/// The place of a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    queue: Index,
    number: u64,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It is served at once.
    Now(Ticket),
    /// It waits; [`QueueSet::next`] may have it already.
    Later(Place),
    /// It is refused, for a reason by upstream's name.
    Refused(&'static str),
}

impl<W> QueueSet<W> {
    pub(super) fn new(response: Response, seats: u32, now: Nanos) -> Self {
        let mut demand = Demand::default();
        demand.take(now);
        Self {
            response,
            seats,
            queues: HashMap::new(),
            virtual_time: 0,
            at: now,
            last: 0,
            come: 0,
            executing: 0,
            seats_taken: 0,
            waiting: 0,
            seats_wanted: 0,
            demand,
            totals: Totals::default(),
        }
    }

    /// A request comes. `wake` is made if it has to wait.
    pub(super) fn start(&mut self, now: Nanos, arrival: Arrival, wake: impl FnOnce() -> W) -> Start {
        self.go_on(now);
        self.come += 1;
        let Arrival { flow, seats, patient } = arrival;
        let Response::Queue(queuing) = self.response else {
            let refused = self.response == Response::Reject && !self.has_room(seats);
            if refused {
                self.totals.rejected += 1;
                return Start::Refused("concurrency-limit");
            }
            return Start::Now(self.execute(now, None, seats));
        };
        let index = self.choose(queuing, flow);
        if self.waiting == 0 && self.seats_taken < self.seats && self.has_room(seats) {
            return Start::Now(self.execute(now, Some(index), seats));
        }
        let virtual_time = self.virtual_time;
        let full = |queue: &Queue<W>| queue.waiting.len() >= queuing.length;
        let is_full = self.queues.get(&index).map_or(queuing.length == 0, full);
        if is_full && self.seats_taken >= self.seats && !patient {
            self.totals.rejected += 1;
            return Start::Refused("queue-full");
        }
        let queue = self.queues.entry(index).or_insert_with(|| Queue::new(virtual_time));
        queue.waiting.push_back(Waiting { number: self.come, seats, arrived: virtual_time, wake: wake() });
        queue.seats_wanted += u64::from(seats);
        queue.bound();
        self.waiting += 1;
        self.seats_wanted += seats;
        self.note_demand(now);
        Start::Later(Place { queue: index, number: self.come })
    }

    /// The next request that is to be served, if there is a seat for it. To be asked until it has none, after anything else was called.
    pub(super) fn next(&mut self, now: Nanos) -> Option<(W, Ticket)> {
        if self.waiting == 0 || self.seats_taken >= self.seats {
            return None;
        }
        self.go_on(now);
        let after = self.last.wrapping_add(1);
        let heads = self.queues.iter().filter_map(|(index, queue)| Some((*index, queue, queue.waiting.front()?)));
        let done = |(index, queue, head): &(Index, &Queue<W>, &Waiting<W>)| {
            (queue.next + Work::from(head.seats) * GUESS, index.wrapping_sub(after))
        };
        let (index, _, head) = heads.min_by_key(done)?;
        if !self.has_room(head.seats) {
            return None;
        }
        self.last = index;
        let taken = self.take(Place { queue: index, number: head.number })?;
        let ticket = self.execute(now, Some(index), taken.seats);
        self.queues.get_mut(&index).into_iter().for_each(Queue::bound);
        Some((taken.wake, ticket))
    }

    /// A request that was served has ended.
    pub(super) fn finish(&mut self, now: Nanos, ticket: &Ticket) {
        self.go_on(now);
        self.executing -= 1;
        self.seats_taken -= ticket.seats;
        self.note_demand(now);
        let took = Work::from(now.saturating_sub(ticket.begun));
        let correct = |queue: &mut Queue<W>| {
            queue.executing -= 1;
            queue.next += Work::from(ticket.seats) * (took - GUESS);
        };
        ticket.queue.into_iter().for_each(|index| self.leave(index, correct));
    }

    /// A request waits no more. Whether it did: otherwise [`QueueSet::next`] had it.
    pub(super) fn cancel(&mut self, now: Nanos, place: Place) -> bool {
        self.go_on(now);
        if self.take(place).is_none() {
            return false;
        }
        self.totals.rejected += 1;
        self.totals.cancelled += 1;
        self.note_demand(now);
        self.leave(place.queue, |_| ());
        true
    }

    /// Changes what is configured. Requests keep their places, also in queues that are there no more.
    pub(super) fn configure(&mut self, now: Nanos, response: Response) {
        self.go_on(now);
        self.response = response;
    }

    /// Changes the number of seats. What takes more of them goes on.
    pub(super) fn set_seats(&mut self, now: Nanos, seats: u32) {
        self.go_on(now);
        self.seats = seats;
    }

    /// What the demand for seats was since it was asked for last.
    pub(super) fn take_demand(&mut self, now: Nanos) -> Observed {
        self.demand.take(now)
    }

    /// The requests that are served, and those that wait.
    pub(super) fn requests(&self) -> (usize, usize) {
        (self.executing, self.waiting)
    }

    /// How many queues have requests that wait.
    pub(super) fn busy_queues(&self) -> usize {
        self.queues.values().filter(|queue| !queue.waiting.is_empty()).count()
    }

    /// How many requests there were so far.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Lets virtual time go on: by the work that each queue could do of what all can.
    fn go_on(&mut self, now: Nanos) {
        let time = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        if time > 0 && !self.queues.is_empty() {
            let seats = u64::from(self.seats.min(self.seats_taken + self.seats_wanted));
            self.virtual_time += Work::from(time.saturating_mul(seats) / self.queues.len() as u64);
        }
    }

    /// Of the queues of a flow's hand the one with the least work.
    fn choose(&self, queuing: Queuing, flow: u64) -> Index {
        let hand = deal(flow, queuing.queues, queuing.hand);
        // Begins with another one each time, so that flows with the same queue in their hands do not meet there.
        let first = (self.come % u64::from(queuing.hand)) as usize;
        let mut turned = hand.clone().skip(first).chain(hand.take(first));
        let wanted = |index: &Index| self.queues.get(index).map_or(0, |queue| queue.seats_wanted);
        let chosen = if self.waiting == 0 { turned.next() } else { turned.min_by_key(wanted) };
        chosen.unwrap_or_default()
    }

    fn has_room(&self, seats: u32) -> bool {
        // What is wider than the level is served alone.
        self.seats_taken + seats <= self.seats || (seats > self.seats && self.executing == 0)
    }

    /// Gives a request its seats.
    fn execute(&mut self, now: Nanos, queue: Option<Index>, seats: u32) -> Ticket {
        if let Some(index) = queue {
            let virtual_time = self.virtual_time;
            let queue = self.queues.entry(index).or_insert_with(|| Queue::new(virtual_time));
            queue.executing += 1;
            queue.next += Work::from(seats) * GUESS;
        }
        self.executing += 1;
        self.seats_taken += seats;
        self.totals.dispatched += 1;
        self.note_demand(now);
        Ticket { queue, seats, begun: now }
    }

    /// Takes a request out of its queue.
    fn take(&mut self, place: Place) -> Option<Waiting<W>> {
        let queue = self.queues.get_mut(&place.queue)?;
        let at = queue.waiting.binary_search_by_key(&place.number, |waiting| waiting.number).ok()?;
        let taken = queue.waiting.remove(at)?;
        queue.seats_wanted -= u64::from(taken.seats);
        self.waiting -= 1;
        self.seats_wanted -= taken.seats;
        Some(taken)
    }

    /// A queue has a request less. Without any it is forgotten.
    fn leave(&mut self, index: Index, change: impl FnOnce(&mut Queue<W>)) {
        let Entry::Occupied(mut entry) = self.queues.entry(index) else { return };
        let queue = entry.get_mut();
        change(queue);
        queue.bound();
        if queue.executing == 0 && queue.waiting.is_empty() {
            entry.remove();
        }
    }

    fn note_demand(&mut self, now: Nanos) {
        self.demand.set(now, self.seats_taken + self.seats_wanted);
    }
}

impl<W> Queue<W> {
    fn new(next: Work) -> Self {
        Self { next, waiting: VecDeque::new(), seats_wanted: 0, executing: 0 }
    }

    /// No request begins in virtual time before it came: a queue that had little to do saves nothing up for later.
    fn bound(&mut self) {
        if let Some(head) = self.waiting.front() {
            self.next = self.next.max(head.arrived);
        }
    }
}

#[cfg(test)]
#[path = "queueset_tests.rs"]
mod tests;
