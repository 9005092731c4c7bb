//! Admission policies with the controller that checks them.

use crate::world::World;
use serde_json::{Value, json};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn policy(name: &str, (group, resource): (&str, &str), validations: Value) -> Value {
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}]);
    json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": rules}, "validations": validations}})
}

/// Fields and texts of the warnings, once a policy was checked in its generation.
async fn warnings(world: &World, name: &str) -> Vec<(String, String)> {
    let find = |w: &World| w.find("admissionregistration.k8s.io", "validatingadmissionpolicies", name).unwrap();
    let done = |policy: &Value| {
        policy["status"]["observedGeneration"] == policy["metadata"]["generation"]
            && policy["status"]["typeChecking"].is_object()
    };
    world.until("the check", |w| done(&find(w))).await;
    let policy = find(world);
    let all = policy["status"]["typeChecking"]["expressionWarnings"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.iter().map(|one| (text(&one["fieldRef"]), text(&one["warning"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn expressions_are_checked_against_built_in_and_custom_kinds() {
    let world = World::start().await;
    let deployments = ("apps", "deployments");
    let right = json!([{"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == request.name"}]);
    world.call("POST", POLICIES, policy("right.example.com", deployments, right.clone())).await;
    assert_eq!(warnings(&world, "right.example.com").await, []);
    let wrong = json!([{"expression": "object.spec.replicas > '1'", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]);
    world.call("POST", POLICIES, policy("wrong.example.com", deployments, wrong)).await;
    let found = warnings(&world, "wrong.example.com").await;
    let [(first, text), (second, other)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("spec.validations[0].expression", "spec.validations[0].messageExpression")
    );
    assert_eq!(
        text,
        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
    );
    assert!(other.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{other}");
    // A new generation is checked again.
    let url = format!("{POLICIES}/wrong.example.com");
    world.call("PATCH", &url, json!({"spec": {"validations": right}})).await;
    assert_eq!(warnings(&world, "wrong.example.com").await, []);
    // A custom kind.
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "replicas": {"type": "integer"}, "port": {"x-kubernetes-int-or-string": true}}}}});
    let definition = json!({"metadata": {"name": "crontabs.stable.example.com"}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "crontabs", "kind": "CronTab"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    world.call("POST", DEFINITIONS, definition).await;
    world
        .until("the kind", |w| {
            let found = w.find("apiextensions.k8s.io", "customresourcedefinitions", "crontabs.stable.example.com");
            found.is_some_and(|found| crate::world::condition(&found, "Established") == "True")
        })
        .await;
    let wrong = json!([{"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.maxRetries < 10"},
        {"expression": "object.spec.port == 80 && object.metadata.name != ''"}]);
    world.call("POST", POLICIES, policy("crontabs.example.com", ("stable.example.com", "crontabs"), wrong)).await;
    let found = warnings(&world, "crontabs.example.com").await;
    let [(_, text), (second, other)] = &found[..] else { panic!("{found:?}") };
    assert!(
        text.starts_with("stable.example.com/v1, Kind=CronTab: ERROR: ") && text.contains("'(int, string)'"),
        "{text}"
    );
    assert_eq!(second, "spec.validations[1].expression");
    assert!(other.contains("undefined field 'maxRetries'"), "{other}");
}
