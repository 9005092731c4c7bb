//! PodDisruptionBudgets: how many of the pods may be evicted now. The eviction API asks their status.
//!
//! Follows <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>.

mod plan;
mod scale;
mod stale;

#[cfg(test)]
mod tests;

pub(crate) use stale::StalePodDisruption;

use self::{
    plan::{Counting, Counts},
    scale::{Owners, Scale},
};
use crate::{Context, labels, meta, pods, served::Served, status};
use client::{Client, Controller, Delta, Error, EventType, Informer, Key, Kind, Next, Recorder, Wakeups, reference};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::{sync::Arc, time::Duration};

/// Counts the pods of budgets. Upstream's `disruption-controller`.
pub(crate) struct DisruptionController {
    client: Client,
    clock: api::Clock,
    recorder: Arc<Recorder>,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    owners: Owners,
}

impl DisruptionController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let (budgets, pods) = (cx.informers.of(), cx.informers.of());
        labels::index_selectors(&budgets);
        labels::index(&pods);
        let (client, clock) = (cx.client.clone(), cx.options.clock.clone());
        Self {
            recorder: Arc::new(cx.recorder("controllermanager")),
            budgets,
            pods,
            owners: Owners {
                client: client.clone(),
                controllers: cx.informers.of(),
                replica_sets: cx.informers.of(),
                deployments: cx.informers.of(),
                stateful_sets: cx.informers.of(),
                served: Served::new(client.clone(), clock.clone()),
            },
            client,
            clock,
        }
    }

    fn pods_of(&self, budget: &PodDisruptionBudget, namespace: &str) -> Result<Vec<Arc<Pod>>, String> {
        let Some(selector) = selector(budget) else { return Ok(Vec::new()) };
        let parsed = meta::selector(selector)?;
        let mut found = labels::selected(&self.pods, namespace, labels::wanted(selector));
        found.retain(|pod| meta::matches(&parsed, pod.metadata.labels.as_ref()));
        Ok(found)
    }

    /// What the status must be, and when to look again.
    async fn count(
        &self,
        budget: &PodDisruptionBudget,
    ) -> Result<(PodDisruptionBudgetStatus, Option<Duration>), String> {
        let (namespace, about) = (meta::namespace(&budget.metadata), reference(budget));
        let event = |kind, reason: &str, text: String| self.recorder.event(&about, kind, reason, text);
        let pods = self.pods_of(budget, namespace).inspect_err(|error| {
            event(EventType::Warning, "NoPods", format!("Failed to get pods: {error}"));
        })?;
        if pods.is_empty() {
            event(EventType::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let scale = match plan::counting(budget) {
            Counting::Pods => Ok(Scale::default()),
            Counting::Scale => self.owners.scale(namespace, &pods).await,
        };
        let counted =
            scale.and_then(|scale| Ok((plan::expected(budget, pods.len(), scale.replicas)?, scale.unmanaged)));
        let ((expected, desired), unmanaged) = counted.inspect_err(|error| {
            let text = format!("Failed to calculate the number of expected pods: {error}");
            event(EventType::Warning, "CalculateExpectedPodCountFailed", text);
        })?;
        if unmanaged {
            let text = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                selector_text(selector(budget))
            );
            event(EventType::Warning, "UnmanagedPods", text);
        }
        let now = self.clock.now();
        let disrupted = plan::disrupted(budget, &pods, now);
        for pod in &disrupted.undeleted {
            let name = meta::name(&budget.metadata);
            let text = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
            self.recorder.event(&reference(&**pod), EventType::Warning, "NotDeleted", text);
        }
        let counts = Counts { healthy: plan::healthy(&pods, &disrupted.pods), desired, expected };
        Ok((plan::status(budget, counts, disrupted.pods, now), disrupted.recheck))
    }

    /// Writes a status, if the budget is still as it was seen: an eviction may have been counted meanwhile.
    async fn write(&self, budget: &PodDisruptionBudget, new: PodDisruptionBudgetStatus) -> Result<(), Error> {
        if !status::differs(budget.status.as_ref(), &new) {
            return Ok(());
        }
        status::write(&self.client, &PodDisruptionBudget { status: Some(new), ..budget.clone() }).await
    }
}

fn selector(budget: &PodDisruptionBudget) -> Option<&LabelSelector> {
    budget.spec.as_ref()?.selector.as_ref()
}

/// A selector as Go prints it.
fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},"));
    let requirements = selector.match_expressions.iter().flatten().map(|one| {
        let values = one.values.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
    });
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.collect::<String>(),
        requirements.collect::<String>()
    )
}

/// The budgets that a change of a pod concerns.
fn concerned(delta: &Delta<Pod>, budgets: &Informer<PodDisruptionBudget>) -> Vec<Arc<PodDisruptionBudget>> {
    let (pod, old) = (delta.object(), delta.old());
    let face = |pod: &Pod| {
        (
            pods::is_ready(pod),
            meta::is_deleting(&pod.metadata),
            meta::controller_of(&pod.metadata).map(|o| o.uid.clone()),
        )
    };
    let same = |old: &Arc<Pod>| old.metadata.labels == pod.metadata.labels && face(old) == face(pod);
    if old.is_some_and(same) {
        return Vec::new();
    }
    let sets = [pod.metadata.labels.as_ref(), old.and_then(|old| old.metadata.labels.as_ref())];
    let mut found = labels::selecting(budgets, meta::namespace(&pod.metadata), &sets);
    found.retain(|budget| {
        let selector = selector(budget).and_then(|selector| meta::selector(selector).ok());
        selector.is_some_and(|selector| {
            let mut seen = [Some(pod), old].into_iter().flatten();
            seen.any(|pod| meta::matches(&selector, pod.metadata.labels.as_ref()))
        })
    });
    found
}

/// Wakes the budgets of a namespace when the scale of an owner changes.
fn on_scale<K: Kind>(
    wakeups: &mut Wakeups,
    owners: &Informer<K>,
    budgets: &Informer<PodDisruptionBudget>,
    replicas: fn(&K) -> Option<i32>,
) {
    let budgets = budgets.clone();
    wakeups.on(owners, move |delta| {
        let owner = delta.object();
        if delta.old().is_some_and(|old| replicas(old) == replicas(owner)) {
            return Vec::new();
        }
        budgets.list_in(meta::namespace(owner.metadata())).iter().map(|budget| Key::of(&**budget)).collect()
    });
}

#[async_trait::async_trait]
impl Controller for DisruptionController {
    const NAME: &'static str = "disruption-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.budgets);
        // The informer lives longer than the controller, which ends when the last recorder does.
        let (budgets, recorder) = (self.budgets.clone(), Arc::downgrade(&self.recorder));
        wakeups.on(&self.pods, move |delta| {
            let found = concerned(delta, &budgets);
            if let ([first, _, ..], Some(recorder)) = (&found[..], recorder.upgrade()) {
                let (pod, name) = (delta.object(), meta::name(&first.metadata));
                let (namespace, own) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
                let text = format!(
                    "Pod {namespace:?}/{own:?} matches multiple PodDisruptionBudgets.  Chose {name:?} arbitrarily."
                );
                recorder.event(&reference(&**pod), EventType::Warning, "MultiplePodDisruptionBudgets", text);
            }
            found.iter().map(|budget| Key::of(&**budget)).collect()
        });
        on_scale(wakeups, &self.owners.controllers, &self.budgets, |rc| rc.spec.as_ref()?.replicas);
        on_scale(wakeups, &self.owners.replica_sets, &self.budgets, |set| set.spec.as_ref()?.replicas);
        on_scale(wakeups, &self.owners.deployments, &self.budgets, |deployment| deployment.spec.as_ref()?.replicas);
        on_scale(wakeups, &self.owners.stateful_sets, &self.budgets, |set| set.spec.as_ref()?.replicas);
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let Some(budget) = self.budgets.find(key) else { return Ok(Next::Done) };
        let (new, next) = match self.count(&budget).await {
            Ok((new, recheck)) => (new, recheck.map_or(Next::Done, |left| Next::After(left + Duration::from_secs(1)))),
            Err(error) => {
                tracing::warn!(%key, error, "a budget cannot be counted: it allows no eviction");
                (plan::failed(&budget, &error, self.clock.now()), Next::Done)
            }
        };
        self.write(&budget, new).await?;
        Ok(next)
    }
}
