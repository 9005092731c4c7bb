//! Deletes the content of terminating namespaces, pods first, and then removes their finalizer.
//!
//! Follows <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/> and KEP-5080 (pods are deleted first, so that a
//! NetworkPolicy, say, does not disappear before them).

mod plan;

pub(crate) use plan::{Findings, conditions};

use crate::{Context, meta, pods};
use client::{
    Client, Controller, Delta, Error, Informer, Key, Next, PartialObjectMetadata, Target, Wakeups,
    discovery::{self, Resource},
};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use std::{collections::BTreeMap, time::Duration};

const FINALIZER: &str = "kubernetes";
/// How long objects with finalizers are expected to take, seconds.
const FINALIZER_SECONDS: i64 = 15;

/// Whether objects may be created in the namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

/// Empties and finalizes namespaces. Upstream's `namespace-controller`.
pub(crate) struct NamespaceController {
    client: Client,
    clock: api::Clock,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
}

impl NamespaceController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            namespaces: cx.informers.of(),
            pods: cx.informers.of(),
        }
    }

    /// Deletes the content; returns what remains, and how many seconds that may take.
    async fn empty(&self, name: &str) -> Result<(Findings, i64), Error> {
        let mut findings = Findings::default();
        let found = discovery::resources(&self.client).await?;
        findings.discovery = found.failures;
        let content = |r: &&Resource| r.namespaced && r.can(&["delete", "list"]);
        let (pods, others): (Vec<_>, Vec<_>) = found.resources.iter().filter(content).partition(|r| is_pods(r));
        let mut seconds = 0;
        for resources in [pods, others] {
            for resource in resources {
                match self.empty_of(name, resource, &mut findings).await {
                    Ok(more) => seconds = seconds.max(more),
                    Err(error) => findings.failures.push(error.to_string()),
                }
            }
            if seconds > 0 || !findings.failures.is_empty() {
                break;
            }
        }
        Ok((findings, seconds))
    }

    /// Deletes all objects of one kind; returns how many seconds the remaining ones may take, 0 if none remains.
    async fn empty_of(&self, namespace: &str, resource: &Resource, findings: &mut Findings) -> Result<i64, Error> {
        let path = resource.path(namespace, "");
        let target = Target::resource(resource).within(namespace);
        let left = self.left(&target).await?;
        if left.is_empty() {
            return Ok(0);
        }
        let options = br#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;
        let body = || Some(("application/json", options.to_vec()));
        if resource.can(&["deletecollection"]) {
            self.client.raw(Method::DELETE, &path, body()).await?;
        } else {
            for item in left.iter().filter(|item| item.deletion_timestamp.is_none()) {
                match self.client.raw(Method::DELETE, &resource.path(namespace, &item.name), body()).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        let grace = if is_pods(resource) { self.grace_of_pods(namespace) } else { 0 };
        Ok(findings.note(resource, &self.left(&target).await?, grace))
    }

    async fn left(&self, target: &Target) -> Result<Vec<PartialObjectMetadata>, Error> {
        let list = self.client.list_target(target).await?;
        // Objects that cannot be read remain nevertheless.
        let bad = list.undecodable.into_iter().map(|bad| PartialObjectMetadata {
            name: bad.key.name,
            uid: bad.uid,
            ..PartialObjectMetadata::default()
        });
        Ok(list.items.into_iter().chain(bad).collect())
    }

    /// The longest grace period of the pods in the namespace, seconds.
    fn grace_of_pods(&self, namespace: &str) -> i64 {
        let pods = self.pods.list_in(namespace);
        let running = pods.iter().filter(|pod| !pods::is_finished(pod));
        running.filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds).max().unwrap_or(0)
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Error> {
        let spec = namespace.spec.get_or_insert_default();
        let kept: Vec<String> = spec.finalizers.iter().flatten().filter(|f| *f != FINALIZER).cloned().collect();
        spec.finalizers = Some(kept);
        let name = meta::name(&namespace.metadata).to_owned();
        let target = ("", name.as_str(), "finalize");
        match self.client.subresource::<Namespace, _, serde_json::Value>(Method::PUT, target, &namespace).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_pods(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

impl Findings {
    /// Counts the remaining objects of a kind; returns how many seconds they may take: their grace period, or `grace` where they have none.
    fn note(&mut self, resource: &Resource, left: &[PartialObjectMetadata], grace: i64) -> i64 {
        if left.is_empty() {
            return 0;
        }
        *self.remaining.entry(format!("{}.{}", resource.resource, resource.group)).or_default() += left.len();
        let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
        for finalizer in left.iter().flat_map(|object| &object.finalizers) {
            *finalizers.entry(finalizer).or_default() += 1;
        }
        for (finalizer, count) in &finalizers {
            *self.finalizers.entry((*finalizer).to_owned()).or_default() += count;
        }
        let granted = |object: &PartialObjectMetadata| object.deletion_grace_period_seconds.unwrap_or(grace);
        let grace = left.iter().map(granted).max().unwrap_or(0);
        if finalizers.is_empty() { grace.max(1) } else { grace.max(FINALIZER_SECONDS) }
    }
}

#[async_trait::async_trait]
impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.namespaces);
        // after the last pod the rest of the content can be deleted
        let namespaces = self.namespaces.clone();
        wakeups.on(&self.pods, move |delta| {
            let Delta::Deleted(pod) = delta else { return Vec::new() };
            let name = meta::namespace(&pod.metadata);
            let deleting = namespaces.get("", name).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
            if deleting { vec![Key::new("", name)] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let deleting = self.namespaces.find(key).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
        if !deleting {
            return Ok(Next::Done);
        }
        // several writers update a terminating namespace: start from a live read
        let Some(mut namespace) = self.client.find::<Namespace>("", &key.name).await? else { return Ok(Next::Done) };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(Next::Done);
        }
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(Next::Done);
        }
        if is_phase_missing(&namespace) {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = self.client.update_status(&namespace).await?;
        }
        let (findings, seconds) = self.empty(&key.name).await?;
        let status = namespace.status.get_or_insert_default();
        if let Some(conditions) =
            conditions(status.conditions.as_deref().unwrap_or_default(), &findings, self.clock.now())
        {
            status.conditions = Some(conditions);
            namespace = self.client.update_status(&namespace).await?;
        }
        anyhow::ensure!(findings.failures.is_empty(), "cannot delete all content: {}", findings.failures.join(", "));
        anyhow::ensure!(findings.discovery.is_empty(), "cannot discover all kinds: {}", findings.discovery.join(", "));
        if seconds > 0 {
            let wait = u64::try_from(seconds / 2 + 1).unwrap_or(1).min(5);
            return Ok(Next::After(Duration::from_secs(wait)));
        }
        self.finalize(namespace).await?;
        Ok(Next::Done)
    }
}

fn is_phase_missing(namespace: &Namespace) -> bool {
    namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}
