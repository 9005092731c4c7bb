//! The informers of a process: one for each target, as long as somebody holds it.

use crate::{
    Cached, Client, Informer, Kind, Target,
    gate::Watched,
    informer::Cache,
    metrics,
    pool::Pool,
    reflector::{Fed, Reflector},
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

/// The informers of a process. Who asks for the same [`Target`] with the same identity shares one informer: it starts with the first
/// holder and ends with the last. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
    client: Client,
    identity: usize,
    token: CancellationToken,
}

/// Whose informer, of what type, over what.
type Slot = (usize, TypeId, Arc<Target>);

struct Inner {
    token: CancellationToken,
    tasks: TaskTracker,
    /// Of those that somebody holds, and of those whose task has not ended yet.
    informers: Mutex<HashMap<Slot, Weak<dyn Watched>>>,
    /// By type of the objects; as many as there are types.
    pools: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    identities: AtomicUsize,
    /// Cancelled when the task of any of them panics.
    broken: CancellationToken,
}

impl Informers {
    /// No informer yet. All end with `token`; their tasks are tracked in `tasks`.
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

    /// Informers of the same process that read with another identity: the server decides what each may see. They end with `token`, and
    /// with the others. What both have read is in memory once.
    pub fn on_behalf(&self, client: Client, token: CancellationToken) -> Self {
        let identity = self.inner.identities.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner.clone(), client, identity, token }
    }

    /// The informer of all objects of a kind. Must be called on a tokio runtime, where its task is started for the first holder.
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
        let fed: Arc<dyn Fed> = cache.clone();
        let reflector = Reflector { cache: Arc::downgrade(&fed), client: self.client.clone(), target };
        drop(fed);
        let (inner, broken) = (self.inner.clone(), self.inner.broken.clone().drop_guard());
        self.inner.tasks.spawn(async move {
            tokio::select! { () = stop.cancelled() => {}, () = inner.token.cancelled() => {}, () = reflector.run() => {} }
            broken.disarm();
            inner.forget(&slot);
        });
        Informer::over(cache)
    }

    fn pool<K: Cached>(&self) -> Arc<Pool<K>> {
        let mut pools = self.inner.pools.lock();
        let pool = pools.entry(TypeId::of::<K>()).or_insert_with(|| Arc::<Pool<K>>::default());
        pool.clone().downcast().expect("stored under its own type")
    }

    /// The kinds whose first list a start waits for and that is not there, each with the reason.
    pub fn missing(&self) -> Vec<(String, String)> {
        let first = self.inner.all().into_iter().filter(|informer| is_first(&**informer));
        first.filter_map(|informer| Some((informer.target().kind().to_owned(), informer.missing()?))).collect()
    }

    /// Shows in a registry how many objects of each kind cannot be read; once.
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

    /// Resolves when the informers have been cancelled, or the task of any has ended by a panic outside a handler: what it shows is not kept
    /// up any more.
    pub async fn ended(&self) {
        tokio::select! { () = self.inner.token.cancelled() => {}, () = self.inner.broken.cancelled() => {} }
    }

    /// Waits until the informers that exist now have their first list: those of typed objects, but not those of a name. What comes and
    /// goes while the cluster runs does not keep it from starting.
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

    /// Forgets an informer that nobody holds. There may be a new one over the same target.
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
