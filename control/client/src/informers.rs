//! The informers of a process: one for each target, as long as it is in use.

use crate::{
    Cached, Client, Informer, Kind, Target,
    gate::Watched,
    informer::Cache,
    metrics,
    pool::Pool,
    reflector::{Reflector, ReflectorStore},
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The informers of a process. Callers with the same [`Target`] and identity share one informer, which starts with the first of them and ends
/// with the last. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
    client: Client,
    identity: usize,
    token: CancellationToken,
}

/// The identity, type and target of an informer.
type Slot = (usize, TypeId, Arc<Target>);

struct Inner {
    token: CancellationToken,
    tasks: TaskTracker,
    /// Informers that are in use, and those whose task has not ended yet.
    informers: Mutex<HashMap<Slot, Weak<dyn Watched>>>,
    /// By type of the objects.
    pools: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    identities: AtomicUsize,
    /// Cancelled when the task of any informer panics.
    broken: CancellationToken,
}

impl Informers {
    /// Without informers yet. All of them end with `token`; their tasks are tracked in `tasks`.
    pub fn new(client: Client, token: CancellationToken, tasks: TaskTracker) -> Self {
        let inner = Inner {
            token: token.clone(),
            tasks,
            informers: Mutex::default(),
            pools: Mutex::default(),
            identities: AtomicUsize::new(1),
            broken: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner), client, identity: 0, token }
    }

    /// Informers that read with another identity: the server decides what each may see. They end with `token`, and with these. Objects that both
    /// read are in memory once.
    pub fn on_behalf(&self, client: Client, token: CancellationToken) -> Self {
        let identity = self.inner.identities.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner.clone(), client, identity, token }
    }

    /// The informer of all objects of a kind. The first call starts its task, so that it must be on a tokio runtime.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        self.over(Target::of::<K>())
    }

    /// The informer over a target, as [`Informers::of`].
    pub fn over<K: Cached>(&self, target: Target) -> Informer<K> {
        let target = Arc::new(target);
        let slot = (self.identity, TypeId::of::<K>(), target.clone());
        let mut informers = self.inner.informers.lock();
        if let Some(held) = informers.get(&slot).and_then(Weak::upgrade) {
            let held: Arc<dyn Any + Send + Sync> = held;
            return Informer::over(held.downcast::<Cache<K>>().expect("stored under its own type"));
        }
        let stop = self.token.child_token();
        let cache = Arc::new(Cache::<K>::new(target.clone(), self.pool(), Some(stop.clone().drop_guard())));
        let watched: Arc<dyn Watched> = cache.clone();
        informers.insert(slot.clone(), Arc::downgrade(&watched));
        let store: Arc<dyn ReflectorStore> = cache.clone();
        let reflector = Reflector { cache: Arc::downgrade(&store), client: self.client.clone(), target };
        drop(store);
        self.start(reflector, stop, slot);
        Informer::over(cache)
    }

    fn start(&self, reflector: Reflector, stop: CancellationToken, slot: Slot) {
        let (inner, broken) = (self.inner.clone(), self.inner.broken.clone().drop_guard());
        self.inner.tasks.spawn(async move {
            tokio::select! { () = stop.cancelled() => {}, () = inner.token.cancelled() => {}, () = reflector.run() => {} }
            broken.disarm();
            inner.forget(&slot);
        });
    }

    fn pool<K: Cached>(&self) -> Arc<Pool<K>> {
        let mut pools = self.inner.pools.lock();
        let pool = pools.entry(TypeId::of::<K>()).or_insert_with(|| Arc::<Pool<K>>::default());
        pool.clone().downcast().expect("stored under its own type")
    }

    /// The kinds whose first list is missing and delays the start, each with the reason.
    pub fn missing(&self) -> Vec<(String, String)> {
        let first = self.inner.all().into_iter().filter(|informer| is_first(&**informer));
        first.filter_map(|informer| Some((informer.target().kind().to_owned(), informer.missing()?))).collect()
    }

    /// Registers a gauge of undecodable objects by kind. To be called once.
    pub fn register(&self, registry: &mut Registry) {
        let inner = self.inner.clone();
        let read = move || {
            let mut kinds = BTreeMap::<String, i64>::new();
            for informer in inner.all() {
                let count = i64::try_from(informer.undecodable()).unwrap_or(i64::MAX);
                let sum = kinds.entry(informer.target().kind().to_owned()).or_default();
                *sum = sum.saturating_add(count);
            }
            kinds.into_iter().collect()
        };
        let what = ("informer_undecodable_objects", "Objects that cannot be read as their kind and are left out");
        metrics::gauge(registry, what, "kind", read);
    }

    /// Resolves when the informers are cancelled, or when the task of any has panicked outside a handler: its cache is then no longer updated.
    pub async fn ended(&self) {
        tokio::select! { () = self.inner.token.cancelled() => {}, () = self.inner.broken.cancelled() => {} }
    }

    /// Waits for the first list of the informers that exist now, except of metadata informers and of those of one name: these come and go while
    /// the cluster runs, and must not delay its start.
    pub async fn synced(&self) {
        for informer in self.inner.all().into_iter().filter(|informer| is_first(&**informer)) {
            informer.synced().await;
        }
    }
}

fn is_first(informer: &dyn Watched) -> bool {
    informer.is_typed() && !informer.target().is_named()
}

impl Inner {
    fn all(&self) -> Vec<Arc<dyn Watched>> {
        self.informers.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Forgets an unused informer, unless a new one over the same target exists.
    fn forget(&self, slot: &Slot) {
        let mut informers = self.informers.lock();
        if informers.get(slot).is_some_and(|informer| informer.strong_count() == 0) {
            informers.remove(slot);
        }
    }
}

#[cfg(test)]
#[path = "informers_tests.rs"]
mod tests;
