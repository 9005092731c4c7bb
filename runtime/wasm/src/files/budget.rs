//! How many files guests may hold open, and how much they may write: budgets of the node, so that neither the API server and the store run
//! out of descriptors nor anybody out of disk because of a guest.

use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Bytes that guests may write between two looks at the disk: at most so much is taken of what others wrote meanwhile.
const GRANT: u64 = 16 << 20;

/// What a new file, folder or link is counted as.
pub(crate) const ENTRY: u64 = 4_096;

/// Files that one instance may hold open.
pub(crate) const MOST: usize = 1_024;

/// The same of an instance that answers one request.
pub(crate) const REQUEST_MOST: usize = 512;

/// Of what is free, a pod may have one part in so many.
const SHARE: usize = 8;

/// Files that any pod may have as long as there are some.
const FEW: usize = 16;

/// The open files of all guests of the node.
#[derive(Debug)]
pub(crate) struct Node {
    limit: usize,
    used: Mutex<usize>,
}

impl Node {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0) })
    }

    /// What to tell before guests are refused files, if that is near.
    pub(crate) fn problem(&self) -> Option<String> {
        let (used, limit) = (*self.used.lock(), self.limit);
        (used > limit / 4 * 3).then(|| {
            format!("guests hold {used} files open of the {limit} that this node has for them: pods are refused more before long")
        })
    }
}

/// The open files of one pod: at most an eighth of what is free then, or a few. One that hoards gets a ninth of all, the next a ninth of the rest,
/// and so on: twenty of them leave a tenth to all others.
#[derive(Debug)]
pub(crate) struct Pod {
    node: Arc<Node>,
    /// Changed under the node's lock.
    used: AtomicUsize,
}

impl Pod {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node, used: AtomicUsize::new(0) })
    }

    fn take(&self, count: usize) -> bool {
        let mut all = self.node.used.lock();
        let mine = self.used.load(Relaxed) + count;
        let Some(free) = self.node.limit.checked_sub(*all + count) else { return false };
        let allowed = mine <= (free / SHARE).max(FEW);
        if allowed {
            *all += count;
            self.used.store(mine, Relaxed);
        }
        allowed
    }

    fn give_back(&self, count: usize) {
        let mut all = self.node.used.lock();
        *all -= count;
        self.used.fetch_sub(count, Relaxed);
    }
}

/// The open files of one instance.
#[derive(Debug)]
pub(crate) struct Held {
    pod: Arc<Pod>,
    /// Taken from the pod.
    held: usize,
    /// Open, as far as is known: what was closed is noticed when they are counted.
    used: usize,
    /// At most.
    most: usize,
}

impl Held {
    pub(crate) fn new(pod: Arc<Pod>, most: usize) -> Self {
        Self { pod, held: 0, used: 0, most }
    }

    /// Whether `more` may be opened. `count` counts what is open.
    pub(crate) fn open(&mut self, more: usize, count: impl FnOnce() -> usize) -> bool {
        if self.used + more > self.held.min(self.most) {
            self.used = count();
            // what was closed goes back, but for a few: the next is opened soon
            let spare = self.held.saturating_sub(self.used + more + MOST / 16);
            if spare > 0 {
                self.pod.give_back(spare);
                self.held -= spare;
            }
        }
        if self.used + more > self.most {
            return false;
        }
        let missing = (self.used + more).saturating_sub(self.held);
        if missing > 0 {
            // some ahead, so that a guest with many files is not counted at each
            let ahead = missing + self.used / 8;
            let taken = [ahead, missing].into_iter().find(|count| self.pod.take(*count));
            let Some(taken) = taken else { return false };
            self.held += taken;
        }
        self.used += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pod.give_back(self.held);
    }
}

/// What guests may write to the node's disk, as long as there is room for others.
pub(crate) struct Space {
    room: Arc<dyn Fn() -> u64 + Send + Sync>,
    left: Mutex<u64>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Space {
    /// `room` tells how many bytes guests may write in all, as of now.
    pub(crate) fn new(room: Arc<dyn Fn() -> u64 + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { room, left: Mutex::new(0) })
    }

    /// Whether so many bytes may be written.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let mut left = self.left.lock();
        if *left < bytes {
            // some microseconds, once in many megabytes
            *left = (self.room)().min(GRANT.max(bytes));
        }
        let enough = *left >= bytes;
        if enough {
            *left -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hoard(pod: &Arc<Pod>) -> (Held, usize) {
        let (mut held, mut open) = (Held::new(pod.clone(), MOST), 0);
        while held.open(1, || open) {
            open += 1;
        }
        (held, open)
    }

    #[test]
    fn hoarders_share_and_leave_some_for_the_next() {
        let node = Node::new(9_000);
        let pods: Vec<_> = (0..20).map(|_| Pod::new(node.clone())).collect();
        let mut all = Vec::new();
        let mut counts = Vec::new();
        for pod in &pods {
            let (held, open) = hoard(pod);
            counts.push(open);
            all.push(held);
        }
        assert_eq!(counts[..3], [1_000, 888, 790]);
        assert!(counts.iter().all(|count| *count >= 90), "{counts:?}");
        assert!(node.problem().is_some());
        assert!(hoard(&Pod::new(node.clone())).1 >= 90, "and some for the next");
        // a second instance of the first pod has nothing left, and the share grows when others go
        assert_eq!(hoard(&pods[0]).1, 0);
        all.truncate(1);
        assert_eq!(node.problem(), None);
        assert_eq!(*node.used.lock(), 1_000);
        assert_eq!(hoard(&pods[1]).1, 888);
        all.clear();
        assert_eq!(*node.used.lock(), 0);
    }

    #[test]
    fn what_was_closed_is_noticed() {
        let node = Node::new(100_000);
        let pod = Pod::new(node.clone());
        let mut held = Held::new(pod.clone(), MOST);
        for _ in 0..100_000 {
            assert!(held.open(1, || 3), "it closes as it opens");
        }
        assert!(*node.used.lock() < 10);
        drop(held);
        let (mut held, open) = hoard(&pod);
        assert_eq!(open, MOST, "one instance has a limit of its own");
        assert!(held.open(1, || 0), "it closed all");
        assert!(*node.used.lock() <= 1 + MOST / 16);
    }

    #[test]
    fn writing_ends_before_the_room_does() {
        let room = Arc::new(Mutex::new(100 << 20));
        let free = room.clone();
        let space = Space::new(Arc::new(move || *free.lock()));
        let mut written = 0;
        while space.take(1 << 20) {
            *room.lock() -= 1 << 20;
            written += 1;
        }
        assert_eq!(written, 100);
        *room.lock() = 5;
        assert!(space.take(5) && !space.take(6));
    }

    #[test]
    fn a_few_are_there_for_all_as_long_as_there_are_any() {
        let node = Node::new(40);
        let pods: Vec<_> = (0..4).map(|_| hoard(&Pod::new(node.clone()))).collect();
        assert_eq!(pods.iter().map(|(_, open)| *open).collect::<Vec<_>>(), [16, 16, 8, 0]);
    }
}
