//! Node-wide limits of the files that guests open and the bytes that they write, so that guests exhaust neither the descriptors of the API
//! server and the store nor the disk.

use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Bytes that guests may write between two checks of the disk. Other processes may write in between, so that guests exceed the limit by at most
/// as much.
const DISK_GRANT: u64 = 16 << 20;

/// Bytes that a new file, folder or link is counted as.
pub(crate) const ENTRY_BYTES: u64 = 4_096;

/// Most open files of one instance.
pub(crate) const MAX_FILES: usize = 1_024;

/// Most open files of an instance that answers one request.
pub(crate) const MAX_REQUEST_FILES: usize = 512;

/// A pod may have an eighth of the free files.
const POD_DIVISOR: usize = 8;

/// Open files that a pod may have regardless of its fraction, while the node has free ones.
const MIN_POD_FILES: usize = 16;

/// The open files of all guests of the node.
#[derive(Debug)]
pub(crate) struct NodeFiles {
    limit: usize,
    used: Mutex<usize>,
}

impl NodeFiles {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0) })
    }

    /// Returns a warning for the node condition when three quarters of the files are open.
    pub(crate) fn problem(&self) -> Option<String> {
        let (used, limit) = (*self.used.lock(), self.limit);
        (used > limit / 4 * 3).then(|| {
            format!("guests hold {used} files open of the {limit} that this node has for them: pods are refused more before long")
        })
    }
}

/// The open files of one pod: at most an eighth of the files that are free then, or [`MIN_POD_FILES`]. The first greedy pod gets a ninth of all
/// files, the next a ninth of the rest, and so on: twenty greedy pods leave a tenth for the others.
#[derive(Debug)]
pub(crate) struct PodFiles {
    node: Arc<NodeFiles>,
    /// Written under the node's lock only.
    used: AtomicUsize,
}

impl PodFiles {
    pub(crate) fn new(node: Arc<NodeFiles>) -> Arc<Self> {
        Arc::new(Self { node, used: AtomicUsize::new(0) })
    }

    fn take(&self, count: usize) -> bool {
        let mut all = self.node.used.lock();
        let mine = self.used.load(Relaxed) + count;
        let Some(free) = self.node.limit.checked_sub(*all + count) else { return false };
        let allowed = mine <= (free / POD_DIVISOR).max(MIN_POD_FILES);
        if allowed {
            *all += count;
            self.used.store(mine, Relaxed);
        }
        allowed
    }

    fn release(&self, count: usize) {
        let mut all = self.node.used.lock();
        *all -= count;
        self.used.fetch_sub(count, Relaxed);
    }
}

/// The open files of one instance.
#[derive(Debug)]
pub(crate) struct InstanceFiles {
    pod: Arc<PodFiles>,
    /// Files reserved from the pod's budget.
    reserved: usize,
    /// Upper bound of the open files: closed files are subtracted at the next count.
    used: usize,
    /// Most open files.
    max: usize,
}

impl InstanceFiles {
    pub(crate) fn new(pod: Arc<PodFiles>, max: usize) -> Self {
        Self { pod, reserved: 0, used: 0, max }
    }

    /// Whether `more` files may be opened. `count` counts the open files.
    pub(crate) fn open(&mut self, more: usize, count: impl FnOnce() -> usize) -> bool {
        if self.used + more > self.reserved.min(self.max) {
            self.used = count();
            // releases closed files, except a few for the next opens
            let spare = self.reserved.saturating_sub(self.used + more + MAX_FILES / 16);
            if spare > 0 {
                self.pod.release(spare);
                self.reserved -= spare;
            }
        }
        if self.used + more > self.max {
            return false;
        }
        let missing = (self.used + more).saturating_sub(self.reserved);
        if missing > 0 {
            // reserves some in advance, so that a guest with many files is not counted at each open
            let ahead = missing + self.used / 8;
            let taken = [ahead, missing].into_iter().find(|count| self.pod.take(*count));
            let Some(taken) = taken else { return false };
            self.reserved += taken;
        }
        self.used += more;
        true
    }
}

impl Drop for InstanceFiles {
    fn drop(&mut self) {
        self.pod.release(self.reserved);
    }
}

/// The bytes that guests may write to the node's disk.
pub(crate) struct DiskSpace {
    writable_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    left: Mutex<u64>,
}

impl fmt::Debug for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSpace").field("left", &self.left).finish_non_exhaustive()
    }
}

impl DiskSpace {
    /// `writable_bytes` returns how many bytes all guests may write now.
    pub(crate) fn new(writable_bytes: Arc<dyn Fn() -> u64 + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { writable_bytes, left: Mutex::new(0) })
    }

    /// Whether so many bytes may be written. Counts them if so.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let mut left = self.left.lock();
        if *left < bytes {
            // takes some microseconds, once in many megabytes
            *left = (self.writable_bytes)().min(DISK_GRANT.max(bytes));
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

    fn hoard(pod: &Arc<PodFiles>) -> (InstanceFiles, usize) {
        let (mut files, mut open) = (InstanceFiles::new(pod.clone(), MAX_FILES), 0);
        while files.open(1, || open) {
            open += 1;
        }
        (files, open)
    }

    #[test]
    fn hoarders_share_and_leave_some_for_the_next() {
        let node = NodeFiles::new(9_000);
        let pods: Vec<_> = (0..20).map(|_| PodFiles::new(node.clone())).collect();
        let mut all = Vec::new();
        let mut counts = Vec::new();
        for pod in &pods {
            let (files, open) = hoard(pod);
            counts.push(open);
            all.push(files);
        }
        assert_eq!(counts[..3], [1_000, 888, 790]);
        assert!(counts.iter().all(|count| *count >= 90), "{counts:?}");
        assert!(node.problem().is_some());
        assert!(hoard(&PodFiles::new(node.clone())).1 >= 90, "and some for the next");
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
        let node = NodeFiles::new(100_000);
        let pod = PodFiles::new(node.clone());
        let mut files = InstanceFiles::new(pod.clone(), MAX_FILES);
        for _ in 0..100_000 {
            assert!(files.open(1, || 3), "it closes as it opens");
        }
        assert!(*node.used.lock() < 10);
        drop(files);
        let (mut files, open) = hoard(&pod);
        assert_eq!(open, MAX_FILES, "one instance has a limit of its own");
        assert!(files.open(1, || 0), "it closed all");
        assert!(*node.used.lock() <= 1 + MAX_FILES / 16);
    }

    #[test]
    fn writing_ends_before_the_room_does() {
        let writable_bytes = Arc::new(Mutex::new(100 << 20));
        let free = writable_bytes.clone();
        let space = DiskSpace::new(Arc::new(move || *free.lock()));
        let mut written = 0;
        while space.take(1 << 20) {
            *writable_bytes.lock() -= 1 << 20;
            written += 1;
        }
        assert_eq!(written, 100);
        *writable_bytes.lock() = 5;
        assert!(space.take(5) && !space.take(6));
    }

    #[test]
    fn a_few_are_there_for_all_as_long_as_there_are_any() {
        let node = NodeFiles::new(40);
        let pods: Vec<_> = (0..4).map(|_| hoard(&PodFiles::new(node.clone()))).collect();
        assert_eq!(pods.iter().map(|(_, open)| *open).collect::<Vec<_>>(), [16, 16, 8, 0]);
    }
}
