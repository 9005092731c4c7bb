//! The epoch ticker, at whose ticks running guests yield to the scheduler.

use crate::long_polls::LongPolls;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};
use wasmtime::EngineWeak;

/// How often a running guest yields.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a running guest after which the ticker parks: an idle node has no ticks, a busy handler does not wake the ticker for each
/// request, and a throttled guest has few ticks beside its own.
const IDLE_TICKS: u32 = 3;

/// Advances the epoch every [`TICK`] while any guest is being polled, and sees to it that turns are begun ([`crate::turns`]).
pub(crate) struct Ticker {
    active: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    thread: parking_lot::Mutex<Option<Thread>>,
    /// The polls of guests that may not yield at the next tick.
    pub(crate) long_polls: LongPolls,
}

/// Marks a guest as running until this is dropped.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    /// `threads`: the threads that run guests.
    pub(crate) fn start(engines: Vec<EngineWeak>, threads: usize) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            active: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: parking_lot::Mutex::new(None),
            long_polls: LongPolls::new(threads),
        });
        let thread: JoinHandle<()> = thread::Builder::new().name("guest-epoch".into()).spawn({
            let ticker = ticker.clone();
            move || ticker.tick(&engines)
        })?;
        *ticker.thread.lock() = Some(thread.thread().clone());
        Ok(ticker)
    }

    fn tick(&self, engines: &[EngineWeak]) {
        let mut idle = 0;
        while !self.stopped.load(SeqCst) {
            thread::sleep(TICK);
            for engine in engines {
                let Some(engine) = engine.upgrade() else { return };
                engine.increment_epoch();
            }
            let called = self.long_polls.pass_on_late_turns();
            idle = if self.active.load(SeqCst) == 0 && !called { idle + 1 } else { 0 };
            if idle < IDLE_TICKS {
                continue;
            }
            // Either this thread sees `active`, or the guest sees `parked` and wakes this thread.
            self.parked.store(true, SeqCst);
            while self.active.load(SeqCst) == 0 && !self.stopped.load(SeqCst) && self.parked.load(SeqCst) {
                thread::park();
            }
            self.parked.store(false, SeqCst);
            idle = 0;
        }
    }

    /// Marks a guest as running.
    pub(crate) fn run(&self) -> Running<'_> {
        if self.active.fetch_add(1, SeqCst) == 0 && self.parked.swap(false, SeqCst) {
            self.wake();
        }
        Running(self)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
    }
}
