//! Questions about Pods that all components ask. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/> and
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, Toleration},
    apimachinery::pkg::api::resource::Quantity as Amount,
};
use std::{collections::BTreeMap, sync::LazyLock};

/// The pod's spec; a Pod without one does not come from an API server.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// Name, or empty.
pub fn name(pod: &Pod) -> &str {
    crate::meta::name(&pod.metadata)
}

/// Namespace, or empty.
pub fn namespace(pod: &Pod) -> &str {
    crate::meta::namespace(&pod.metadata)
}

/// Uid, or empty.
pub fn uid(pod: &Pod) -> &str {
    crate::meta::uid(&pod.metadata)
}

/// The node that the pod is bound to, or empty.
pub fn node_name(pod: &Pod) -> &str {
    spec(pod).node_name.as_deref().unwrap_or_default()
}

/// The phase; `Pending` while none is reported.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).filter(|phase| !phase.is_empty()).unwrap_or("Pending")
}

/// Whether the pod has succeeded or failed: it uses no resources any more.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion has begun.
pub fn is_deleting(pod: &Pod) -> bool {
    crate::meta::is_deleting(&pod.metadata)
}

/// Whether the pod counts as a replica: neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

/// Whether the pod is being deleted and still uses resources.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && is_deleting(pod)
}

/// The condition of a type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Whether the `Ready` condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready; `None` when it is not ready, or the condition has no time.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// The tolerations of the pod.
pub fn tolerations(pod: &Pod) -> &[Toleration] {
    spec(pod).tolerations.as_deref().unwrap_or_default()
}

/// Init containers, sidecars among them.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Whether an init container is a sidecar: it starts in init order and runs as long as the pod.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The containers that run as long as the pod: the app containers, then the sidecars.
pub fn lasting_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).containers.iter().chain(init_containers(pod).iter().filter(|init| is_sidecar(init)))
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Pod) -> &'static str {
    let amount = |amounts: Option<&BTreeMap<String, Amount>>, name: &str| {
        let parsed: api::quantity::Quantity = amounts?.get(name)?.0.parse().ok()?;
        Some(parsed.milli_value()).filter(|milli| *milli > 0)
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in init_containers(pod).iter().chain(&spec(pod).containers) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let limit = amount(resources.and_then(|r| r.limits.as_ref()), name);
            let request = amount(resources.and_then(|r| r.requests.as_ref()), name).or(limit);
            any |= request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn a_pod_is_asked_for_what_its_status_says() {
        for (status, deleting, expected) in [
            (json!({}), false, ("Pending", false, true, false)),
            (json!({"phase": ""}), false, ("Pending", false, true, false)),
            (json!({"phase": "Running"}), true, ("Running", false, false, true)),
            (json!({"phase": "Succeeded"}), false, ("Succeeded", true, false, false)),
            (json!({"phase": "Failed"}), true, ("Failed", true, false, false)),
        ] {
            let deleted = deleting.then_some("2026-01-01T00:00:00Z");
            let pod = pod(json!({"metadata": {"deletionTimestamp": deleted}, "status": status}));
            assert_eq!((phase(&pod), is_finished(&pod), is_active(&pod), is_terminating(&pod)), expected, "{status}");
        }
        let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        assert!(is_ready(&pod(ready("True"))) && ready_since(&pod(ready("True"))).is_some());
        assert!(!is_ready(&pod(ready("False"))) && ready_since(&pod(ready("False"))).is_none());
        assert!(!is_ready(&pod(json!({}))) && node_name(&pod(json!({}))).is_empty());
    }

    #[test]
    fn sidecars_last_as_long_as_the_apps() {
        let container = |name: &str, policy: Value| json!({"name": name, "restartPolicy": policy});
        let pod = pod(json!({"spec": {"containers": [container("app", Value::Null)],
            "initContainers": [container("init", Value::Null), container("never", json!("Never")), container("side", json!("Always"))]}}));
        assert_eq!(lasting_containers(&pod).map(|c| c.name.as_str()).collect::<Vec<_>>(), ["app", "side"]);
    }
}
