//! Slots for connections before and during their handshake: a limited number, and when all are taken, the oldest connection is evicted. So
//! silent connections lock nobody out, because a client sends its first bytes at once.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A limited number of slots. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots {
    limit: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Taken slots by age, each with the token of its eviction.
    taken: BTreeMap<u64, CancellationToken>,
}

/// A slot, which is released when dropped.
pub(crate) struct Slot {
    slots: Slots,
    number: u64,
    evicted: CancellationToken,
}

impl Slots {
    /// So many slots.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Arc::default() }
    }

    /// Takes a slot. If none is free, the oldest one is evicted.
    pub(crate) fn take(&self) -> Slot {
        let evicted = CancellationToken::new();
        let mut inner = self.inner.lock();
        while inner.taken.len() >= self.limit {
            let Some((_, oldest)) = inner.taken.pop_first() else { break };
            oldest.cancel();
        }
        let number = inner.next;
        inner.next += 1;
        inner.taken.insert(number, evicted.clone());
        Slot { slots: self.clone(), number, evicted }
    }
}

impl Slot {
    /// Runs the future; `None` when the slot is evicted.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.evicted.cancelled() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.inner.lock().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn the_oldest_makes_place_and_places_are_given_back() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take(), slots.take());
        let held = |place: &Slot| place.run(std::future::pending::<()>()).now_or_never().is_none();
        assert!(held(&first) && held(&second));
        let third = slots.take();
        assert!(!held(&first) && held(&second) && held(&third));
        drop(second);
        let fourth = slots.take();
        assert!(held(&third) && held(&fourth));
        drop((first, third, fourth));
        assert!(slots.inner.lock().taken.is_empty());
        assert_eq!(slots.take().run(async { 7 }).await, Some(7));
    }
}
