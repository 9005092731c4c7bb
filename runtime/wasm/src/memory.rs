//! Who uses how much guest memory: a tree of accounts, node → pod → container → instance.
//!
//! The node's account knows what the machine has left: what guests may have together is less than all when others use the machine.

use crate::Room;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;
use wasmtime::ResourceLimiter;

/// How often those who wait for memory look at the machine again: nobody tells them when another process has left.
const LOOK: Duration = Duration::from_secs(1);

/// Core instances, memories and tables in one component instance.
const INSTANCES: usize = 256;
const MEMORIES: usize = 4;
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

/// Keeps memory that nobody uses at the moment.
pub(crate) trait Reclaim: Send + Sync {
    /// Gives it back. Returns whether there was any.
    fn reclaim(&self) -> bool;
}

/// An account. What is charged here is charged to its parents as well.
pub(crate) struct Memory {
    who: &'static str,
    used: AtomicU64,
    limit: AtomicU64,
    parent: Option<Arc<Memory>>,
    machine: Option<Machine>,
    freed: Notify,
    /// Those who keep some of it for later.
    idle: Mutex<Vec<Weak<dyn Reclaim>>>,
    /// Those who wait for some.
    waiting: AtomicUsize,
}

/// How the limit of the node's account follows the machine.
struct Machine {
    /// Never more than this.
    most: u64,
    room: Room,
    /// The machine is asked again when guests have taken so much more.
    step: u64,
    /// Up to here the limit holds without asking.
    asked: AtomicU64,
}

impl Memory {
    pub(crate) fn new(who: &'static str, limit: Option<u64>, parent: Option<Arc<Memory>>) -> Arc<Self> {
        Arc::new(Self::account(who, limit.unwrap_or(u64::MAX), parent, None))
    }

    /// The account of all guests: at most `most` bytes, and no more than there is room for.
    pub(crate) fn node(most: u64, room: Room) -> Arc<Self> {
        let machine = Machine { most, room, step: (most / 64).clamp(1 << 20, 256 << 20), asked: AtomicU64::new(0) };
        Arc::new(Self::account("the node", most, None, Some(machine)))
    }

    fn account(who: &'static str, limit: u64, parent: Option<Arc<Memory>>, machine: Option<Machine>) -> Self {
        Self {
            who,
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            parent,
            machine,
            freed: Notify::new(),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The limit, whatever else the machine does.
    fn most(&self) -> u64 {
        self.machine.as_ref().map_or_else(|| self.limit.load(SeqCst), |machine| machine.most)
    }

    /// Asks the machine, if it is the node's account, for one who wants `bytes`. Returns whether it is.
    fn ask(&self, bytes: u64) -> bool {
        let Some(machine) = &self.machine else { return false };
        let used = self.used();
        self.limit.store(machine.most.min((machine.room)(used)), SeqCst);
        machine.asked.store(used.saturating_add(bytes).saturating_add(machine.step), SeqCst);
        true
    }

    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), SeqCst);
        self.freed.notify_waiters();
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
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
        all.iter().fold(false, |any, one| one.reclaim() || any)
    }

    /// The same of the whole node: for places, which are not memory.
    pub(crate) fn reclaim_node(&self) -> bool {
        self.chain().last().is_some_and(Self::reclaim)
    }

    /// Charges, if need be what is given back for it.
    fn charge_or_reclaim(&self, bytes: u64) -> Result<(), OutOfMemory> {
        self.charge(bytes).or_else(|full| {
            let account = self.chain().find(|account| account.who == full.who);
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
        let error = |used| OutOfMemory { wanted: bytes, used, limit, who: self.who, mine: 0 };
        self.used.fetch_update(SeqCst, SeqCst, fits).map(drop).map_err(error)
    }

    fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        if self.machine.as_ref().is_some_and(|it| self.used().saturating_add(bytes) > it.asked.load(SeqCst)) {
            self.ask(bytes);
        }
        // What the machine lacked it may have again.
        self.add(bytes).or_else(|full| if self.ask(bytes) { self.add(bytes) } else { Err(full) })?;
        let above = self.parent.as_ref().map_or(Ok(()), |parent| parent.charge(bytes));
        if above.is_err() {
            self.used.fetch_sub(bytes, SeqCst);
        }
        above
    }

    fn release(&self, bytes: u64) {
        let used = self.used.fetch_sub(bytes, SeqCst) - bytes;
        if let Some(machine) = &self.machine {
            machine.asked.fetch_min(used.saturating_add(machine.step), SeqCst);
        }
        self.freed.notify_waiters();
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }

    /// A share with `bytes` set aside, for an instance that begins with so much, if they are there.
    pub(crate) fn try_reserve(self: &Arc<Self>, bytes: u64) -> Result<Share, OutOfMemory> {
        self.charge(bytes)?;
        Ok(Share::with(self.clone(), bytes))
    }

    /// A share with `bytes` set aside, for an instance that begins with so much. Waits until they fit beside the instances that run;
    /// fails if they do not fit even alone. Cancel-safe.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Share, OutOfMemory> {
        loop {
            let full = match self.charge_or_reclaim(bytes) {
                Ok(()) => return Ok(Share::with(self.clone(), bytes)),
                Err(full) => full,
            };
            // The account that is full is the one that has to get emptier.
            let Some(account) = self.chain().find(|account| account.who == full.who) else { return Err(full) };
            let _waiting = Waiting::new(&account.waiting);
            let freed = account.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let used = account.used();
            if bytes > account.most() || used == 0 && account.machine.is_none() {
                return Err(full);
            }
            if used.saturating_add(bytes) > account.limit.load(SeqCst) {
                // Nobody tells when the machine has room again.
                let _ = tokio::time::timeout(LOOK, freed).await;
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

/// What one store uses; given back when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    mine: u64,
    /// Charged, but not yet asked for by the instance.
    credit: u64,
    /// Of the growth under way, in case it fails.
    last: u64,
    /// Of `mine`, what the host holds for the instance.
    held: u64,
    /// The last charge that was refused.
    refused: Option<OutOfMemory>,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self::with(memory, 0)
    }

    /// One that was charged `bytes` already.
    fn with(memory: Arc<Memory>, bytes: u64) -> Self {
        Self { memory, mine: bytes, credit: bytes, last: 0, held: 0, refused: None }
    }

    /// The host holds `bytes` for the instance now.
    pub(crate) fn hold(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        match bytes.checked_sub(self.held) {
            Some(more) => self.charge(more)?,
            None => {
                let less = self.held - bytes;
                self.memory.release(less);
                self.mine -= less;
            }
        }
        self.held = bytes;
        Ok(())
    }

    /// Why the last charge was refused, if one was.
    pub(crate) fn refused(&self) -> Option<OutOfMemory> {
        self.refused.clone()
    }

    fn charge(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if bytes > 0 {
            let charged = self.memory.charge_or_reclaim(bytes).map_err(|full| OutOfMemory { mine: self.mine, ..full });
            charged.inspect_err(|full| self.refused = Some(full.clone()))?;
            self.mine += bytes;
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        let credit = self.credit.min(bytes);
        let more = bytes - credit;
        self.charge(more)?;
        self.credit -= credit;
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
        let node = Memory::node(150, Arc::new(|_| u64::MAX));
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

    #[tokio::test(start_paused = true)]
    async fn guests_have_no_more_than_the_machine_has_room_for() {
        const MIB: u64 = 1 << 20;
        let left = Arc::new(AtomicU64::new(100 * MIB));
        let (asked, count) = (left.clone(), Arc::new(AtomicU64::new(0)));
        let counted = count.clone();
        let room: Room = Arc::new(move |_| {
            counted.fetch_add(1, SeqCst);
            asked.load(SeqCst)
        });
        let node = Memory::node(640 * MIB, room);
        let memory = Memory::new("the container", None, Some(node.clone()));
        let mut share = Share::new(memory.clone());
        assert!(share.memory_growing(0, 90 << 20, None).unwrap());
        let error = share.memory_growing(90 << 20, 110 << 20, None).unwrap_err();
        assert!(error.to_string().ends_with("94371840 of 104857600 bytes are in use by the node"), "{error}");
        left.store(200 * MIB, SeqCst);
        assert!(share.memory_growing(90 << 20, 110 << 20, None).unwrap(), "a refusal asks again");
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
        tokio::time::sleep(10 * LOOK).await;
        assert!(!late.is_finished(), "it waits: the machine may have room again");
        left.store(u64::MAX, SeqCst);
        late.await.unwrap().unwrap();
        assert!(memory.reserve(700 * MIB).await.is_err(), "and never will it have so much");
    }
}
