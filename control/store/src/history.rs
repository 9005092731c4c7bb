//! What happened lately: the events of about five minutes, from which older states are rebuilt and watches start.
//!
//! The state at a past revision is the nearest later checkpoint (or the present) with the events in between undone.
//! Checkpoints are clones of the map, made every [`STRIDE`] events, so that undoing is bounded and the nodes that history
//! keeps alive are few.

use crate::{
    Error, Event, Options, Revision, Watch,
    map::Map,
    watch::{Newcomers, Watcher},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Events between two checkpoints.
const STRIDE: usize = 1024;

pub(crate) struct History<T> {
    /// The newest published revision and its state.
    revision: Revision,
    map: Map<T>,
    /// Everything after this revision is here: the oldest at which a snapshot can be taken or a watch can start.
    oldest: Revision,
    ring: VecDeque<(Instant, Event<T>)>,
    /// Bytes that only the ring keeps alive: the values that have been replaced or deleted.
    bytes: usize,
    checkpoints: VecDeque<(Revision, Map<T>)>,
    since_checkpoint: usize,
    newcomers: Arc<Newcomers<T>>,
    closed: bool,
}

impl<T> History<T> {
    pub(crate) fn new(revision: Revision, map: Map<T>, newcomers: Arc<Newcomers<T>>) -> Self {
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

    /// Takes in the events of one commit and the state after them.
    pub(crate) fn append(&mut self, now: Instant, events: Vec<Event<T>>, revision: Revision, map: Map<T>) {
        self.since_checkpoint += events.len();
        for event in events {
            self.bytes += weight(&event);
            self.ring.push_back((now, event));
        }
        self.revision = revision;
        self.map = map;
        if self.since_checkpoint >= STRIDE {
            self.since_checkpoint = 0;
            self.checkpoints.push_back((revision, self.map.clone()));
        }
    }

    /// Drops events beyond the age or number of `options`. Returns when the next event becomes too old.
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
        if self.ring.is_empty() && self.ring.capacity() > STRIDE {
            self.ring.shrink_to(STRIDE);
        }
        self.ring.front().map(|(at, _)| *at + options.history)
    }

    /// Forgets everything up to `revision`.
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

    /// Whether the past of `revision` is here.
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
        } // else the watch ends after its past
        Ok(watch)
    }

    /// Nothing will happen any more: a watch that begins now ends after its past.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Event<T>> {
        let start = self.ring.partition_point(|(_, event)| event.revision <= revision);
        self.ring.range(start..).map(|(_, event)| event)
    }

    /// What it takes to rebuild the state at `revision`: a later state and the events to undo in it.
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
