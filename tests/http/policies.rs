//! Admission policies: what they refuse, warn of, tell audit of and change, as clients see it.

use super::*;
use crate::customresources::{WIDGETS, spec, version, widget, with_widgets};
use ::server::audit::{Audit, Event};
use parking_lot::Mutex;
use std::collections::BTreeMap;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(resources: &[&str]) -> Value {
    json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}])
}

/// A policy `p` for these resources, with a binding `b`; both with more fields.
async fn with_policy(cluster: &Cluster, kind: &str, resources: &[&str], more: Value, binding: Value) {
    let mut spec = json!({"matchConstraints": {"resourceRules": rules(resources)}});
    let mut bound = json!({"policyName": "p"});
    if kind == "validating" {
        bound["validationActions"] = json!(["Deny"]);
    } else {
        spec["reinvocationPolicy"] = "Never".into();
    }
    for (into, from) in [(&mut spec, more), (&mut bound, binding)] {
        for (name, value) in from.as_object().unwrap() {
            into[name] = value.clone();
        }
    }
    let policy = json!({"metadata": {"name": "p"}, "spec": spec});
    let answer = cluster.post(&format!("{GROUP}/{kind}admissionpolicies"), policy).await;
    assert!(answer.headers.get("warning").is_none(), "{:?}", answer.headers);
    answer.ok();
    let binding = json!({"metadata": {"name": "b"}, "spec": bound});
    cluster.post(&format!("{GROUP}/{kind}admissionpolicybindings"), binding).await.ok();
}

async fn validating(cluster: &Cluster, more: Value) {
    with_policy(cluster, "validating", &["configmaps"], more, json!({})).await;
}

fn maps(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

const DENIED: &str = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";

/// The answer to what is refused by the policy for this reason.
#[track_caller]
fn refuses(answer: &Answer, name: &str, code: u16, reason: &str, why: &str) {
    let denied = format!("configmaps \"{name}\" is forbidden: {DENIED}{why}");
    assert_eq!(answer.status(), (code, reason.to_owned(), denied));
    let causes = &answer.json()["details"]["causes"];
    assert_eq!(*causes, json!([{"message": format!("{DENIED}{why}")}]));
}

#[tokio::test]
async fn a_request_is_refused_with_the_text_and_reason_of_the_validation() {
    let cluster = Cluster::new().await;
    let validations = json!([
        {"expression": "!has(object.data.a)"},
        {"expression": "!has(object.data.b)", "message": "b is not wanted", "reason": "Forbidden"},
        {"expression": "!has(object.data.c)", "messageExpression": "'c is ' + object.data.c", "reason": "RequestEntityTooLarge"},
        {"expression": "!has(object.data.d)", "messageExpression": "string(object.data.none)", "message": "d"},
        {"expression": "object.data.e == 'x' || !has(object.data.f)"},
    ]);
    validating(&cluster, json!({ "validations": validations })).await;
    for (key, code, reason, why) in [
        ("a", 422, "Invalid", "failed expression: !has(object.data.a)"),
        ("b", 403, "Forbidden", "b is not wanted"),
        ("c", 413, "RequestEntityTooLarge", "c is v"),
        ("d", 422, "Invalid", "d"),
        (
            "f",
            422,
            "Invalid",
            "expression 'object.data.e == 'x' || !has(object.data.f)' resulted in error: no such key: e",
        ),
    ] {
        refuses(&cluster.post(MAPS, maps("m", json!({key: "v"}))).await, "m", code, reason, why);
    }
    cluster.post(MAPS, maps("m", json!({"e": "x", "g": "v"}))).await.ok();
    let answer = cluster.patch(&map("m"), "merge-patch+json", json!({"data": {"b": "v"}})).await;
    refuses(&answer, "m", 403, "Forbidden", "b is not wanted");
    cluster.delete(&map("m"), Value::Null).await.ok();
}

#[tokio::test]
async fn what_fails_while_it_runs_counts_as_the_policy_says() {
    for (policy, denied) in [("Fail", true), ("Ignore", false)] {
        let cluster = Cluster::new().await;
        let validations = json!([{"expression": "object.data.none == 'x'"}]);
        validating(&cluster, json!({"failurePolicy": policy, "validations": validations})).await;
        let answer = cluster.post(MAPS, maps("m", json!({"k": "v"}))).await;
        if denied {
            let why = "expression 'object.data.none == 'x'' resulted in error: no such key: none";
            refuses(&answer, "m", 422, "Invalid", why);
        } else {
            answer.ok();
        }
    }
}

/// Collects the annotations of audit.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, String>>);

impl Audit for Told {
    fn answered(&self, event: Event) {
        self.0.lock().extend(event.annotations);
    }
}

#[tokio::test]
async fn a_binding_may_warn_and_tell_audit_instead() {
    let told = Arc::new(Told::default());
    let audit = told.clone();
    let cluster = Cluster::with(|options, _| options.audit = Some(audit)).await;
    let more = json!({"validations": [{"expression": "true"}, {"expression": "false", "message": "never"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "'is ' + object.metadata.name"}, {"key": "none", "valueExpression": "null"}]});
    let actions = json!({"validationActions": ["Warn", "Audit"]});
    with_policy(&cluster, "validating", &["configmaps"], more, actions).await;
    let answer = cluster.post(MAPS, maps("m", json!({}))).await;
    assert_eq!(
        answer.header("warning"),
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': never\""
    );
    answer.ok();
    let told = told.0.lock().clone();
    assert_eq!(told.get("p/name").map(String::as_str), Some("is m"), "{told:?}");
    assert_eq!(told.get("p/none"), None);
    assert_eq!(
        told.get("validation.policy.admission.k8s.io/validation_failure").map(String::as_str),
        Some(
            r#"[{"message":"never","policy":"p","binding":"b","expressionIndex":1,"validationActions":["Warn","Audit"]}]"#
        )
    );
}

#[tokio::test]
async fn parameters_come_from_the_namespace_of_the_request() {
    let cluster = Cluster::new().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.ok();
    let secrets = |namespace: &str| format!("/api/v1/namespaces/{namespace}/secrets");
    let more = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.name.startsWith(params.data.prefix)", "messageExpression": "'not ' + params.data.prefix"}]});
    let reference = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    with_policy(&cluster, "validating", &["secrets"], more, reference).await;
    let secret = |name: &str| json!({"metadata": {"name": name}});
    cluster.post(MAPS, maps("limits", json!({"prefix": "a-"}))).await.ok();
    cluster.post(&secrets("default"), secret("a-1")).await.ok();
    let answer = cluster.post(&secrets("default"), secret("b-1")).await;
    answer.fails(422, &format!("secrets \"b-1\" is forbidden: {DENIED}not a-"));
    let missing = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    let answer = cluster.post(&secrets("other"), secret("a-1")).await;
    answer.fails(422, &format!("secrets \"a-1\" is forbidden: {DENIED}{missing}"));
    let binding = format!("{GROUP}/validatingadmissionpolicybindings/b");
    let allow = json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}});
    cluster.patch(&binding, "merge-patch+json", allow).await.ok();
    cluster.post(&secrets("other"), secret("b-1")).await.ok();
    // By a selector, each parameter is asked.
    let selected = json!({"spec": {"paramRef": {"name": null, "namespace": "default", "selector": {}}}});
    cluster.patch(&binding, "merge-patch+json", selected).await.ok();
    cluster.post(MAPS, maps("more", json!({"prefix": "a-b"}))).await.ok();
    let answer = cluster.post(&secrets("other"), secret("a-2")).await;
    answer.fails(422, &format!("secrets \"a-2\" is forbidden: {DENIED}not a-b"));
    // A kind that is not served.
    let unknown = json!({"spec": {"paramKind": {"apiVersion": "a.example.com/v1", "kind": "None"}}});
    cluster.patch(&format!("{GROUP}/validatingadmissionpolicies/p"), "merge-patch+json", unknown).await.ok();
    cluster.post(&secrets("other"), secret("a-2")).await.fails(
        422,
        "secrets \"a-2\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'a.example.com/v1, Kind=None'",
    );
}

#[tokio::test]
async fn variables_conditions_and_excluded_resources_narrow_a_policy() {
    let cluster = Cluster::new().await;
    let excluded = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "resourceNames": ["free"]}]);
    let more = json!({
        "matchConstraints": {"resourceRules": rules(&["configmaps"]), "excludeResourceRules": excluded},
        "matchConditions": [{"name": "tried", "expression": "request.userInfo.username == 'admin' && has(object.data)"}],
        "variables": [{"name": "size", "expression": "object.data.size()"}, {"name": "half", "expression": "variables.size / 2"}],
        "validations": [{"expression": "variables.half < 2", "messageExpression": "string(variables.half) + ' of ' + string(variables.size) + ' in ' + namespaceObject.metadata.name"}]});
    validating(&cluster, more).await;
    let large = json!({"a": "1", "b": "2", "c": "3", "d": "4"});
    refuses(&cluster.post(MAPS, maps("m", large.clone())).await, "m", 422, "Invalid", "2 of 4 in default");
    cluster.post(MAPS, maps("free", large)).await.ok();
    cluster.post(MAPS, json!({"metadata": {"name": "none"}})).await.ok();
    // A policy is compiled anew after a change, and gone after its deletion.
    let change = json!({"spec": {"validations": [{"expression": "false", "message": "no"}]}});
    let policy = format!("{GROUP}/validatingadmissionpolicies/p");
    cluster.patch(&policy, "merge-patch+json", change).await.ok();
    refuses(&cluster.post(MAPS, maps("m", json!({"a": "1"}))).await, "m", 422, "Invalid", "no");
    cluster.delete(&policy, Value::Null).await.ok();
    cluster.post(MAPS, maps("m", json!({"a": "1"}))).await.ok();
}

#[tokio::test]
async fn custom_resources_are_judged_and_changed_too() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let more = json!({"validations": [{"expression": "object.spec.size <= 3"}]});
    with_policy(&cluster, "validating", &["widgets"], more, json!({})).await;
    let parts = r#"Object{spec: Object.spec{size: 2, parts: [Object.spec.parts{name: "b", n: 2}]}}"#;
    let mutations = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": parts}}]);
    let only = json!({"mutations": mutations, "matchConditions": [{"name": "c", "expression": "object.metadata.name == 'w'"}]});
    with_policy(&cluster, "mutating", &["widgets"], only, json!({})).await;
    let refused = format!("widgets.example.com \"x\" is forbidden: {DENIED}failed expression: object.spec.size <= 3");
    cluster.post(WIDGETS, widget("x", json!({"size": 4}))).await.fails(422, &refused);
    let made = cluster.post(WIDGETS, widget("w", json!({"size": 4, "parts": [{"name": "a", "n": 1}]}))).await.ok();
    let parts = json!([{"name": "a", "n": 1}, {"name": "b", "n": 2}]);
    assert_eq!(made["spec"], json!({"size": 2, "parts": parts}));
}

#[tokio::test]
async fn a_mutating_policy_merges_and_patches() {
    let cluster = Cluster::new().await;
    let label = r#"Object{metadata: Object.metadata{labels: {"team": variables.team}}}"#;
    let operations = r#"[JSONPatch{op: "test", path: "/spec/replicas", value: 1},
        JSONPatch{op: "add", path: "/spec/template/spec/containers/-", value: Object.spec.template.spec.containers{name: "side", image: "s:1"}},
        JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}]"#;
    let more = json!({"variables": [{"name": "team", "expression": "'t-' + object.metadata.name"}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": label}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": operations}}]});
    with_policy(&cluster, "mutating", &["deployments"], more, json!({})).await;
    let made = cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"team": "t-d", "a/b": "c"}));
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
    let names: Vec<_> = containers.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "side"]);
    assert_eq!(containers[1]["imagePullPolicy"], "IfNotPresent", "it is defaulted");
    let owned = &made["metadata"]["managedFields"][0]["fieldsV1"];
    assert!(
        owned.get("f:spec").is_some() && owned.get("f:metadata").is_none(),
        "what admission sets is nobody's: {owned}"
    );
    // The test does not hold, so that the patch is not applied.
    let made = cluster.post(DEPLOYMENTS, deployment("e", 2)).await.ok();
    assert_eq!(made["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(made["metadata"]["labels"], json!({"team": "t-e"}));
}

#[tokio::test]
async fn a_mutation_that_cannot_be_made_refuses_in_upstreams_words() {
    let apply = |text: &str| json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}}]);
    let patch = |text: &str| json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": text}}]);
    for (mutations, why) in [
        (
            apply("Object{spec: Object.spec{none: 1}}"),
            "error applying patch: failed to convert patch object to typed object: .spec.none: field not declared in schema",
        ),
        (
            apply("Object{spec: Object.wrong{replicas: 1}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            apply(
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', args: ['x']}]}}}}",
            ),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
        ),
        (
            patch("[JSONPatch{op: 'remove', path: '/none'}]"),
            "JSON Patch: error in remove for path: '/none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            patch("[JSONPatch{op: 'add', path: object.none, value: 1}]"),
            "expression '[JSONPatch{op: 'add', path: object.none, value: 1}]' resulted in error: no such key: none",
        ),
    ] {
        let cluster = Cluster::new().await;
        with_policy(&cluster, "mutating", &["deployments"], json!({ "mutations": mutations }), json!({})).await;
        let answer = cluster.post(DEPLOYMENTS, deployment("d", 1)).await;
        let text = format!("policy 'p' with binding 'b' denied request: {why}");
        assert_eq!(answer.status(), (403, "Invalid".to_owned(), text));
        let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
        cluster.patch(&format!("{GROUP}/mutatingadmissionpolicies/p"), "merge-patch+json", ignore).await.ok();
        cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    }
}

#[tokio::test]
async fn expressions_are_compiled_when_they_are_written_and_policies_judge_no_policies() {
    let cluster = Cluster::new().await;
    let more = json!({"validations": [{"expression": "false"}]});
    with_policy(&cluster, "validating", &["*"], more, json!({})).await;
    let policy = json!({"metadata": {"name": "q"}, "spec": {"matchConstraints": {"resourceRules": rules(&["pods"])},
        "validations": [{"expression": "object.spec.hostNetwork"}, {"expression": "params.x == 1"}]}});
    cluster.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.fails(
        422,
        "ValidatingAdmissionPolicy.admissionregistration.k8s.io \"q\" is invalid: [spec.validations[0].expression: Invalid value: \"object.spec.hostNetwork\": must evaluate to bool but got dyn, spec.validations[1].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^]",
    );
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.ok();
    cluster
        .post(MAPS, maps("m", json!({})))
        .await
        .fails(422, &format!("configmaps \"m\" is forbidden: {DENIED}failed expression: false"));
    cluster.delete(&format!("{GROUP}/validatingadmissionpolicybindings/b"), Value::Null).await.ok();
    cluster.post(MAPS, maps("m", json!({}))).await.ok();
}
