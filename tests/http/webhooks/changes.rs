//! What mutating webhooks change, in which order, and what becomes of it.

use super::*;
use crate::customresources::{WIDGETS, spec, version, widget, with_widgets};

fn label(name: &str, value: &str) -> Value {
    patch(json!([{"op": "add", "path": "/metadata/labels", "value": {name: value}}]))
}

#[tokio::test]
async fn a_config_map_and_a_custom_resource_get_a_label() {
    let hooks = Hooks::new(|_, _| label("team", "a")).await;
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let more = json!({"rules": rules(&["configmaps", "widgets"])});
    configure(&cluster, MUTATING, "m", json!([webhook(&hooks, "label", more)])).await;
    let made = cluster.post(MAPS, named("a")).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"team": "a"}));
    assert_eq!(cluster.get(&map("a")).await.ok()["metadata"]["labels"], json!({"team": "a"}), "it is stored");
    let owned = made["metadata"]["managedFields"].to_string();
    assert!(!owned.contains("f:labels"), "what admission sets is nobody's: {owned}");
    let made = cluster.post(WIDGETS, widget("w", json!({"size": 2}))).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"team": "a"}));
    let asked = hooks.take();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].1["kind"], json!({"group": "example.com", "version": "v1", "kind": "Widget"}));
}

#[tokio::test]
async fn what_a_webhook_makes_is_pruned_defaulted_checked_and_kept_within_what_a_client_may_set() {
    let hooks = Hooks::new(|path, _| {
        let operations = match path {
            "odd" => json!([{"op": "add", "path": "/spec/odd", "value": 1}, {"op": "remove", "path": "/spec/size"}]),
            "type" => json!([{"op": "add", "path": "/data", "value": {"k": 7}}]),
            "kind" => json!([{"op": "replace", "path": "/kind", "value": "Secret"}]),
            "path" => json!([{"op": "remove", "path": "/none"}]),
            "away" => json!([{"op": "replace", "path": "/metadata/namespace", "value": "kube-system"}]),
            "owned" => json!([{"op": "add", "path": "/metadata/managedFields", "value": [{"operation": "Guess"}]}]),
            _ => json!([
                {"op": "add", "path": "/metadata/uid", "value": "mine"},
                {"op": "add", "path": "/metadata/creationTimestamp", "value": "2001-01-01T00:00:00Z"},
                {"op": "add", "path": "/metadata/generation", "value": 77}]),
        };
        patch(operations)
    })
    .await;
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let only = |path: &str, resource: &str| json!([webhook(&hooks, path, json!({"rules": rules(&[resource])}))]);
    configure(&cluster, MUTATING, "widgets", only("odd", "widgets")).await;
    let made = cluster.post(WIDGETS, widget("w", json!({"size": 2}))).await.ok();
    assert_eq!(made["spec"], json!({"size": 1}));
    let internal = "Internal error occurred: ";
    for (path, code, text) in [
        (
            "type",
            500,
            format!("{internal}json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        ),
        ("kind", 500, format!("{internal}converting (v1.Secret) to (core.ConfigMap): unknown conversion")),
        (
            "path",
            500,
            format!(
                "{internal}error in remove for path: '/none': Unable to remove nonexistent key: none: missing value"
            ),
        ),
        (
            "away",
            400,
            "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
        ),
    ] {
        configure(&cluster, MUTATING, path, only(path, "configmaps")).await;
        let answer = cluster.post(MAPS, named("a")).await;
        assert_eq!((answer.code, answer.status().2), (code, text), "{path}");
        cluster.delete(&format!("{MUTATING}/{path}"), Value::Null).await.ok();
    }
    configure(&cluster, MUTATING, "own", only("own", "configmaps")).await;
    let made = cluster.post(MAPS, named("own")).await.ok();
    assert_ne!(made["metadata"]["uid"], "mine");
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(made["metadata"].get("generation"), None);
    cluster.delete(&format!("{MUTATING}/own"), Value::Null).await.ok();
    configure(&cluster, MUTATING, "owned", only("owned", "configmaps")).await;
    let answer = cluster.post(MAPS, named("owned")).await;
    assert_eq!(
        warnings(&answer),
        [
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: operation must be `Apply` or `Update`"
        ]
    );
    assert_eq!(answer.ok()["metadata"]["managedFields"][0]["manager"], "test");
}

#[tokio::test]
async fn webhooks_are_called_by_the_name_of_their_configuration_and_then_in_their_order() {
    let hooks = Hooks::new(|path, request| {
        let before = request["object"]["data"]["order"].as_str().unwrap_or_default().to_owned();
        patch(json!([{"op": "add", "path": "/data/order", "value": format!("{before}{path} ")}]))
    })
    .await;
    let cluster = Cluster::new().await;
    let two = |a: &str, b: &str| json!([webhook(&hooks, a, json!({})), webhook(&hooks, b, json!({}))]);
    configure(&cluster, MUTATING, "b", two("b2", "b1")).await;
    configure(&cluster, MUTATING, "a", two("a1", "a2")).await;
    let made = cluster.post(MAPS, named("x")).await.ok();
    assert_eq!(made["data"]["order"], "a1 a2 b2 b1 ", "each sees what the one before has left");
}

#[tokio::test]
async fn a_webhook_is_asked_again_after_a_later_one_changed_the_object() {
    let hooks = Hooks::new(|path, request| match path {
        "sums" => {
            let count = request["object"]["data"]
                .as_object()
                .map_or(0, |data| data.len() - usize::from(data.contains_key("sum")));
            patch(json!([{"op": "add", "path": "/data/sum", "value": count.to_string()}]))
        }
        "adds" => patch(json!([{"op": "add", "path": "/data/more", "value": "1"}])),
        _ => ask(true),
    })
    .await;
    let cluster = Cluster::new().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let all = json!([
        webhook(&hooks, "sums", again.clone()),
        webhook(&hooks, "never", json!({})),
        webhook(&hooks, "adds", json!({})),
        webhook(&hooks, "last", again)
    ]);
    configure(&cluster, MUTATING, "m", all).await;
    let made = cluster.post(MAPS, named("x")).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "more": "1", "sum": "2"}));
    let asked = ["sums", "never", "adds", "last", "sums", "last"];
    assert_eq!(hooks.paths(), asked, "who asks for it, and is behind another that changed something");
}

#[tokio::test]
async fn the_plugins_of_the_server_are_asked_again_too() {
    let hooks = Hooks::new(|_, _| patch(json!([{"op": "replace", "path": "/spec/tolerations", "value": []}]))).await;
    let cluster = Cluster::new().await;
    pod(&cluster, "seed").await;
    configure(&cluster, MUTATING, "m", json!([webhook(&hooks, "bare", json!({"rules": rules(&["pods"])}))])).await;
    let made = pod(&cluster, "p").await;
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2), "{made}");
    assert_eq!(hooks.paths(), ["bare"]);
}

#[tokio::test]
async fn an_object_is_shown_in_the_version_that_a_rule_names() {
    const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let hooks = Hooks::new(|path, _| match path {
        "scales" => patch(json!([{"op": "add", "path": "/spec/targetCPUUtilizationPercentage", "value": 33}])),
        _ => ask(true),
    })
    .await;
    let cluster = Cluster::new().await;
    let rule = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    let exact = json!({"rules": rule, "matchPolicy": "Exact"});
    let both = json!([webhook(&hooks, "scales", json!({"rules": rule})), webhook(&hooks, "exact", exact)]);
    configure(&cluster, MUTATING, "m", both).await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "sees", json!({"rules": rule}))])).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let body = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let made = cluster.post(AUTOSCALERS, body).await.ok();
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 33);
    let asked = hooks.take();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["scales", "sees"]);
    for (_, request) in &asked {
        assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
        assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    }
    assert_eq!(asked[1].1["object"]["spec"]["targetCPUUtilizationPercentage"], 33);
}
