use super::*;

fn defaults(schema: &Value) -> Vec<String> {
    texts(&validate_defaults(&FieldPath::new("schema"), schema))
}

#[test]
fn defaults_are_valid_and_pruned() {
    let schema = json!({"type": "object", "properties": {
        "good": {"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer", "default": 2}}},
        "wrong": {"type": "integer", "default": "x"},
        "unknown": {"type": "object", "default": {"b": 1, "c": {"d": 1}}, "properties": {"c": {"type": "object"}}},
        "free": {"type": "object", "default": {"b": 1, "c": {"d": 1}}, "properties": {"c": {"type": "object"}}, "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string", "default": "long", "maxLength": 1}}}},
        "any": {"type": "object", "default": {"a": {"b": 1}}, "additionalProperties": true},
        "none": {"type": "string", "default": null},
    }});
    assert_eq!(
        defaults(&schema),
        [
            r#"schema.properties[any].default: Invalid value: {"a":{"b":1}}: must not have unknown fields"#,
            r#"schema.properties[free].default: Invalid value: {"b":1,"c":{"d":1}}: must not have unknown fields"#,
            "schema.properties[list].items.properties[x].default: Too long: may not be more than 1 byte",
            r#"schema.properties[unknown].default: Invalid value: {"b":1,"c":{"d":1}}: must not have unknown fields"#,
            r#"schema.properties[wrong].default: Invalid value: "string":  in body must be of type integer: "string""#,
        ]
    );
}

#[test]
fn defaults_make_right_metadata() {
    let metadata = |name: Value| json!({"type": "object", "properties": {"name": name, "labels": {"type": "object", "default": {"a b": "x"}, "additionalProperties": {"type": "string"}}}});
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string", "default": "a/b/c"},
        "metadata": metadata(json!({"type": "string", "default": ".."})),
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "kind": {"type": "string", "default": "Good"},
            "metadata": {"type": "object", "properties": {"generation": {"type": "string", "default": "x"}}},
        }},
        "whole": {"type": "object", "x-kubernetes-embedded-resource": true, "default": {"kind": "A", "metadata": {"unknown": 1}}},
    }});
    let found = defaults(&schema);
    let starts = [
        r#"schema.properties[apiVersion].default: Invalid value: "a/b/c": must result in valid metadata: apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
        r#"schema.properties[embedded].properties[metadata].properties[generation].default: Invalid value: "x": must result in valid metadata: metadata: Invalid value: {"generation":"x"}: json: cannot unmarshal string into Go struct field ObjectMeta.generation of type int64"#,
        r#"schema.properties[metadata].properties[labels].default: Invalid value: {"a b":"x"}: must result in valid metadata: metadata.labels: Invalid value: "a b": name part must consist of"#,
        r#"schema.properties[metadata].properties[name].default: Invalid value: "..": must result in valid metadata: metadata.name: Invalid value: "..": may not be '..'"#,
        "schema.properties[whole].default.apiVersion: Required value",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}\n{start}");
    }
}

#[test]
fn rules_are_asked_about_good_defaults() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 1},
        "b": {"type": "integer", "default": "x"},
    }});
    let mut asked = Vec::new();
    let causes = validate_defaults_and(&FieldPath::new("s"), &schema, &mut |at, schema, default| {
        asked.push(format!("{at} {schema} {default}"));
        vec![Cause::forbidden(at, "no")]
    });
    assert_eq!(asked, [r#"s.properties[a].default {"default":1,"type":"integer"} 1"#]);
    assert_eq!(causes.first().map(ToString::to_string).as_deref(), Some("s.properties[a].default: Forbidden: no"));
    assert_eq!(causes.len(), 2);
}

#[test]
fn patterns_are_checked_as_they_are_used() {
    assert_eq!(check_pattern("^a+$"), Ok(()));
    assert_eq!(check_pattern("[a"), Err("error parsing regexp: missing closing ]: `[a`".to_owned()));
}

#[test]
fn rules_are_found_anywhere() {
    let rule = json!([{"rule": "true"}]);
    for (schema, wanted) in [
        (json!({"type": "object"}), false),
        (json!({"x-kubernetes-validations": []}), false),
        (json!({"x-kubernetes-validations": rule}), true),
        (json!({"properties": {"a": {"items": {"additionalProperties": {"x-kubernetes-validations": rule}}}}}), true),
        (json!({"anyOf": [{"x-kubernetes-validations": rule}]}), false),
    ] {
        assert_eq!(Validator::new(&schema).expect("a schema").has_rules(), wanted, "{schema}");
    }
}
