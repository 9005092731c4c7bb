//! Who uses how much guest memory: a tree of accounts, node → pod → container → instance.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use tokio::sync::Notify;
use wasmtime::ResourceLimiter;

/// Core instances, memories and tables in one component instance.
const INSTANCES: usize = 256;
const MEMORIES: usize = 64;
const TABLES: usize = 256;

/// Asked for more than allowed. The whole story, for the message of the container's end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("out of memory: {wanted} more bytes do not fit: {used} of {limit} bytes are in use by {who}")]
pub(crate) struct OutOfMemory {
    wanted: u64,
    used: u64,
    limit: u64,
    who: &'static str,
    /// What the instance that asked has itself.
    mine: u64,
}

impl OutOfMemory {
    /// Whether whoever asked is to blame: it would have more than half of all. Else many small ones fill the account together, which
    /// passes when some of them end.
    pub(crate) fn is_hoarder(&self) -> bool {
        self.mine.saturating_add(self.wanted) > self.limit / 2
    }
}

/// An account. What is charged here is charged to its parents as well.
pub(crate) struct Memory {
    who: &'static str,
    used: AtomicU64,
    limit: AtomicU64,
    parent: Option<Arc<Memory>>,
    freed: Notify,
}

impl Memory {
    pub(crate) fn new(who: &'static str, limit: Option<u64>, parent: Option<Arc<Memory>>) -> Arc<Self> {
        let limit = AtomicU64::new(limit.unwrap_or(u64::MAX));
        Arc::new(Self { who, used: AtomicU64::new(0), limit, parent, freed: Notify::new() })
    }

    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), SeqCst);
        self.freed.notify_waiters();
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let limit = self.limit.load(SeqCst);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        if let Err(used) = self.used.fetch_update(SeqCst, SeqCst, fits) {
            return Err(OutOfMemory { wanted: bytes, used, limit, who: self.who, mine: 0 });
        }
        let above = self.parent.as_ref().map_or(Ok(()), |parent| parent.charge(bytes));
        if above.is_err() {
            self.used.fetch_sub(bytes, SeqCst);
        }
        above
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, SeqCst);
        self.freed.notify_waiters();
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }

    /// A share with `bytes` set aside, for an instance that begins with so much. Waits until they fit beside the instances that run;
    /// fails if they do not fit even alone. Cancel-safe.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Share, OutOfMemory> {
        loop {
            let full = match self.charge(bytes) {
                Ok(()) => return Ok(Share { memory: self.clone(), mine: bytes, credit: bytes, last: 0 }),
                Err(full) => full,
            };
            // The account that is full is the one that has to get emptier.
            let mut account = self;
            while account.who != full.who {
                let Some(parent) = &account.parent else { return Err(full) };
                account = parent;
            }
            let freed = account.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let used = account.used();
            if used == 0 {
                return Err(full);
            }
            if used.saturating_add(bytes) > account.limit.load(SeqCst) {
                freed.await;
            }
        }
    }
}

/// What one store uses; given back when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    mine: u64,
    /// Charged, but not yet asked for by the instance.
    credit: u64,
    /// Of the growth under way, in case it fails.
    last: u64,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, mine: 0, credit: 0, last: 0 }
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        let credit = self.credit.min(bytes);
        let more = bytes - credit;
        self.memory.charge(more).map_err(|full| OutOfMemory { mine: self.mine, ..full })?;
        self.credit -= credit;
        self.mine += more;
        self.last = bytes;
        Ok(true)
    }

    fn take_back(&mut self) {
        self.credit += self.last;
        self.last = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.release(self.mine);
    }
}

impl ResourceLimiter for Share {
    /// An error is a trap: a guest that cannot have memory within its limit ends as OOMKilled, with the backtrace of who asked.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current) as u64)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current) as u64 * size_of::<usize>() as u64)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instances_of_a_container_share_its_limit() {
        let node = Memory::new("the node", Some(1000), None);
        let one = Memory::new("the container", Some(600), Some(node.clone()));
        let two = Memory::new("the container", None, Some(node.clone()));
        let mut a = Share::new(one.clone());
        let mut b = Share::new(one.clone());
        assert!(a.memory_growing(0, 400, None).unwrap());
        let error = b.memory_growing(0, 300, None).unwrap_err();
        assert_eq!(
            error.downcast_ref::<OutOfMemory>().unwrap().to_string(),
            "out of memory: 300 more bytes do not fit: 400 of 600 bytes are in use by the container"
        );
        let hoards = |error: wasmtime::Error| error.downcast_ref::<OutOfMemory>().unwrap().is_hoarder();
        assert!(!hoards(error), "300 of 600 are not more than half: it is only crowded");
        assert!(hoards(a.memory_growing(400, 700, None).unwrap_err()));
        assert!(b.table_growing(0, 25, None).unwrap());
        assert_eq!((one.used(), node.used()), (600, 600));
        let mut c = Share::new(two.clone());
        assert!(c.memory_growing(0, 401, None).unwrap_err().to_string().contains("in use by the node"));
        assert_eq!((two.used(), node.used()), (0, 600), "a refused charge leaves no trace");
        drop(a);
        assert!(c.memory_growing(0, 401, None).unwrap());
        assert!(!c.memory_growing(401, 800, Some(500)).unwrap(), "the guest's own maximum is its own affair");
        b.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        drop((b, c));
        assert_eq!((one.used(), two.used(), node.used()), (0, 0, 0));
    }

    #[tokio::test]
    async fn beginners_wait_for_room_unless_they_never_fit() {
        let node = Memory::new("the node", Some(150), None);
        let memory = Memory::new("the container", Some(100), Some(node.clone()));
        let error = memory.reserve(1000).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("0 of 100 bytes are in use by the container"), "{error}");
        let mut first = memory.reserve(80).await.unwrap();
        assert!(first.memory_growing(0, 80, None).unwrap(), "what is set aside is not charged twice");
        assert_eq!(node.used(), 80);
        let other = Memory::new("the container", None, Some(node.clone()));
        let waiting =
            [memory.clone(), other.clone()].map(|memory| tokio::spawn(async move { memory.reserve(75).await }));
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|it| !it.is_finished()), "one for its container, one for the node");
        drop(first);
        for waiting in waiting {
            let share = waiting.await.unwrap().unwrap();
            assert_eq!(share.mine, 75);
        }
        assert_eq!(node.used(), 0);
    }
}
