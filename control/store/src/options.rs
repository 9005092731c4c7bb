//! Limits and the clock of a store.

use crate::Clock;
use std::time::Duration;

/// Limits and the clock of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long past revisions can be listed and watched.
    pub history: Duration,
    /// The maximum number of events in the history.
    pub ring: usize,
    /// The maximum size of replaced and deleted values in the history, in bytes.
    pub history_bytes: usize,
    /// The maximum number of events that wait in a watch. A watch with more is closed as lagging.
    pub watch_queue: usize,
    /// The wall clock, for expiry.
    pub clock: Clock,
}

impl Options {
    /// Five minutes, 100,000 events, 64 MiB of history; 8,192 events per watch.
    pub fn new(clock: Clock) -> Self {
        Self { history: Duration::from_secs(300), ring: 100_000, history_bytes: 64 << 20, watch_queue: 8192, clock }
    }
}
