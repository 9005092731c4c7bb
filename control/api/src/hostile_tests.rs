//! Bodies that are as bad as the limits of a request (3 MiB, lists of 2,000 elements) allow. Each must cost no more than its size is
//! worth: what is quadratic takes minutes here, what is not a moment.

use crate::{
    Cause, FieldPath, GroupVersionKind, Object,
    apply::{ApplyOptions, UpdateOptions, apply, update},
    invalid, json,
    patch::{self, PatchError},
    schema::Schema,
    selector::Selector,
};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Elements that a list may have.
const LIST: usize = 2_000;
/// Long lists in one body.
const CONTAINERS: usize = 20;
/// Far more than any of these takes, even unoptimised beside other tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

#[allow(clippy::disallowed_methods)] // measures, but decides nothing by it
fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    let took = begin.elapsed();
    println!("{what}: {took:?}");
    assert!(took < TEST_TIMEOUT, "{what}: {took:?}");
    result
}

fn schema(kind: &str) -> Schema {
    Schema::for_kind(&GroupVersionKind::new("", "v1", kind)).expect("built in")
}

fn list(count: usize, make: impl Fn(usize) -> Value) -> Value {
    (0..count).map(make).collect()
}

fn map(count: usize, value: &Value) -> Value {
    Value::Object((0..count).map(|i| (format!("k{i}"), value.clone())).collect())
}

/// Containers, each with a full list of variables.
fn containers(value: &str) -> Value {
    list(
        CONTAINERS,
        |c| json!({"name": format!("c{c}"), "env": list(LIST, |i| json!({"name": format!("e{i}"), "value": value}))}),
    )
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn strategic_patches_of_long_lists_are_cheap() {
    let schema = schema("Pod");
    let reversed =
        |list: &Value| Value::from(list.as_array().expect("a list").iter().rev().cloned().collect::<Vec<_>>());
    let names = |count| list(count, |i| json!({"name": format!("e{i}")}));
    let document = pod(json!({ "containers": containers("1") }));
    let each = |patch: &dyn Fn() -> Value| {
        pod(json!({"containers": list(CONTAINERS, |c| {
            let mut patch = patch();
            patch["name"] = format!("c{c}").into();
            patch
        })}))
    };
    let change = each(&|| json!({"env": list(LIST, |i| json!({"name": format!("e{i}"), "value": "2"}))}));
    let order = each(&|| json!({"$setElementOrder/env": reversed(&names(LIST))}));
    let delete = each(&|| json!({"env": list(LIST, |i| json!({"name": format!("e{i}"), "$patch": "delete"}))}));
    let merged = in_time("strategic", || patch::strategic(&document, &change, &schema)).expect("applies");
    assert_eq!(merged, pod(json!({ "containers": containers("2") })));
    let merged = in_time("$setElementOrder", || patch::strategic(&document, &order, &schema)).expect("applies");
    assert_eq!(merged["spec"]["containers"][CONTAINERS - 1]["env"][0]["name"], "e1999");
    let merged = in_time("$patch: delete", || patch::strategic(&document, &delete, &schema)).expect("applies");
    assert_eq!(merged["spec"]["containers"][CONTAINERS - 1]["env"], json!([]));
    let finalizers = |from: usize| list(100_000, |i| json!(format!("f{}", from + i)));
    let both = in_time("a set", || {
        let old = json!({"metadata": {"finalizers": finalizers(0)}});
        let new = json!({"metadata": {"finalizers": finalizers(50_000)}});
        patch::strategic(&old, &new, &schema).expect("applies")
    });
    assert_eq!(both["metadata"]["finalizers"].as_array().map(Vec::len), Some(150_000));
    let deleted = in_time("$deleteFromPrimitiveList", || {
        let old = json!({"metadata": {"finalizers": finalizers(0)}});
        let new = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": finalizers(50_000)}});
        patch::strategic(&old, &new, &schema).expect("applies")
    });
    assert_eq!(deleted["metadata"]["finalizers"].as_array().map(Vec::len), Some(50_000));
    let kept = in_time("$retainKeys", || {
        let old = json!({"metadata": {"labels": map(100_000, &json!("v"))}});
        let keep = list(100_000, |i| json!(format!("k{}", i + 50_000)));
        let new = json!({"metadata": {"labels": {"$retainKeys": keep}}});
        patch::strategic(&old, &new, &schema).expect("applies")
    });
    assert_eq!(kept["metadata"]["labels"].as_object().map(Map::len), Some(50_000));
}

#[test]
fn json_patches_cannot_grow_shift_or_nest_without_end() {
    let refused = |what: &str, document: Value, operations: Vec<Value>| match in_time(what, || {
        patch::json(&document, &Value::from(operations))
    }) {
        Err(PatchError::Unprocessable(text)) => text,
        other => panic!("{what}: {:?}", other.map(|_| ())),
    };
    let doubling = (0..40).map(|i| json!({"op": "copy", "from": "", "path": format!("/{i}")})).collect();
    let text = refused("a bomb", json!({"a": "xxxxxxxx"}), doubling);
    assert!(text.starts_with("Unable to complete the copy, the accumulated size increase of copy is "), "{text}");
    let mut shifting = vec![json!({"op": "add", "path": "/l", "value": vec![1; 1_000_000]})];
    shifting.extend(vec![json!({"op": "add", "path": "/l/0", "value": 1}); 9_000]);
    assert!(refused("shifting", json!({}), shifting).starts_with("the JSON patch moves too much"));
    let mut weighing = vec![json!({"op": "add", "path": "/a", "value": map(200_000, &json!(1))})];
    for _ in 0..4_000 {
        weighing.push(json!({"op": "move", "from": "/a", "path": "/b"}));
        weighing.push(json!({"op": "move", "from": "/b", "path": "/a"}));
    }
    assert!(refused("weighing", json!({}), weighing).starts_with("the JSON patch moves too much"));
    let mut nesting = Vec::new();
    for _ in 0..3_000 {
        nesting.push(json!({"op": "add", "path": "/b", "value": {}}));
        nesting.push(json!({"op": "move", "from": "/a", "path": "/b/a"}));
        nesting.push(json!({"op": "move", "from": "/b", "path": "/a"}));
    }
    assert_eq!(refused("nesting", json!({"a": {}}), nesting), "exceeded max depth");
}

#[test]
fn json_patches_within_the_limits_apply_quickly() {
    let document = json!({"l": list(LIST, |i| json!(i))});
    let mut operations: Vec<Value> = Vec::new();
    for i in 0..2_500 {
        operations.push(json!({"op": "test", "path": format!("/l/{}", i % LIST), "value": i % LIST}));
        operations.push(json!({"op": "add", "path": "/l/0", "value": 0}));
        operations.push(json!({"op": "copy", "from": "/l/5", "path": "/x"}));
        operations.push(json!({"op": "remove", "path": "/l/0"}));
    }
    let result = in_time("10,000 operations", || patch::json(&document, &Value::from(operations))).expect("applies");
    assert_eq!(result["l"], document["l"]);
}

/// Managers with fields of their own each, and all together.
fn managed(managers: usize, fields: usize, operation: &str) -> Value {
    list(managers, |m| {
        let own: Map<String, Value> = (0..fields).map(|f| (format!("f:{m}-{f}"), json!({}))).collect();
        json!({"manager": format!("m{m}"), "operation": operation, "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": own}})
    })
}

#[test]
fn ownership_of_many_by_many_is_cheap() {
    let schema = schema("ConfigMap");
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let keys = |value: &str| -> Value {
        let key = |i: usize| (format!("{}-{}", i % LIST, i / LIST), json!(value));
        Value::Object((0..100_000).map(key).collect())
    };
    let object = |value: &str, managed: Value| {
        let metadata = json!({"name": "c", "namespace": "d", "uid": "u", "managedFields": managed});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": keys(value)})
    };
    for operation in ["Update", "Apply"] {
        let live = Object::from_value(object("1", managed(LIST, 50, operation))).expect("an object");
        let opts = UpdateOptions { manager: "u", api_version: "v1", now, ..UpdateOptions::default() };
        let new = in_time(&format!("update over {operation}"), || {
            let mut new = Object::from_value(object("2", managed(LIST, 50, operation))).expect("an object");
            update(Some(&live), &mut new, &opts, &schema);
            new
        });
        assert_eq!(new.list_at(&["metadata", "managedFields"]).len(), 1, "all fields changed hands");
        let mut config = Object::from_value(object("2", Value::Null)).expect("an object");
        config.remove(&["metadata", "managedFields"]);
        config.remove(&["metadata", "uid"]);
        for force in [false, true] {
            let opts = ApplyOptions { manager: "a", api_version: "v1", now, force, ..ApplyOptions::default() };
            let what = format!("apply over {operation}, force {force}");
            let outcome = in_time(&what, || apply(Some(&live), &config, &opts, &schema));
            match outcome {
                Ok(object) if force => assert_eq!(object.list_at(&["metadata", "managedFields"]).len(), 1),
                Err(status) if !force => {
                    assert!(status.message.starts_with("Apply failed with 100000 conflicts: conflicts with \"m0\""));
                    assert!(status.message.ends_with("and 99900 more"), "{}", status.message);
                    assert!(status.to_json().len() < 64 << 10, "{}", status.to_json().len());
                }
                other => panic!("{what}: {:?}", other.map(|_| ())),
            }
        }
    }
    // The many updaters of a create are joined into one.
    let mut new = Object::from_value(object("1", managed(LIST, 50, "Update"))).expect("an object");
    let opts = UpdateOptions { manager: "u", api_version: "v1", now, ..UpdateOptions::default() };
    in_time("joining", || update(None, &mut new, &opts, &schema));
    assert!(new.list_at(&["metadata", "managedFields"]).len() <= 11);
}

#[test]
fn applying_long_lists_is_cheap() {
    let schema = schema("Pod");
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut live: Option<Object> = None;
    for round in 0..4 {
        let manager = format!("m{}", round % 2);
        let config =
            Object::from_value(pod(json!({ "containers": containers(&round.to_string()) }))).expect("an object");
        let opts = ApplyOptions { manager: &manager, force: true, api_version: "v1", now, ..ApplyOptions::default() };
        live = Some(in_time("apply", || apply(live.as_ref(), &config, &opts, &schema)).expect("applies"));
    }
    // And taking all of it back.
    let config = Object::from_value(pod(json!({"containers": [{"name": "c0"}]}))).expect("an object");
    let opts = ApplyOptions { manager: "m1", force: true, api_version: "v1", now, ..ApplyOptions::default() };
    in_time("removing", || apply(live.as_ref(), &config, &opts, &schema)).expect("applies");
    // Keys that come twice are named, but not all.
    let twice = pod(json!({"containers": list(LIST, |_| json!({"name": "c"}))}));
    let config = Object::from_value(twice).expect("an object");
    let status = in_time("duplicates", || apply(None, &config, &opts, &schema)).expect_err("twice");
    assert!(status.message.ends_with("and 1899 more"), "{}", status.message);
    // Spellings of one key are one key.
    let spelled = (0..3_000).map(|i| {
        let fields: Map<String, Value> = (0..20).map(|f| (format!("f:{i}-{f}"), json!({}))).collect();
        (format!("k:{{{}\"name\":\"c\"}}", " ".repeat(i)), Value::Object(fields))
    });
    let spelled: Map<String, Value> = spelled.collect();
    let fields = json!({"f:spec": {"f:containers": spelled}});
    in_time("spellings", || crate::apply::FieldSet::parse(&fields)).expect("fields");
}

#[test]
fn selectors_of_many_requirements_are_cheap() {
    let long = json!({"matchLabels": map(50_000, &json!("v")), "matchExpressions": list(LIST, |i|
        json!({"key": format!("k{i}"), "operator": "In", "values": list(30, |v| json!(format!("v{v}")))}))});
    let selector = in_time("parsing", || Selector::from_label_selector(&long)).expect("valid");
    in_time("matching", || (0..100).filter(|_| selector.matches(|_| Some("v"))).count());
    let text = (0..LIST).map(|i| format!("k{i} in (a,b,c)")).collect::<Vec<_>>().join(",");
    in_time("text", || Selector::parse(&text)).expect("valid");
}

#[test]
fn strict_decoding_of_many_strange_fields_is_cheap_and_its_answer_short() {
    let kind = GroupVersionKind::new("", "v1", "Pod");
    let schema = Schema::for_kind(&kind).expect("built in");
    let check = |body: &str| {
        let (mut value, duplicates) = json::parse(body.as_bytes()).expect("JSON");
        let unknown = schema.decode_check(&mut value).expect("types");
        json::in_document_order(body.as_bytes(), duplicates, unknown)
    };
    let strange = pod(map(200_000, &json!(1))).to_string();
    assert_eq!(in_time("unknown", || check(&strange)).len(), 100);
    let both = strange.replacen("\"spec\":", &format!("\"data\":{{{}}},\"spec\":", vec!["\"x\":1"; 300].join(",")), 1);
    assert_eq!(in_time("both", || check(&both)).len(), 100);
    let twice = format!("{{\"spec\": {{{}}}}}", vec!["\"nodeName\": \"a\""; 150_000].join(","));
    assert_eq!(in_time("duplicate", || check(&twice)), ["duplicate field \"spec.nodeName\""]);
    // Every key below a long path costs the length of the path, if one is not careful.
    let key = "k".repeat(1 << 20);
    let keys: Vec<String> = (0..100_000).map(|i| format!("\"{i:05}\":1")).collect();
    let deep = format!("{{\"x\": {{\"{key}\": {{{0},{0}}}}}}}", keys.join(","));
    let problems = in_time("a long path", || check(&deep));
    assert!(problems.iter().map(String::len).sum::<usize>() < 4 << 20, "{}", problems.len());
}

#[test]
fn a_million_causes_make_a_short_answer() {
    let cause = |i: usize| Cause::required(&FieldPath::new("spec.containers").index(i), "");
    let causes: Vec<Cause> = (0..1_000_000).map(cause).collect();
    let kind = GroupVersionKind::new("", "v1", "Pod");
    let status = in_time("causes", || invalid(&kind, "p", &causes));
    assert!(status.to_json().len() < 64 << 10);
}

#[test]
fn a_body_of_nothing_but_brackets_is_refused() {
    let brackets = format!("{{\"a\": [{}]}}", vec!["{}"; 1_000_000].join(","));
    for (what, error) in [
        ("JSON", in_time("JSON", || json::parse(brackets.as_bytes())).expect_err("too many")),
        ("YAML", in_time("YAML", || crate::yaml::parse(brackets.as_bytes())).expect_err("too many")),
    ] {
        assert!(error.contains("too many objects and lists"), "{what}: {error}");
    }
    let fine = format!("{{\"a\": [{}]}}", vec!["{}"; 100_000].join(","));
    json::parse(fine.as_bytes()).expect("a list of reasonable length");
    // One Endpoints subset after the other, two bytes each.
    let mut protobuf = b"k8s\0".to_vec();
    let body = [0x12, 0].repeat(1_000_000);
    protobuf.extend([0x12]);
    let mut length = body.len();
    while length > 127 {
        protobuf.push((length & 127 | 128) as u8);
        length >>= 7;
    }
    protobuf.push(length as u8);
    protobuf.extend(body);
    let kind = GroupVersionKind::new("", "v1", "Endpoints");
    let error = in_time("protobuf", || crate::protobuf::decode_as(&protobuf, Some(&kind))).expect_err("too many");
    assert_eq!(error, "proto: too many messages");
}
