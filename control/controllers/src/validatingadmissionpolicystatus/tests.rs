//! What upstream's `typechecking_test.go` shows, and what is our own: bounds.

use super::{check::warnings, *};
use client::discovery::Resource;

fn policy(spec: Value) -> ValidatingAdmissionPolicy {
    serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "spec": spec})).expect("a policy")
}

fn served(group: &str, version: &str, others: &[&str], resource: &str, kind: &str) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        others: others.iter().map(|other| (*other).to_owned()).collect(),
        resource: resource.into(),
        kind: kind.into(),
        namespaced: true,
        verbs: Vec::new(),
    }
}

fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
    json!({"apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"]})
}

#[test]
fn kinds_are_those_that_rules_name_without_wildcards() {
    let all = [
        served("", "v1", &[], "pods", "Pod"),
        served("", "v1", &[], "events", "Event"),
        served("apps", "v1", &[], "deployments", "Deployment"),
        served("autoscaling", "v2", &["v1"], "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
        served("events.k8s.io", "v1", &[], "events", "Event"),
    ];
    for (rules, expected) in [
        (vec![], ""),
        (vec![rule(&["apps"], &["v1"], &["deployments"])], "apps/v1, Kind=Deployment"),
        (vec![rule(&["apps"], &["v1"], &["Deployments"])], "apps/v1, Kind=Deployment"),
        (
            vec![rule(&["apps"], &["v1"], &["deployments"]), rule(&[""], &["v1"], &["pods", "pods/exec"])],
            "/v1, Kind=Pod; apps/v1, Kind=Deployment",
        ),
        (
            vec![rule(&["apps"], &["v1"], &["deployments"]), rule(&["apps"], &["*"], &["deployments"])],
            "apps/v1, Kind=Deployment",
        ),
        (vec![rule(&["apps"], &["v1"], &["*"])], ""),
        (vec![rule(&["*"], &["v1"], &["deployments"])], ""),
        (vec![rule(&["", "*"], &["v1"], &["pods"])], ""),
        (vec![rule(&["apps"], &["v1"], &["pods/*"])], ""),
        (vec![rule(&["apps"], &["v2"], &["deployments"])], ""),
        (vec![rule(&[""], &["v1"], &["events"])], "/v1, Kind=Event; events.k8s.io/v1, Kind=Event"),
        (
            vec![rule(&["autoscaling"], &["v1", "v2"], &["horizontalpodautoscalers"])],
            "autoscaling/v1, Kind=HorizontalPodAutoscaler; autoscaling/v2, Kind=HorizontalPodAutoscaler",
        ),
    ] {
        let policy = policy(json!({"matchConstraints": {"resourceRules": rules}}));
        let found: Vec<String> = kinds::to_check(&policy, &all).iter().map(ToString::to_string).collect();
        assert_eq!(found.join("; "), expected, "{rules:?}");
        assert!(kinds::names_any(&policy) || expected.is_empty(), "{rules:?}");
    }
    let many: Vec<Resource> =
        (0..30).map(|at| served("g", "v1", &[], &format!("r{at:02}"), &format!("R{at:02}"))).collect();
    let names: Vec<&str> = many.iter().map(|one| one.resource.as_str()).collect();
    let policy = policy(json!({"matchConstraints": {"resourceRules": [
        rule(&["g"], &["v1"], &["r29"]), rule(&["g"], &["v1"], &names), rule(&["g"], &["v1"], &["r20"])]}}));
    let found: Vec<String> = kinds::to_check(&policy, &many).into_iter().map(|kind| kind.kind).collect();
    assert_eq!(found.join(" "), "R00 R01 R02 R03 R04 R05 R06 R07 R08 R09 R29", "the rest is not looked at");
}

fn deployment() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}

/// A document with a kind and what else is given.
fn document(properties: &Value, others: &Value) -> Vec<u8> {
    let mut schemas = others.clone();
    schemas["io.example.Deployment"] = json!({"type": "object", "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": "other", "version": "v1", "kind": "Deployment"},
            {"group": "apps", "version": "v1", "kind": "Deployment"}]});
    json!({"openapi": "3.0.0", "paths": {"/a": {}}, "components": {"schemas": schemas}}).to_string().into_bytes()
}

fn of(properties: &Value, others: &Value) -> Type {
    let found = schema::find_type(&document(properties, others), &deployment()).expect("a document");
    found.expect("it has the kind").expect("it has a type")
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Fields and texts of the warnings.
fn checked(spec: Value, types: &Types) -> Vec<String> {
    warnings(&policy(spec), types).into_iter().map(|one| format!("{}: {}", one.field_ref, one.warning)).collect()
}

fn validation(expression: &str) -> Value {
    json!({"validations": [{"expression": expression}]})
}

#[test]
fn a_warning_names_field_kind_and_place() {
    let of = of(
        &json!({"spec": {"type": "object", "properties": {"replicas": {"type": "integer", "format": "int32"}}}}),
        &json!({}),
    );
    let types = Types { objects: vec![(deployment(), of)], parameters: None };
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas > 1"},
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
        {"expression": "object.spec.maxRetries < 10"}]});
    assert_eq!(
        checked(spec, &types),
        [
            "spec.validations[1].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n",
            "spec.validations[1].messageExpression: apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'\n | 'got ' + object.spec.replicas\n | .......^\n",
            "spec.validations[2].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'maxRetries'\n | object.spec.maxRetries < 10\n | ...........^\n",
        ]
    );
    let with = |kind: &str| (GroupVersionKind::new("", "v1", kind), types.objects[0].1.clone());
    let both = Types { objects: vec![with("A"), with("B")], parameters: None };
    let text = checked(validation("oldObject.x"), &both);
    let at = "ERROR: <input>:1:10: undefined field 'x'\n | oldObject.x\n | .........^\n";
    assert_eq!(text, [format!("spec.validations[0].expression: /v1, Kind=A: {at}\n/v1, Kind=B: {at}")]);
}

#[test]
fn expressions_are_checked_against_all_that_they_may_name() {
    let config = of(&json!({"foo": {"type": "string"}}), &json!({}));
    let with = |foo: &str| of(&json!({"foo": {"type": foo}}), &json!({}));
    let variables = |of: &str, expression: &str| json!({"variables": [{"name": "name", "expression": of}], "validations": [{"expression": expression}]});
    let parameters = |expression: &str| json!({"paramKind": {"apiVersion": "v1", "kind": "Config"}, "validations": [{"expression": expression}]});
    for (spec, foo, known, expected) in [
        (validation("object.foo == 'bar'"), "string", false, ""),
        (validation("object.foo == 'bar'"), "integer", false, "applied to '(int, string)'"),
        (validation("object.metadata.name + object.kind == 'a'"), "string", false, ""),
        (validation("object.metadata.labels == {}"), "string", false, "undefined field 'labels'"),
        (validation("request.operation == 1"), "string", false, "applied to '(string, int)'"),
        (validation("namespaceObject.metadata.name == 'a'"), "string", false, ""),
        (validation("authorizer.group('').resource('endpoints').check('create').allowed()"), "string", false, ""),
        (validation("authorizer.requestResource.check('create').allowed()"), "string", false, ""),
        (
            validation("authorizer.allowed()"),
            "string",
            false,
            "found no matching overload for 'allowed' applied to 'kubernetes.authorization.Authorizer",
        ),
        (validation("params.bar == 1"), "string", false, "undeclared reference to 'params'"),
        (parameters("object.foo == params.bar"), "string", true, "undefined field 'bar'"),
        (parameters("object.foo == params.bar && params != null"), "string", false, ""),
        (variables("true", "variables.name"), "string", false, ""),
        (variables("true", "variables.other"), "string", false, "undefined field 'other'"),
        (
            variables("'something'", "variables.name == object.foo"),
            "integer",
            false,
            "'_==_' applied to '(string, int)'",
        ),
        (variables("object.foo == 'str'", "variables.name == object.foo"), "integer", false, ""),
        (validation("'a'.matches('[')"), "string", false, "invalid matches argument"),
        // It has the right types.
        (validation("int('x') == 1"), "string", false, ""),
        (validation("1"), "string", false, ""),
    ] {
        let types = Types { objects: vec![(deployment(), with(foo))], parameters: known.then(|| config.clone()) };
        let found = checked(spec.clone(), &types);
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{spec}: {found:?}");
        assert!(found.iter().all(|one| one.contains(expected)), "{spec}: {found:?}");
        assert_eq!(checked(spec, &Types::default()), Vec::<String>::new(), "nothing is known");
    }
    let untyped = Types { objects: vec![(deployment(), Type::Dyn)], parameters: None };
    assert_eq!(checked(validation("object.anything == 1"), &untyped), Vec::<String>::new());
}

#[test]
fn references_are_followed_and_end_where_they_go_round() {
    let others = json!({
        "Spec": {"type": "object", "properties": {
            "port": {"allOf": [reference("Port")], "description": "d"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "additionalProperties": true}, "amount": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            "items": {"type": "array", "items": reference("Spec")}}},
        "Port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
        "Loose": {"x-kubernetes-int-or-string": true}});
    let of = of(&json!({"spec": reference("Spec"), "loose": reference("Loose")}), &others);
    let types = Types { objects: vec![(deployment(), of)], parameters: None };
    for (expression, expected) in [
        ("object.spec.port == 80 || object.spec.port == 'http' || object.loose == 1", ""),
        ("object.spec.labels['a'] == 'b'", ""),
        ("object.spec.labels['a'] == 1", "applied to '(string, int)'"),
        ("has(object.spec.free)", ""),
        ("has(object.spec.free.some)", "undefined field 'some'"),
        ("has(object.spec.amount)", "undefined field 'amount'"),
        ("size(object.spec.items) == 0", ""),
        ("object.spec.items[0].port == 1", "undefined field 'port'"),
    ] {
        let found = checked(validation(expression), &types);
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{expression}: {found:?}");
        assert!(found.iter().all(|one| one.contains(expected)), "{expression}: {found:?}");
    }
    assert_eq!(
        schema::find_type(&document(&json!({}), &json!({})), &GroupVersionKind::new("a", "v1", "B"))
            .map(|of| of.is_some()),
        Ok(false)
    );
    assert!(schema::find_type(&document(&json!({"a": reference("Gone")}), &json!({})), &deployment()).is_err());
    assert!(schema::find_type(b"{", &deployment()).is_err());
}

#[test]
fn a_hostile_document_costs_little() {
    // Each refers to the next ten times.
    let mut others = json!({});
    for at in 0..30 {
        let properties: Value = (0..10)
            .map(|n| (format!("f{n}"), reference(&format!("D{}", at + 1))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        others[format!("D{at}")] = json!({"type": "object", "properties": properties});
    }
    others["D30"] = json!({"type": "string"});
    let found = schema::find_type(&document(&json!({"a": reference("D0")}), &others), &deployment());
    assert_eq!(found.map(|_| ()), Err("the schema has too many parts".to_owned()));
    // A reference to a reference, and so on.
    let mut others = json!({});
    for at in 0..5000 {
        others[format!("D{at}")] = json!({"allOf": [reference(&format!("D{}", at + 1))]});
    }
    others["D5000"] = json!({"type": "string"});
    assert!(schema::find_type(&document(&json!({"a": reference("D0")}), &others), &deployment()).is_err());
}

#[test]
fn warnings_end_before_the_status_is_too_long() {
    let types = Types { objects: vec![(deployment(), of(&json!({}), &json!({})))], parameters: None };
    let expression = format!("object.x == '{}'", "a".repeat(15_000));
    let validations: Vec<Value> = (0..100).map(|_| json!({"expression": expression})).collect();
    let found = warnings(&policy(json!({"validations": validations})), &types);
    assert!(found.len() > 60 && found.iter().map(|one| one.warning.len()).sum::<usize>() <= 1 << 20, "{}", found.len());
}

#[test]
fn a_policy_is_checked_once_for_each_generation() {
    let mut one = policy(validation("true"));
    assert!(is_due(&one));
    for (seen, due) in [(2, true), (3, false), (4, false)] {
        one.status = serde_json::from_value(json!({"observedGeneration": seen})).expect("a status");
        assert_eq!(is_due(&one), due, "{seen}");
    }
    assert_eq!(configuration(&one, &[])["status"], json!({"observedGeneration": 3, "typeChecking": {}}));
    let warning = ExpressionWarning { field_ref: "f".into(), warning: "w".into() };
    assert_eq!(
        configuration(&one, &[warning])["status"]["typeChecking"],
        json!({"expressionWarnings": [{"fieldRef": "f", "warning": "w"}]})
    );
}
