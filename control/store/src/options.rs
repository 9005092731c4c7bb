//! Limits and the clock of a store.

use crate::Clock;
use std::time::Duration;

/// Limits and the clock of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long past revisions can be listed and watched.
    pub history: Duration,
    /// How many events history keeps at most, whatever their age.
    pub ring: usize,
    /// How many bytes of replaced and deleted values history keeps at most.
    pub history_bytes: usize,
    /// How many events may wait in one watch before it is cut.
    pub watch_queue: usize,
    /// Wall-clock time, for expiry.
    pub clock: Clock,
}

impl Options {
    /// Five minutes, 100,000 events, 64 MiB of history; 8,192 events per watch.
    pub fn new(clock: Clock) -> Self {
        Self { history: Duration::from_secs(300), ring: 100_000, history_bytes: 64 << 20, watch_queue: 8192, clock }
    }
}
