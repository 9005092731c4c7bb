//! Between a guest that answers a request and whoever takes the answer.
//!
//! The taker is woken when the guest lets go of its thread, not at each small write: what was written meanwhile goes out together.

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

/// One answer on its way.
#[derive(Default)]
pub(crate) struct Delivery {
    /// The guest returned.
    returned: AtomicBool,
    /// The guest has nothing to do with the request any more: it returned, or its instance goes.
    over: AtomicBool,
    taker: Mutex<Taker>,
}

#[derive(Default)]
struct Taker {
    waker: Option<Waker>,
    /// The guest runs.
    held: bool,
    /// There is something to take since it does.
    woken: bool,
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

    /// Whether nothing more comes, and whether that is since the guest returned.
    pub(crate) fn is_over(&self) -> Option<bool> {
        self.over.load(SeqCst).then(|| self.returned.load(SeqCst))
    }

    /// To poll what the guest fills: whoever does so with this context is woken when it lets go of its thread.
    pub(crate) fn poll<T>(self: &Arc<Self>, context: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        {
            let mut taker = self.taker.lock();
            if !taker.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                taker.waker = Some(context.waker().clone());
            }
        }
        let waker = self.clone().into();
        poll(&mut Context::from_waker(&waker))
    }

    fn hold(&self) {
        self.taker.lock().held = true;
    }

    fn release(&self) {
        let mut taker = self.taker.lock();
        taker.held = false;
        if std::mem::take(&mut taker.woken) {
            drop(taker);
            self.wake();
        }
    }

    /// Wakes the taker, or does so when the guest lets go.
    fn wake(&self) {
        let mut taker = self.taker.lock();
        if taker.held {
            taker.woken = true;
            return;
        }
        let waker = taker.waker.clone();
        drop(taker);
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

/// A guest's future that holds what it writes until it lets go of its thread.
pub(crate) struct Held<F> {
    future: Pin<Box<F>>,
    delivery: Arc<Delivery>,
}

impl<F: Future> Held<F> {
    pub(crate) fn new(future: F, delivery: Arc<Delivery>) -> Self {
        Self { future: Box::pin(future), delivery }
    }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.delivery.hold();
        let result = self.future.as_mut().poll(context);
        self.delivery.release();
        result
    }
}

impl<F> Drop for Held<F> {
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
        let taker = Waker::from(count.clone());
        let writes = delivery.poll(&Context::from_waker(&taker), |context| context.waker().clone());
        let (guest, seen) = (writes.clone(), count.clone());
        let mut held = Held::new(
            std::future::poll_fn(move |_| {
                (0..100).for_each(|_| guest.wake_by_ref());
                assert_eq!(seen.0.load(SeqCst) % 2, 0, "not while it runs");
                Poll::<()>::Pending
            }),
            delivery.clone(),
        );
        let mut guest = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut held).poll(&mut guest).is_pending());
        assert_eq!(count.0.load(SeqCst), 1);
        writes.wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 2, "at once while no guest runs");
        assert!(Pin::new(&mut held).poll(&mut guest).is_pending());
        assert_eq!((count.0.load(SeqCst), delivery.is_over()), (3, None));
        delivery.end();
        assert_eq!((count.0.load(SeqCst), delivery.is_over()), (4, Some(false)));
    }
}
