//! Who compiles next: several at a time, the smallest first, and one place that only small ones take, so that none waits for minutes behind
//! large ones.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::oneshot;

/// Bytes of Wasm that compile in less than a second.
const SMALL: u64 = 1 << 20;

pub(crate) struct Queue {
    /// Compilers at a time, at least 2.
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Of them, those that are not small.
    large: usize,
    /// By size, then in order.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Place>>,
    next: u64,
}

/// A compiler may run until this is dropped.
pub(crate) struct Place {
    queue: Option<Arc<Queue>>,
    bytes: u64,
}

impl Queue {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(2), state: Mutex::default() })
    }

    /// A place to compile so many bytes; `queued` is called if there is none yet. Cancel-safe.
    pub(crate) async fn place(self: &Arc<Self>, bytes: u64, queued: impl FnOnce()) -> Place {
        let receiver = {
            let mut state = self.state.lock();
            if let Some(place) = self.take(&mut state, bytes) {
                return place;
            }
            let (sender, receiver) = oneshot::channel();
            state.next += 1;
            let key = (bytes, state.next);
            state.waiting.insert(key, sender);
            receiver
        };
        queued();
        // The sender is in the queue, which is borrowed here, until it has sent.
        receiver.await.unwrap_or(Place { queue: None, bytes })
    }

    fn take(self: &Arc<Self>, state: &mut State, bytes: u64) -> Option<Place> {
        let is_large = bytes > SMALL;
        if state.running >= self.places || is_large && state.large + 1 >= self.places {
            return None;
        }
        state.running += 1;
        state.large += usize::from(is_large);
        Some(Place { queue: Some(self.clone()), bytes })
    }
}

impl State {
    fn give_back(&mut self, bytes: u64) {
        self.running -= 1;
        self.large -= usize::from(bytes > SMALL);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut state = queue.state.lock();
        state.give_back(self.bytes);
        while let Some(&(bytes, _)) = state.waiting.keys().next()
            && let Some(place) = queue.take(&mut state, bytes)
            && let Some((_, sender)) = state.waiting.pop_first()
        {
            if let Err(mut unsent) = sender.send(place) {
                // It is not waited for any more. Dropping it would come back here.
                unsent.queue = None;
                state.give_back(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn the_smallest_is_next_and_large_ones_leave_a_place() {
        let queue = Queue::new(2);
        let order = Arc::new(Mutex::new(Vec::new()));
        let start = |bytes: u64| {
            let (queue, order) = (queue.clone(), order.clone());
            tokio::spawn(async move {
                let place = queue.place(bytes, || ()).await;
                order.lock().push(bytes);
                place
            })
        };
        let settle = async || {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        };
        let large = start(9 * MIB).await.unwrap();
        let waiting = [8 * MIB, 3 * MIB, 5 * MIB].map(start);
        settle().await;
        assert_eq!(*order.lock(), [9 * MIB], "one place is for small ones");
        let small = start(MIB).await.unwrap();
        let second = start(10);
        settle().await;
        assert_eq!(*order.lock(), [9 * MIB, MIB]);
        drop(small);
        let second = second.await.unwrap();
        let gone = start(MIB);
        settle().await;
        gone.abort();
        settle().await;
        drop(large);
        settle().await;
        assert_eq!(order.lock()[2..], [10, 3 * MIB], "the smallest of those that wait, beside a small one");
        drop(second);
        settle().await;
        assert_eq!(order.lock().len(), 4, "a place is for small ones");
        let [eight, three, five] = waiting;
        drop(three.await.unwrap());
        drop(five.await.unwrap());
        drop(eight.await.unwrap());
        assert_eq!(order.lock()[3..], [3 * MIB, 5 * MIB, 8 * MIB]);
        assert_eq!(queue.state.lock().running, 0);
    }
}
