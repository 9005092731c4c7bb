//! The form of Go's JSON: zero values of fields with `omitempty` are absent; fields without it and structs that are not pointers are always
//! present.

use super::types::{Arena, Field, Kind, NodeId, StructId};
use serde_json::{Map, Value};

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
                !is_empty(arena, field, child) || (key == "labels" && name == "ObjectMeta")
            });
            write_always(arena, id, map);
        }
        (Kind::Map(item), Value::Object(map)) => map.values_mut().for_each(|child| leave_out(arena, item, child)),
        (Kind::List(item), Value::Array(list)) => list.iter_mut().for_each(|child| leave_out(arena, item, child)),
        // Schemas within schemas.
        (
            Kind::SchemaOrArray(schema) | Kind::SchemaOrBool(schema) | Kind::SchemaOrStrings(schema),
            child @ Value::Object(_),
        ) => leave_out(arena, schema, child),
        (Kind::SchemaOrArray(schema), Value::Array(list)) => {
            list.iter_mut().for_each(|child| leave_out(arena, schema, child));
        }
        _ => {}
    }
}

/// Writes missing fields that Go always writes: scalars and structs as their zero, others as null.
fn write_always(arena: &Arena, id: StructId, map: &mut Map<String, Value>) {
    for field in arena.structure(id).fields.iter().filter(|field| field.always) {
        if map.get(&*field.name).is_none_or(Value::is_null) {
            let mut zero = if field.pointer { Value::Null } else { zero(arena.node(field.node).kind) };
            leave_out(arena, field.node, &mut zero);
            map.insert(field.name.to_string(), zero);
        }
    }
}

/// See [`super::Schema::forget_empty`].
pub(super) fn forget(arena: &Arena, node: NodeId, map: &mut Map<String, Value>) {
    let Kind::Struct(id) = arena.node(node).kind else { return };
    if arena.node(node).lenient {
        // Of a custom resource only the metadata has Go's form.
        for (key, value) in map.iter_mut() {
            let Some(field) = arena.field(id, key).filter(|field| !arena.node(field.node).lenient) else { continue };
            if let Value::Object(child) = value {
                forget(arena, field.node, child);
            }
        }
        return;
    }
    for (key, value) in map.iter_mut() {
        let Some(field) = arena.field(id, key) else { continue };
        let kind = arena.node(field.node).kind;
        match value {
            Value::Array(list) if list.is_empty() && field.always => *value = Value::Null,
            // `leave_out` has kept these for error messages.
            Value::Object(labels) if labels.is_empty() && key == "labels" && matches!(kind, Kind::Map(_)) => {
                *value = Value::Null
            }
            Value::Array(list) => {
                let Kind::List(item) = kind else { continue };
                for one in list.iter_mut().filter_map(Value::as_object_mut) {
                    forget(arena, item, one);
                }
            }
            Value::Object(child) => forget(arena, field.node, child),
            _ => {}
        }
    }
    map.retain(|key, value| !value.is_null() || arena.field(id, key).is_none_or(|field| field.always));
}

/// What Go's JSON has for an unset value of this kind: null for lists, maps and times.
pub(crate) fn zero(kind: Kind) -> Value {
    match kind {
        Kind::String => Value::from(""),
        Kind::Bool => Value::from(false),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Value::from(0),
        Kind::Quantity => Value::from("0"),
        Kind::Struct(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// Whether Go omits a field.
fn is_empty(arena: &Arena, field: &Field, value: &Value) -> bool {
    if field.always {
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
        let wanted = json!({"conditions": [times], "addresses": [{"type": "", "address": ""}], "images": [{"names": null}],
            "volumesAttached": [{"name": "", "devicePath": ""}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": {"architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": ""}});
        assert_eq!(status("Node", node), wanted);
        let pod = json!({"conditions": [null], "podIPs": [{}], "containerStatuses": [{}]});
        let wanted = json!({"conditions": [{"type": "", "status": "", "lastProbeTime": null, "lastTransitionTime": null}],
            "podIPs": [{"ip": ""}],
            "containerStatuses": [{"name": "", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": {},
                "lastState": {}}]});
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
    fn lists_and_pointers_without_omitempty_are_null_where_they_are_missing() {
        let written = |group: &str, kind: &str, mut object: serde_json::Value| {
            let schema = Schema::for_kind(&GroupVersionKind::new(group, "v1", kind)).expect("a built-in kind");
            schema.leave_out_empty(&mut object);
            object
        };
        let template = json!({"metadata": {}, "spec": {"containers": null}});
        let spec = json!({"selector": null, "template": template, "strategy": {}});
        assert_eq!(written("apps", "Deployment", json!({})), json!({"metadata": {}, "spec": spec, "status": {}}));
        let slice =
            written("discovery.k8s.io", "EndpointSlice", json!({"endpoints": [{"addresses": []}], "ports": []}));
        let endpoints = json!([{"addresses": [], "conditions": {}}]);
        assert_eq!(slice, json!({"metadata": {}, "addressType": "", "endpoints": endpoints, "ports": []}));
        // A time that is behind no pointer, but that of metav1.Condition: typed clients of other languages refuse null there.
        let conditions = json!({"conditions": [{}]});
        let service = written("", "Service", json!({"status": conditions}));
        let condition = json!({"type": "", "status": "", "reason": "", "message": ""});
        assert_eq!(service["status"], json!({"loadBalancer": {}, "conditions": [condition]}));
        let mut slice = slice;
        let schema =
            Schema::for_kind(&GroupVersionKind::new("discovery.k8s.io", "v1", "EndpointSlice")).expect("built in");
        schema.forget_empty(slice.as_object_mut().expect("an object"));
        let endpoints = json!([{"addresses": null, "conditions": {}}]);
        assert_eq!(slice, json!({"metadata": {}, "addressType": "", "endpoints": endpoints, "ports": null}));
        let event = written("", "Event", json!({"series": {}}));
        assert_eq!(event["series"], json!({"lastObservedTime": null}));
        assert_eq!((&event["firstTimestamp"], &event["source"]), (&json!(null), &json!({})));
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
        assert_eq!(pod["metadata"]["labels"], json!({}), "until it is stored");
        schema.forget_empty(pod.as_object_mut().expect("an object"));
        let wanted = json!({"metadata": {"name": "p"}, "spec": {
            "priority": 0, "automountServiceAccountToken": false, "runtimeClassName": "",
            "containers": [{"name": "", "resources": {}, "livenessProbe": {"httpGet": {"port": 0}}, "env": [{"name": "A"}]}],
            "volumes": [{"name": "v", "azureFile": {"secretName": "s", "shareName": ""}}, {"name": "e", "emptyDir": {}}]}, "status": {}});
        assert_eq!(pod, wanted);
    }
}
