//! The read-your-writes gate: a reconcile starts only when the informers that it reads have seen the writes of the last reconcile of the same
//! key. It replaces upstream's "expectations" without counting: revisions are global and ordered.

use crate::{Key, Kind, Target};
use futures::future::BoxFuture;
use std::{
    any::{Any, TypeId},
    cell::RefCell,
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::Duration,
};

/// How long a gate waits for an informer that has lost its connection or is far behind, as long as upstream's expectations hold. Then the
/// reconcile goes on with a stale cache. Updates have preconditions and cost a retry, but an object with a generated name is made once more.
const GATE_TIMEOUT: Duration = Duration::from_secs(300);

/// What one reconcile wrote, by kind.
#[derive(Default, Debug)]
pub(crate) struct Writes {
    revisions: HashMap<TypeId, u64>,
    deletions: Vec<(TypeId, Key, Option<String>)>,
    /// How many there were.
    pub(crate) count: usize,
}

tokio::task_local! {
    static WRITES: RefCell<Writes>;
}

/// Runs a future and records its writes through any [`crate::Client`] on the same task.
pub(crate) async fn recording<F: Future>(future: F) -> (F::Output, Writes) {
    WRITES
        .scope(RefCell::default(), async {
            let output = future.await;
            (output, WRITES.with(RefCell::take))
        })
        .await
}

pub(crate) fn wrote<K: Kind>(object: &K) {
    let Some(revision) = object.metadata().resource_version.as_deref().and_then(|rv| rv.parse::<u64>().ok()) else {
        return;
    };
    let _ = WRITES.try_with(|writes| {
        let mut writes = writes.borrow_mut();
        let last = writes.revisions.entry(TypeId::of::<K>()).or_default();
        *last = revision.max(*last);
        writes.count += 1;
    });
}

pub(crate) fn deleted<K: Kind>(key: Key, uid: Option<String>) {
    let _ = WRITES.try_with(|writes| {
        let mut writes = writes.borrow_mut();
        writes.deletions.push((TypeId::of::<K>(), key, uid));
        writes.count += 1;
    });
}

/// An informer as the gate sees it.
pub(crate) trait Watched: Any + Send + Sync {
    fn kind(&self) -> TypeId;
    fn target(&self) -> &Target;
    /// Whether it caches whole objects, not only their metadata.
    fn is_typed(&self) -> bool;
    /// Why the first list is missing; `None` once it is complete.
    fn missing(&self) -> Option<String>;
    /// How many objects cannot be decoded at the moment.
    fn undecodable(&self) -> usize;
    fn synced(&self) -> BoxFuture<'_, ()>;
    fn seen(&self, revision: u64) -> BoxFuture<'_, ()>;
    fn gone<'a>(&'a self, key: &'a Key, uid: Option<&'a str>) -> BoxFuture<'a, ()>;
}

impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.revisions.is_empty() && self.deletions.is_empty()
    }

    /// Waits until all `informers` have seen these writes.
    pub(crate) async fn seen_by(&self, informers: &[Arc<dyn Watched>]) {
        let wait = async {
            for informer in informers {
                if let Some(revision) = self.revisions.get(&informer.kind()) {
                    informer.seen(*revision).await;
                }
                for (kind, key, uid) in &self.deletions {
                    if *kind == informer.kind() {
                        informer.gone(key, uid.as_deref()).await;
                    }
                }
            }
        };
        if tokio::time::timeout(GATE_TIMEOUT, wait).await.is_err() {
            tracing::warn!(
                "an informer has not seen our own writes for {GATE_TIMEOUT:?}; reconciling with what it knows"
            );
        }
    }
}
