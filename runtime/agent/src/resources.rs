//! Resource requests and limits. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.

use crate::pod;
use api::quantity::Quantity;
use container::Limits;
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::BTreeMap;

type Amounts = BTreeMap<String, Text>;

/// Parses a quantity. The API server has validated it.
pub fn quantity(text: &Text) -> Option<Quantity> {
    Quantity::parse(&text.0).ok()
}

fn amount(map: Option<&Amounts>, name: &str) -> Option<Quantity> {
    map?.get(name).and_then(quantity)
}

/// The limits that a runtime enforces for a container.
pub fn limits(container: &Container) -> Limits {
    of(container.resources.as_ref())
}

/// The bytes of memory that a container requests: its limit, if it says nothing else.
pub fn memory_request(container: &Container) -> i64 {
    let resources = container.resources.as_ref();
    let requests = amount(resources.and_then(|r| r.requests.as_ref()), "memory");
    let amount = requests.or_else(|| amount(resources.and_then(|r| r.limits.as_ref()), "memory"));
    amount.map_or(0, |amount| amount.value())
}

/// The limits that a runtime enforces for the whole pod.
pub fn pod_limits(pod: &Pod) -> Limits {
    of(pod::spec(pod).resources.as_ref())
}

/// The bytes of memory that the containers of a pod may use together: the limit of the pod, or the sum of theirs, if all have one. As upstream's
/// `ResourceConfigForPod`.
pub fn memory_limit(pod: &Pod) -> Option<u64> {
    if let Some(own) = pod_limits(pod).memory_bytes {
        return Some(own);
    }
    let (mut all, mut most) = (0u64, 0u64);
    for (container, role) in pod::containers(pod) {
        let bytes = limits(container).memory_bytes?;
        match role {
            pod::Role::Init => most = most.max(all.saturating_add(bytes)),
            pod::Role::Sidecar | pod::Role::App | pod::Role::Ephemeral => all = all.saturating_add(bytes),
        }
    }
    Some(all.max(most)).filter(|bytes| *bytes > 0)
}

fn of(resources: Option<&ResourceRequirements>) -> Limits {
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let positive = |v: i64| u64::try_from(v).ok().filter(|v| *v > 0);
    Limits {
        cpu_millis: amount(limits, "cpu").and_then(|q| positive(q.milli_value())),
        memory_bytes: amount(limits, "memory").and_then(|q| positive(q.value())),
        cpu_request_millis: amount(requests, "cpu").and_then(|q| positive(q.milli_value())),
    }
}

/// The value of a `resourceFieldRef`, divided by the divisor and rounded up. A limit defaults to the node's allocatable amount, and a
/// request to the limit, then to 0.
pub fn field(
    container: &Container,
    resource: &str,
    divisor: Option<&Text>,
    allocatable: &Amounts,
) -> Result<String, String> {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let Some((kind, name)) = resource.split_once('.') else {
        return Err(format!("unsupported container resource : {resource}"));
    };
    let value = match kind {
        "limits" => amount(limits, name).filter(|q| q.milli_value() > 0).or_else(|| amount(Some(allocatable), name)),
        "requests" => amount(requests, name).or_else(|| amount(limits, name)),
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    let divisor = divisor.and_then(quantity).filter(|d| d.milli_value() > 0);
    let Some(value) = value else { return Ok("0".into()) };
    let divided = if name == "cpu" {
        ceil_div(value.milli_value(), divisor.map_or(1000, |d| d.milli_value()))
    } else {
        ceil_div(value.value(), divisor.map_or(1, |d| d.value()))
    };
    Ok(divided.to_string())
}

fn ceil_div(value: i64, by: i64) -> i64 {
    let by = by.max(1);
    value / by + i64::from(value % by > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<_> =
            resources.iter().enumerate().map(|(i, r)| json!({"name": i.to_string(), "resources": r})).collect();
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn the_memory_of_a_pod_is_limited_if_that_of_each_container_is() {
        let with = |memory: &str| json!({"limits": {"memory": memory}});
        assert_eq!(memory_limit(&pod(&[with("1Ki"), with("2Ki")])), Some(3072));
        assert_eq!(memory_limit(&pod(&[with("1Ki"), json!({})])), None);
        assert_eq!(memory_limit(&pod(&[])), None);
        let mut more = pod(&[with("1Ki")]);
        let spec = more.spec.as_mut().unwrap();
        spec.init_containers =
            Some(vec![serde_json::from_value(json!({"name": "i", "resources": with("4Ki")})).unwrap()]);
        assert_eq!(memory_limit(&more), Some(4096));
        more.spec.as_mut().unwrap().resources = serde_json::from_value(with("512")).unwrap();
        assert_eq!(memory_limit(&more), Some(512));
    }

    #[test]
    fn classes_of_service() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        let limits_only = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let some = json!({"requests": {"cpu": "100m"}});
        for (resources, class) in [
            (vec![json!({})], "BestEffort"),
            (vec![full.clone()], "Guaranteed"),
            (vec![limits_only], "Guaranteed"),
            (vec![some], "Burstable"),
            (vec![full, json!({})], "Burstable"),
        ] {
            assert_eq!(pod::qos_class(&pod(&resources)), class, "{resources:?}");
        }
    }

    #[test]
    fn resource_fields_divide_and_round_up() {
        let pod = pod(&[json!({"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}})]);
        let c = &pod::spec(&pod).containers[0];
        let allocatable: Amounts = [("ephemeral-storage".to_owned(), Text("5Gi".into()))].into();
        let get = |resource: &str, divisor: Option<&str>| {
            field(c, resource, divisor.map(|d| Text(d.into())).as_ref(), &allocatable)
        };
        assert_eq!(get("limits.cpu", None).as_deref(), Ok("2"));
        assert_eq!(get("limits.cpu", Some("1m")).as_deref(), Ok("1500"));
        assert_eq!(get("requests.cpu", Some("1m")).as_deref(), Ok("250"));
        assert_eq!(get("limits.memory", Some("1Mi")).as_deref(), Ok("64"));
        assert_eq!(get("limits.memory", Some("0")).as_deref(), Ok("67108864"));
        assert_eq!(get("requests.memory", None).as_deref(), Ok("67108864"));
        assert_eq!(get("limits.ephemeral-storage", None).as_deref(), Ok("5368709120"));
        assert!(get("cpu", None).is_err());
    }
}
