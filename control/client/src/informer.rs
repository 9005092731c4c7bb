use crate::{
    Client, Error, Key, Kind, List, ListOptions, Result, Undecodable, controller_of, gate::Watched, watch::WatchEvent,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch as signal, time::Instant};
use tokio_util::sync::CancellationToken;

/// A watch that lasts less ended for a reason that a new one would meet as well.
const SHORT: Duration = Duration::from_secs(1);

/// A change as handlers see it.
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

/// A cache of all objects of a kind, kept by list and watch. Cheap to clone; one task per kind and process feeds it.
///
/// # Guarantees
/// * Once [`Informer::synced`], a read shows every object that existed at some revision, and later reads never go back.
/// * A handler sees each object's changes in order, starting with `Added`; a change may be skipped (several in one), a deletion
///   never: what a fresh list no longer has is `Deleted`, and an object re-created under the same name is `Deleted` with its old
///   uid and `Added` with the new one.
/// * A handler that is called finds the change (or a later one) in the cache. Handlers run one after another on the informer's
///   task: they must not block, and usually only add keys to queues.
/// * [`Informer::revision`] is announced after the handlers have run.
/// * `metadata.managedFields` is stripped.
/// * An object that cannot be read as its kind ends nothing and keeps no other object from being seen. It is logged once and counted
///   until it can be read again or is gone. What was known of it stays, since to take it for deleted would delete what belongs to it;
///   an object of which nothing was known is not seen. It is `Deleted` when the server says so, when a fresh list lacks it, and when
///   another uid has come under its name.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: RwLock<State<K>>,
    /// Held while a change is applied and told, so that a new handler's replay and the changes do not interleave.
    handlers: Mutex<Vec<Handler<K>>>,
    /// Those that cannot be read now.
    undecodable: Mutex<BTreeMap<Key, String>>,
    /// Why there is no list or watch at the moment.
    trouble: Mutex<Option<String>>,
    revision: signal::Sender<u64>,
    synced: signal::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Arc<Key>>>,
}

/// The index that every informer has: uid of the controlling owner.
const OWNER: &str = "owner";

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Kind> Default for Informer<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> Informer<K> {
    /// An empty informer that nobody feeds yet; see [`crate::Informers`] for the usual way. Tests feed it by
    /// [`Informer::replace`] and [`Informer::apply`].
    pub fn new() -> Self {
        let owner = Index {
            of: |object: &K| controller_of(object.metadata()).map(|owner| owner.uid.clone()).into_iter().collect(),
            keys: HashMap::new(),
        };
        let state = State { objects: BTreeMap::new(), indexes: HashMap::from([(OWNER, owner)]) };
        let shared = Shared {
            state: RwLock::new(state),
            handlers: Mutex::default(),
            undecodable: Mutex::default(),
            trouble: Mutex::default(),
            revision: signal::Sender::new(0),
            synced: signal::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.find(&Key::new(namespace, name))
    }

    /// One object by key.
    pub fn find(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.state.read().objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.state.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        let from = Key::new(namespace, "");
        let all = state.objects.range::<Key, _>(&from..).take_while(|(key, _)| key.namespace == namespace);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.shared.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects whose controlling owner has this uid.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(OWNER, uid)
    }

    /// Adds an index under a name, unless it is there. Informers are shared: name an index after its user, unless all of them mean the
    /// same by it.
    pub fn index(&self, name: &'static str, of: IndexFn<K>) {
        let mut state = self.shared.state.write();
        let State { objects, indexes } = &mut *state;
        indexes.entry(name).or_insert_with(|| {
            let mut index = Index { of, keys: HashMap::new() };
            for (key, object) in objects.iter() {
                index.add(key, object);
            }
            index
        });
    }

    /// The objects under a value of an index, by namespace and name. Empty for an index that was not added.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        let keys = state.indexes.get(name).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Calls `handler` with `Added` for each object that is there, and then with every change.
    pub fn subscribe(&self, handler: impl Fn(&Delta<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.list() {
            handler(&Delta::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// The revision up to which this informer has seen everything.
    pub fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }

    /// Waits until everything up to a revision of this kind's objects was seen.
    pub async fn wait_for(&self, revision: u64) {
        let mut seen = self.shared.revision.subscribe();
        // The sender lives as long as `self`.
        let _ = seen.wait_for(|seen| *seen >= revision).await;
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the first complete list is there.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Takes a complete list: what it lacks is told as deleted.
    pub fn replace(&self, items: Vec<K>, revision: u64) {
        self.replace_all(items, &[], revision);
    }

    fn replace_all(&self, items: Vec<K>, undecodable: &[Undecodable], revision: u64) {
        let handlers = self.shared.handlers.lock();
        self.shared.undecodable.lock().retain(|key, _| undecodable.iter().any(|bad| bad.key == *key));
        undecodable.iter().for_each(|bad| self.note(bad));
        let kept: HashMap<&Key, &str> = undecodable.iter().map(|bad| (&bad.key, bad.uid.as_str())).collect();
        let stays = |key: &Key| kept.get(key).is_some_and(|uid| self.find(key).is_some_and(|known| is(&*known, uid)));
        let mut fresh: BTreeMap<Key, K> = items.into_iter().map(|item| (Key::of(&item), item)).collect();
        let known: Vec<Arc<Key>> = self.shared.state.read().objects.keys().cloned().collect();
        for key in known {
            if !fresh.contains_key(&*key) && !stays(&key) {
                self.change(&handlers, key, None);
            }
        }
        while let Some((key, object)) = fresh.pop_first() {
            self.change(&handlers, Arc::new(key), Some(object));
        }
        drop(handlers);
        self.shared.revision.send_replace(revision);
        self.shared.synced.send_replace(true);
    }

    /// Takes one event.
    pub fn apply(&self, event: WatchEvent<K>) {
        let revision = {
            let handlers = self.shared.handlers.lock();
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let (key, revision) = (Key::of(&object), revision_of(&object));
                    self.forget(&key);
                    self.change(&handlers, Arc::new(key), Some(object));
                    revision
                }
                WatchEvent::Deleted(object) => {
                    let (key, revision) = (Key::of(&object), revision_of(&object));
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
            self.shared.revision.send_if_modified(|seen| std::mem::replace(seen, revision.max(*seen)) < revision);
        }
    }

    /// The objects that cannot be read now, and why.
    pub fn undecodable(&self) -> Vec<(Key, String)> {
        self.shared.undecodable.lock().iter().map(|(key, error)| (key.clone(), error.clone())).collect()
    }

    fn note(&self, bad: &Undecodable) {
        let before = self.shared.undecodable.lock().insert(bad.key.clone(), bad.error.clone());
        if before.is_none() {
            let (kind, error) = (K::KIND, &bad.error);
            tracing::warn!(kind, object = %bad.key, error, "an object cannot be read; work goes on without its last change");
        }
    }

    fn forget(&self, key: &Key) {
        self.shared.undecodable.lock().remove(key);
    }

    fn change(&self, handlers: &[Handler<K>], key: Arc<Key>, new: Option<K>) {
        let new = new.map(|mut object| {
            object.metadata_mut().managed_fields = None;
            Arc::new(object)
        });
        let old = self.shared.state.write().set(key, new.clone());
        let tell = |delta: Delta<K>| handlers.iter().for_each(|handler| call(handler, &delta));
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => tell(Delta::Added(new)),
            (Some(old), None) => tell(Delta::Deleted(old)),
            (Some(old), Some(new)) if old.metadata().uid != new.metadata().uid => {
                tell(Delta::Deleted(old));
                tell(Delta::Added(new));
            }
            (Some(old), Some(new)) if old.metadata().resource_version == new.metadata().resource_version => {}
            (Some(old), Some(new)) => tell(Delta::Modified { old, new }),
        }
    }

    /// Feeds the informer until cancelled: lists, watches, and lists again when the server has forgotten the revision.
    pub async fn run(self, client: Client, token: CancellationToken) {
        let follow = async {
            let mut failures = 0u32;
            let mut at: Option<String> = None;
            loop {
                let began = Instant::now();
                // A watch that ends as soon as it begins, as those of a store that is closed do, is a failure too.
                let followed = match self.follow(&client, &mut at).await {
                    Ok(()) if began.elapsed() < SHORT => Err(Error::Transport("the watch ended at once".into())),
                    followed => followed,
                };
                match followed {
                    Ok(()) => failures = 0,
                    Err(error) => {
                        *self.shared.trouble.lock() = Some(error.to_string());
                        if error.is_expired() {
                            at = None;
                        }
                        failures += 1;
                        tracing::debug!(kind = K::KIND, %error, failures, "watch ended");
                        let delay =
                            Duration::from_millis(50).saturating_mul(1 << failures.min(9)).min(Duration::from_secs(10));
                        tokio::time::sleep(delay).await;
                    }
                }
            }
        };
        tokio::select! { () = token.cancelled() => {}, () = follow => {} }
    }

    async fn follow(&self, client: &Client, at: &mut Option<String>) -> Result<()> {
        let from = match at.take() {
            Some(revision) => revision,
            None => {
                let List { items, undecodable, resource_version, .. } =
                    client.list::<K>("", &ListOptions::default()).await?;
                let revision = resource_version.parse().map_err(|_| {
                    Error::Decode(format!("resourceVersion {resource_version:?} of a list is not a number"))
                })?;
                self.replace_all(items, &undecodable, revision);
                resource_version
            }
        };
        *at = Some(from.clone());
        let options = ListOptions { resource_version: from, ..ListOptions::default() };
        let mut events = pin!(client.watch::<K>("", &options).await?);
        *self.shared.trouble.lock() = None;
        while let Some(event) = events.next().await {
            self.apply(event?);
            *at = Some(self.revision().to_string());
        }
        Ok(())
    }
}

/// A handler that panics over one object must not keep the others from being seen.
fn call<K: Kind>(handler: &Handler<K>, delta: &Delta<K>) {
    if catch_unwind(AssertUnwindSafe(|| handler(delta))).is_err() {
        tracing::error!(kind = K::KIND, object = %Key::of(&**delta.object()), "a handler of changes panicked");
    }
}

/// Whether what is known is the object with this uid; without a uid nothing says that it is another one.
fn is<K: Kind>(known: &K, uid: &str) -> bool {
    uid.is_empty() || known.metadata().uid.as_deref() == Some(uid)
}

fn revision_of<K: Kind>(object: &K) -> Option<u64> {
    object.metadata().resource_version.as_deref()?.parse().ok()
}

impl<K: Kind> State<K> {
    /// Sets or removes an object and returns what was there.
    fn set(&mut self, key: Arc<Key>, new: Option<Arc<K>>) -> Option<Arc<K>> {
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
    fn add(&mut self, key: &Arc<Key>, object: &K) {
        for value in (self.of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Arc<Key>, object: &K) {
        for value in (self.of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

impl<K: Kind> Watched for Informer<K> {
    fn kind(&self) -> TypeId {
        TypeId::of::<K>()
    }

    fn name(&self) -> &'static str {
        K::KIND
    }

    fn missing(&self) -> Option<String> {
        (!self.has_synced()).then(|| self.shared.trouble.lock().clone().unwrap_or_else(|| "no answer yet".to_owned()))
    }

    fn undecodable(&self) -> usize {
        self.shared.undecodable.lock().len()
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        Informer::synced(self).boxed()
    }

    fn seen(&self, revision: u64) -> BoxFuture<'_, ()> {
        self.wait_for(revision).boxed()
    }

    fn gone<'a>(&'a self, key: &'a Key, uid: Option<&'a str>) -> BoxFuture<'a, ()> {
        async move {
            let mut changes = self.shared.revision.subscribe();
            loop {
                let still = self.find(key).is_some_and(|object| {
                    let meta = object.metadata();
                    meta.deletion_timestamp.is_none() && (uid.is_none() || meta.uid.as_deref() == uid)
                });
                if !still || changes.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("n".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    fn watched() -> (Informer<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let informer = Informer::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        informer.subscribe(move |delta: &Delta<ConfigMap>| {
            let word = match delta {
                Delta::Added(_) => "added",
                Delta::Modified { .. } => "modified",
                Delta::Deleted(_) => "deleted",
            };
            let meta = &delta.object().metadata;
            lines.lock().push(format!(
                "{word} {} {}",
                meta.name.as_deref().unwrap_or(""),
                meta.uid.as_deref().unwrap_or("")
            ));
        });
        (informer, log)
    }

    #[test]
    fn a_fresh_list_tells_deletions_and_recreations() {
        let (informer, log) = watched();
        informer.replace(vec![object("a", "1", 1), object("b", "2", 2), object("c", "3", 3)], 3);
        log.lock().clear();
        informer.replace(vec![object("b", "2", 2), object("c", "9", 8)], 9);
        assert_eq!(*log.lock(), ["deleted a 1", "deleted c 3", "added c 9"]);
        assert_eq!(informer.revision(), 9);
    }

    #[test]
    fn a_late_handler_is_told_what_is_there() {
        let informer = Informer::new();
        informer.replace(vec![object("a", "1", 1)], 1);
        let count = Arc::new(Mutex::new(0));
        let seen = count.clone();
        informer.subscribe(move |_| *seen.lock() += 1);
        informer.apply(WatchEvent::Modified(object("a", "1", 2)));
        assert_eq!(*count.lock(), 2);
    }

    #[test]
    fn indexes_follow_changes() {
        let informer = Informer::new();
        informer.replace(vec![object("a", "1", 1)], 1);
        informer.index("uid", |o: &ConfigMap| o.metadata.uid.clone().into_iter().collect());
        assert_eq!(informer.by_index("uid", "1").len(), 1);
        informer.apply(WatchEvent::Modified(object("a", "2", 2)));
        assert!(informer.by_index("uid", "1").is_empty());
        assert_eq!(informer.by_index("uid", "2").len(), 1);
        informer.apply(WatchEvent::Deleted(object("a", "2", 3)));
        assert!(informer.by_index("uid", "2").is_empty());
        assert_eq!(informer.revision(), 3);
    }

    fn bad(name: &str, uid: &str, revision: u64) -> Undecodable {
        Undecodable {
            key: Key::new("n", name),
            uid: uid.into(),
            revision: Some(revision),
            error: "a year of six digits".into(),
        }
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_was_known_until_it_is_gone_or_another() {
        let (informer, log) = watched();
        informer.replace(vec![object("a", "1", 1), object("b", "2", 2), object("c", "3", 3)], 3);
        log.lock().clear();
        informer.apply(WatchEvent::Undecodable(bad("a", "1", 4)));
        informer.apply(WatchEvent::Undecodable(bad("never-seen", "9", 5)));
        assert_eq!((log.lock().len(), informer.len(), informer.revision()), (0, 3, 5));
        let count = || informer.undecodable().len();
        assert_eq!(count(), 2);
        informer.replace_all(vec![object("b", "2", 2)], &[bad("a", "1", 4), bad("c", "7", 6)], 6);
        assert_eq!((std::mem::take(&mut *log.lock()), count()), (vec!["deleted c 3".to_owned()], 2));
        informer.apply(WatchEvent::Modified(object("a", "1", 7)));
        informer.apply(WatchEvent::DeletedUndecodable(bad("b", "2", 8)));
        informer.apply(WatchEvent::Undecodable(bad("a", "5", 9)));
        assert_eq!(*log.lock(), ["modified a 1", "deleted b 2", "deleted a 1"]);
        informer.apply(WatchEvent::DeletedUndecodable(bad("a", "5", 10)));
        informer.replace(Vec::new(), 11);
        assert_eq!((count(), informer.revision()), (0, 11));
    }

    #[test]
    fn a_handler_that_panics_keeps_nothing_from_the_others() {
        let (informer, log) = watched();
        let first = Informer::<ConfigMap>::clone(&informer);
        first.subscribe(|_| panic!("over this one"));
        informer.replace(vec![object("a", "1", 1), object("b", "2", 2)], 2);
        assert_eq!((log.lock().len(), informer.revision()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_revision() {
        let informer = Informer::new();
        informer.replace(vec![object("a", "1", 1)], 1);
        let waiting = tokio::spawn({
            let informer = informer.clone();
            async move { informer.wait_for(5).await }
        });
        informer.apply(WatchEvent::Bookmark("5".into()));
        waiting.await.expect("seen");
    }
}
