use super::*;
use crate::GroupVersionKind;
use proptest::prelude::*;
use serde_json::json;

fn patched(kind: &str, document: Value, patch: Value) -> Result<Value, PatchError> {
    let api_version = match kind {
        "Deployment" => "apps/v1",
        "PodDisruptionBudget" => "policy/v1",
        _ => "v1",
    };
    let schema = Schema::for_kind(&GroupVersionKind::from_api_version(api_version, kind)).expect("built in");
    strategic(&document, &patch, &schema)
}

fn pod(document: Value, patch: Value) -> Value {
    patched("Pod", json!({ "spec": document }), json!({ "spec": patch })).expect("applies")["spec"].clone()
}

#[test]
fn objects_merge_and_nulls_delete() {
    assert_eq!(
        patched(
            "ConfigMap",
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"b": null, "c": "3", "d": null}, "immutable": null})
        ),
        Ok(json!({"data": {"a": "1", "c": "3"}}))
    );
}

#[test]
fn lists_merge_by_their_key_or_are_replaced() {
    for (document, patch, result) in [
        (
            json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}]}]}),
            json!({"containers": [{"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]}, {"name": "b"}]}),
        ),
        // A new element goes before those of the server.
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "b"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}, {"containerPort": 81}]}]}),
        ),
        // Without a merge key: replaced.
        (
            json!({"containers": [{"name": "a", "args": ["1", "2"]}], "tolerations": [{"key": "x"}]}),
            json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]}),
            json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]}),
        ),
        (json!({"containers": [{"name": "a"}]}), json!({"containers": null}), json!({})),
        (
            json!({"nodeSelector": {"a": "b"}}),
            json!({"nodeSelector": {"c": "d"}}),
            json!({"nodeSelector": {"a": "b", "c": "d"}}),
        ),
    ] {
        assert_eq!(pod(document, patch), result);
    }
}

#[test]
fn primitive_lists_merge_as_sets() {
    let metadata = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let apply =
        |old: Value, patch: Value| patched("Pod", metadata(old), json!({ "metadata": patch })).expect("applies");
    assert_eq!(apply(json!(["a", "b"]), json!({"finalizers": ["c", "a"]})), metadata(json!(["c", "a", "b"])));
    assert_eq!(apply(json!(["a", "b"]), json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), metadata(json!(["b"])));
    assert_eq!(
        apply(
            json!(["a", "b", "c"]),
            json!({"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]})
        ),
        metadata(json!(["c", "a"]))
    );
    assert_eq!(apply(json!(["a"]), json!({"finalizers": null})), json!({"metadata": {}}));
}

#[test]
fn owner_references_merge_by_uid() {
    let refs = |list: Value| json!({"metadata": {"ownerReferences": list}});
    assert_eq!(
        patched(
            "Pod",
            refs(json!([{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}])),
            refs(json!([{"$patch": "delete", "uid": "1"}]))
        ),
        Ok(refs(json!([{"uid": "2", "name": "b"}])))
    );
}

#[test]
fn directives_delete_and_replace() {
    for (document, patch, result) in [
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "a"}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
        (
            json!({"nodeSelector": {"a": "b"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "d"}}),
            json!({"nodeSelector": {"c": "d"}}),
        ),
        (
            json!({"nodeSelector": {"a": "b"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        // Directives where nothing was leave nothing behind.
        (
            json!({}),
            json!({"nodeSelector": {"$patch": "delete"}, "containers": [{"name": "a", "x": null}, {"name": "b", "$patch": "delete"}],
                "securityContext": {"$setElementOrder/sysctls": [], "fsGroup": 1}}),
            json!({"containers": [{"name": "a"}], "securityContext": {"fsGroup": 1}}),
        ),
    ] {
        assert_eq!(pod(document, patch), result);
    }
}

#[test]
fn the_order_of_elements_can_be_set() {
    for (document, patch, result) in [
        // kubectl apply with a new container and one changed.
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
                "containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}),
            json!(["b", "a", "c"]),
        ),
        // Reordered only.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}),
            json!(["b", "c", "a"]),
        ),
        // Deleted, and an element that another party (a sidecar injector) added stays.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "sidecar"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b", "$patch": "delete"}]}),
            json!(["a", "sidecar"]),
        ),
        (
            json!({}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "a"}, {"name": "b"}]}),
            json!(["a", "b"]),
        ),
    ] {
        let names: Vec<Value> =
            pod(document, patch)["containers"].as_array().expect("list").iter().map(|c| c["name"].clone()).collect();
        assert_eq!(Value::from(names), result);
    }
}

#[test]
fn retained_keys_are_all_that_stays() {
    let strategy = |s: Value| json!({"spec": {"strategy": s}});
    assert_eq!(
        patched(
            "Deployment",
            strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
            strategy(json!({"$retainKeys": ["type"], "type": "Recreate"}))
        ),
        Ok(strategy(json!({"type": "Recreate"})))
    );
    assert_eq!(
        pod(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]})
        ),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})
    );
    assert_eq!(
        patched("Deployment", strategy(json!({})), strategy(json!({"$retainKeys": ["type"], "rollingUpdate": {}}))),
        Err(PatchError::Malformed("invalid patch format of retainKeys".into()))
    );
}

#[test]
fn the_replace_strategy_of_a_field_is_kept() {
    let selector = |labels: Value| json!({"spec": {"selector": {"matchLabels": labels}}});
    assert_eq!(
        patched("PodDisruptionBudget", selector(json!({"a": "b"})), selector(json!({"c": "d"}))),
        Ok(selector(json!({"c": "d"})))
    );
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    let containers = json!({"spec": {"containers": [{"name": "a"}]}});
    for (patch, error) in [
        (json!([]), PatchError::Malformed("invalid JSON document".into())),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            PatchError::Internal("map: map[image:x] does not contain declared merge key: name".into()),
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            PatchError::Internal("merging lists cannot yet be specified in the patch".into()),
        ),
        (
            json!({"spec": {"$patch": "explode"}}),
            PatchError::Internal("unknown patch type: explode in map: map[]".into()),
        ),
        (
            json!({"spec": {"containers": ["x"]}}),
            PatchError::Internal("list element types are not identical: [[map[name:a]] [x]]".into()),
        ),
        (
            json!({"spec": {"containers": [[]]}}),
            PatchError::Internal("list element types are not identical: [[map[name:a]] [[]]]".into()),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": "x"}}),
            PatchError::Malformed("invalid patch format of setElementOrder list".into()),
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
            PatchError::Malformed("invalid patch format of primitive list".into()),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            PatchError::Internal(
                "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n"
                    .into(),
            ),
        ),
    ] {
        assert_eq!(patched("Pod", json!({"spec": containers["spec"], "metadata": {}}), patch), Err(error));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        "[ab]".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![
            Just("containers"),
            Just("name"),
            Just("spec"),
            Just("metadata"),
            Just("finalizers"),
            Just("env"),
            Just("$patch"),
            Just("$retainKeys"),
            Just("$setElementOrder/containers"),
            Just("$deleteFromPrimitiveList/finalizers"),
            Just("volumes")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_patch_applies_or_is_refused_and_leaves_no_directive(document in any_json(), patch in any_json()) {
        let clean = cleaned(document).unwrap_or_default();
        let schema = Schema::for_kind(&GroupVersionKind::new("", "v1", "Pod")).expect("built in");
        if let Ok(result) = strategic(&clean, &patch, &schema) {
            let text = result.to_string();
            prop_assert!(!text.contains("\"$patch\":") && !text.contains("\"$retainKeys\":") && !text.contains("$set"), "{}", text);
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(document in any_json()) {
        let clean = cleaned(document).unwrap_or_default();
        let schema = Schema::for_kind(&GroupVersionKind::new("", "v1", "Pod")).expect("built in");
        if clean.is_object() {
            prop_assert_eq!(strategic(&clean, &json!({}), &schema), Ok(clean));
        }
    }
}
