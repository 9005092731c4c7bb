//! The text of every kind of error, provoked through the service as a client would.

use crate::{Answer, Wire, render};
use expect_test::expect_file;
use serde_json::{Value, json};
use server::User;
use std::fmt::Write;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The texts that were provoked.
struct Page {
    wire: Wire,
    text: String,
}

impl Page {
    fn note(&mut self, title: &str, code: u16, answer: &Answer) {
        assert_eq!(answer.code, code, "{title}: {}", String::from_utf8_lossy(&answer.bytes));
        writeln!(self.text, "=== {title}\n{}", render::answer(answer)).unwrap();
    }

    async fn provoke(&mut self, title: &str, code: u16, (method, target): (&str, &str), media: &str, body: &str) {
        let headers = headers(&[("content-type", media), ("user-agent", "kubectl/v1")]);
        let answer = self.wire.send(method, target, &headers, body.as_bytes().to_vec()).await;
        self.note(title, code, &answer);
    }

    async fn json(&mut self, title: &str, code: u16, at: (&str, &str), body: Value) {
        self.provoke(title, code, at, "application/json", &body.to_string()).await;
    }

    async fn fresh() -> Self {
        let wire = Wire::new().await;
        for name in ["a", "b"] {
            let body = json!({"metadata": {"name": name}, "data": {"k": "v"}}).to_string();
            let headers = headers(&[("content-type", "application/json")]);
            assert_eq!(wire.send("POST", MAPS, &headers, body.into_bytes()).await.code, 201);
        }
        Self { wire, text: String::new() }
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

#[tokio::test(start_paused = true)]
async fn errors_of_objects_have_upstreams_texts() {
    let mut page = Page::fresh().await;
    page.json("NotFound", 404, ("GET", &format!("{MAPS}/x")), Value::Null).await;
    page.json("NotFound, with a group", 404, ("GET", &format!("{DEPLOYMENTS}/x")), Value::Null).await;
    page.json("NotFound, of a resource", 404, ("GET", "/api/v1/namespaces/default/nothings"), Value::Null).await;
    page.json(
        "NotFound, of a namespace",
        404,
        ("POST", "/api/v1/namespaces/x/configmaps"),
        json!({"metadata": {"name": "a"}}),
    )
    .await;
    page.json("AlreadyExists", 409, ("POST", MAPS), json!({"metadata": {"name": "a"}})).await;
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
    page.json("Conflict, of revisions", 409, ("PUT", &format!("{MAPS}/a")), stale).await;
    let other = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    page.json("Conflict, of a precondition", 409, ("DELETE", &format!("{MAPS}/a")), other).await;
    let intent = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"w"}}"#;
    let target = format!("{MAPS}/a?fieldManager=me");
    page.provoke("Conflict, of owners", 409, ("PATCH", &target), "application/apply-patch+yaml", intent).await;
    page.json("Invalid, once", 422, ("POST", MAPS), json!({"metadata": {"name": "Bad_Name"}})).await;
    let many = deployment(json!({"replicas": -1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"restartPolicy": "Never", "containers": [
            {"name": "c", "image": ""}, {"name": "c", "image": "i", "imagePullPolicy": "Sometimes", "ports": [{"containerPort": 70000}],
             "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}}));
    page.json("Invalid, many times", 422, ("POST", DEPLOYMENTS), many).await;
    page.json("Invalid, nothing given", 422, ("POST", DEPLOYMENTS), deployment(json!({}))).await;
    let long = json!({"metadata": {"name": "long", "labels": {"l": "x".repeat(64)}}});
    page.json("Invalid, too long", 422, ("POST", MAPS), long).await;
    let secret = json!({"metadata": {"name": "s"}, "immutable": true, "data": {"a": "YQ=="}});
    page.wire
        .send(
            "POST",
            "/api/v1/namespaces/default/secrets",
            &headers(&[("content-type", "application/json")]),
            secret.to_string().into_bytes(),
        )
        .await;
    let changed = json!({"metadata": {"name": "s"}, "immutable": true, "data": {"a": "Yg=="}});
    page.json("Invalid, immutable", 422, ("PUT", "/api/v1/namespaces/default/secrets/s"), changed).await;
    expect_file![crate::here("golden/errors-objects.txt")].assert_eq(&page.text);
}

#[tokio::test(start_paused = true)]
async fn errors_of_requests_have_upstreams_texts() {
    let mut page = Page::fresh().await;
    let post = ("POST", MAPS);
    page.provoke("BadRequest, not JSON", 400, post, "application/json", "{").await;
    page.provoke(
        "BadRequest, no kind",
        400,
        ("POST", MAPS),
        "application/json",
        r#"{"apiVersion":"v1","metadata":{"name":"z"},"data":7}"#,
    )
    .await;
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "z"}});
    page.json("BadRequest, another kind", 400, post, wrong).await;
    page.json(
        "BadRequest, an unknown kind",
        400,
        post,
        json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "z"}}),
    )
    .await;
    let typed = deployment(json!({"replicas": "three"}));
    page.json("BadRequest, a wrong type", 400, ("POST", DEPLOYMENTS), typed).await;
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let unknown = r#"{"metadata":{"name":"z"},"dada":{"a":"b"},"data":{"a":"b","a":"c"}}"#;
    page.provoke("BadRequest, strict", 400, ("POST", &strict), "application/json", unknown).await;
    let warn = format!("{MAPS}?fieldValidation=Warn&dryRun=All");
    page.provoke("Created, with warnings", 201, ("POST", &warn), "application/json", unknown).await;
    page.json("BadRequest, another name", 400, ("PUT", &format!("{MAPS}/a")), json!({"metadata": {"name": "b"}})).await;
    page.json("BadRequest, another namespace", 400, post, json!({"metadata": {"name": "z", "namespace": "other"}}))
        .await;
    page.json("BadRequest, a selector", 400, ("GET", &format!("{MAPS}?labelSelector=a+b")), Value::Null).await;
    page.json("BadRequest, a field selector", 400, ("GET", &format!("{MAPS}?fieldSelector=data.k%3Dv")), Value::Null)
        .await;
    page.json("BadRequest, a continue token", 400, ("GET", &format!("{MAPS}?limit=1&continue=x")), Value::Null).await;
    page.json("MethodNotAllowed, of a list", 405, ("PUT", MAPS), json!({})).await;
    page.json("MethodNotAllowed, of an object", 405, ("POST", &format!("{MAPS}/a")), json!({})).await;
    page.provoke("UnsupportedMediaType", 415, post, "text/plain", "hello").await;
    page.provoke("UnsupportedMediaType, of a patch", 415, ("PATCH", &format!("{MAPS}/a")), "application/json", "{}")
        .await;
    let answer = page.wire.send("GET", MAPS, &headers(&[("accept", "text/csv")]), Vec::new()).await;
    page.note("NotAcceptable", 406, &answer);
    let large = format!(r#"{{"metadata":{{"name":"z"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    page.provoke("RequestEntityTooLarge", 413, post, "application/json", &large).await;
    page.json("Timeout, of a revision to come", 504, ("GET", &format!("{MAPS}?resourceVersion=999999")), Value::Null)
        .await;
    let head = page.wire.store.revision();
    page.wire.store.compact(head);
    page.json("Expired", 410, ("GET", &format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")), Value::Null)
        .await;
    page.json("Expired, of a watch", 200, ("GET", &format!("{MAPS}?watch=true&resourceVersion=1")), Value::Null).await;
    expect_file![crate::here("golden/errors-requests.txt")].assert_eq(&page.text);
}

#[tokio::test(start_paused = true)]
async fn errors_of_identity_have_upstreams_texts() {
    let mut page = Page::fresh().await;
    let network = page.wire.server.service_for_network();
    let bad = headers(&[("authorization", "Bearer nonsense")]);
    let answer = Wire::send_by(&network, "GET", MAPS, &bad, Vec::new()).await;
    page.note("Unauthorized", 401, &answer);
    let answer = Wire::send_by(&network, "GET", MAPS, &[], Vec::new()).await;
    page.note("Forbidden, anonymous", 403, &answer);
    let jane = page.wire.server.service_for(User::new("jane", &["system:authenticated"]));
    let cases = [
        ("GET", format!("{MAPS}/a")),
        ("GET", MAPS.to_owned()),
        ("POST", DEPLOYMENTS.to_owned()),
        ("GET", "/api/v1/nodes".to_owned()),
        ("GET", "/metrics".to_owned()),
        ("PATCH", format!("{DEPLOYMENTS}/d/scale")),
        ("GET", "/api/v1/namespaces/default/pods/p/log".to_owned()),
    ];
    for (method, target) in cases {
        let answer = Wire::send_by(&jane, method, &target, &[], Vec::new()).await;
        page.note(&format!("Forbidden, {method} {target}"), 403, &answer);
    }
    expect_file![crate::here("golden/errors-identity.txt")].assert_eq(&page.text);
}
