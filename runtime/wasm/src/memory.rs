//! Accounting of guest memory: a tree of accounts, node → pod → container → instance.
//!
//! The limit of the node's account follows the memory that is available on the machine, as other processes use it too.

use crate::MemoryProbe;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};
use tokio::{sync::Notify, task::yield_now};
use wasmtime::ResourceLimiterAsync;

/// Bytes of an instance from which on its container is large. The host fills so many in about 5 ms.
const LARGE: u64 = 32 << 20;

/// How often waiters re-check the available memory: there is no notification when another process frees memory.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Most core instances, memories and tables in one component instance.
const MAX_INSTANCES: usize = 256;
const MAX_MEMORIES: usize = 4;
const MAX_TABLES: usize = 256;

/// A charge exceeds a limit. The text becomes part of the container's termination message.
#[derive(Clone, Debug, thiserror::Error)]
#[error("out of memory: {wanted} more bytes do not fit: {used} of {limit} bytes are in use by {account}")]
pub(crate) struct OutOfMemory {
    wanted: u64,
    used: u64,
    limit: u64,
    account: &'static str,
    /// Bytes that the refused instance already has.
    charged: u64,
}

impl OutOfMemory {
    /// Whether the refused instance would have more than half of the limit. Otherwise many small instances fill the account, and memory becomes
    /// free when some of them end.
    pub(crate) fn is_oversized(&self) -> bool {
        self.charged.saturating_add(self.wanted) > self.limit / 2
    }
}

/// Keeps memory that nobody uses at the moment.
pub(crate) trait Reclaim: Send + Sync {
    /// Gives it back. Returns whether there was any.
    fn reclaim(&self) -> bool;
}

/// A memory account. Charges also go to its parents.
pub(crate) struct MemoryAccount {
    name: &'static str,
    used: AtomicU64,
    limit: AtomicU64,
    parent: Option<Arc<MemoryAccount>>,
    machine: Option<MachineLimit>,
    freed: Notify,
    /// Those who keep some of it for later.
    idle: Mutex<Vec<Weak<dyn Reclaim>>>,
    /// Those who wait for some.
    waiting: AtomicUsize,
    /// An instance has or had [`LARGE`] bytes.
    large: AtomicBool,
}

/// Adjusts the limit of the node's account to the machine's available memory.
struct MachineLimit {
    /// Upper bound of the limit.
    max: u64,
    probe: MemoryProbe,
    /// Growth in bytes after which the probe runs again.
    step: u64,
    /// Use in bytes up to which the limit is valid without a new probe.
    valid_below: AtomicU64,
}

impl MemoryAccount {
    pub(crate) fn new(name: &'static str, limit: Option<u64>, parent: Option<Arc<MemoryAccount>>) -> Arc<Self> {
        Arc::new(Self::account(name, limit.unwrap_or(u64::MAX), parent, None))
    }

    /// The account of all guests. Its limit is `max` bytes, or less if the probe returns less.
    pub(crate) fn node(max: u64, probe: MemoryProbe) -> Arc<Self> {
        let machine =
            MachineLimit { max, probe, step: (max / 64).clamp(1 << 20, 256 << 20), valid_below: AtomicU64::new(0) };
        Arc::new(Self::account("the node", max, None, Some(machine)))
    }

    fn account(
        name: &'static str,
        limit: u64,
        parent: Option<Arc<MemoryAccount>>,
        machine: Option<MachineLimit>,
    ) -> Self {
        Self {
            name,
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            parent,
            machine,
            freed: Notify::new(),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
            large: AtomicBool::new(false),
        }
    }

    /// The configured limit, independent of the machine's available memory.
    fn max_limit(&self) -> u64 {
        self.machine.as_ref().map_or_else(|| self.limit.load(SeqCst), |machine| machine.max)
    }

    /// Runs the probe before a charge of `bytes`, if this is the account of the node. Returns whether it is.
    fn refresh_limit(&self, bytes: u64) -> bool {
        let Some(machine) = &self.machine else { return false };
        let used = self.used();
        self.limit.store(machine.max.min((machine.probe)(used)), SeqCst);
        machine.valid_below.store(used.saturating_add(bytes).saturating_add(machine.step), SeqCst);
        true
    }

    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), SeqCst);
        self.freed.notify_waiters();
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    /// Whether one of its instances has or had so much memory that one instruction of it may take some milliseconds.
    pub(crate) fn is_large(&self) -> bool {
        self.large.load(Relaxed)
    }

    /// The account of the node.
    pub(crate) fn root(self: &Arc<Self>) -> &Arc<Self> {
        self.parent.as_ref().map_or(self, Self::root)
    }

    /// This account and those above it.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |account| account.parent.as_deref())
    }

    /// Somebody keeps memory of this account for later, and gives it back when it is short.
    pub(crate) fn reclaims(&self, idle: &Weak<dyn Reclaim>) {
        for account in self.chain() {
            let mut all = account.idle.lock();
            all.retain(|one| one.strong_count() > 0);
            all.push(idle.clone());
        }
    }

    /// Has what is kept for later given back. Returns whether there was any.
    fn reclaim(&self) -> bool {
        let all: Vec<_> = self.idle.lock().iter().filter_map(Weak::upgrade).collect();
        // each is asked, not only until one has some
        all.iter().filter(|one| one.reclaim()).count() > 0
    }

    /// Reclaims from the whole node, to free instance slots.
    pub(crate) fn reclaim_node(&self) -> bool {
        self.chain().last().is_some_and(Self::reclaim)
    }

    /// Charges, if need be what is given back for it.
    fn charge_or_reclaim(&self, bytes: u64) -> Result<(), OutOfMemory> {
        self.charge(bytes).or_else(|full| {
            let account = self.chain().find(|account| account.name == full.account);
            if account.is_some_and(Self::reclaim) { self.charge(bytes) } else { Err(full) }
        })
    }

    /// Whether somebody waits for memory that is charged here.
    pub(crate) fn is_wanted(&self) -> bool {
        self.chain().any(|account| account.waiting.load(SeqCst) > 0)
    }

    /// Charges this account alone.
    fn add(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let limit = self.limit.load(SeqCst);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let error = |used| OutOfMemory { wanted: bytes, used, limit, account: self.name, charged: 0 };
        self.used.fetch_update(SeqCst, SeqCst, fits).map(drop).map_err(error)
    }

    fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        if self.machine.as_ref().is_some_and(|it| self.used().saturating_add(bytes) > it.valid_below.load(SeqCst)) {
            self.refresh_limit(bytes);
        }
        // after a refusal, memory may have become available on the machine
        self.add(bytes).or_else(|full| if self.refresh_limit(bytes) { self.add(bytes) } else { Err(full) })?;
        let above = self.parent.as_ref().map_or(Ok(()), |parent| parent.charge(bytes));
        if above.is_err() {
            self.used.fetch_sub(bytes, SeqCst);
        }
        above
    }

    fn release(&self, bytes: u64) {
        let used = self.used.fetch_sub(bytes, SeqCst) - bytes;
        if let Some(machine) = &self.machine {
            machine.valid_below.fetch_min(used.saturating_add(machine.step), SeqCst);
        }
        self.freed.notify_waiters();
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }

    /// A share with `bytes` set aside, for an instance that begins with so much, if they are there.
    pub(crate) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Result<InstanceMemory, OutOfMemory> {
        self.charge(bytes)?;
        Ok(InstanceMemory::with(self.clone(), bytes))
    }

    /// A share with `bytes` set aside, for an instance that begins with so much. Waits until they fit beside the instances that run;
    /// fails if they do not fit even alone. Cancel-safe.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<InstanceMemory, OutOfMemory> {
        loop {
            let full = match self.charge_or_reclaim(bytes) {
                Ok(()) => return Ok(InstanceMemory::with(self.clone(), bytes)),
                Err(full) => full,
            };
            // The account that is full is the one that has to get emptier.
            let Some(account) = self.chain().find(|account| account.name == full.account) else { return Err(full) };
            let _waiting = Waiting::new(&account.waiting);
            let freed = account.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let used = account.used();
            if bytes > account.max_limit() {
                return Err(full);
            }
            if used.saturating_add(bytes) > account.limit.load(SeqCst) {
                // no notification arrives when other processes free memory
                let _ = tokio::time::timeout(RECHECK_INTERVAL, freed).await;
            }
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Memory of one instance (one wasmtime store), released when dropped.
pub(crate) struct InstanceMemory {
    memory: Arc<MemoryAccount>,
    charged: u64,
    /// Bytes that are charged, but not yet allocated by the instance.
    reserved: u64,
    /// Bytes of the last growth, in case it fails.
    last: u64,
    /// Part of `charged` that the host allocates for the instance.
    host_bytes: u64,
    /// The last charge that was refused.
    refused: Option<OutOfMemory>,
}

impl InstanceMemory {
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Self {
        Self::with(memory, 0)
    }

    /// One that was charged `bytes` already.
    fn with(memory: Arc<MemoryAccount>, bytes: u64) -> Self {
        Self { memory, charged: bytes, reserved: bytes, last: 0, host_bytes: 0, refused: None }
    }

    /// Sets the bytes that the host allocates for the instance.
    pub(crate) fn set_host_bytes(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        match bytes.checked_sub(self.host_bytes) {
            Some(more) => self.charge(more)?,
            None => {
                let less = self.host_bytes - bytes;
                self.memory.release(less);
                self.charged -= less;
            }
        }
        self.host_bytes = bytes;
        Ok(())
    }

    /// Returns the last refusal, if any.
    pub(crate) fn refused(&self) -> Option<OutOfMemory> {
        self.refused.clone()
    }

    fn charge(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if bytes > 0 {
            let charged =
                self.memory.charge_or_reclaim(bytes).map_err(|full| OutOfMemory { charged: self.charged, ..full });
            charged.inspect_err(|full| self.refused = Some(full.clone()))?;
            self.charged += bytes;
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        let reserved = self.reserved.min(bytes);
        let more = bytes - reserved;
        self.charge(more)?;
        self.reserved -= reserved;
        self.last = bytes;
        Ok(true)
    }

    fn undo_grow(&mut self) {
        self.reserved += self.last;
        self.last = 0;
    }
}

impl Drop for InstanceMemory {
    fn drop(&mut self) {
        self.memory.release(self.charged);
    }
}

impl InstanceMemory {
    fn grow_memory(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current) as u64)
    }

    fn grow_table(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current) as u64 * size_of::<usize>() as u64)
    }

    /// Yields if the container is large from now on, so that the guest goes on as one whose next instruction may take long.
    async fn yield_if_large(&self) {
        if self.charged >= LARGE && !self.memory.large.swap(true, Relaxed) {
            yield_now().await;
        }
    }
}

#[async_trait]
impl ResourceLimiterAsync for InstanceMemory {
    /// Returns an error at the limit, which is a trap: the guest ends as OOMKilled, with the backtrace of the allocation.
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self.grow_memory(current, desired, maximum)?;
        self.yield_if_large().await;
        Ok(grown)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo_grow();
        Ok(())
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self.grow_table(current, desired, maximum)?;
        self.yield_if_large().await;
        Ok(grown)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo_grow();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instances_of_a_container_share_its_limit() {
        let node = MemoryAccount::new("the node", Some(1000), None);
        let one = MemoryAccount::new("the container", Some(600), Some(node.clone()));
        let two = MemoryAccount::new("the container", None, Some(node.clone()));
        let mut a = InstanceMemory::new(one.clone());
        let mut b = InstanceMemory::new(one.clone());
        assert!(a.grow_memory(0, 400, None).unwrap());
        let error = b.grow_memory(0, 300, None).unwrap_err();
        assert_eq!(
            error.downcast_ref::<OutOfMemory>().unwrap().to_string(),
            "out of memory: 300 more bytes do not fit: 400 of 600 bytes are in use by the container"
        );
        let oversized = |error: wasmtime::Error| error.downcast_ref::<OutOfMemory>().unwrap().is_oversized();
        assert!(!oversized(error), "300 of 600 are not more than half: it is only crowded");
        assert!(oversized(a.grow_memory(400, 700, None).unwrap_err()));
        assert!(b.grow_table(0, 25, None).unwrap());
        assert_eq!((one.used(), node.used()), (600, 600));
        let mut c = InstanceMemory::new(two.clone());
        assert!(c.grow_memory(0, 401, None).unwrap_err().to_string().contains("in use by the node"));
        assert_eq!((two.used(), node.used()), (0, 600), "a refused charge leaves no trace");
        drop(a);
        assert!(c.grow_memory(0, 401, None).unwrap());
        assert!(!c.grow_memory(401, 800, Some(500)).unwrap(), "the guest's own maximum is its own affair");
        b.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        drop((b, c));
        assert_eq!((one.used(), two.used(), node.used()), (0, 0, 0));
    }

    #[tokio::test]
    async fn beginners_wait_for_room_unless_they_never_fit() {
        let node = MemoryAccount::node(150, Arc::new(|_| u64::MAX));
        let memory = MemoryAccount::new("the container", Some(100), Some(node.clone()));
        let error = memory.reserve(1000).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("0 of 100 bytes are in use by the container"), "{error}");
        let mut first = memory.reserve(80).await.unwrap();
        assert!(first.grow_memory(0, 80, None).unwrap(), "what is set aside is not charged twice");
        assert_eq!(node.used(), 80);
        let other = MemoryAccount::new("the container", None, Some(node.clone()));
        let waiting =
            [memory.clone(), other.clone()].map(|memory| tokio::spawn(async move { memory.reserve(75).await }));
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|it| !it.is_finished()), "one for its container, one for the node");
        drop(first);
        for waiting in waiting {
            let instance = waiting.await.unwrap().unwrap();
            assert_eq!(instance.charged, 75);
        }
        assert_eq!(node.used(), 0);
    }

    /// Also if the last of the others ends between the refusal and the wait.
    #[tokio::test]
    async fn who_fits_alone_is_not_refused_as_the_others_end() {
        struct Ends(parking_lot::Mutex<Option<InstanceMemory>>);
        impl Reclaim for Ends {
            fn reclaim(&self) -> bool {
                drop(self.0.lock().take());
                false
            }
        }
        let memory = MemoryAccount::new("the container", Some(100), None);
        let other = memory.reserve(75).await.unwrap();
        let ends: Arc<dyn Reclaim> = Arc::new(Ends(parking_lot::Mutex::new(Some(other))));
        memory.reclaims(&Arc::downgrade(&ends));
        let instance = memory.reserve(75).await.unwrap();
        assert_eq!((instance.charged, memory.used()), (75, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn guests_have_no_more_than_the_machine_has_room_for() {
        const MIB: u64 = 1 << 20;
        let left = Arc::new(AtomicU64::new(100 * MIB));
        let (asked, count) = (left.clone(), Arc::new(AtomicU64::new(0)));
        let counted = count.clone();
        let probe: MemoryProbe = Arc::new(move |_| {
            counted.fetch_add(1, SeqCst);
            asked.load(SeqCst)
        });
        let node = MemoryAccount::node(640 * MIB, probe);
        let memory = MemoryAccount::new("the container", None, Some(node.clone()));
        let mut instance = InstanceMemory::new(memory.clone());
        assert!(instance.grow_memory(0, 90 << 20, None).unwrap());
        let error = instance.grow_memory(90 << 20, 110 << 20, None).unwrap_err();
        assert!(error.to_string().ends_with("94371840 of 104857600 bytes are in use by the node"), "{error}");
        left.store(200 * MIB, SeqCst);
        assert!(instance.grow_memory(90 << 20, 110 << 20, None).unwrap(), "a refusal asks again");
        let before = count.load(SeqCst);
        for _ in 0..1000 {
            drop(memory.reserve(MIB).await.unwrap());
        }
        assert_eq!(count.load(SeqCst), before, "what comes and goes costs no look at the machine");
        left.store(0, SeqCst);
        let late = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(300 * MIB).await.map(drop) }
        });
        tokio::time::sleep(10 * RECHECK_INTERVAL).await;
        assert!(!late.is_finished(), "it waits: the machine may have room again");
        left.store(u64::MAX, SeqCst);
        late.await.unwrap().unwrap();
        assert!(memory.reserve(700 * MIB).await.is_err(), "and never will it have so much");
    }
}
