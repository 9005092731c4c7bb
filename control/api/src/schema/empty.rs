//! The form that Go's JSON has: fields with `omitempty` that hold the zero of their type are left out, times of conditions and states are
//! null where there is none.

use super::types::{Arena, Field, Kind, NodeId};
use serde_json::Value;

/// Fields that Go writes although they are optional and may be empty (no `omitempty`): by type and name.
const KEPT: &[(&str, &str)] = &[
    ("Event", "reportingComponent"),
    ("Event", "reportingInstance"),
    ("PodFailurePolicyOnPodConditionsPattern", "status"),
    ("EndpointSlice", "ports"),
    ("EndpointSlice", "endpoints"),
    ("Role", "rules"),
    ("ClusterRole", "rules"),
    ("StatefulSetSpec", "serviceName"),
    ("TokenRequestStatus", "token"),
    ("PodFailurePolicyOnExitCodesRequirement", "values"),
    ("NodeAllocatableResourceClaimStatus", "resources"),
    ("EndpointPort", "protocol"),
];

/// Times that are not behind a pointer: Go writes null where there is none. Not those of `metav1.Condition`, which Rust's types need:
/// for them no time at all is a zero one, and null is an error.
const TIMES: &[(&str, &[&str])] = &[
    ("ContainerStateRunning", &["startedAt"]),
    ("ContainerStateTerminated", &["finishedAt", "startedAt"]),
    ("DeploymentCondition", &["lastTransitionTime", "lastUpdateTime"]),
    ("JobCondition", &["lastProbeTime", "lastTransitionTime"]),
    ("NamespaceCondition", &["lastTransitionTime"]),
    ("NodeCondition", &["lastHeartbeatTime", "lastTransitionTime"]),
    ("PodCondition", &["lastProbeTime", "lastTransitionTime"]),
    ("ReplicaSetCondition", &["lastTransitionTime"]),
];

/// See [`super::Schema::leave_out_empty`].
pub(super) fn leave_out(arena: &Arena, node: NodeId, value: &mut Value) {
    if arena.node(node).lenient {
        return;
    }
    match (arena.node(node).kind, value) {
        (Kind::Struct(id), Value::Object(map)) => {
            let name = arena.struct_name(id);
            map.retain(|key, child| {
                let Some(field) = arena.field(id, key) else { return true };
                leave_out(arena, field.node, child);
                !is_empty(arena, field, child) || KEPT.contains(&(name, key.as_str()))
            });
            if let Ok(at) = TIMES.binary_search_by(|(kind, _)| (*kind).cmp(name)) {
                for field in TIMES[at].1 {
                    map.entry(*field).or_insert(Value::Null);
                }
            }
        }
        (Kind::Map(item), Value::Object(map)) => map.values_mut().for_each(|child| leave_out(arena, item, child)),
        (Kind::List(item), Value::Array(list)) => list.iter_mut().for_each(|child| leave_out(arena, item, child)),
        _ => {}
    }
}

/// Whether Go has nothing to write for a field.
fn is_empty(arena: &Arena, field: &Field, value: &Value) -> bool {
    if field.required {
        return false;
    }
    match (arena.node(field.node).kind, value) {
        (Kind::String, Value::String(text)) => text.is_empty() && !field.pointer,
        (Kind::Bytes, Value::String(text)) => text.is_empty(),
        (Kind::Bool, Value::Bool(flag)) => field.omit_zero && !flag,
        (Kind::Int32 | Kind::Int64 | Kind::Double, Value::Number(n)) => field.omit_zero && n.as_f64() == Some(0.0),
        (Kind::Map(_), Value::Object(map)) => map.is_empty(),
        (Kind::List(_), Value::Array(list)) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::{GroupVersionKind, schema::Schema};
    use serde_json::json;

    #[test]
    fn what_go_omits_is_left_out_and_nothing_else() {
        let schema = Schema::for_kind(&GroupVersionKind::new("", "v1", "Pod")).expect("a built-in kind");
        let mut pod = json!({"metadata": {"name": "p", "labels": {}, "namespace": ""}, "spec": {
            "hostNetwork": false, "nodeName": "", "priority": 0, "automountServiceAccountToken": false, "runtimeClassName": "",
            "containers": [{"name": "", "image": "", "args": [], "stdin": false, "resources": {"limits": {}},
                "livenessProbe": {"periodSeconds": 0, "httpGet": {"port": 0, "path": ""}}, "env": [{"name": "A", "value": ""}]}],
            "volumes": [{"name": "v", "azureFile": {"secretName": "s", "shareName": "", "readOnly": false}},
                {"name": "e", "emptyDir": {"medium": ""}}]}});
        schema.leave_out_empty(&mut pod);
        let wanted = json!({"metadata": {"name": "p"}, "spec": {
            "priority": 0, "automountServiceAccountToken": false, "runtimeClassName": "",
            "containers": [{"name": "", "resources": {}, "livenessProbe": {"httpGet": {"port": 0}}, "env": [{"name": "A"}]}],
            "volumes": [{"name": "v", "azureFile": {"secretName": "s", "shareName": ""}}, {"name": "e", "emptyDir": {}}]}});
        assert_eq!(pod, wanted);
    }
}
