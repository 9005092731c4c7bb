//! Instance slots: the node's limit on concurrent instances, and how the slots are divided among containers.
//!
//! An instance takes *pool* slots or *single* slots. The pool is allocated at startup, and an instance starts quickly in it. A single
//! instance is allocated on demand. Single slots serve commands, which are long-lived, instances that do not fit the pool's limits, and
//! requests when the pool is full. Single slots are limited too: each instance uses memory maps, the kernel limits the memory maps of a
//! process (`vm.max_map_count`), and a process that reaches that limit cannot allocate memory.

use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// A container takes at most 1/4 of the slots of each kind.
const SHARE_DIVISOR: usize = 4;
/// 1/16 of the slots of each kind is reserved for containers without an instance, so that a first request or probe succeeds on a busy node.
const FIRST_DIVISOR: usize = 16;
/// 1/4 of the pool is reserved for HTTP requests: commands never take it.
const HTTP_DIVISOR: usize = 4;

/// The kind of a slot: in the preallocated pool, or allocated on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotKind {
    Pool,
    Single,
}

/// Why no slot is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotsExhausted {
    /// The container is at its limit. It gets another slot when one of its own instances ends.
    Container,
    /// The node has no slot left that this container may take.
    Node,
}

/// A number of slots of each kind.
#[derive(Clone, Copy)]
struct Count {
    pool: usize,
    single: usize,
}

/// All instance slots of the node.
pub(crate) struct InstanceSlots {
    capacity: Count,
    free: Mutex<Count>,
}

/// The slots that one container holds.
#[derive(Default)]
pub(crate) struct ContainerSlots {
    pool: AtomicUsize,
    single: AtomicUsize,
    freed: Notify,
}

/// The slots of one instance, released on drop.
pub(crate) struct InstanceSlot {
    slots: Arc<InstanceSlots>,
    container: Arc<ContainerSlots>,
    pub(crate) kind: SlotKind,
    /// Number of slots.
    count: usize,
}

/// The slots that an instance needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRequirements {
    /// The instance fits the limits of the pool.
    pub(crate) fits_pool: bool,
    /// Single slots that the instance takes outside the pool: one per linear memory, because each memory uses memory maps of the kernel.
    pub(crate) single: usize,
}

/// Most slots of one kind that a container takes, out of `capacity`.
fn max_per_container(capacity: usize) -> usize {
    capacity.div_ceil(SHARE_DIVISOR)
}

impl InstanceSlots {
    pub(crate) fn new(pool: usize, single: usize) -> Arc<Self> {
        let capacity = Count { pool, single };
        Arc::new(Self { capacity, free: Mutex::new(capacity) })
    }

    /// The total number of slots, and how many of them are taken.
    pub(crate) fn count(&self) -> (usize, usize) {
        let (all, free) = (self.capacity.pool + self.capacity.single, *self.free.lock());
        (all, all - free.pool - free.single)
    }

    /// Whether at most 10% of the slots available to commands are free. Commands are the first to run out of slots.
    pub(crate) fn is_short(&self) -> bool {
        let all = self.capacity;
        let reserved = Count { pool: all.pool / HTTP_DIVISOR, single: all.single / FIRST_DIVISOR };
        let free = *self.free.lock();
        let left = free.pool.saturating_sub(reserved.pool) + free.single.saturating_sub(reserved.single);
        left * 10 <= all.pool - reserved.pool + all.single - reserved.single
    }

    /// Takes the slots for a request's instance. Waits while the container is at its limit. Returns `None` if the node is full.
    /// Cancel-safe.
    pub(crate) async fn request(
        self: &Arc<Self>,
        container: &Arc<ContainerSlots>,
        required: SlotRequirements,
    ) -> Option<InstanceSlot> {
        loop {
            let freed = container.freed.notified();
            match self.try_request(container, required) {
                Ok(slot) => return Some(slot),
                Err(SlotsExhausted::Node) => return None,
                Err(SlotsExhausted::Container) => freed.await,
            }
        }
    }

    /// Takes the slots for a spare instance, which no request needs yet. Returns `None` if no slot is free.
    pub(crate) fn spare(
        self: &Arc<Self>,
        container: &Arc<ContainerSlots>,
        required: SlotRequirements,
    ) -> Option<InstanceSlot> {
        self.try_request(container, required).ok()
    }

    fn try_request(
        self: &Arc<Self>,
        container: &Arc<ContainerSlots>,
        required: SlotRequirements,
    ) -> Result<InstanceSlot, SlotsExhausted> {
        let mut free = self.free.lock();
        let mine = Count { pool: container.pool.load(Relaxed), single: container.single.load(Relaxed) };
        let is_first = mine.pool + mine.single == 0;
        let fits = |free: usize, mine: usize, all: usize, count: usize| {
            free >= count && (is_first || mine + count <= max_per_container(all) && free >= all / FIRST_DIVISOR + count)
        };
        if required.fits_pool && fits(free.pool, mine.pool, self.capacity.pool, 1) {
            return Ok(self.take(&mut free, container, SlotKind::Pool, 1));
        }
        if fits(free.single, mine.single, self.capacity.single, required.single) {
            return Ok(self.take(&mut free, container, SlotKind::Single, required.single));
        }
        let pool_at_limit = !required.fits_pool || mine.pool >= max_per_container(self.capacity.pool);
        let single_at_limit = mine.single + required.single > max_per_container(self.capacity.single);
        Err(if pool_at_limit && single_at_limit && !is_first {
            SlotsExhausted::Container
        } else {
            SlotsExhausted::Node
        })
    }

    /// Takes the slots for a command. Commands are long-lived and therefore prefer single slots. Returns `None` if the node is full.
    pub(crate) fn command(
        self: &Arc<Self>,
        container: &Arc<ContainerSlots>,
        required: SlotRequirements,
    ) -> Option<InstanceSlot> {
        let mut free = self.free.lock();
        if free.single >= self.capacity.single / FIRST_DIVISOR + required.single {
            return Some(self.take(&mut free, container, SlotKind::Single, required.single));
        }
        if required.fits_pool && free.pool > self.capacity.pool / HTTP_DIVISOR {
            return Some(self.take(&mut free, container, SlotKind::Pool, 1));
        }
        None
    }

    /// Moves `count` slots from `free` to `container`.
    fn take(
        self: &Arc<Self>,
        free: &mut Count,
        container: &Arc<ContainerSlots>,
        kind: SlotKind,
        count: usize,
    ) -> InstanceSlot {
        *free.of(kind) -= count;
        container.of(kind).fetch_add(count, Relaxed);
        InstanceSlot { slots: self.clone(), container: container.clone(), kind, count }
    }
}

impl Count {
    fn of(&mut self, kind: SlotKind) -> &mut usize {
        match kind {
            SlotKind::Pool => &mut self.pool,
            SlotKind::Single => &mut self.single,
        }
    }
}

impl ContainerSlots {
    fn of(&self, kind: SlotKind) -> &AtomicUsize {
        match kind {
            SlotKind::Pool => &self.pool,
            SlotKind::Single => &self.single,
        }
    }
}

impl Drop for InstanceSlot {
    fn drop(&mut self) {
        let mut free = self.slots.free.lock();
        *free.of(self.kind) += self.count;
        self.container.of(self.kind).fetch_sub(self.count, Relaxed);
        drop(free);
        self.container.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FITS: SlotRequirements = SlotRequirements { fits_pool: true, single: 1 };
    const LARGE: SlotRequirements = SlotRequirements { fits_pool: false, single: 4 };

    fn take(
        slots: &Arc<InstanceSlots>,
        container: &Arc<ContainerSlots>,
        most: usize,
    ) -> (Vec<InstanceSlot>, Option<SlotsExhausted>) {
        let mut taken = Vec::new();
        while taken.len() < most {
            match slots.try_request(container, FITS) {
                Ok(slot) => taken.push(slot),
                Err(full) => return (taken, Some(full)),
            }
        }
        (taken, None)
    }

    #[test]
    fn no_container_has_more_than_its_share_and_each_has_a_first() {
        let slots = InstanceSlots::new(64, 32);
        let greedy: Vec<_> = (0..8)
            .map(|_| {
                let container = Arc::<ContainerSlots>::default();
                let (taken, full) = take(&slots, &container, 1000);
                (container, taken, full)
            })
            .collect();
        assert_eq!((greedy[0].1.len(), greedy[0].2), (16 + 8, Some(SlotsExhausted::Container)), "a quarter of each");
        assert!(slots.is_short(), "{:?}", slots.count());
        let (_, last, full) = &greedy[7];
        assert_eq!(
            (last.len(), *full),
            (1, Some(SlotsExhausted::Node)),
            "only what is kept for first requests is left"
        );
        let late = Arc::<ContainerSlots>::default();
        assert_eq!(take(&slots, &late, 10).0.len(), 1, "the first of another");
        drop(greedy);
        assert_eq!(slots.count(), (96, 0));
        assert!(!slots.is_short());
    }

    #[test]
    fn commands_leave_places_for_requests() {
        let slots = InstanceSlots::new(64, 32);
        let container = Arc::<ContainerSlots>::default();
        let commands: Vec<_> = std::iter::from_fn(|| slots.command(&container, FITS)).collect();
        assert_eq!(commands.iter().filter(|it| it.kind == SlotKind::Single).count(), 30);
        assert_eq!(commands.iter().filter(|it| it.kind == SlotKind::Pool).count(), 48);
        assert!(slots.command(&container, FITS).is_none());
        let http = Arc::<ContainerSlots>::default();
        assert!(slots.try_request(&http, FITS).is_ok_and(|slot| slot.kind == SlotKind::Pool));
        assert!(slots.try_request(&Arc::default(), LARGE).is_err(), "it needs four, two are kept");
        drop(commands);
        let large = slots.try_request(&http, LARGE).unwrap();
        assert_eq!((large.kind, slots.count()), (SlotKind::Single, (96, 4)));
        drop(large);
        assert_eq!(slots.count(), (96, 0));
    }

    #[tokio::test]
    async fn who_has_its_share_waits_for_its_own_and_is_woken() {
        let slots = InstanceSlots::new(4, 0);
        let container = Arc::<ContainerSlots>::default();
        let slot = slots.request(&container, FITS).await.unwrap();
        let waiting = tokio::spawn({
            let (slots, container) = (slots.clone(), container.clone());
            async move { slots.request(&container, FITS).await.map(|slot| slot.kind) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(slot);
        assert_eq!(waiting.await.unwrap(), Some(SlotKind::Pool));
        assert!(slots.request(&Arc::default(), LARGE).await.is_none(), "the node has no single slot");
    }
}
