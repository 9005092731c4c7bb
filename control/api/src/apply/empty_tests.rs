//! What is empty: who owns it, and what becomes of it.

use super::*;

#[test]
fn empty_structures_and_other_lists_are_something() {
    let mut scene = Scene::new("v1", "Pod");
    let volume = json!([{"name": "v", "emptyDir": {}}]);
    scene.update("u", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": volume, "nodeSelector": {}}}));
    let own =
        json!({"f:spec": {"f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}}}});
    assert_eq!(scene.owners(), json!({ "u/Update": own }));
    let mut scene = Scene::new("discovery.k8s.io/v1", "EndpointSlice");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": [], "ports": []});
    scene.update("u", slice);
    assert_eq!(scene.owners(), json!({"u/Update": {"f:addressType": {}, "f:endpoints": {}, "f:ports": {}}}));
}

#[test]
fn nobody_owns_what_go_always_writes_until_it_holds_something() {
    let owned = |kind: &str, mut object: Value| {
        let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        let mut scene = Scene::new(version, kind);
        for (key, value) in [("apiVersion", json!(version)), ("kind", json!(kind)), ("metadata", json!({"name": "x"}))]
        {
            object[key] = value;
        }
        scene.update("u", object);
        scene.owners()["u/Update"].clone()
    };
    // A time and a list that are null, structures and texts without anything in them.
    let event =
        json!({"firstTimestamp": null, "involvedObject": {}, "source": {}, "reportingComponent": "", "reason": "r"});
    assert_eq!(owned("Event", event), json!({"f:reason": {}}));
    let first = json!({"firstTimestamp": "2026-01-01T00:00:00Z", "source": {"host": "h"}});
    assert_eq!(owned("Event", first), json!({"f:firstTimestamp": {}, "f:source": {"f:host": {}}}));
    let deployment =
        json!({"spec": {"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}});
    assert_eq!(owned("Deployment", deployment), Value::Null);
    let selected = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(owned("Deployment", selected), json!({"f:spec": {"f:selector": {}}}));
    // What was not there before is new with all that is in it.
    let status = json!({"status": {"conditions": [{"type": "A", "status": "", "lastProbeTime": null}]}});
    let fields = json!({".": {}, "f:type": {}, "f:status": {}, "f:lastProbeTime": {}});
    assert_eq!(owned("Pod", status), json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"A\"}": fields}}}));
}

#[test]
fn to_apply_something_empty_in_the_place_of_what_another_owns_is_a_conflict() {
    let mut scene = Scene::new("v1", "Service");
    let service = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": selector}});
    scene.update("u", service(json!({"a": "b"})));
    let status = scene.apply("me", service(json!({}))).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"u\" using v1: .spec.selector");
    let mut scene = Scene::new("v1", "Pod");
    let tolerant = |list: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"tolerations": list}});
    scene.update("u", tolerant(json!([{"operator": "Exists"}])));
    let status = scene.apply("me", tolerant(json!([]))).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"u\" using v1: .spec.tolerations");
    // Labels are owned one by one, so that none of them is in the way.
    let mut scene = Scene::new("v1", "ConfigMap");
    let labelled =
        |labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": labels}});
    scene.update("u", labelled(json!({"a": "b"})));
    scene.apply("me", labelled(json!({}))).expect("no conflict");
}

#[test]
fn to_apply_an_empty_structure_again_takes_nothing_out_of_it() {
    let mut scene = Scene::new("v1", "Node");
    let node = |spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec});
    scene.update(
        "u",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {}}),
    );
    // Admission adds what nobody owns.
    scene.live.as_mut().expect("a node").set(&["spec", "taints"], json!([{"key": "k", "effect": "NoSchedule"}]));
    for _ in 0..2 {
        scene.apply("b", node(json!({}))).expect("applies");
        assert_eq!(scene.owners()["b/Apply"], json!({"f:spec": {}}));
        assert_eq!(scene.object().at(&["spec", "taints"]).map(Value::is_array), Some(true));
    }
}
