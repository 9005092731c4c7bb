use super::*;

#[allow(clippy::disallowed_methods, reason = "real time is measured")]
fn took(schema: &Value, value: &Value) -> (Vec<Cause>, Duration) {
    let validator = Validator::new(schema).expect("a schema");
    let start = Instant::now();
    let causes = validator.validate_update(&FieldPath::default(), value, value);
    (causes, start.elapsed())
}

#[test]
fn long_lists_take_linear_time() {
    let numbers: Vec<Value> = (0..200_000).map(Value::from).collect();
    let objects: Vec<Value> = (0..40_000).map(|n| json!({"name": n.to_string(), "x": "y"})).collect();
    let object = json!({"type": "object", "properties": {"name": {"type": "string", "pattern": "^[a-z]$"}, "x": {"type": "string"}}});
    let schema = json!({"type": "object", "properties": {
        "unique": {"type": "array", "uniqueItems": true, "items": {"type": "integer"}},
        "keyed": {"type": "array", "items": object, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        "bad": {"type": "array", "items": {"type": "string"}},
    }});
    let value = json!({"unique": numbers, "keyed": objects, "bad": numbers});
    let (causes, time) = took(&schema, &value);
    assert!(causes.is_empty(), "unchanged");
    assert!(time < Duration::from_secs(20), "{time:?}");
    let causes = Validator::new(&schema).expect("a schema").validate(&FieldPath::default(), &value);
    assert_eq!(causes.len(), 1000, "the rest is not listed");
}

#[test]
fn work_is_bounded() {
    let branch: Vec<Value> = (0..2000).map(|n| json!({"enum": [n]})).collect();
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"anyOf": branch}}}});
    let numbers: Vec<Value> = (0..100_000).map(|n| Value::from(n + 10_000)).collect();
    let (causes, time) = took(&schema, &json!({"l": numbers, "unknown": 1}));
    assert!(time < Duration::from_secs(60), "{time:?}");
    let last = causes.last().map(ToString::to_string).unwrap_or_default();
    assert!(last.contains("too many alternatives"), "{last}");
}

#[test]
fn long_texts_are_not_read_too_often() {
    let text = "x".repeat(1 << 20);
    let branches = vec![json!({"minLength": 1 << 30}); 5000];
    let schema = json!({"type": "object", "properties": {"x": {"anyOf": branches, "type": "string"}}});
    let (causes, time) = took(&schema, &json!({"x": text, "unknown": 1}));
    assert!(time < Duration::from_secs(60), "{time:?}");
    assert!(texts(&causes).concat().contains("too many alternatives"), "work is counted");
    let nested: Vec<Value> =
        (0..5000).map(|n| json!({"additionalProperties": {"type": "string", "minLength": n}})).collect();
    let schema = json!({"type": "object", "properties": {"x": {"type": "object", "anyOf": nested}}});
    let (causes, time) = took(&schema, &json!({"x": {"k".repeat(1 << 20): 1}, "unknown": 1}));
    assert!(time < Duration::from_secs(60), "{time:?}");
    assert!(texts(&causes).concat().contains("too many alternatives"), "work is counted");
}

#[test]
fn patterns_are_bounded() {
    let text = "a".repeat(1 << 20);
    let schema = json!({"type": "object", "properties": {"x": {"type": "string", "pattern": "(.?a){1000}y"}}});
    let (causes, time) = took(&schema, &json!({"x": text, "unknown": 1}));
    assert!(time < Duration::from_secs(60), "{time:?}");
    let why = "<nil>: Invalid value: \"\": the schema has patterns that take too long to be matched against an object of this size";
    assert_eq!(texts(&causes), [why]);
    // What is long is not bad.
    let schema =
        json!({"type": "object", "properties": {"x": {"type": "string", "pattern": r"^([a-z]+[0-9]{1,3}(\.|$))+$"}}});
    assert!(took(&schema, &json!({"x": "abc12.".repeat(1 << 17)})).0.is_empty());
}

#[test]
fn long_keys_do_not_multiply() {
    let schema = json!({"additionalProperties": {"additionalProperties": {"type": "string"}}});
    let inner: serde_json::Map<String, Value> = (0..5000).map(|n| (n.to_string(), json!(n))).collect();
    let causes = Validator::new(&schema)
        .expect("a schema")
        .validate(&FieldPath::default(), &json!({"k".repeat(1 << 20): inner}));
    let bytes: usize = causes.iter().map(|cause| cause.message.len()).sum();
    assert!(!causes.is_empty() && bytes < 4 << 20, "{} {bytes}", causes.len());
}

#[test]
fn deep_schemas_are_refused() {
    let mut schema = json!({"type": "string"});
    for _ in 0..120 {
        schema = json!({"anyOf": [schema]});
    }
    assert!(Validator::new(&schema).is_ok());
    for _ in 0..20 {
        schema = json!({"items": schema});
    }
    assert!(Validator::new(&schema).is_err());
    let odd = json!({"type": 1, "enum": {}, "properties": [], "required": "x", "anyOf": {"a": 1}, "maxLength": "2", "items": true, "pattern": 3});
    assert!(
        Validator::new(&odd)
            .expect("what is wrong is not there")
            .validate(&FieldPath::default(), &json!("x"))
            .is_empty()
    );
    assert!(Validator::new(&json!(1)).is_ok());
}
