//! What validating webhooks refuse, and what they say besides.

use super::*;
use ::server::audit::{Audit, Event};
use parking_lot::Mutex;

fn deny() -> Value {
    json!({"allowed": false, "status": {"code": 403, "message": "no team", "reason": "Forbidden"}, "warnings": ["sorry"]})
}

#[tokio::test]
async fn a_refusal_has_the_words_of_the_webhook() {
    let hooks = Hooks::new(|path, _| match path {
        "deny" => deny(),
        "mute" => ask(false),
        _ => ask(true),
    })
    .await;
    let cluster = Cluster::new().await;
    configure(
        &cluster,
        VALIDATING,
        "v",
        json!([webhook(&hooks, "fine", json!({})), webhook(&hooks, "deny", json!({}))]),
    )
    .await;
    let answer = cluster.post(MAPS, named("a")).await;
    assert_eq!(warnings(&answer), ["sorry"]);
    let (code, reason, message) = answer.status();
    assert_eq!(
        (code, reason.as_str(), message.as_str()),
        (403, "Forbidden", "admission webhook \"deny.example.com\" denied the request: no team")
    );
    assert_eq!(cluster.get(&map("a")).await.code, 404);
    configure(&cluster, VALIDATING, "a", json!([webhook(&hooks, "mute", json!({}))])).await;
    let text = "admission webhook \"mute.example.com\" denied the request without explanation";
    cluster.post(MAPS, named("a")).await.fails(400, text);
    let mut paths = hooks.paths();
    paths.sort();
    assert_eq!(paths, ["deny", "deny", "fine", "fine", "mute"], "all are asked");
}

#[tokio::test]
async fn a_deletion_is_asked_about_with_the_object_that_goes_away() {
    let hooks = Hooks::new(|_, request| {
        let kept = request["oldObject"]["metadata"]["labels"]["keep"] == "1";
        if kept {
            deny()
        } else {
            json!({"allowed": true, "warnings": [format!("gone: {}", request["name"].as_str().unwrap())]})
        }
    })
    .await;
    let cluster = Cluster::new().await;
    for (name, labels) in [("a", json!({"keep": "1"})), ("b", json!({})), ("c", json!({})), ("d", json!({}))] {
        cluster.create_map(name, labels).await;
    }
    let rules =
        json!([{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "keeps", json!({"rules": rules}))])).await;
    let text = "admission webhook \"keeps.example.com\" denied the request: no team";
    cluster.delete(&map("a"), Value::Null).await.fails(403, text);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "gracePeriodSeconds": 0});
    let answer = cluster.delete(&map("b"), options).await;
    assert_eq!(warnings(&answer), ["gone: b"]);
    answer.ok();
    let (_, asked) = hooks.take().remove(1);
    assert_eq!((&asked["operation"], &asked["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(asked["oldObject"]["metadata"]["name"], "b");
    assert_eq!(
        asked["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    );
    let answer = cluster.delete(&format!("{MAPS}?labelSelector=keep!%3D1"), Value::Null).await;
    let mut warned = warnings(&answer);
    warned.sort();
    assert_eq!(warned, ["gone: c", "gone: d"], "once for each object");
    assert_eq!(hooks.paths().len(), 2);
    cluster.get(&map("a")).await.ok();
}

#[tokio::test]
async fn nothing_is_asked_about_the_configurations_themselves() {
    let hooks = Hooks::new(|_, _| deny()).await;
    let cluster = Cluster::new().await;
    let all = || json!([webhook(&hooks, "all", json!({"rules": rules(&["*/*"])}))]);
    configure(&cluster, VALIDATING, "v", all()).await;
    configure(&cluster, MUTATING, "m", all()).await;
    assert_eq!(cluster.post(MAPS, named("a")).await.code, 403);
    assert_eq!(cluster.delete("/api/v1/namespaces/default", Value::Null).await.code, 403);
    let change = json!({"webhooks": []});
    cluster.patch(&format!("{VALIDATING}/v"), "merge-patch+json", change).await.ok();
    cluster.delete(&format!("{VALIDATING}/v"), Value::Null).await.ok();
    cluster.delete(&format!("{MUTATING}/m"), Value::Null).await.ok();
    cluster.post(MAPS, named("a")).await.ok();
    assert_eq!(hooks.paths(), ["all", "all"], "the mutating one refused both");
}

#[tokio::test]
async fn selectors_leave_requests_out() {
    let hooks = Hooks::new(|_, _| deny()).await;
    let cluster = Cluster::new().await;
    for (name, labels) in [("strict", json!({"admit": "yes"})), ("lax", json!({}))] {
        cluster.post("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await.ok();
    }
    let by_namespace = json!({"namespaceSelector": {"matchLabels": {"admit": "yes"}}});
    let by_object = json!({"objectSelector": {"matchExpressions": [{"key": "odd", "operator": "Exists"}]}});
    configure(&cluster, VALIDATING, "n", json!([webhook(&hooks, "namespace", by_namespace)])).await;
    configure(&cluster, VALIDATING, "o", json!([webhook(&hooks, "object", by_object)])).await;
    let at = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    assert_eq!(cluster.post(&at("strict"), named("a")).await.code, 403);
    cluster.post(&at("lax"), named("a")).await.ok();
    assert_eq!(hooks.paths(), ["namespace"]);
    let odd = json!({"metadata": {"name": "b", "labels": {"odd": ""}}});
    assert_eq!(cluster.post(&at("lax"), odd).await.code, 403);
    assert_eq!(hooks.paths(), ["object"]);
    let labels = json!({"metadata": {"labels": {"admit": "yes"}}});
    cluster.patch("/api/v1/namespaces/lax", "merge-patch+json", labels).await.ok();
    assert_eq!(cluster.post(&at("lax"), named("c")).await.code, 403, "the namespace counts as it is now");
}

#[tokio::test]
async fn match_conditions_say_for_which_requests_a_webhook_is() {
    let hooks = Hooks::new(|_, _| deny()).await;
    let cluster = Cluster::new().await;
    let conditions = json!([
        {"name": "others", "expression": "request.userInfo.username != 'system:serviceaccount:default:robot'"},
        {"name": "named", "expression": "object != null && object.metadata.name.startsWith('a')"},
        {"name": "may", "expression": "authorizer.requestResource.check('create').allowed()"},
    ]);
    let more = json!({"matchConditions": conditions});
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "c", more)])).await;
    cluster.post(MAPS, named("b")).await.ok();
    cluster.delete(&map("b"), Value::Null).await.ok();
    assert_eq!(hooks.paths(), [""; 0]);
    assert_eq!(cluster.post(MAPS, named("a")).await.code, 403);
    assert_eq!(hooks.paths(), ["c"]);
    let wrong = json!({"matchConditions": [{"name": "c", "expression": "object.n + 1"}, {"name": "d", "expression": "params.x"}]});
    let body = json!({"metadata": {"name": "w"}, "webhooks": [webhook(&hooks, "c", wrong)]});
    let answer = cluster.post(VALIDATING, body).await;
    let causes: Vec<String> = answer.json()["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(causes, ["webhooks[0].matchConditions[0].expression", "webhooks[0].matchConditions[1].expression"]);
}

/// Keeps the annotations of every event that has some.
#[derive(Default)]
struct Log(Mutex<Vec<Value>>);

impl Audit for Log {
    fn answered(&self, event: Event) {
        if !event.annotations.is_empty() {
            self.0.lock().push(json!(event.annotations));
        }
    }
}

#[tokio::test]
async fn audit_is_told_who_was_asked_and_what_they_noted() {
    let hooks = Hooks::new(|path, _| match path {
        "notes" => json!({"allowed": true, "auditAnnotations": {"why": "because"}}),
        _ => patch(json!([{"op": "add", "path": "/data/x", "value": "1"}])),
    })
    .await;
    let log = Arc::new(Log::default());
    let cluster = Cluster::with(|options, _| options.audit = Some(log.clone())).await;
    let closed = json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}, "failurePolicy": "Ignore"});
    configure(
        &cluster,
        MUTATING,
        "m",
        json!([webhook(&hooks, "adds", json!({})), webhook(&hooks, "lost", closed.clone())]),
    )
    .await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "gone", closed), webhook(&hooks, "notes", json!({}))]))
        .await;
    cluster.post(MAPS, named("a")).await.ok();
    let mutation = |name: &str, mutated: bool| {
        format!("{{\"configuration\":\"m\",\"webhook\":\"{name}.example.com\",\"mutated\":{mutated}}}")
    };
    assert_eq!(
        *log.0.lock(),
        [json!({
            "mutation.webhook.admission.k8s.io/round_0_index_0": mutation("adds", true),
            "mutation.webhook.admission.k8s.io/round_0_index_1": mutation("lost", false),
            "failed-open.mutation.webhook.admission.k8s.io/round_0_index_1": "lost.example.com",
            "failed-open.validating.webhook.admission.k8s.io/round_0_index_0": "gone.example.com",
            "notes.example.com/why": "because",
        })]
    );
}
