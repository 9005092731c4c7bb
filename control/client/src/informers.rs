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
    /// Cancelled when the task of any of them ends.
    ended: CancellationToken,
}

impl Informers {
    /// No informer yet. All end with `token`; their tasks are tracked in `tasks`.
    pub fn new(client: Client, token: CancellationToken, tasks: TaskTracker) -> Self {
        let (kinds, all, ended) = (Mutex::default(), Mutex::default(), CancellationToken::new());
        let inner = Inner { client, token, tasks, kinds, all, ended };
        Self { inner: Arc::new(inner) }
    }

    /// The informer of a kind. Must be called on a tokio runtime, where its task is started the first time.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        let mut kinds = self.inner.kinds.lock();
        let any = kinds.entry(TypeId::of::<K>()).or_insert_with(|| {
            let informer = Informer::<K>::new();
            self.inner.all.lock().push(Arc::new(informer.clone()));
            let (run, ended) = (informer.clone(), self.inner.ended.clone().drop_guard());
            let (client, token) = (self.inner.client.clone(), self.inner.token.clone());
            self.inner.tasks.spawn(async move {
                let _ended = ended;
                run.run(client, token).await;
            });
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

    /// Resolves when the task of any informer has ended: cancelled, or by a panic outside a handler. What it shows is not kept up any more.
    pub async fn ended(&self) {
        self.inner.ended.cancelled().await;
    }

    /// Waits until all informers that exist now have their first list.
    pub async fn synced(&self) {
        let all = self.inner.all.lock().clone();
        for informer in all {
            informer.synced().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::time::Duration;

    fn client() -> Client {
        let answer = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let list =
                r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a","resourceVersion":"3"}}]}"#;
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(list.as_bytes().to_vec())))
        });
        Client::new(kube::Client::new(answer, "default"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_informer_that_panics_is_told() {
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let informers = Informers::new(client(), token, tasks);
        informers.of::<ConfigMap>();
        tokio::time::timeout(Duration::from_secs(60), informers.ended()).await.expect_err("it runs");
        let other = Informers::new(client(), CancellationToken::new(), TaskTracker::new());
        other.of::<ConfigMap>().index("odd", |_| panic!("an index of a test"));
        tokio::time::timeout(Duration::from_secs(60), other.ended()).await.expect("told");
    }
}
