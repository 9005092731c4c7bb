//! Which pods are protected by PodDisruptionBudgets. Pure.

use crate::{
    pod::PodInfo,
    terms::{parse, selects},
};
use api::selector::Selector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::{collections::BTreeSet, sync::Arc};

/// What counts of a PodDisruptionBudget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    namespace: String,
    selector: Selector,
    /// How many pods may still be disrupted.
    allowed: i64,
    /// Names of pods whose disruption is counted already.
    disrupted: BTreeSet<String>,
}

impl Budget {
    pub(super) fn new(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: parse(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
            allowed: status.and_then(|s| s.disruptions_allowed).map_or(0, i64::from),
            disrupted: status
                .and_then(|s| s.disrupted_pods.as_ref())
                .into_iter()
                .flat_map(|p| p.keys().cloned())
                .collect(),
        }
    }

    /// Whether the budget counts a pod. One with an empty selector counts none.
    fn counts(&self, pod: &PodInfo) -> bool {
        let name = pod.pod.metadata.name.as_deref().unwrap_or("");
        self.namespace == pod.namespace()
            && !self.selector.is_empty()
            && selects(&self.selector, pod.labels())
            && !self.disrupted.contains(name)
    }
}

/// Splits pods into those that no budget lets go, and the others, if all are disrupted in this order.
pub(super) fn split(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        let labelled = pod.labels().is_some_and(|labels| !labels.is_empty());
        for (_, allowed) in budgets.iter().zip(&mut allowed).filter(|(b, _)| labelled && b.counts(pod)) {
            *allowed -= 1;
            violates |= *allowed < 0;
        }
        violates
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, namespace: &str, labels: Value) -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn budget(selector: Value, allowed: i32, disrupted: &[&str]) -> Budget {
        let disrupted: serde_json::Map<String, Value> =
            disrupted.iter().map(|name| ((*name).to_owned(), json!("2026-01-01T00:00:00Z"))).collect();
        let value = json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"selector": selector},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                "disruptedPods": disrupted}});
        Budget::new(&serde_json::from_value(value).expect("a budget"))
    }

    #[test]
    fn a_budget_lets_so_many_go_and_then_no_more() {
        let app = json!({"app": "a"});
        let (all, of_a) = (json!({"matchLabels": {"app": "a"}}), || json!({"app": "a"}));
        let pods = [
            pod("p1", "d", of_a()),
            pod("p2", "d", of_a()),
            pod("other", "e", of_a()),
            pod("bare", "d", json!({})),
            pod("p3", "d", app),
        ];
        for (budgets, violating) in [
            (vec![], ""),
            (vec![budget(all.clone(), 3, &[])], ""),
            (vec![budget(all.clone(), 1, &[])], "p2 p3"),
            (vec![budget(all.clone(), 0, &["p2"])], "p1 p3"),
            (vec![budget(all.clone(), 1, &["p1"])], "p3"),
            (vec![budget(json!({}), 0, &[])], ""),
            (vec![budget(json!(null), 0, &[])], ""),
            (vec![budget(all.clone(), 3, &[]), budget(all.clone(), 2, &[])], "p3"),
        ] {
            let (bad, good) = split(&pods, &budgets);
            let names = |pods: &[Arc<PodInfo>]| pods.iter().map(|p| p.uid().to_owned()).collect::<Vec<_>>().join(" ");
            assert_eq!(names(&bad), violating, "{budgets:?}");
            assert_eq!(bad.len() + good.len(), 5);
        }
    }
}
