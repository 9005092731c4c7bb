//! Questions about pods that only workload controllers ask: availability, ownership. The others are in [`client::pod`]. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

pub(crate) use client::pod::{
    condition, is_active, is_finished, is_ready, is_terminating, node_name, phase, ready_since, tolerations,
};

use crate::meta::{controller_of, non_negative};
use client::{Delta, Key};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use std::{sync::Arc, time::Duration};

/// How long until `pod` is available: zero when it is, `None` when it is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let since = ready_since(pod)?;
    let due = since.saturating_add(jiff::SignedDuration::from_secs(i64::from(min_ready_seconds))).unwrap_or(since);
    Some(non_negative(due.duration_since(now)))
}

/// Whether `pod` has been ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now).is_some_and(|d| d.is_zero())
}

/// The highest restart count among the containers, and among the restartable init containers (sidecars).
pub(crate) fn max_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let highest = |s: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        s.iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
    };
    (highest(&status.container_statuses), highest(&status.init_container_statuses))
}

/// A pod from `template`, owned by `owner`; `prefix` becomes its `generateName`.
pub(crate) fn from_template(namespace: &str, prefix: &str, template: &PodTemplateSpec, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(name_prefix(prefix)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `name-`, or `name` alone where the dash would make it too long for a subdomain.
fn name_prefix(name: &str) -> String {
    if name.len() < 253 { format!("{name}-") } else { name.to_owned() }
}

/// The keys of the owners of kind `O` that a change of a pod concerns. A change that no status of an owner shows, such as a binding, concerns
/// none: otherwise a thousand bindings would reconcile an owner of a thousand pods a thousand times.
pub(crate) fn enqueue_owner<O: k8s_openapi::Resource>(delta: &Delta<Pod>) -> Vec<Key> {
    let pod = delta.object();
    let face = |p: &Pod| {
        let ready = condition(p, "Ready").map(|c| (c.status.clone(), c.last_transition_time.clone()));
        let status = p.status.as_ref().map(|s| (s.phase.clone(), max_restarts(p)));
        (ready, status, p.metadata.deletion_timestamp.is_some(), p.metadata.finalizers.clone())
    };
    let same = |old: &Arc<Pod>| {
        old.metadata.labels == pod.metadata.labels
            && old.metadata.owner_references == pod.metadata.owner_references
            && face(old) == face(pod)
    };
    if delta.old().is_some_and(same) {
        return Vec::new();
    }
    let owner = |p: &Pod| {
        let owner = controller_of(&p.metadata)?;
        let ours = owner.kind == O::KIND && owner.api_version == O::API_VERSION;
        ours.then(|| Key::new(p.metadata.namespace.clone().unwrap_or_default(), owner.name.clone()))
    };
    let old = delta.old().and_then(|o| owner(o));
    let new = owner(pod).filter(|k| Some(k) != old.as_ref());
    old.into_iter().chain(new).collect()
}

/// The pods for which `keep` is true.
pub(crate) fn filter(pods: &[Arc<Pod>], keep: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
    pods.iter().filter(|p| keep(p)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::{Value, json};

    fn pod(labels: Value, node: &str, ready: bool) -> Arc<Pod> {
        let value = json!({"metadata": {"name": "p", "namespace": "ns", "labels": labels, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true}]},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    #[test]
    fn only_changes_that_an_owner_can_count_wake_it() {
        let plain = || pod(json!({}), "", false);
        let modified = |new| Delta::Modified { old: plain(), new };
        for (what, delta, wakes) in [
            ("new", Delta::Added(plain()), true),
            ("gone", Delta::Deleted(plain()), true),
            ("bound", modified(pod(json!({}), "n", false)), false),
            ("ready", modified(pod(json!({}), "", true)), true),
            ("relabelled", modified(pod(json!({"a": "b"}), "", false)), true),
        ] {
            let keys = enqueue_owner::<ReplicaSet>(&delta);
            assert_eq!(keys, if wakes { vec![Key::new("ns", "rs")] } else { Vec::new() }, "{what}");
        }
        assert!(enqueue_owner::<k8s_openapi::api::batch::v1::Job>(&Delta::Added(plain())).is_empty());
    }

    #[test]
    fn availability_needs_readiness_for_long_enough() {
        let mut p = (*pod(json!({}), "", true)).clone();
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        assert!(is_available(&p, 0, now) && !is_available(&p, 10, now), "since when is not known");
        let conditions = p.status.as_mut().and_then(|s| s.conditions.as_mut()).expect("conditions");
        conditions[0].last_transition_time = serde_json::from_value(json!("2026-01-01T00:00:30Z")).expect("a time");
        assert!(is_available(&p, 30, now));
        assert_eq!(available_in(&p, 40, now), Some(Duration::from_secs(10)));
        assert_eq!(available_in(&pod(json!({}), "", false), 0, now), None);
    }
}
