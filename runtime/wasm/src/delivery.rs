//! Delivery of a guest's answer to the task that sends it to the client.
//!
//! The sending task is woken when the guest yields its thread, not at each small write, so that small writes are sent together.

use parking_lot::Mutex;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The delivery of one answer.
#[derive(Default)]
pub(crate) struct Delivery {
    /// The guest returned.
    returned: AtomicBool,
    /// The guest no longer works on the request: it returned, or its instance is dropped.
    over: AtomicBool,
    consumer: Mutex<Consumer>,
}

#[derive(Default)]
struct Consumer {
    waker: Option<Waker>,
    /// The guest is being polled.
    guest_running: bool,
    /// The guest has written since its poll began.
    wake_pending: bool,
}

impl Delivery {
    /// The guest returned.
    pub(crate) fn returned(&self) {
        self.returned.store(true, SeqCst);
    }

    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
        self.wake();
    }

    /// `Some` once nothing more follows: whether the guest returned.
    pub(crate) fn is_over(&self) -> Option<bool> {
        self.over.load(SeqCst).then(|| self.returned.load(SeqCst))
    }

    /// Polls what the guest fills with a context that is woken when the guest yields its thread.
    pub(crate) fn poll<T>(self: &Arc<Self>, context: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        {
            let mut consumer = self.consumer.lock();
            if !consumer.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                consumer.waker = Some(context.waker().clone());
            }
        }
        let waker = self.clone().into();
        poll(&mut Context::from_waker(&waker))
    }

    fn hold(&self) {
        self.consumer.lock().guest_running = true;
    }

    fn release(&self) {
        let mut consumer = self.consumer.lock();
        consumer.guest_running = false;
        if std::mem::take(&mut consumer.wake_pending) {
            drop(consumer);
            self.wake();
        }
    }

    /// Wakes the consumer, now or when the guest yields.
    fn wake(&self) {
        let mut consumer = self.consumer.lock();
        if consumer.guest_running {
            consumer.wake_pending = true;
            return;
        }
        let waker = consumer.waker.clone();
        drop(consumer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Wake for Delivery {
    fn wake(self: Arc<Self>) {
        Delivery::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Delivery::wake(self);
    }
}

/// A guest's future whose writes are announced when it yields its thread.
pub(crate) struct BatchedWrites<F> {
    future: Pin<Box<F>>,
    delivery: Arc<Delivery>,
}

impl<F: Future> BatchedWrites<F> {
    pub(crate) fn new(future: F, delivery: Arc<Delivery>) -> Self {
        Self { future: Box::pin(future), delivery }
    }
}

impl<F: Future> Future for BatchedWrites<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.delivery.hold();
        let result = self.future.as_mut().poll(context);
        self.delivery.release();
        result
    }
}

impl<F> Drop for BatchedWrites<F> {
    /// Also after a panic: what goes with the future is told at once.
    fn drop(&mut self) {
        self.delivery.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn the_taker_is_woken_once_the_guest_lets_go_and_not_at_each_write() {
        let (delivery, count) = (Arc::<Delivery>::default(), Arc::<Count>::default());
        let consumer = Waker::from(count.clone());
        let writes = delivery.poll(&Context::from_waker(&consumer), |context| context.waker().clone());
        let (guest, seen) = (writes.clone(), count.clone());
        let mut batched = BatchedWrites::new(
            std::future::poll_fn(move |_| {
                (0..100).for_each(|_| guest.wake_by_ref());
                assert_eq!(seen.0.load(SeqCst) % 2, 0, "not while it runs");
                Poll::<()>::Pending
            }),
            delivery.clone(),
        );
        let mut guest = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut batched).poll(&mut guest).is_pending());
        assert_eq!(count.0.load(SeqCst), 1);
        writes.wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 2, "at once while no guest runs");
        assert!(Pin::new(&mut batched).poll(&mut guest).is_pending());
        assert_eq!((count.0.load(SeqCst), delivery.is_over()), (3, None));
        delivery.end();
        assert_eq!((count.0.load(SeqCst), delivery.is_over()), (4, Some(false)));
    }
}
