use super::*;

/// Objects with numbers of at most 50, at several places.
fn schema() -> Value {
    let small = json!({"type": "number", "maximum": 50});
    let object = json!({"type": "object", "properties": {"name": {"type": "string"}, "small": small}});
    json!({"type": "object", "properties": {
        "apiVersion": {"type": "string", "maxLength": 2},
        "small": small,
        "nested": {"type": "object", "maxProperties": 1, "properties": {"small": small, "other": small}},
        "free": {"type": "object", "maxProperties": 0, "x-kubernetes-preserve-unknown-fields": true},
        "map": {"type": "object", "additionalProperties": object},
        "list": {"type": "array", "items": object},
        "keyed": {"type": "array", "maxItems": 2, "items": object, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "set": {"type": "array", "items": small, "x-kubernetes-list-type": "set"},
        "any": {"type": "object", "properties": {"small": {"type": "number"}}, "anyOf": [{"properties": {"small": small}}]},
    }})
}

/// The fields that have causes.
fn fields(old: &Value, new: &Value) -> Vec<String> {
    let validator = Validator::new(&schema()).expect("a schema");
    let causes = validator.validate_update(&FieldPath::default(), new, old);
    causes.iter().map(|cause| cause.field.to_string()).collect()
}

#[test]
fn what_is_unchanged_is_valid() {
    let none: [&str; 0] = [];
    let (one, two) = (json!({"name": "a", "small": 500}), json!({"name": "b", "small": 501}));
    for (old, new, wanted) in [
        (json!({"small": 500}), json!({"small": 500}), &none[..]),
        (json!({"small": 500}), json!({"small": 501}), &["small"]),
        (json!({"small": 500}), json!({"small": 500.0}), &["small"]),
        (json!({"small": 500, "set": []}), json!({"small": 500, "set": [1]}), &none),
        (json!({}), json!({"small": 500}), &["small"]),
        (json!({"nested": {"small": 500}}), json!({"nested": {"small": 500}, "small": 1}), &none),
        (json!({"nested": {"small": 500}}), json!({"nested": {"small": 500, "other": 1}}), &["nested"]),
        (json!({"nested": {"small": 1, "other": 2}}), json!({"nested": {"other": 2, "small": 1}}), &none),
        (json!({"nested": {"small": 1, "other": 2}}), json!({"nested": {"other": 3, "small": 1}}), &["nested"]),
        // Fields that the schema does not know cannot be compared.
        (json!({"free": {"a": 1}}), json!({"free": {"a": 1}}), &["free"]),
        (json!({"map": {"k": one}}), json!({"map": {"k": one, "l": {}}}), &none),
        (json!({"map": {"k": one}}), json!({"map": {"l": one}}), &["map.l.small"]),
        // A list without keys is compared as a whole.
        (json!({"list": [one]}), json!({"list": [one]}), &none),
        (json!({"list": [one]}), json!({"list": [one, {}]}), &["list[0].small"]),
        (json!({"set": [500]}), json!({"set": [500, 1]}), &["set[0]"]),
        (json!({"set": [500]}), json!({"set": [500]}), &none),
        // One with keys by these, in any order.
        (json!({"keyed": [one, two]}), json!({"keyed": [two, one]}), &none),
        (json!({"keyed": [one]}), json!({"keyed": [{"name": "x"}, one]}), &none),
        (json!({"keyed": [one]}), json!({"keyed": [{"name": "a", "small": 502}]}), &["keyed[0].small"]),
        (json!({"keyed": [one, two, {"name": "c"}]}), json!({"keyed": [{"name": "c"}, two, one]}), &none),
        (json!({"keyed": [one, two, {"name": "c"}]}), json!({"keyed": [{"name": "d"}, two, one]}), &["keyed"]),
        (json!({"keyed": [{"small": 500}]}), json!({"keyed": [{"small": 500}]}), &["keyed[0].small"]),
        // Alternatives are compared with what they are of.
        (json!({"any": {"small": 500}}), json!({"any": {"small": 500}, "small": 1}), &none),
        (json!({"any": {"small": 500}}), json!({"any": {"small": 501}}), &["<nil>", "any.small"]),
        (json!({"apiVersion": "long"}), json!({"apiVersion": "long"}), &["apiVersion"]),
        (json!({"apiVersion": "long", "small": 1}), json!({"apiVersion": "long", "small": 1}), &["apiVersion"]),
    ] {
        let whole = new == old;
        let found = fields(&old, &new);
        // The whole object is one that may be unchanged, too.
        let wanted =
            if whole && !wanted.contains(&"free") && !wanted.contains(&"keyed[0].small") { &none[..] } else { wanted };
        assert_eq!(found, wanted, "{old} {new}");
    }
}

#[test]
fn a_part_is_compared_with_its_part() {
    let validator = Validator::new(&schema()).expect("a schema").field("nested").expect("a field");
    let at = FieldPath::new("status");
    assert!(validator.validate_update(&at, &json!({"small": 500}), &json!({"small": 500})).is_empty());
    let found = validator.validate_update(&at, &json!({"small": 500}), &Value::Null);
    assert_eq!(texts(&found), ["status.small: Invalid value: 500: small in body should be less than or equal to 50"]);
}
