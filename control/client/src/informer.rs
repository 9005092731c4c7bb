//! A cache of the objects of a target, kept by list and watch.

use crate::{
    Cached, Error, Key, Kind, Result, Target, Undecodable,
    client::decode_list,
    gate::Watched,
    pool::Pool,
    reflector::ReflectorStore,
    watch::{self, WatchEvent},
};
use futures::{FutureExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::sync::watch as signal;
use tokio_util::sync::DropGuard;

/// A change, as handlers receive it.
#[derive(Clone, Debug)]
pub enum Delta<K> {
    /// The object is new to this informer.
    Added(Arc<K>),
    /// The object changed.
    Modified {
        /// Before.
        old: Arc<K>,
        /// After.
        new: Arc<K>,
    },
    /// The object is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(new) | Self::Modified { new, .. } | Self::Deleted(new) => new,
        }
    }

    /// The state before, if there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Modified { old, .. } => Some(old),
            _ => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Delta<K>) + Send + Sync>;
type IndexFn<K> = fn(&K) -> Vec<String>;

/// A cache of the objects of a [`Target`], kept by list and watch. Cheap to clone. All clones for a target share one task, which ends when the
/// last clone is dropped. `K` is what is cached of an object: see [`Cached`].
///
/// # Guarantees
/// * Once [`Informer::synced`], a read shows every object that existed at some revision, and later reads never go back.
/// * A handler sees each object's changes in order, starting with `Added`; a change may be skipped (several in one), a deletion
///   never: an object that a fresh list lacks is `Deleted`, and an object re-created under the same name is `Deleted` with its old
///   uid and `Added` with the new one. An object that the selectors of the target no longer select is `Deleted`.
/// * A handler that is called finds the change (or a later one) in the cache. Handlers run one after another on the informer's
///   task: they must not block, and usually only add keys to queues. A handler must not own a clone of its informer, which would then never
///   end.
/// * [`Informer::revision`] is announced after the handlers have run.
/// * `metadata.managedFields` is stripped.
/// * An object that cannot be decoded stops nothing and hides no other object. It is logged once, and counted until it can be decoded again
///   or is gone. Its last known state stays in the cache, because a `Deleted` would delete its dependents; without a known state it is not
///   in the cache. It is `Deleted` when the server says so, when a fresh list lacks it, and when an object with another uid has its name.
pub struct Informer<K: Cached> {
    cache: Arc<Cache<K>>,
}

/// The state that all clones of an informer share.
pub(crate) struct Cache<K: Cached> {
    target: Arc<Target>,
    state: RwLock<State<K>>,
    /// Locked while a change is applied and delivered, so that the replay for a new handler does not interleave with changes.
    handlers: Mutex<Vec<Handler<K>>>,
    /// Objects that cannot be decoded at the moment.
    undecodable: Mutex<BTreeMap<Key, String>>,
    /// Why there is no list or watch at the moment.
    last_error: Mutex<Option<String>>,
    revision: signal::Sender<u64>,
    synced: signal::Sender<bool>,
    pool: Arc<Pool<K>>,
    /// Ends the reflector.
    _feed: Option<DropGuard>,
}

struct State<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    of: IndexFn<K>,
    /// Objects by value, and by key: with the object itself, so that who asks for many looks up none of them.
    objects: HashMap<String, BTreeMap<Arc<Key>, Arc<K>>>,
}

/// The index by the uid of the controlling owner, built on first use.
const OWNER: &str = "owner";

impl<K: Cached> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<K: Kind> Default for Informer<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> Informer<K> {
    /// An empty informer without a reflector, for tests, which fill it by [`Informer::replace`] and [`Informer::apply`]. Others come from
    /// [`crate::Informers`].
    pub fn new() -> Self {
        Self::over(Cache::new(Target::of::<K>().into(), Arc::default(), None).into())
    }
}

impl<K: Cached> Informer<K> {
    pub(crate) fn over(cache: Arc<Cache<K>>) -> Self {
        Self { cache }
    }

    pub(crate) fn watched(&self) -> Arc<dyn Watched> {
        self.cache.clone()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.find(&Key::new(namespace, name))
    }

    /// One object by key.
    pub fn find(&self, key: &Key) -> Option<Arc<K>> {
        self.cache.find(key)
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.state.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.cache.state.read();
        let from = Key::new(namespace, "");
        let all = state.objects.range::<Key, _>(&from..).take_while(|(key, _)| key.namespace == namespace);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.cache.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects whose controlling owner has this uid.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        if !self.cache.state.read().indexes.contains_key(OWNER) {
            self.index(OWNER, |object| object.controller().map(|owner| owner.uid.clone()).into_iter().collect());
        }
        self.by_index(OWNER, uid)
    }

    /// Adds an index under a name, unless it exists. Informers are shared, so that the name begins with the index's user unless all users agree
    /// on its meaning.
    pub fn index(&self, name: &'static str, of: IndexFn<K>) {
        let mut state = self.cache.state.write();
        let State { objects, indexes } = &mut *state;
        indexes.entry(name).or_insert_with(|| {
            let mut index = Index { of, objects: HashMap::new() };
            for (key, object) in objects.iter() {
                index.add(key, object);
            }
            index
        });
    }

    /// The objects under a value of an index, by namespace and name. Empty for an index that was not added.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.cache.state.read();
        let objects = state.indexes.get(name).and_then(|index| index.objects.get(value));
        objects.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The objects under the rarest of these values of an index: a superset of those that have all of them.
    pub fn by_rarest(&self, name: &str, values: impl IntoIterator<Item = String>) -> Vec<Arc<K>> {
        let state = self.cache.state.read();
        let Some(index) = state.indexes.get(name) else { return Vec::new() };
        let found = values.into_iter().map(|value| index.objects.get(&value));
        let rarest = found.min_by_key(|objects| objects.map_or(0, BTreeMap::len));
        rarest.flatten().into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Calls `handler` with `Added` for each cached object, and then with every change.
    pub fn subscribe(&self, handler: impl Fn(&Delta<K>) + Send + Sync + 'static) {
        let mut handlers = self.cache.handlers.lock();
        for object in self.list() {
            handler(&Delta::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// The revision up to which this informer has seen everything.
    pub fn revision(&self) -> u64 {
        *self.cache.revision.borrow()
    }

    /// Waits until everything up to a revision has been seen.
    pub async fn wait_for(&self, revision: u64) {
        self.cache.seen(revision).await;
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        self.cache.synced().await;
    }

    /// Replaces the cache by a complete list; an object that it lacks is `Deleted`.
    pub fn replace(&self, items: Vec<K>, revision: u64) {
        self.cache.replace(items, &[], revision);
    }

    /// Applies one event.
    pub fn apply(&self, event: WatchEvent<K>) {
        self.cache.apply(event);
    }

    /// The objects that cannot be decoded at the moment, and why.
    pub fn undecodable(&self) -> Vec<(Key, String)> {
        self.cache.undecodable.lock().iter().map(|(key, error)| (key.clone(), error.clone())).collect()
    }
}

impl<K: Cached> Cache<K> {
    pub(crate) fn new(target: Arc<Target>, pool: Arc<Pool<K>>, feed: Option<DropGuard>) -> Self {
        Self {
            target,
            state: RwLock::new(State { objects: BTreeMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::default(),
            undecodable: Mutex::default(),
            last_error: Mutex::default(),
            revision: signal::Sender::new(0),
            synced: signal::Sender::new(false),
            pool,
            _feed: feed,
        }
    }

    fn find(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Replaces the cache by a complete list and its undecodable objects.
    fn replace(&self, items: Vec<K>, undecodable: &[Undecodable], revision: u64) {
        let handlers = self.handlers.lock();
        self.undecodable.lock().retain(|key, _| undecodable.iter().any(|bad| bad.key == *key));
        undecodable.iter().for_each(|bad| self.note(bad));
        let kept: HashMap<&Key, &str> = undecodable.iter().map(|bad| (&bad.key, bad.uid.as_str())).collect();
        let stays = |key: &Key| kept.get(key).is_some_and(|uid| self.find(key).is_some_and(|known| is(&*known, uid)));
        let mut fresh: BTreeMap<Key, K> = items.into_iter().map(|item| (item.key(), item)).collect();
        let known: Vec<Arc<Key>> = self.state.read().objects.keys().cloned().collect();
        for key in known {
            if !fresh.contains_key(&*key) && !stays(&key) {
                self.change(&handlers, key, None);
            }
        }
        while let Some((key, object)) = fresh.pop_first() {
            self.change(&handlers, Arc::new(key), Some(object));
        }
        drop(handlers);
        self.revision.send_replace(revision);
        self.synced.send_replace(true);
    }

    fn apply(&self, event: WatchEvent<K>) {
        let revision = {
            let handlers = self.handlers.lock();
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let (key, revision) = (object.key(), object.revision());
                    self.forget(&key);
                    self.change(&handlers, Arc::new(key), Some(object));
                    revision
                }
                WatchEvent::Deleted(object) => {
                    let (key, revision) = (object.key(), object.revision());
                    self.forget(&key);
                    self.change(&handlers, Arc::new(key), None);
                    revision
                }
                WatchEvent::Undecodable(bad) => {
                    self.note(&bad);
                    if self.find(&bad.key).is_some_and(|known| !is(&*known, &bad.uid)) {
                        self.change(&handlers, Arc::new(bad.key), None);
                    }
                    bad.revision
                }
                WatchEvent::DeletedUndecodable(bad) => {
                    self.forget(&bad.key);
                    self.change(&handlers, Arc::new(bad.key), None);
                    bad.revision
                }
                WatchEvent::Bookmark(revision) => revision.parse().ok(),
            }
        };
        if let Some(revision) = revision {
            self.revision.send_if_modified(|seen| std::mem::replace(seen, revision.max(*seen)) < revision);
        }
    }

    fn note(&self, bad: &Undecodable) {
        let before = self.undecodable.lock().insert(bad.key.clone(), bad.error.clone());
        if before.is_none() {
            let (kind, error) = (self.target.kind(), &bad.error);
            tracing::warn!(kind, object = %bad.key, error, "an object cannot be read; work goes on without its last change");
        }
    }

    fn forget(&self, key: &Key) {
        self.undecodable.lock().remove(key);
    }

    fn change(&self, handlers: &[Handler<K>], key: Arc<Key>, new: Option<K>) {
        let new = new.map(|object| self.pool.share(object));
        let old = self.state.write().set(key, new.clone());
        let tell = |delta: Delta<K>| handlers.iter().for_each(|handler| call(handler, &delta));
        let same = |old: &K, new: &K| (old.uid(), old.revision()) == (new.uid(), new.revision());
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => tell(Delta::Added(new)),
            (Some(old), Some(new)) if same(&old, &new) => {}
            (Some(old), new) => {
                self.pool.release(&old);
                match new {
                    None => tell(Delta::Deleted(old)),
                    Some(new) if old.uid() != new.uid() => {
                        tell(Delta::Deleted(old));
                        tell(Delta::Added(new));
                    }
                    Some(new) => tell(Delta::Modified { old, new }),
                }
            }
        }
    }
}

impl<K: Cached> Drop for Cache<K> {
    fn drop(&mut self) {
        self.state.get_mut().objects.values().for_each(|object| self.pool.release(object));
    }
}

/// Calls a handler. A panic over one object must not hide the others.
fn call<K: Cached>(handler: &Handler<K>, delta: &Delta<K>) {
    if catch_unwind(AssertUnwindSafe(|| handler(delta))).is_err() {
        tracing::error!(object = %delta.object().key(), "a handler of changes panicked");
    }
}

/// Whether the cached object is that with this uid; an unknown (empty) uid matches.
fn is<K: Cached>(known: &K, uid: &str) -> bool {
    uid.is_empty() || known.uid() == uid
}

impl<K> State<K> {
    /// Sets or removes an object and returns the previous one.
    fn set(&mut self, key: Arc<Key>, new: Option<Arc<K>>) -> Option<Arc<K>> {
        // one allocation for the map and the indexes, also after a change
        let key = self.objects.get_key_value(&key).map_or(key, |(known, _)| known.clone());
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            if let Some(new) = &new {
                index.add(&key, new);
            }
        }
        old
    }
}

impl<K> Index<K> {
    fn add(&mut self, key: &Arc<Key>, object: &Arc<K>) {
        for value in (self.of)(object) {
            self.objects.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &Arc<Key>, object: &K) {
        for value in (self.of)(object) {
            if let Some(objects) = self.objects.get_mut(&value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.objects.remove(&value);
                }
            }
        }
    }
}

impl<K: Cached> ReflectorStore for Cache<K> {
    fn accept(&self) -> (&'static str, &'static str) {
        K::ACCEPT
    }

    fn list(&self, body: &[u8]) -> Result<()> {
        let list = decode_list(body)?;
        let revision = list.resource_version.parse().map_err(|_| {
            Error::Decode(format!("resourceVersion {:?} of a list is not a number", list.resource_version))
        })?;
        self.replace(list.items, &list.undecodable, revision);
        Ok(())
    }

    fn event(&self, line: &[u8]) -> Result<()> {
        self.apply(watch::decode(line)?);
        Ok(())
    }

    fn last_error(&self, why: Option<String>) {
        *self.last_error.lock() = why;
    }

    fn revision(&self) -> u64 {
        *self.revision.borrow()
    }
}

impl<K: Cached> Watched for Cache<K> {
    fn kind(&self) -> TypeId {
        TypeId::of::<K>()
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn is_typed(&self) -> bool {
        K::TYPED
    }

    fn missing(&self) -> Option<String> {
        let last_error = || self.last_error.lock().clone().unwrap_or_else(|| "no answer yet".to_owned());
        (!*self.synced.borrow()).then(last_error)
    }

    fn undecodable(&self) -> usize {
        self.undecodable.lock().len()
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`.
        async move { drop(synced.wait_for(|synced| *synced).await) }.boxed()
    }

    fn seen(&self, revision: u64) -> BoxFuture<'_, ()> {
        let mut seen = self.revision.subscribe();
        async move { drop(seen.wait_for(|seen| *seen >= revision).await) }.boxed()
    }

    fn gone<'a>(&'a self, key: &'a Key, uid: Option<&'a str>) -> BoxFuture<'a, ()> {
        async move {
            let mut changes = self.revision.subscribe();
            loop {
                let still = self
                    .find(key)
                    .is_some_and(|object| !object.is_deleting() && uid.is_none_or(|uid| object.uid() == uid));
                if !still || changes.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "informer_tests.rs"]
mod tests;
