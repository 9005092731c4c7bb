use super::*;

fn field(schema: Value, value: Value) -> Vec<String> {
    causes(&json!({"type": "object", "properties": {"field": schema}}), &json!({"field": value}))
}

#[test]
fn one_of_several_types_explains_the_first() {
    let types = json!([{"type": "integer"}, {"type": "string"}]);
    for schema in [
        json!({"nullable": true, "x-kubernetes-int-or-string": true, "anyOf": types}),
        json!({"nullable": true, "x-kubernetes-int-or-string": true, "allOf": [{"anyOf": types}]}),
    ] {
        let all = if schema.get("allOf").is_some() {
            vec![r#"<nil>: Invalid value: "": "field" must validate all the schemas (allOf). None validated"#]
        } else {
            vec![]
        };
        for good in [json!(null), json!(42), json!("x")] {
            assert_eq!(field(schema.clone(), good), Vec::<String>::new());
        }
        for (value, kind) in [(json!(true), "boolean"), (json!({}), "object"), (json!([]), "array")] {
            let mut wanted = vec![
                format!(r#"field: Invalid value: "{kind}": field in body must be of type integer,string: "{kind}""#),
                r#"<nil>: Invalid value: "": "field" must validate at least one schema (anyOf)"#.to_owned(),
                format!(r#"field: Invalid value: "{kind}": field in body must be of type integer: "{kind}""#),
            ];
            wanted.extend(all.iter().map(|text| (*text).to_owned()));
            assert_eq!(field(schema.clone(), value), wanted);
        }
    }
    let found = field(json!({"x-kubernetes-int-or-string": true, "anyOf": types}), json!(1.2));
    assert_eq!(
        found,
        [
            r#"field: Invalid value: "number": field in body must be of type integer,string: "number""#,
            r#"<nil>: Invalid value: "": "field" must validate at least one schema (anyOf)"#,
            r#"field: Invalid value: "number": field in body must be of type integer: "number""#,
            r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in field"#,
        ]
    );
}

#[test]
fn exactly_one_alternative_holds() {
    let schema = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(field(schema.clone(), json!({"a": 1})), Vec::<String>::new());
    assert_eq!(
        field(schema.clone(), json!({"a": 1, "b": 1})),
        [
            r#"<nil>: Invalid value: "": "field" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
    assert_eq!(
        field(schema, json!({})),
        [
            r#"<nil>: Invalid value: "": "field" must validate one and only one schema (oneOf). Found none valid"#,
            "field.a: Required value"
        ]
    );
}

#[test]
fn the_alternative_with_most_matches_is_explained() {
    let branch = |kind: &str, name: &str| json!({"properties": {"kind": {"enum": [kind]}, name: {"minimum": 5}}, "required": [name]});
    let schema = json!({"type": "object", "anyOf": [branch("A", "a"), branch("B", "b")],
        "properties": {"kind": {"type": "string"}, "a": {"type": "integer"}, "b": {"type": "integer"}}});
    assert_eq!(
        field(schema, json!({"kind": "B", "b": 1})),
        [
            r#"<nil>: Invalid value: "": "field" must validate at least one schema (anyOf)"#,
            "field.b: Invalid value: 1: field.b in body should be greater than or equal to 5"
        ]
    );
}

#[test]
fn all_and_none() {
    let schema = json!({"type": "string", "allOf": [{"minLength": 2}, {"pattern": "x"}]});
    assert_eq!(
        field(schema, json!("ab")),
        [
            r#"field: Invalid value: "ab": field in body should match 'x'"#,
            r#"<nil>: Invalid value: "": "field" must validate all the schemas (allOf)"#
        ]
    );
    let schema = json!({"type": "string", "not": {"pattern": "x"}});
    assert_eq!(
        field(schema.clone(), json!("x")),
        [r#"<nil>: Invalid value: "": "field" must not validate the schema (not)"#]
    );
    assert_eq!(field(schema, json!("a")), Vec::<String>::new());
}
