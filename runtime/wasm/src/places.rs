//! Places for instances: how many there are at a time on the whole node, and who gets the next.
//!
//! An instance lives in the *pool*, which is set aside at the start and quick to begin in, or by *itself*, allocated when it begins. The
//! second is for commands, which live long, for what does not have the pool's shape, and for all when the pool is full. It is bounded as
//! well: each instance takes some of the memory maps that the kernel allows a process, and a process without maps cannot allocate at all.

use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// No container has more than this part of the places of a kind.
const SHARE: usize = 4;
/// This part is kept for containers that have no instance yet: the first request of each, so probes too.
const FIRST: usize = 16;
/// This part of the pool commands never take.
const HTTP: usize = 4;

/// Where an instance lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    Pool,
    Single,
}

/// Why there is no place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The container has its share: it gets another place when one of its own instances ends.
    Share,
    Node,
}

#[derive(Clone, Copy)]
struct Count {
    pool: usize,
    single: usize,
}

/// All places of the node.
pub(crate) struct Places {
    all: Count,
    free: Mutex<Count>,
}

/// The places that one container has.
#[derive(Default)]
pub(crate) struct Held {
    pool: AtomicUsize,
    single: AtomicUsize,
    freed: Notify,
}

/// A place, given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    held: Arc<Held>,
    pub(crate) seat: Seat,
    count: usize,
}

/// What an instance needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// It has the pool's shape.
    pub(crate) fits_pool: bool,
    /// Places that it takes by itself: as many as it has memories, which are what takes the kernel's memory maps.
    pub(crate) alone: usize,
}

fn share(all: usize) -> usize {
    all.div_ceil(SHARE)
}

impl Places {
    pub(crate) fn new(pool: usize, single: usize) -> Arc<Self> {
        let all = Count { pool, single };
        Arc::new(Self { all, free: Mutex::new(all) })
    }

    /// All places, and those that are taken.
    pub(crate) fn count(&self) -> (usize, usize) {
        let (all, free) = (self.all.pool + self.all.single, *self.free.lock());
        (all, all - free.pool - free.single)
    }

    /// Whether a tenth or less is left of what commands may have: they are the first that do not get any.
    pub(crate) fn is_short(&self) -> bool {
        let kept = Count { pool: self.all.pool / HTTP, single: self.all.single / FIRST };
        let free = *self.free.lock();
        let left = free.pool.saturating_sub(kept.pool) + free.single.saturating_sub(kept.single);
        left * 10 <= self.all.pool - kept.pool + self.all.single - kept.single
    }

    /// A place for a request's instance. Waits while the container has its share; `None`: the node is full. Cancel-safe.
    pub(crate) async fn request(self: &Arc<Self>, held: &Arc<Held>, need: Need) -> Option<Place> {
        loop {
            let freed = held.freed.notified();
            match self.try_request(held, need) {
                Ok(place) => return Some(place),
                Err(Full::Node) => return None,
                Err(Full::Share) => freed.await,
            }
        }
    }

    /// A place for an instance that no request waits for yet, if there is one.
    pub(crate) fn spare(self: &Arc<Self>, held: &Arc<Held>, need: Need) -> Option<Place> {
        self.try_request(held, need).ok()
    }

    fn try_request(self: &Arc<Self>, held: &Arc<Held>, need: Need) -> Result<Place, Full> {
        let mut free = self.free.lock();
        let mine = Count { pool: held.pool.load(Relaxed), single: held.single.load(Relaxed) };
        let first = mine.pool + mine.single == 0;
        let room = |free: usize, mine: usize, all: usize, count: usize| {
            free >= count && (first || mine + count <= share(all) && free >= all / FIRST + count)
        };
        if need.fits_pool && room(free.pool, mine.pool, self.all.pool, 1) {
            return Ok(self.place(&mut free, held, Seat::Pool, 1));
        }
        if room(free.single, mine.single, self.all.single, need.alone) {
            return Ok(self.place(&mut free, held, Seat::Single, need.alone));
        }
        let has_share =
            (!need.fits_pool || mine.pool >= share(self.all.pool)) && mine.single + need.alone > share(self.all.single);
        Err(if has_share && !first { Full::Share } else { Full::Node })
    }

    /// A place for a command, which keeps it long. `None`: the node is full.
    pub(crate) fn command(self: &Arc<Self>, held: &Arc<Held>, need: Need) -> Option<Place> {
        let mut free = self.free.lock();
        if free.single >= self.all.single / FIRST + need.alone {
            return Some(self.place(&mut free, held, Seat::Single, need.alone));
        }
        if need.fits_pool && free.pool > self.all.pool / HTTP {
            return Some(self.place(&mut free, held, Seat::Pool, 1));
        }
        None
    }

    fn place(self: &Arc<Self>, free: &mut Count, held: &Arc<Held>, seat: Seat, count: usize) -> Place {
        *free.of(seat) -= count;
        held.of(seat).fetch_add(count, Relaxed);
        Place { places: self.clone(), held: held.clone(), seat, count }
    }
}

impl Count {
    fn of(&mut self, seat: Seat) -> &mut usize {
        match seat {
            Seat::Pool => &mut self.pool,
            Seat::Single => &mut self.single,
        }
    }
}

impl Held {
    fn of(&self, seat: Seat) -> &AtomicUsize {
        match seat {
            Seat::Pool => &self.pool,
            Seat::Single => &self.single,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut free = self.places.free.lock();
        *free.of(self.seat) += self.count;
        self.held.of(self.seat).fetch_sub(self.count, Relaxed);
        drop(free);
        self.held.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FITS: Need = Need { fits_pool: true, alone: 1 };
    const LARGE: Need = Need { fits_pool: false, alone: 4 };

    fn take(places: &Arc<Places>, held: &Arc<Held>, most: usize) -> (Vec<Place>, Option<Full>) {
        let mut taken = Vec::new();
        while taken.len() < most {
            match places.try_request(held, FITS) {
                Ok(place) => taken.push(place),
                Err(full) => return (taken, Some(full)),
            }
        }
        (taken, None)
    }

    #[test]
    fn no_container_has_more_than_its_share_and_each_has_a_first() {
        let places = Places::new(64, 32);
        let greedy: Vec<_> = (0..8)
            .map(|_| {
                let held = Arc::<Held>::default();
                let (taken, full) = take(&places, &held, 1000);
                (held, taken, full)
            })
            .collect();
        assert_eq!((greedy[0].1.len(), greedy[0].2), (16 + 8, Some(Full::Share)), "a quarter of each");
        assert!(places.is_short(), "{:?}", places.count());
        let (_, last, full) = &greedy[7];
        assert_eq!((last.len(), *full), (1, Some(Full::Node)), "only what is kept for first requests is left");
        let late = Arc::<Held>::default();
        assert_eq!(take(&places, &late, 10).0.len(), 1, "the first of another");
        drop(greedy);
        assert_eq!(places.count(), (96, 0));
        assert!(!places.is_short());
    }

    #[test]
    fn commands_leave_places_for_requests() {
        let places = Places::new(64, 32);
        let held = Arc::<Held>::default();
        let commands: Vec<_> = std::iter::from_fn(|| places.command(&held, FITS)).collect();
        assert_eq!(commands.iter().filter(|it| it.seat == Seat::Single).count(), 30);
        assert_eq!(commands.iter().filter(|it| it.seat == Seat::Pool).count(), 48);
        assert!(places.command(&held, FITS).is_none());
        let http = Arc::<Held>::default();
        assert!(places.try_request(&http, FITS).is_ok_and(|place| place.seat == Seat::Pool));
        assert!(places.try_request(&Arc::default(), LARGE).is_err(), "it needs four, two are kept");
        drop(commands);
        let large = places.try_request(&http, LARGE).unwrap();
        assert_eq!((large.seat, places.count()), (Seat::Single, (96, 4)));
        drop(large);
        assert_eq!(places.count(), (96, 0));
    }

    #[tokio::test]
    async fn who_has_its_share_waits_for_its_own_and_is_woken() {
        let places = Places::new(4, 0);
        let held = Arc::<Held>::default();
        let place = places.request(&held, FITS).await.unwrap();
        let waiting = tokio::spawn({
            let (places, held) = (places.clone(), held.clone());
            async move { places.request(&held, FITS).await.map(|place| place.seat) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(place);
        assert_eq!(waiting.await.unwrap(), Some(Seat::Pool));
        assert!(places.request(&Arc::default(), LARGE).await.is_none(), "no place by itself at all");
    }
}
