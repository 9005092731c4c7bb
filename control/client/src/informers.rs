use crate::{Client, Informer, Kind, gate::Watched, metrics};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The informers of a process: one per kind, started on first use.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    token: CancellationToken,
    tasks: TaskTracker,
    kinds: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    all: Mutex<Vec<Arc<dyn Watched>>>,
}

impl Informers {
    /// No informer yet. All end with `token`; their tasks are tracked in `tasks`.
    pub fn new(client: Client, token: CancellationToken, tasks: TaskTracker) -> Self {
        let inner = Inner { client, token, tasks, kinds: Mutex::default(), all: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The informer of a kind. Must be called on a tokio runtime, where its task is started the first time.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        let mut kinds = self.inner.kinds.lock();
        let any = kinds.entry(TypeId::of::<K>()).or_insert_with(|| {
            let informer = Informer::<K>::new();
            self.inner.all.lock().push(Arc::new(informer.clone()));
            self.inner.tasks.spawn(informer.clone().run(self.inner.client.clone(), self.inner.token.clone()));
            Box::new(informer)
        });
        any.downcast_ref::<Informer<K>>().expect("stored under its own type").clone()
    }

    /// The kinds whose first list is not there, each with the reason.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let all = self.inner.all.lock();
        all.iter().filter_map(|informer| Some((informer.name(), informer.missing()?))).collect()
    }

    /// Shows in a registry how many objects of each kind cannot be read; once.
    pub fn register(&self, registry: &mut Registry) {
        let informers = self.clone();
        let read = move || {
            let all = informers.inner.all.lock();
            all.iter().map(|i| (i.name(), i64::try_from(i.undecodable()).unwrap_or(i64::MAX))).collect()
        };
        let what = ("informer_undecodable_objects", "Objects that cannot be read as their kind and are left out");
        metrics::gauge(registry, what, "kind", read);
    }

    /// Waits until all informers that exist now have their first list.
    pub async fn synced(&self) {
        let all = self.inner.all.lock().clone();
        for informer in all {
            informer.synced().await;
        }
    }
}
