//! The form that Go's JSON has: fields with `omitempty` that hold the zero of their type are left out, fields without it are always there,
//! the keys of elements among them; times of conditions and states are null where there is none.

use super::types::{Arena, Field, Kind, NodeId, StructId};
use serde_json::{Map, Value};

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
    ("NodeRuntimeHandler", "name"),
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

/// Required fields that Go leaves out nevertheless: by type and name.
const OMITTED: &[(&str, &str)] = &[
    ("ContainerRestartRule", "action"),
    ("ContainerRestartRuleOnExitCodes", "operator"),
    ("ImageVolumeStatus", "imageRef"),
    ("ParentReference", "name"),
    ("ParentReference", "resource"),
    ("PodCertificateProjection", "keyType"),
    ("PodCertificateProjection", "signerName"),
    ("TokenReviewSpec", "token"),
    ("ValidatingAdmissionPolicyBindingSpec", "policyName"),
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
            write_required(arena, id, map);
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

/// Go writes the zero of a required scalar that is missing: an element of a list always has its key.
fn write_required(arena: &Arena, id: StructId, map: &mut Map<String, Value>) {
    for field in arena.structure(id).fields.iter().filter(|f| f.required && !f.pointer) {
        let zero = match arena.node(field.node).kind {
            Kind::String => Value::from(""),
            Kind::Bool => Value::from(false),
            Kind::Int32 | Kind::Int64 | Kind::IntOrString => Value::from(0),
            Kind::Quantity => Value::from("0"),
            _ => continue,
        };
        if !map.contains_key(&*field.name) && !OMITTED.contains(&(arena.struct_name(id), &*field.name)) {
            map.insert(field.name.to_string(), zero);
        }
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
    fn what_go_always_writes_is_there_and_every_element_has_its_key() {
        let status = |kind: &str, status: serde_json::Value| {
            let group = if kind == "Deployment" { "apps" } else { "" };
            let schema = Schema::for_kind(&GroupVersionKind::new(group, "v1", kind)).expect("a built-in kind");
            let mut object = json!({"status": status});
            schema.decode_check(&mut object).expect("it fits");
            schema.leave_out_empty(&mut object);
            object["status"].take()
        };
        let node = json!({"conditions": [{}], "addresses": [null], "images": [{}], "volumesAttached": [{}]});
        let times = json!({"lastHeartbeatTime": null, "lastTransitionTime": null, "type": "", "status": ""});
        let wanted = json!({"conditions": [times], "addresses": [{"type": "", "address": ""}], "images": [{}],
            "volumesAttached": [{"name": "", "devicePath": ""}]});
        assert_eq!(status("Node", node), wanted);
        let pod = json!({"conditions": [null], "podIPs": [{}], "containerStatuses": [{}]});
        let wanted = json!({"conditions": [{"type": "", "status": "", "lastProbeTime": null, "lastTransitionTime": null}],
            "podIPs": [{"ip": ""}],
            "containerStatuses": [{"name": "", "ready": false, "restartCount": 0, "image": "", "imageID": ""}]});
        assert_eq!(status("Pod", pod), wanted);
        let deployment = status("Deployment", json!({"conditions": [{}]}));
        assert_eq!(
            (&deployment["conditions"][0]["type"], &deployment["conditions"][0]["status"]),
            (&json!(""), &json!(""))
        );
        let service = status("Service", json!({"loadBalancer": {"ingress": [{"ports": [{}]}]}}));
        assert_eq!(service["loadBalancer"]["ingress"][0]["ports"][0], json!({"port": 0, "protocol": ""}));
    }

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
