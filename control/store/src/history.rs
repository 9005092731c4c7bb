//! The history: the events of about five minutes. Past states are rebuilt from them, and watches start in them.
//!
//! The state at a past revision is the next later checkpoint (or the current state) with the events in between undone. Checkpoints are
//! clones of the map, one every [`CHECKPOINT_INTERVAL`] events, which bounds the number of events to undo and the number of nodes that the
//! history keeps alive.

use crate::{
    Error, Event, Options, Revision, Watch,
    map::Map,
    watch::{NewWatchers, Watcher},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Events between two checkpoints.
const CHECKPOINT_INTERVAL: usize = 1024;

pub(crate) struct History<T> {
    /// The newest published revision and its state.
    revision: Revision,
    map: Map<T>,
    /// The history is complete after this revision. It is the oldest revision for snapshots and watches.
    oldest: Revision,
    ring: VecDeque<(Instant, Event<T>)>,
    /// Bytes that only the history keeps alive: replaced and deleted values.
    bytes: usize,
    checkpoints: VecDeque<(Revision, Map<T>)>,
    since_checkpoint: usize,
    newcomers: Arc<NewWatchers<T>>,
    closed: bool,
}

impl<T> History<T> {
    pub(crate) fn new(revision: Revision, map: Map<T>, newcomers: Arc<NewWatchers<T>>) -> Self {
        Self {
            revision,
            map,
            oldest: revision,
            ring: VecDeque::new(),
            bytes: 0,
            checkpoints: VecDeque::new(),
            since_checkpoint: 0,
            newcomers,
            closed: false,
        }
    }

    /// Adds the events of a commit and the state after them.
    pub(crate) fn append(&mut self, now: Instant, events: Vec<Event<T>>, revision: Revision, map: Map<T>) {
        self.since_checkpoint += events.len();
        for event in events {
            self.bytes += weight(&event);
            self.ring.push_back((now, event));
        }
        self.revision = revision;
        self.map = map;
        if self.since_checkpoint >= CHECKPOINT_INTERVAL {
            self.since_checkpoint = 0;
            self.checkpoints.push_back((revision, self.map.clone()));
        }
    }

    /// Removes events beyond the age or number of `options`. Returns when the next event expires.
    pub(crate) fn prune(&mut self, now: Instant, options: &Options) -> Option<Instant> {
        while let Some((at, event)) = self.ring.front() {
            let old = now.saturating_duration_since(*at) >= options.history;
            if !old && self.ring.len() <= options.ring && self.bytes <= options.history_bytes {
                break;
            }
            self.oldest = event.revision;
            self.bytes -= weight(event);
            self.ring.pop_front();
        }
        self.forget_checkpoints();
        if self.ring.is_empty() && self.ring.capacity() > CHECKPOINT_INTERVAL {
            self.ring.shrink_to(CHECKPOINT_INTERVAL);
        }
        self.ring.front().map(|(at, _)| *at + options.history)
    }

    /// Removes the history up to `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while let Some((_, event)) = self.ring.front()
            && event.revision <= revision
        {
            self.bytes -= weight(event);
            self.oldest = event.revision;
            self.ring.pop_front();
        }
        self.forget_checkpoints();
    }

    fn forget_checkpoints(&mut self) {
        while self.checkpoints.front().is_some_and(|(revision, _)| *revision < self.oldest) {
            self.checkpoints.pop_front();
        }
    }

    /// Whether the history can rebuild `revision`.
    fn covers(&self, revision: Revision) -> Result<(), Error<T>> {
        if revision > self.revision {
            Err(Error::Future { current: self.revision })
        } else if revision < self.oldest {
            Err(Error::Compacted { oldest: self.oldest })
        } else {
            Ok(())
        }
    }

    /// Starts a watch after `since`.
    pub(crate) fn watch(&self, prefix: &str, since: Revision, queue: usize) -> Result<Watch<T>, Error<T>> {
        self.covers(since)?;
        let past = self.after(since).filter(|event| event.key().starts_with(prefix)).cloned().collect();
        let (watcher, watch) = Watcher::new(prefix, self.revision, past, queue);
        if !self.closed {
            self.newcomers.add(watcher);
        } // otherwise the watch ends after its past events
        Ok(watch)
    }

    /// The newest revision, and the events under `prefix` after `since`.
    pub(crate) fn events_since(&self, prefix: &str, since: Revision) -> Result<(Revision, Vec<Event<T>>), Error<T>> {
        self.covers(since)?;
        let events = self.after(since).filter(|event| event.key().starts_with(prefix)).cloned().collect();
        Ok((self.revision, events))
    }

    /// No further events will happen: a watch that starts now ends after its past events.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Event<T>> {
        let start = self.ring.partition_point(|(_, event)| event.revision <= revision);
        self.ring.range(start..).map(|(_, event)| event)
    }

    /// The input for rebuilding the state at `revision`: a later state and the events to undo.
    pub(crate) fn at(&self, revision: Revision) -> Result<Past<T>, Error<T>> {
        self.covers(revision)?;
        let next = self.checkpoints.partition_point(|(at, _)| *at < revision);
        let (upto, map) = match self.checkpoints.get(next) {
            Some((at, map)) => (*at, map.clone()),
            None => (self.revision, self.map.clone()),
        };
        let undo = self.after(revision).take_while(|event| event.revision <= upto).cloned().collect();
        Ok(Past { map, undo })
    }
}

/// A state and the events to undo in it.
pub(crate) struct Past<T> {
    map: Map<T>,
    undo: Vec<Event<T>>,
}

impl<T> Past<T> {
    pub(crate) fn rebuild(mut self) -> Map<T> {
        for event in self.undo.into_iter().rev() {
            match event.before {
                Some(before) => drop(self.map.insert(before)),
                None => drop(self.map.remove(event.after.as_ref().map_or("", |entry| &entry.key))),
            }
        }
        self.map
    }
}

fn weight<T>(event: &Event<T>) -> usize {
    event.before.as_ref().map_or(0, |entry| entry.stored.len() + entry.key.len() + size_of_val(Arc::as_ref(entry)))
}
