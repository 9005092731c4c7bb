//! The turns of the containers that use more CPU time than their share: at most so many compute at the same time as there are cores, and who had
//! the least for its weight is the next (start-time fair queueing).

use crate::shares::Share;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// The turns of a node.
pub(crate) struct Turns(Mutex<State>);

struct State {
    /// Turns that nobody has.
    free: usize,
    /// The time of the turns: when the last one began.
    now: u64,
    /// Those who wait, by the time at which their turn begins and by number.
    waiting: BTreeMap<(u64, u64), Waker>,
    /// Since when it is the turn of those who have not begun yet, by number.
    called: BTreeMap<u64, Instant>,
    number: u64,
}

impl State {
    /// Gives a turn to the next one, who is to be woken.
    fn pass_on(&mut self) -> Option<Waker> {
        let Some(((at, number), waker)) = self.waiting.pop_first() else {
            self.free += 1;
            return None;
        };
        self.now = self.now.max(at);
        self.called.insert(number, Instant::now());
        Some(waker)
    }
}

/// A turn, until it is dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    ahead: Arc<Ahead>,
}

impl Turn {
    /// Whether somebody who had less for its weight waits.
    pub(crate) fn is_over(&self) -> bool {
        let next = self.ahead.share.next_turn.load(SeqCst).saturating_sub(self.ahead.time);
        self.turns.0.lock().waiting.first_key_value().is_some_and(|((at, _), _)| *at < next)
    }
}

/// The CPU time of a turn in nanoseconds, which its container is charged ahead: if several of its guests wait, each has a later place.
const EXPECTED: u64 = 1_000_000;

/// How long a turn waits for a guest whose task does not poll it, for example because its client takes nothing.
const LATEST: Duration = Duration::from_millis(50);

/// CPU time in nanoseconds by which a container may be behind: what it used while nobody else wanted to run is forgotten beyond it.
const MOST_BEHIND: u64 = 100_000_000;

/// The time of the turns that a container is charged ahead, until this is dropped.
struct Ahead {
    share: Arc<Share>,
    time: u64,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let less = |next: u64| Some(next.saturating_sub(self.time));
        let _ = self.share.next_turn.fetch_update(SeqCst, SeqCst, less);
    }
}

/// A place in the queue.
pub(crate) struct Waiting {
    turns: Arc<Turns>,
    at: u64,
    ahead: Arc<Ahead>,
    state: Place,
}

enum Place {
    New,
    Queued(u64),
    Over,
}

impl Turns {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let (waiting, called) = (BTreeMap::new(), BTreeMap::new());
        Arc::new(Self(Mutex::new(State { free: count, now: 0, waiting, called, number: 0 })))
    }

    /// Passes turns on that were not begun in time. Returns whether others are still to begin.
    pub(crate) fn pass_on_late(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let before = state.called.len();
        state.called.retain(|_, since| now.saturating_duration_since(*since) <= LATEST);
        let late = before - state.called.len();
        let next: Vec<_> = (0..late).filter_map(|_| state.pass_on()).collect();
        let some = !state.called.is_empty();
        drop(state);
        next.into_iter().for_each(Waker::wake);
        some
    }

    /// Waits for a turn of a container.
    pub(crate) fn wait(self: &Arc<Self>, share: &Arc<Share>) -> Waiting {
        let now = self.0.lock().now;
        let most = now.saturating_add(share.turn_length(MOST_BEHIND));
        let place = |next: u64| next.clamp(now, most);
        let time = share.turn_length(EXPECTED);
        let before = share.next_turn.fetch_update(SeqCst, SeqCst, |next| Some(place(next) + time)).unwrap_or(now);
        let ahead = Arc::new(Ahead { share: share.clone(), time });
        Waiting { turns: self.clone(), at: place(before), ahead, state: Place::New }
    }
}

impl Waiting {
    fn turn(&self) -> Turn {
        Turn { turns: self.turns.clone(), ahead: self.ahead.clone() }
    }
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        let this = &mut *self;
        let mut state = this.turns.0.lock();
        let queued = match this.state {
            Place::New => None,
            Place::Queued(number) => Some(number),
            Place::Over => return Poll::Pending,
        };
        let is_called = queued.is_some_and(|number| state.called.remove(&number).is_some());
        if is_called || state.free > 0 {
            state.free -= usize::from(!is_called);
            state.now = state.now.max(this.at);
            drop(state);
            this.state = Place::Over;
            return Poll::Ready(this.turn());
        }
        // Who came too late for its turn has its place again.
        let number = queued.unwrap_or_else(|| {
            state.number += 1;
            state.number
        });
        state.waiting.insert((this.at, number), context.waker().clone());
        this.state = Place::Queued(number);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Place::Queued(number) = self.state else { return };
        let mut state = self.turns.0.lock();
        state.waiting.remove(&(self.at, number));
        let next = state.called.remove(&number).and_then(|_| state.pass_on());
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.turns.0.lock().pass_on();
        if let Some(next) = next {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn share(millis: u64) -> Arc<Share> {
        let share = Share::default();
        share.request(Some(millis));
        Arc::new(share)
    }

    /// The one of those who wait who has a turn.
    fn granted(waiting: &mut [Waiting]) -> Option<(usize, Turn)> {
        waiting.iter_mut().enumerate().find_map(|(at, it)| Some((at, it.now_or_never()?)))
    }

    /// Lets each of some containers compute for ever, a millisecond at a time; how often each of them had a turn.
    fn turns_of(shares: &[&Arc<Share>], turns: &Arc<Turns>, count: usize) -> Vec<usize> {
        let mut had = vec![0; shares.len()];
        let mut waiting: Vec<_> = shares.iter().map(|share| turns.wait(share)).collect();
        while had.iter().sum::<usize>() < count {
            let (at, turn) = granted(&mut waiting).expect("somebody has a turn");
            // those who come after it are in the queue
            assert!(granted(&mut waiting[at + 1..]).is_none());
            loop {
                had[at] += 1;
                shares[at].charge(EXPECTED);
                if turn.is_over() || had.iter().sum::<usize>() >= count {
                    break;
                }
            }
            drop(turn);
            waiting[at] = turns.wait(shares[at]);
        }
        had
    }

    #[test]
    fn turns_are_shared_by_weight() {
        let turns = Turns::new(1);
        let (small, large) = (share(100), share(300));
        let had = turns_of(&[&small, &large], &turns, 400);
        assert!((295..=305).contains(&had[1]), "{had:?}");
        // Who was alone for long is behind the other for a moment only.
        turns_of(&[&large], &turns, 10_000);
        let had = turns_of(&[&small, &large], &turns, 400);
        assert!(had[1] >= 150, "{had:?}");
        let had = turns_of(&[&small, &large], &turns, 400);
        assert!((295..=305).contains(&had[1]), "{had:?}");
    }

    #[test]
    fn who_had_nothing_comes_before_a_second_turn_of_others() {
        let turns = Turns::new(1);
        let shares: Vec<_> = (0..20).map(|_| share(100)).collect();
        turns_of(&shares.iter().collect::<Vec<_>>(), &turns, 2_000);
        let turn = turns.wait(&shares[0]).now_or_never().expect("it is free");
        let mut queue: Vec<_> = (0..3).flat_map(|_| &shares).map(|share| turns.wait(share)).collect();
        assert!(granted(&mut queue).is_none());
        let mut new = turns.wait(&share(100));
        assert!((&mut new).now_or_never().is_none());
        drop(turn);
        let mut before = 0;
        while (&mut new).now_or_never().is_none() {
            let (at, turn) = granted(&mut queue).expect("somebody has a turn");
            drop((queue.remove(at), turn));
            before += 1;
        }
        assert!(before <= 20, "{before} turns before its own");
    }

    #[test]
    fn several_of_one_container_do_not_come_before_others() {
        let turns = Turns::new(1);
        let (many, one) = (share(100), share(100));
        let turn = turns.wait(&many).now_or_never().expect("it is free");
        let mut queue: Vec<_> = (0..10).map(|_| turns.wait(&many)).collect();
        queue.push(turns.wait(&one));
        assert!(granted(&mut queue).is_none());
        drop(turn);
        assert_eq!(granted(&mut queue).map(|(at, _)| at), Some(10));
    }

    #[test]
    fn who_does_not_begin_loses_its_turn_and_keeps_its_place() {
        let turns = Turns::new(1);
        let one = share(100);
        let held = turns.wait(&one).now_or_never().expect("it is free");
        let mut queue = [0; 3].map(|_| turns.wait(&one));
        assert!(granted(&mut queue).is_none());
        assert!(!turns.pass_on_late(Instant::now()), "nobody was called");
        drop(held);
        assert!(turns.pass_on_late(Instant::now()), "the first one has time to begin");
        assert!((&mut queue[1]).now_or_never().is_none());
        assert!(turns.pass_on_late(Instant::now() + 2 * LATEST));
        assert!((&mut queue[0]).now_or_never().is_none(), "it is too late");
        let second = (&mut queue[1]).now_or_never().expect("it was called");
        assert!(!turns.pass_on_late(Instant::now() + 2 * LATEST), "who has begun goes on");
        drop(second);
        let first = (&mut queue[0]).now_or_never().expect("it came before the third");
        drop(first);
        assert!(!turns.pass_on_late(Instant::now() + 2 * LATEST), "the third one is late, and nobody else waits");
        assert!((&mut queue[2]).now_or_never().is_some(), "the turn is free");
        drop(queue);
        assert_eq!(turns.0.lock().free, 1);
    }

    #[test]
    fn who_leaves_gives_its_turn_to_the_next() {
        let turns = Turns::new(2);
        let one = share(100);
        let held = turns.wait(&one).now_or_never().expect("a turn");
        let _other = turns.wait(&one).now_or_never().expect("another");
        let [mut second, mut third] = [0; 2].map(|_| turns.wait(&one));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(held);
        drop(second);
        assert!((&mut third).now_or_never().is_some(), "the second one was the next, and left");
        assert_eq!(turns.0.lock().free, 1);
        drop((_other, third));
        assert_eq!(one.next_turn.load(SeqCst), 0, "what was charged ahead is given back");
    }
}
