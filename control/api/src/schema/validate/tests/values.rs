use super::*;

/// The causes of one value at `field`.
fn field(schema: Value, value: Value) -> Vec<String> {
    causes(&json!({"type": "object", "properties": {"field": schema}}), &json!({"field": value}))
}

#[test]
fn types_are_checked_with_upstreams_texts() {
    for (schema, good, bad) in [
        (
            json!({"type": "object"}),
            vec![json!({})],
            vec![
                (json!(null), "null"),
                (json!("x"), "string"),
                (json!(42), "integer"),
                (json!(true), "boolean"),
                (json!(1.2), "number"),
                (json!([]), "array"),
            ],
        ),
        (json!({"type": "object", "nullable": true}), vec![json!({}), json!(null)], vec![(json!("x"), "string")]),
        (json!({"nullable": true}), vec![json!(null), json!(1), json!("x"), json!([]), json!(1.5)], vec![]),
        (json!({"type": "integer"}), vec![json!(1), json!(2.0)], vec![(json!("1"), "string"), (json!(null), "null")]),
        (json!({"type": "number"}), vec![json!(1), json!(2.5)], vec![(json!("1"), "string")]),
        (json!({"type": "boolean"}), vec![json!(true)], vec![(json!("true"), "string")]),
        (json!({"type": "array"}), vec![json!([])], vec![(json!({}), "object")]),
        (
            json!({"x-kubernetes-int-or-string": true}),
            vec![json!(42), json!("x")],
            vec![
                (json!(null), "null"),
                (json!(true), "boolean"),
                (json!(1.2), "number"),
                (json!({}), "object"),
                (json!([]), "array"),
            ],
        ),
    ] {
        for value in good {
            assert_eq!(field(schema.clone(), value.clone()), Vec::<String>::new(), "{schema} {value}");
        }
        let wanted = schema["type"].as_str().unwrap_or("integer,string");
        for (value, kind) in bad {
            let text = format!("field: Invalid value: \"{kind}\": field in body must be of type {wanted}: \"{kind}\"");
            assert_eq!(field(schema.clone(), value.clone()).first(), Some(&text), "{schema} {value}");
        }
    }
    // An integer with a fraction is wrong twice.
    assert_eq!(
        field(json!({"type": "integer"}), json!(1.5)),
        [
            r#"field: Invalid value: "number": field in body must be of type integer: "number""#,
            r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in field"#
        ]
    );
}

#[test]
fn values_are_checked_with_upstreams_texts() {
    for (schema, value, wanted) in [
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            r#"Unsupported value: "c": supported values: "a", "b""#,
        ),
        (json!({"type": "integer", "enum": [1, 2]}), json!(3), r#"Unsupported value: 3: supported values: "1", "2""#),
        (
            json!({"type": "number", "enum": [1.5, 1e7]}),
            json!(3.5),
            r#"Unsupported value: 3.5: supported values: "1.5", "10000000""#,
        ),
        (
            json!({"nullable": true, "type": "string", "enum": ["a", null]}),
            json!(null),
            r#"Unsupported value: null: supported values: "a", "null""#,
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "Invalid value: 0: field in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
            json!(1),
            "Invalid value: 1: field in body should be greater than 1",
        ),
        (
            json!({"type": "integer", "maximum": 5}),
            json!(6),
            "Invalid value: 6: field in body should be less than or equal to 5",
        ),
        (
            json!({"type": "number", "maximum": 5.5, "exclusiveMaximum": true}),
            json!(5.5),
            "Invalid value: 5.5: field in body should be less than 5.5",
        ),
        (
            json!({"type": "number", "maximum": 1e6}),
            json!(1e6 + 0.5),
            "Invalid value: 1.0000005e+06: field in body should be less than or equal to 1e+06",
        ),
        (
            json!({"type": "number", "maximum": 1e6}),
            json!(1_000_001),
            "Invalid value: 1000001: field in body should be less than or equal to 1000000",
        ),
        (
            json!({"type": "integer", "multipleOf": 3}),
            json!(4),
            "Invalid value: 4: field in body should be a multiple of 3",
        ),
        (
            json!({"type": "number", "multipleOf": 0.5}),
            json!(0.75),
            "Invalid value: 0.75: field in body should be a multiple of 0.5",
        ),
        (
            json!({"type": "number", "multipleOf": 0.5}),
            json!(1),
            "Invalid value: 0: factor MultipleOf declared for field must be positive: 0",
        ),
        (json!({"type": "string", "maxLength": 2}), json!("äöü"), "Too long: may not be more than 2 bytes"),
        (json!({"type": "string", "maxLength": 1}), json!("ab"), "Too long: may not be more than 1 byte"),
        (
            json!({"type": "string", "minLength": 2}),
            json!("ä"),
            r#"Invalid value: "ä": field in body should be at least 2 chars long"#,
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"Invalid value: "b": field in body should match '^a+$'"#,
        ),
        (
            json!({"type": "string", "pattern": "+"}),
            json!("foo"),
            "Invalid value: \"foo\": field in body should match '+, but pattern is invalid: error parsing regexp: missing argument to repetition operator: `+`'",
        ),
        (json!({"type": "array", "maxItems": 2}), json!([1, 2, 3]), "Too many: 3: must have at most 2 items"),
        (json!({"type": "array", "maxItems": 1}), json!([1, 2, 3]), "Too many: 3: must have at most 1 item"),
        (
            json!({"type": "array", "minItems": 1}),
            json!([]),
            "Invalid value: 0: field in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "uniqueItems": true}),
            json!([{"a": 1}, 2, {"a": 1}]),
            r#"Invalid value: "": field in body shouldn't contain duplicates"#,
        ),
        (
            json!({"type": "object", "maxProperties": 2}),
            json!({"a": 1, "b": 1, "c": 1}),
            "Too many: 3: must have at most 2 items",
        ),
        (
            json!({"type": "object", "minProperties": 1}),
            json!({}),
            "Invalid value: 0: field in body should have at least 1 properties",
        ),
        (
            json!({"type": "object", "additionalProperties": false}),
            json!({"a": 1}),
            r#"Invalid value: "a": field.a in body is a forbidden property"#,
        ),
        (
            json!({"type": "string", "format": "k8s-short-name"}),
            json!("a-"),
            r#"Invalid value: "a-": field in body must be of type k8s-short-name: "a-""#,
        ),
        (
            json!({"type": "string", "format": "date"}),
            json!(true),
            r#"Invalid value: "": field in body must be of type date: """#,
        ),
        (
            json!({"type": "integer", "format": "int64"}),
            json!(1.5),
            r#"Invalid value: "float64": field in body must be of type int64: "float64""#,
        ),
    ] {
        assert_eq!(field(schema.clone(), value.clone()).first(), Some(&format!("field: {wanted}")), "{schema} {value}");
    }
    for (schema, value, wanted) in [
        (
            json!({"type": "integer", "format": "int32"}),
            json!(2_147_483_648_i64),
            "Checked value must be of type integer with format int32 in field",
        ),
        (
            json!({"type": "number", "format": "float"}),
            json!(4e38),
            "Checked value must be of type number with format float in field",
        ),
        (
            json!({"type": "integer", "maximum": 1.5}),
            json!(1),
            "Maximum boundary value must be of type integer (default format) in field",
        ),
        (
            json!({"type": "integer", "minimum": -1.5}),
            json!(1),
            "Minimum boundary value must be of type integer (default format) in field",
        ),
    ] {
        assert_eq!(field(schema, value), [format!("<nil>: Invalid value: \"\": {wanted}")]);
    }
}

#[test]
fn what_is_right_has_no_causes() {
    for (schema, value) in [
        (json!({"type": "string", "maxLength": 3, "minLength": 3, "pattern": "ö"}), json!("äöü")),
        (json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 1, "multipleOf": 1}), json!(1)),
        (json!({"type": "number", "format": "double", "multipleOf": 0.1}), json!(0.3)),
        // A format that is unknown for the type is none.
        (json!({"type": "string", "format": "int32"}), json!("x")),
        (json!({"type": "number", "format": "int32"}), json!(1e300)),
        (json!({"type": "integer", "format": "date"}), json!(1)),
        (json!({"x-kubernetes-int-or-string": true, "format": "int32"}), json!("x")),
        // Upstream compares the integer part, and takes a code point for its string.
        (json!({"enum": [1]}), json!(1.5)),
        (json!({"enum": ["a"]}), json!(97)),
        (json!({"type": "object", "additionalProperties": true}), json!({"a": [1]})),
        (json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"a": [1]})),
        (json!({}), json!({"a": [1]})),
        (json!({"type": "array", "uniqueItems": true}), json!([1, 1.5, "1", null])),
    ] {
        assert_eq!(field(schema.clone(), value.clone()), Vec::<String>::new(), "{schema} {value}");
    }
}

#[test]
fn paths_are_upstreams() {
    let text = json!({"type": "string"});
    let item =
        json!({"type": "object", "required": ["name"], "properties": {"name": text}, "additionalProperties": text});
    let schema = json!({"type": "object", "required": ["spec", "other"], "properties": {"spec": {
        "type": "object",
        "required": ["b", "a"],
        "properties": {
            "list": {"type": "array", "items": item},
            "map": {"type": "object", "additionalProperties": item},
        },
    }}});
    let value =
        json!({"spec": {"list": [{"name": "x"}, {"name": 1, "y": 2}, {}], "map": {"k.x": {"name": 1}, "l": {}}}});
    assert_eq!(
        causes(&schema, &value),
        [
            r#"spec.list[1].y: Invalid value: "integer": spec.list[1].y in body must be of type string: "integer""#,
            r#"spec.list[1].name: Invalid value: "integer": spec.list[1].name in body must be of type string: "integer""#,
            "spec.list[2].name: Required value",
            r#"spec.map.k.x.name: Invalid value: "integer": spec.map.k.x.name in body must be of type string: "integer""#,
            "spec.map.l.name: Required value",
            "spec.b: Required value",
            "spec.a: Required value",
            "other: Required value",
        ]
    );
    // Upstream's name of an entry of the root has a dot in front, its field none.
    assert_eq!(
        causes(&json!({"additionalProperties": item}), &json!({"k": {"name": 1}})),
        [r#"k.name: Invalid value: "integer": .k.name in body must be of type string: "integer""#]
    );
    let status = Validator::new(&schema).expect("a schema").field("spec").expect("a field");
    let at = FieldPath::new("spec");
    assert_eq!(
        texts(&status.validate(&at, &json!({"list": [1], "a": 1}))),
        [
            r#"spec.list[0]: Invalid value: "integer": list[0] in body must be of type object: "integer""#,
            "spec.b: Required value"
        ]
    );
    assert_eq!(
        texts(&status.validate(&at, &json!("x"))),
        [r#"spec: Invalid value: "string":  in body must be of type object: "string""#]
    );
    assert_eq!(
        causes(&json!({"type": "object"}), &json!(1)),
        [r#"<nil>: Invalid value: "integer":  in body must be of type object: "integer""#]
    );
}

#[test]
fn several_causes_of_a_value_come_in_the_order_of_the_checks() {
    let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
        "a": {"type": "integer", "enum": [1, 2]},
        "b": {"type": "string", "enum": ["a", "b"]},
    }});
    assert_eq!(
        causes(&schema, &json!({"a": "x", "b": true})),
        [
            r#"a: Invalid value: "string": a in body must be of type integer: "string""#,
            r#"a: Unsupported value: "x": supported values: "1", "2""#,
            r#"b: Invalid value: "boolean": b in body must be of type string: "boolean""#,
            r#"b: Unsupported value: true: supported values: "a", "b""#,
        ]
    );
    let found = Validator::new(&schema).expect("a schema").validate(&FieldPath::default(), &json!({"a": "x"}));
    let kinds: Vec<CauseKind> = found.iter().map(|cause| cause.kind).collect();
    assert_eq!(kinds, [CauseKind::TypeInvalid, CauseKind::NotSupported, CauseKind::Required]);
    assert_eq!(
        blocks_rules(&found).map(|cause| cause.to_string()).as_deref(),
        Some(
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
        )
    );
    assert_eq!(blocks_rules(&[]), None);
}
