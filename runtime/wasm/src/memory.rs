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
            return Err(OutOfMemory { wanted: bytes, used, limit, who: self.who });
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

    /// Waits until `bytes` would fit beside the instances that run, or until none runs (then it never will, and asking tells why).
    /// Not a reservation. Cancel-safe.
    pub(crate) async fn room(&self, bytes: u64) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let used = self.used();
            if used == 0 || used.saturating_add(bytes) <= self.limit.load(SeqCst) {
                return;
            }
            freed.await;
        }
    }
}

/// What one store uses; given back when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    mine: u64,
    last: u64,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, mine: 0, last: 0 }
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        self.memory.charge(bytes)?;
        self.mine += bytes;
        self.last = bytes;
        Ok(true)
    }

    fn take_back(&mut self) {
        self.memory.release(self.last);
        self.mine -= self.last;
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
    async fn a_beginner_waits_for_room_but_never_alone() {
        let memory = Memory::new("the container", Some(100), None);
        memory.room(1000).await;
        let mut share = Share::new(memory.clone());
        share.memory_growing(0, 80, None).unwrap();
        memory.room(20).await;
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.room(30).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(share);
        waiting.await.unwrap();
    }
}
