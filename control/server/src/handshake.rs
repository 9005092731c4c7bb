//! Connections that have not proved who they are: they wait in a small room of their own, and when it is full the oldest makes place for
//! the newest. So those who say nothing keep nobody out: who has something to say says it at once.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A room with so many places, taken in turn. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Waiting {
    most: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By age.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A place, given back when dropped.
pub(crate) struct Place {
    room: Waiting,
    number: u64,
    lost: CancellationToken,
}

impl Waiting {
    /// Room for so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), inner: Arc::default() }
    }

    /// A place; whoever has waited the longest loses theirs if there is none.
    pub(crate) fn enter(&self) -> Place {
        let lost = CancellationToken::new();
        let mut inner = self.inner.lock();
        while inner.waiting.len() >= self.most {
            let Some((_, oldest)) = inner.waiting.pop_first() else { break };
            oldest.cancel();
        }
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, lost.clone());
        Place { room: self.clone(), number, lost }
    }
}

impl Place {
    /// The outcome of some work, or nothing when somebody newer needs the place.
    pub(crate) async fn keep<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.inner.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn the_oldest_makes_place_and_places_are_given_back() {
        let room = Waiting::new(2);
        let (first, second) = (room.enter(), room.enter());
        let held = |place: &Place| place.keep(std::future::pending::<()>()).now_or_never().is_none();
        assert!(held(&first) && held(&second));
        let third = room.enter();
        assert!(!held(&first) && held(&second) && held(&third));
        drop(second);
        let fourth = room.enter();
        assert!(held(&third) && held(&fourth));
        drop((first, third, fourth));
        assert!(room.inner.lock().waiting.is_empty());
        assert_eq!(room.enter().keep(async { 7 }).await, Some(7));
    }
}
