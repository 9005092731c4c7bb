//! ResourceQuotas: counts what the objects of a namespace use, into `status.used`. The API server keeps the limits itself; see its admission.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

mod plan;

use crate::{Context, meta, served::Served};
use anyhow::Context as _;
use api::quota::{self, GroupResource, Quota, Usage};
use client::{
    Client, Controller, Delta, Informer, Informers, Key, Next, PartialObjectMetadata, Target, Wakeups, WorkQueue,
    discovery::Resource,
};
use http::Method;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How often each quota is counted although nothing has changed. Upstream's figure.
const RESYNC: Duration = Duration::from_secs(300);
/// Objects in one page of a list.
const PAGE: usize = 500;

/// Counts. Upstream's `resourcequota-controller`.
pub(crate) struct ResourceQuotaController {
    client: Client,
    clock: api::Clock,
    informers: Informers,
    served: Served,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    /// Of each resource that some quota limits.
    followed: Mutex<HashMap<GroupResource, Informer<PartialObjectMetadata>>>,
    /// The resourceVersion that this controller wrote last.
    written: Arc<Mutex<HashMap<Key, String>>>,
    queue: OnceLock<WorkQueue<Key>>,
}

impl ResourceQuotaController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (client, clock) = (cx.client.clone(), cx.options.clock.clone());
        Self {
            served: Served::new(client.clone(), clock.clone()),
            client,
            clock,
            informers: cx.informers.clone(),
            quotas: cx.informers.of(),
            pods: cx.informers.of(),
            followed: Mutex::default(),
            written: Arc::default(),
            queue: OnceLock::new(),
        }
    }

    /// Counts again when an object of a resource comes or goes; also when it changes, unless only their number counts.
    fn follow(&self, resource: &Resource) {
        let Some(queue) = self.queue.get().cloned() else { return };
        let of = (resource.group.clone(), resource.resource.clone());
        let mut followed = self.followed.lock();
        // Pods are followed as typed objects.
        if followed.contains_key(&of) || of.0.is_empty() && of.1 == "pods" {
            return;
        }
        let informer: Informer<PartialObjectMetadata> = self.informers.over(Target::resource(resource));
        let (quotas, counted) = (self.quotas.clone(), quota::is_counted_only(&of.0, &of.1));
        informer.subscribe(move |delta| {
            if !(counted && matches!(delta, Delta::Modified { .. })) {
                keys(&quotas, &delta.object().namespace).into_iter().for_each(|key| queue.add(key));
            }
        });
        followed.insert(of, informer);
    }

    /// What all objects use that count for a quota.
    async fn count(&self, namespace: &str, quota: &Quota) -> anyhow::Result<Usage> {
        let served = self.served.resources().await?;
        let mut all = Usage::new();
        for (group, name) in quota.resources() {
            let listed =
                |r: &&Resource| r.group == group && r.resource == name && r.namespaced && r.can(&["list", "watch"]);
            let Some(resource) = served.iter().find(listed) else { continue };
            self.follow(resource);
            let path = resource.path(namespace, "");
            let names = quota.names(&group, &name);
            let zero = names.iter().map(|name| ((*name).to_owned(), api::quantity::Quantity::default()));
            quota::add(&mut all, &zero.collect());
            let used = if quota::is_counted_only(&group, &name) {
                let number = if quota.scopes.is_empty() { self.number(&path).await? } else { 0 };
                quota::count(&group, &name, number)
            } else {
                self.sum(&path, quota, (&group, &name)).await?
            };
            quota::add(&mut all, &quota::only(&used, &names));
        }
        Ok(all)
    }

    async fn page(&self, path: &str, limit: usize, from: &str) -> anyhow::Result<Value> {
        let from = if from.is_empty() { String::new() } else { format!("&continue={from}") };
        let body = self.client.raw(Method::GET, &format!("{path}?limit={limit}{from}"), None).await?;
        serde_json::from_slice(&body).with_context(|| format!("the list of {path}"))
    }

    /// How many objects a collection has.
    async fn number(&self, path: &str) -> anyhow::Result<i64> {
        let list = self.page(path, 1, "").await?;
        let items = list["items"].as_array().map_or(0, Vec::len);
        let more = list["metadata"]["remainingItemCount"].as_i64().unwrap_or(0);
        Ok(more.saturating_add(i64::try_from(items)?))
    }

    /// What the objects of a collection use.
    async fn sum(&self, path: &str, quota: &Quota, (group, name): (&str, &str)) -> anyhow::Result<Usage> {
        let (mut sum, mut from, now) = (Usage::new(), String::new(), self.clock.now());
        loop {
            let list = self.page(path, PAGE, &from).await?;
            for object in list["items"].as_array().into_iter().flatten() {
                if quota.covers(group, name, object) {
                    quota::add(&mut sum, &quota::usage(group, name, object, now));
                }
            }
            match list["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => from = next.to_owned(),
                _ => return Ok(sum),
            }
        }
    }
}

/// The quotas of a namespace.
fn keys(quotas: &Informer<ResourceQuota>, namespace: &str) -> Vec<Key> {
    quotas.list_in(namespace).iter().map(|quota| Key::of(&**quota)).collect()
}

#[async_trait::async_trait]
impl Controller for ResourceQuotaController {
    const NAME: &'static str = "resourcequota-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        let _ = self.queue.set(wakeups.queue());
        let written = self.written.clone();
        wakeups.on(&self.quotas, move |delta| {
            let (quota, key) = (delta.object(), Key::of(&**delta.object()));
            if matches!(delta, Delta::Deleted(_)) {
                written.lock().remove(&key);
            }
            let own =
                written.lock().get(&key).is_some_and(|known| quota.metadata.resource_version.as_ref() == Some(known));
            if own { Vec::new() } else { vec![key] }
        });
        let quotas = self.quotas.clone();
        wakeups.on(&self.pods, move |delta| match delta {
            Delta::Modified { old, new } if !plan::concerns(old, new) => Vec::new(),
            delta => keys(&quotas, meta::namespace(&delta.object().metadata)),
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(quota) = self.quotas.find(key) else { return Ok(Next::Done) };
        let limits = Quota::of(&serde_json::to_value(&quota.spec)?);
        let counted = self.count(&key.namespace, &limits).await?;
        let Some(new) = plan::status(&quota, &counted) else { return Ok(Next::After(RESYNC)) };
        let new = ResourceQuota { status: Some(new), ..(*quota).clone() };
        match self.client.update_status(&new).await {
            Ok(stored) => {
                let revision = stored.metadata.resource_version.unwrap_or_default();
                self.written.lock().insert(key.clone(), revision);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Next::After(RESYNC))
    }
}
