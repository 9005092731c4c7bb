//! The queue of compilations: several run at a time, the smallest input goes first, and one permit is reserved for small inputs, so that they
//! do not wait behind large ones.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::oneshot;

/// Most bytes of a small input, which compiles in less than a second.
const SMALL: u64 = 1 << 20;

/// Limits concurrent compilations.
pub(crate) struct CompileQueue {
    /// Most concurrent compilations, at least 2.
    max_compilers: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Running compilations of large inputs.
    large: usize,
    /// Sorted by size, then by arrival.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<CompilePermit>>,
    next: u64,
}

/// Permits one compilation until it is dropped.
pub(crate) struct CompilePermit {
    queue: Option<Arc<CompileQueue>>,
    bytes: u64,
}

impl CompileQueue {
    pub(crate) fn new(max_compilers: usize) -> Arc<Self> {
        Arc::new(Self { max_compilers: max_compilers.max(2), state: Mutex::default() })
    }

    /// Waits for the permit to compile an input of `bytes`. Calls `queued` if it has to wait. Cancel-safe.
    pub(crate) async fn acquire(self: &Arc<Self>, bytes: u64, queued: impl FnOnce()) -> CompilePermit {
        let receiver = {
            let mut state = self.state.lock();
            if let Some(permit) = self.take(&mut state, bytes) {
                return permit;
            }
            let (sender, receiver) = oneshot::channel();
            state.next += 1;
            let key = (bytes, state.next);
            state.waiting.insert(key, sender);
            receiver
        };
        queued();
        // The sender is in the queue, which is borrowed here, until it has sent.
        receiver.await.unwrap_or(CompilePermit { queue: None, bytes })
    }

    fn take(self: &Arc<Self>, state: &mut State, bytes: u64) -> Option<CompilePermit> {
        let is_large = bytes > SMALL;
        if state.running >= self.max_compilers || is_large && state.large + 1 >= self.max_compilers {
            return None;
        }
        state.running += 1;
        state.large += usize::from(is_large);
        Some(CompilePermit { queue: Some(self.clone()), bytes })
    }
}

impl State {
    fn give_back(&mut self, bytes: u64) {
        self.running -= 1;
        self.large -= usize::from(bytes > SMALL);
    }
}

impl Drop for CompilePermit {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut state = queue.state.lock();
        state.give_back(self.bytes);
        while let Some(&(bytes, _)) = state.waiting.keys().next()
            && let Some(permit) = queue.take(&mut state, bytes)
            && let Some((_, sender)) = state.waiting.pop_first()
        {
            if let Err(mut unsent) = sender.send(permit) {
                // The waiter is gone. Without the queue, dropping the permit does not enter this function again.
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
        let queue = CompileQueue::new(2);
        let order = Arc::new(Mutex::new(Vec::new()));
        let start = |bytes: u64| {
            let (queue, order) = (queue.clone(), order.clone());
            tokio::spawn(async move {
                let permit = queue.acquire(bytes, || ()).await;
                order.lock().push(bytes);
                permit
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
        assert_eq!(*order.lock(), [9 * MIB], "one permit is for small ones");
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
        assert_eq!(order.lock().len(), 4, "a permit is for small ones");
        let [eight, three, five] = waiting;
        drop(three.await.unwrap());
        drop(five.await.unwrap());
        drop(eight.await.unwrap());
        assert_eq!(order.lock()[3..], [3 * MIB, 5 * MIB, 8 * MIB]);
        assert_eq!(queue.state.lock().running, 0);
    }
}
