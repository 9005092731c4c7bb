//! Whether a container uses more than its share of the node's CPU time.
//!
//! The share of a container is what it requests, and at least half of what each would have if those that ran lately had the same. Use above the
//! share is a level that falls with time at the rate of the share, as in a leaky bucket: below [`BURST`] a container is light. Guests of light
//! containers run at once, those of others when it is their turn ([`crate::turns`]). A container begins at the border, so that thousands of new
//! ones are not light at the same time.

use parking_lot::Mutex;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use tokio::time::Instant;

/// CPU time that a container may use above its share at once, without being heavy, and what it may save up with a request of a whole core in
/// addition.
const BURST: u64 = 10_000_000;
const BURST_PER_CORE: u64 = 100_000_000;

/// Containers that ran in the last window of so many nanoseconds, or in this one, share the node.
const WINDOW: u64 = 100_000_000;

/// The weight of a container that requests no CPU, in thousandths of a core: that of the kernel's cgroups, which Kubernetes uses.
const LEAST_WEIGHT: u64 = 2;

/// The containers of the node that ran lately.
pub(crate) struct NodeShares {
    begin: Instant,
    /// Thousandths of a core.
    capacity: u64,
    /// The number of the window, and how many containers ran in it and in the one before.
    windows: Mutex<(u64, u64, u64)>,
}

/// The CPU time of one container.
#[derive(Default)]
pub(crate) struct Share {
    /// Thousandths of a core; 0 is none.
    requested: AtomicU64,
    level: Mutex<Level>,
    /// The last window in which it ran, plus one.
    window: AtomicU64,
    /// When its next turn begins, in the time of the turns.
    pub(crate) next_turn: AtomicU64,
}

#[derive(Default)]
struct Level {
    /// Nanoseconds of use above the share.
    nanos: u64,
    /// The time of the node until which it has fallen. `None`: it has never run.
    fallen: Option<u64>,
}

impl NodeShares {
    /// `cores`: the threads that run guests.
    pub(crate) fn new(cores: usize) -> Self {
        Self { begin: Instant::now(), capacity: cores as u64 * 1000, windows: Mutex::default() }
    }

    /// The time of the node in nanoseconds.
    fn time(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts a container as one that runs at a time. Returns how many do or did lately.
    fn running(&self, share: &Share, time: u64) -> u64 {
        let window = time / WINDOW + 1;
        let mut windows = self.windows.lock();
        let (number, now, before) = &mut *windows;
        if window > *number {
            *before = if window == *number + 1 { *now } else { 0 };
            (*number, *now) = (window, 0);
        }
        if share.window.swap(window, Relaxed) != window {
            *now += 1;
        }
        (*now).max(*before).max(1)
    }
}

impl Share {
    /// Sets what the container requests, in thousandths of a core.
    pub(crate) fn request(&self, millis: Option<u64>) {
        self.requested.store(millis.unwrap_or(0), Relaxed);
    }

    /// Its part of the turns, in thousandths of a core.
    pub(crate) fn weight(&self) -> u64 {
        self.requested.load(Relaxed).max(LEAST_WEIGHT)
    }

    /// Whether it has used more than its share, which others want.
    pub(crate) fn is_heavy(&self, node: &NodeShares, now: Instant) -> bool {
        let time = node.time(now);
        let requested = self.requested.load(Relaxed);
        let running = node.running(self, time);
        let share = requested.max(node.capacity / (2 * running));
        let burst = BURST + BURST_PER_CORE * requested / 1000;
        let mut level = self.level.lock();
        match level.fallen.replace(time) {
            None => level.nanos += burst,
            Some(last) => {
                let fallen = time.saturating_sub(last).saturating_mul(share) / 1000;
                level.nanos = level.nanos.min(2 * burst).saturating_sub(fallen);
            }
        }
        running > 1 && level.nanos > burst
    }

    /// Charges CPU time in nanoseconds.
    pub(crate) fn charge(&self, nanos: u64) {
        self.level.lock().nanos += nanos;
        self.next_turn.fetch_add(self.turn_length(nanos), SeqCst);
    }

    /// The length of a turn in the time of the turns.
    pub(crate) fn turn_length(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(1000) / self.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Uses thousandths of a core for a second, in pieces of a millisecond; the part of its pieces in which it was heavy.
    async fn heavy(node: &NodeShares, shares: &[(&Share, u64)]) -> Vec<f64> {
        let mut count = vec![(0, 0); shares.len()];
        let mut used = vec![0; shares.len()];
        for step in 0..1000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            for (at, (share, millis)) in shares.iter().enumerate() {
                used[at] += millis;
                if used[at] >= 1000 || step == 0 {
                    used[at] = used[at].saturating_sub(1000);
                    count[at].0 += u32::from(share.is_heavy(node, Instant::now()));
                    count[at].1 += 1;
                    share.charge(1_000_000);
                }
            }
        }
        count.iter().map(|(heavy, all)| f64::from(*heavy) / f64::from(*all)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_uses_less_than_it_requests_or_than_half_of_the_others_is_light() {
        let node = NodeShares::new(2);
        let (alone, quiet) = (Share::default(), Share::default());
        assert_eq!(heavy(&node, &[(&alone, 2000)]).await[0], 0.0, "alone it has the whole node");
        assert!(heavy(&node, &[(&alone, 900), (&quiet, 20)]).await[0] > 0.6, "not beside another");
        tokio::time::advance(Duration::from_secs(1)).await;
        let others: Vec<Share> = (0..18).map(|_| Share::default()).collect();
        let hogs: Vec<_> = others.iter().map(|share| (share, 100)).collect();
        let found = heavy(&node, &[&hogs[..], &[(&quiet, 20)]].concat()).await;
        assert!(found[..18].iter().all(|heavy| *heavy > 0.8), "{found:?}");
        assert!(found[18] < 0.2, "{found:?}");
        let found = heavy(&node, &[&hogs[..], &[(&quiet, 100)]].concat()).await;
        assert!(found[18] > 0.6, "as much as the others: {found:?}");
        quiet.request(Some(200));
        tokio::time::advance(Duration::from_secs(1)).await;
        let found = heavy(&node, &[&hogs[..], &[(&quiet, 150)]].concat()).await;
        assert!(found[18] < 0.1, "less than it requests: {found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_heavy_is_light_after_a_while() {
        let (node, share, other) = (NodeShares::new(2), Share::default(), Share::default());
        other.is_heavy(&node, Instant::now());
        assert!(!share.is_heavy(&node, Instant::now()), "at the border");
        share.charge(3_600_000_000_000);
        assert!(share.is_heavy(&node, Instant::now()));
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(!share.is_heavy(&node, Instant::now()), "an hour is forgotten as soon as a moment");
    }
}
