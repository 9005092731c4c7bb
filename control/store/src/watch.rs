//! Watches: the events under a prefix, in order, for readers that keep up. One task delivers events, so that the writer only queues each
//! commit once, however many watches there are. The task finds the watches of an event by the folders of its key, without testing each
//! watch.

use crate::{
    Event, Revision,
    queue::{Receiver, Sender, queue},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::{mpsc, watch};

/// The maximum number of commits that wait for delivery. With more, the writer waits.
const MAX_QUEUED: usize = 64;
/// The number of deliveries after which the task yields.
const MAX_BATCH: usize = 1024;

/// The events under a prefix after a revision, each once and in the order of revisions.
///
/// Live events wait in a bounded queue. A watch whose queue overflows is closed: it returns the queued events and then only `None`, and
/// [`Watch::lagged`] is true. The reader must list and watch again. The store never waits for a watch.
pub struct Watch<T> {
    /// The past events when the watch began.
    past: VecDeque<Event<T>>,
    live: Receiver<T>,
}

impl<T> Watch<T> {
    /// Waits for the next event. `None` if the watch has lagged or the store is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<T>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event: see [`Watch::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        match self.past.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.live.poll_next(cx),
        }
    }

    /// The next event if there is one.
    pub fn try_next(&mut self) -> Option<Event<T>> {
        self.past.pop_front().or_else(|| self.live.try_next())
    }

    /// Whether the watch was closed because it was too slow.
    pub fn lagged(&self) -> bool {
        self.live.lagged()
    }
}

/// The store's end of a watch.
pub(crate) struct Watcher<T> {
    prefix: Box<str>,
    /// The watch already has the events up to this revision.
    since: Revision,
    live: Sender<T>,
}

impl<T> Watcher<T> {
    pub(crate) fn new(prefix: &str, since: Revision, past: VecDeque<Event<T>>, limit: usize) -> (Self, Watch<T>) {
        let (sender, live) = queue(limit);
        (Self { prefix: prefix.into(), since, live: sender }, Watch { past, live })
    }

    /// Delivers an event of its folder, whose name has this length, if the event is under its prefix. Returns whether the watch is still
    /// open.
    fn deliver(&self, event: &Event<T>, folder: usize) -> bool {
        let all = self.prefix.len() == folder;
        let concerned = event.revision > self.since && (all || event.key().starts_with(&*self.prefix));
        !concerned || self.live.send(event)
    }

    fn is_alive(&self) -> bool {
        self.live.is_alive()
    }

    /// The folder of a prefix: the part up to its last slash.
    fn folder(&self) -> &str {
        &self.prefix[..self.prefix.rfind('/').map_or(0, |at| at + 1)]
    }
}

/// Watches that have begun and are not registered in the [`FanOut`] yet.
pub(crate) struct NewWatchers<T>(Mutex<Vec<Watcher<T>>>);

impl<T> NewWatchers<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// The caller holds the lock of the history, from which the watch has its past events, so that no commit is missed in between.
    pub(crate) fn add(&self, watcher: Watcher<T>) {
        let mut waiting = self.0.lock();
        if waiting.len() == waiting.capacity() {
            waiting.retain(Watcher::is_alive); // Removes closed watches, which otherwise would accumulate while there are no events.
        }
        waiting.push(watcher);
    }
}

/// The events of a commit, and its revision.
pub(crate) type Published<T> = (Revision, Vec<Event<T>>);

/// Delivers events to watches.
pub(crate) struct FanOut<T> {
    commits: mpsc::Receiver<Published<T>>,
    newcomers: Arc<NewWatchers<T>>,
    /// The watched folders and their parents.
    folders: HashMap<Box<str>, Vec<Watcher<T>>>,
    count: usize,
    /// At this number of watches, closed watches are removed from all folders.
    sweep_at: usize,
    delivered: watch::Sender<Revision>,
}

impl<T: Send + Sync + 'static> FanOut<T> {
    /// Creates the queue of commits and the task that delivers them.
    pub(crate) fn new(
        newcomers: Arc<NewWatchers<T>>,
        delivered: watch::Sender<Revision>,
    ) -> (mpsc::Sender<Published<T>>, Self) {
        let (sender, commits) = mpsc::channel(MAX_QUEUED);
        (sender, Self { commits, newcomers, folders: HashMap::new(), count: 0, sweep_at: MAX_BATCH, delivered })
    }

    /// Ends, together with all watches, when the sender of commits is dropped.
    pub(crate) async fn run(mut self) {
        let mut done = 0;
        while let Some((revision, events)) = self.commits.recv().await {
            self.register();
            for event in &events {
                done += self.deliver(event);
                if done >= MAX_BATCH {
                    done = 0;
                    tokio::task::yield_now().await;
                }
            }
            self.delivered.send_replace(revision);
        }
        self.newcomers.0.lock().clear();
    }

    fn register(&mut self) {
        for watcher in std::mem::take(&mut *self.newcomers.0.lock()) {
            self.count += 1;
            match self.folders.get_mut(watcher.folder()) {
                Some(watchers) => watchers.push(watcher),
                None => drop(self.folders.insert(watcher.folder().into(), vec![watcher])),
            }
        }
        if self.count >= self.sweep_at {
            self.folders.retain(|_, watchers| {
                watchers.retain(Watcher::is_alive);
                !watchers.is_empty()
            });
            self.count = self.folders.values().map(Vec::len).sum();
            self.sweep_at = MAX_BATCH.max(self.count * 2);
        }
    }

    /// Returns the number of watches that were tested.
    fn deliver(&mut self, event: &Event<T>) -> usize {
        let key = event.key();
        let folders = std::iter::once(0).chain(key.match_indices('/').map(|(at, _)| at + 1));
        let mut asked = 0;
        for end in folders {
            let Some(watchers) = self.folders.get_mut(&key[..end]) else { continue };
            asked += watchers.len();
            let mut dead = false;
            for watcher in &*watchers {
                dead |= !watcher.deliver(event, end);
            }
            if dead {
                watchers.retain(Watcher::is_alive);
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Entry};

    fn event(key: &str, revision: Revision) -> Event<()> {
        let (created, stored) = (revision, Bytes::new());
        let entry = Entry { key: key.into(), revision, created, expires: None, stored, payload: () };
        Event { revision, before: None, after: Some(Arc::new(entry)) }
    }

    struct World {
        newcomers: Arc<NewWatchers<()>>,
        fan_out: FanOut<()>,
    }

    impl World {
        fn new() -> Self {
            let newcomers = NewWatchers::new();
            let (_, fan_out) = FanOut::new(newcomers.clone(), watch::Sender::new(0));
            Self { newcomers, fan_out }
        }

        fn watch(&self, prefix: &str, since: Revision) -> Watch<()> {
            let (watcher, watch) = Watcher::new(prefix, since, VecDeque::new(), 100);
            self.newcomers.add(watcher);
            watch
        }
    }

    #[test]
    fn each_watch_sees_what_begins_with_its_prefix() {
        let mut world = World::new();
        let prefixes = ["", "/", "/a", "/a/", "/a/b", "/a/bc", "/a/b/", "/a/b/c", "/z", "a"];
        let mut watches: Vec<_> = prefixes.iter().map(|prefix| (prefix, world.watch(prefix, 2))).collect();
        let keys = ["/a/b", "/a/bc", "/a/b/c", "/a/b/c/d", "/ab/c", "/b", "a", "a/b"];
        world.fan_out.register();
        for (n, key) in keys.iter().enumerate() {
            world.fan_out.deliver(&event(key, n as u64 + 1));
        }
        for (prefix, watch) in &mut watches {
            let seen: Vec<String> = std::iter::from_fn(|| watch.try_next()).map(|e| e.key().to_string()).collect();
            let wanted: Vec<_> = keys.iter().skip(2).filter(|key| key.starts_with(**prefix)).collect();
            assert!(seen.iter().eq(wanted), "{prefix:?}: {seen:?}");
        }
    }

    #[test]
    fn an_event_is_not_asked_of_those_who_watch_other_folders() {
        let mut world = World::new();
        let watches: Vec<_> = (0..1000).map(|n| world.watch(&format!("/pods/n{n}/"), 0)).collect();
        let all = world.watch("/pods/", 0);
        world.fan_out.register();
        assert_eq!(world.fan_out.deliver(&event("/pods/n7/p", 1)), 2);
        drop((watches, all));
    }

    #[test]
    fn watches_that_end_leave_nothing() {
        let mut world = World::new();
        let kept = world.watch("/kept/", 0);
        for n in 0..100_000 {
            drop(world.watch(&format!("/{n}/"), 0));
        }
        assert!(world.newcomers.0.lock().len() < 10, "also where nothing happens");
        for n in 0..10 * MAX_BATCH {
            let ends = world.watch(&format!("/{n}/"), 0);
            world.fan_out.register();
            drop(ends);
        }
        assert!(world.fan_out.folders.len() <= 2 * MAX_BATCH, "{}", world.fan_out.folders.len());
        world.fan_out.deliver(&event("/kept/a", 1));
        assert_eq!(world.fan_out.folders.get("/kept/").map(Vec::len), Some(1));
        drop(kept);
    }
}
