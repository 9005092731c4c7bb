use super::*;

fn validator(schema: &Value) -> Validator {
    Validator::new(schema).expect("a schema")
}

#[test]
fn the_second_appearance_in_a_set_is_a_duplicate() {
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    let schema = json!({"type": "object", "additionalProperties": set});
    let none: [&str; 0] = [];
    for (list, wanted) in [
        (json!(["a"]), &none[..]),
        (json!(["a", "b"]), &none),
        (
            json!(["a", "a", "b", "c", "a", "c"]),
            &[r#"[l][1]: Duplicate value: "a""#, r#"[l][5]: Duplicate value: "c""#],
        ),
        (json!([1, 1.0, "1", true, "true"]), &none),
        (json!([1.0, 1.0]), &["[l][1]: Duplicate value: 1"]),
        (json!([null, null, false, false]), &["[l][1]: Duplicate value: null", "[l][3]: Duplicate value: false"]),
        (json!([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {}]), &[r#"[l][1]: Duplicate value: {"a":1,"b":2}"#]),
        (json!([["a"], [], ["a"]]), &[r#"[l][2]: Duplicate value: ["a"]"#]),
    ] {
        let value = json!({"l": list});
        assert_eq!(texts(&validator(&schema).validate_lists(&FieldPath::default(), &value)), wanted, "{list}");
    }
    let nested = json!({"type": "object", "properties": {"x": {"type": "array", "items": set}}});
    let value = json!({"x": [["a", "b", "a"], ["b"], ["b", "b"]]});
    assert_eq!(
        texts(&validator(&nested).validate_lists(&FieldPath::new("spec"), &value)),
        [r#"spec.x[0][2]: Duplicate value: "a""#, r#"spec.x[2][1]: Duplicate value: "b""#]
    );
}

#[test]
fn two_elements_of_a_map_have_different_keys() {
    let map = |keys: &[&str]| {
        let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": {"type": "object"}});
        validator(&json!({"type": "object", "properties": {"l": keyed}}))
    };
    let (one, two) = (map(&["a"]), map(&["a", "b"]));
    let none: [&str; 0] = [];
    for (validator, list, wanted) in [
        (&one, json!([{"a": 1}, {"a": 2}, {"b": 1}]), &none[..]),
        (&one, json!([{"a": 1, "b": 1}, {"a": 1, "b": 2}]), &[r#"l[1]: Duplicate value: {"a":1}"#]),
        (&one, json!([{}, null, {"b": 1}]), &["l[1]: Duplicate value: {}"]),
        (&one, json!([{"a": null}, {}, {"a": null}]), &[r#"l[2]: Duplicate value: {"a":null}"#]),
        (&one, json!([{"a": {"x": 1}}, {"a": {"x": 1}}]), &[r#"l[1]: Duplicate value: {"a":{"x":1}}"#]),
        (
            &one,
            json!([{"a": 1}, "x", {"a": 1}]),
            &[r#"l[1]: Invalid value: "x": must be an object for an array of list-type map"#],
        ),
        (&two, json!([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1}]), &none),
        (&two, json!([{"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}]), &[r#"l[1]: Duplicate value: {"a":1,"b":1}"#]),
        (&two, json!([{"a": 1}, {"b": 1}, {"a": 1}]), &[r#"l[2]: Duplicate value: {"a":1}"#]),
    ] {
        assert_eq!(texts(&validator.validate_lists(&FieldPath::default(), &json!({"l": list}))), wanted, "{list}");
    }
    let (bad, good) = (json!({"l": [{"a": 1}, {"a": 1}]}), json!({"l": [{"a": 1}]}));
    let at = FieldPath::default();
    assert_eq!(one.validate_lists_update(&at, &bad, &good).len(), 1);
    assert!(one.validate_lists_update(&at, &json!({"l": [{"a": 2}, {"a": 2}]}), &bad).is_empty(), "it was bad before");
}

#[test]
fn objects_within_objects_have_a_type_and_right_metadata() {
    let embedded =
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {
        "one": embedded,
        "list": {"type": "array", "items": embedded},
        "map": {"type": "object", "additionalProperties": embedded},
    }});
    let validator = validator(&schema);
    let found = |value: Value| texts(&validator.validate_embedded(&FieldPath::default(), &value));
    assert_eq!(found(json!({"one": {"apiVersion": "v1", "kind": "Pod"}, "other": {}})), Vec::<String>::new());
    assert_eq!(
        found(json!({"one": {}, "list": [{"kind": "A"}], "map": {"k": {"apiVersion": "v1"}}})),
        [
            "list[0].apiVersion: Required value",
            "map[k].kind: Required value",
            "one.apiVersion: Required value",
            "one.kind: Required value"
        ]
    );
    assert_eq!(
        found(json!({"one": {"apiVersion": "a/b/c", "kind": "foo.bar"}})),
        [
            r#"one.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
            r#"one.kind: Invalid value: "foo.bar": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"#
        ]
    );
    assert_eq!(
        found(json!({"one": {"apiVersion": "", "kind": 1}})),
        [r#"one.apiVersion: Invalid value: "": must not be empty"#, "one.kind: Invalid value: 1: must be a string"]
    );
    let with = |metadata: Value| {
        let value = json!({"one": {"apiVersion": "v1", "kind": "A", "metadata": metadata}});
        let causes = validator.validate_embedded(&FieldPath::default(), &value);
        causes.iter().map(|cause| cause.field.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(with(json!({"namespace": "kube-system"})), Vec::<String>::new());
    assert_eq!(
        with(
            json!({"name": "..", "generateName": "a/", "namespace": "$", "generation": -1, "labels": {"#": "#"}, "annotations": {"#": "#"},
            "finalizers": ["a b", "orphan", "foregroundDeletion"], "ownerReferences": [{"apiVersion": "a/"}],
            "managedFields": [{"operation": "x", "fieldsType": "y"}]})
        ),
        [
            "one.metadata.generateName",
            "one.metadata.name",
            "one.metadata.namespace",
            "one.metadata.generation",
            "one.metadata.labels",
            "one.metadata.labels",
            "one.metadata.annotations",
            "one.metadata.ownerReferences.apiVersion",
            "one.metadata.ownerReferences.kind",
            "one.metadata.ownerReferences.name",
            "one.metadata.ownerReferences.uid",
            "one.metadata.finalizers",
            "one.metadata.finalizers",
            "one.metadata.managedFields[0].operation",
            "one.metadata.managedFields[0].fieldsType",
        ]
    );
    assert_eq!(
        found(json!({"one": {"apiVersion": "v1", "kind": "A", "metadata": {"labels": {"a": 1}}}})),
        [
            r#"one.metadata: Invalid value: {"labels":{"a":1}}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"#
        ]
    );
}
