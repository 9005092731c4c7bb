//! What webhooks are told of each kind of request.

use super::*;

/// What was asked by a request: operation, resource with its subresource, and the kinds of the objects.
fn told(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let kind = |object: &Value| format!("{}/{}", text(&object["apiVersion"]), text(&object["kind"]));
    let resource = [text(&request["resource"]["resource"]), text(&request["subResource"])].join("/");
    let name = request["name"].as_str().unwrap_or_default();
    format!(
        "{} {resource} {name} {} {}",
        text(&request["operation"]),
        kind(&request["object"]),
        kind(&request["oldObject"])
    )
}

#[tokio::test]
async fn a_review_says_who_wants_what_and_how() {
    let hooks = Hooks::new(|_, _| ask(true)).await;
    let cluster = Cluster::new().await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "all", json!({}))])).await;
    cluster
        .post(&format!("{MAPS}?fieldManager=me&fieldValidation=Strict"), json!({"metadata": {"generateName": "g-"}}))
        .await
        .ok();
    cluster.post(MAPS, named("a")).await.ok();
    cluster.patch(&format!("{}?fieldManager=me", map("a")), "merge-patch+json", json!({"data": {"k": "w"}})).await.ok();
    let mut whole = cluster.get(&map("a")).await.ok();
    whole["data"]["k"] = "x".into();
    cluster.put(&map("a"), whole).await.ok();
    let asked: Vec<Value> = hooks.take().into_iter().map(|(_, request)| request).collect();
    let options: Vec<&Value> = asked.iter().map(|request| &request["options"]).collect();
    let of = |kind: &str| json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    let (mut create, mut update) = (of("CreateOptions"), of("UpdateOptions"));
    create["fieldManager"] = "me".into();
    create["fieldValidation"] = "Strict".into();
    update["fieldManager"] = "me".into();
    assert_eq!(options, [&create, &of("CreateOptions"), &update, &of("UpdateOptions")]);
    let first = &asked[0];
    assert_eq!(first["userInfo"], json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]}));
    assert_eq!((&first["namespace"], &first["dryRun"]), (&json!("default"), &json!(false)));
    assert_eq!(first["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    let (old, new) = (&asked[2]["oldObject"]["data"]["k"], &asked[2]["object"]["data"]["k"]);
    assert_eq!((old, new), (&json!("v"), &json!("w")));
    let uids: std::collections::HashSet<String> = asked.iter().map(|request| request["uid"].to_string()).collect();
    assert_eq!(uids.len(), 4);
}

#[tokio::test]
async fn subresources_are_told_apart() {
    let hooks = Hooks::new(|path, request| match path {
        "halves" if request["subResource"] == "scale" && request["operation"] == "UPDATE" => {
            patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]))
        }
        "denies" if request["operation"] == "CONNECT" => ask(false),
        _ => ask(true),
    })
    .await;
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    pod(&cluster, "p").await;
    let more = json!({"rules": rules(&["*/*"])});
    let only = json!({"rules": rules(&["pods", "pods/*", "serviceaccounts/*", "deployments/*", "selfsubjectreviews"])});
    configure(&cluster, MUTATING, "m", json!([webhook(&hooks, "halves", more)])).await;
    configure(&cluster, VALIDATING, "v", json!([webhook(&hooks, "denies", only)])).await;

    let d = format!("{DEPLOYMENTS}/d");
    let scaled = cluster.patch(&format!("{d}/scale"), "merge-patch+json", json!({"spec": {"replicas": 9}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 2);
    assert_eq!(cluster.get(&d).await.ok()["spec"]["replicas"], 2);
    cluster.patch(&format!("{d}/status"), "merge-patch+json", json!({"status": {"replicas": 1}})).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.post(&format!("{PODS}/p/binding"), binding).await.ok();
    let exec = format!("{PODS}/p/exec?command=ls&stdout=1");
    let text = "admission webhook \"denies.example.com\" denied the request without explanation";
    cluster.post(&exec, Value::Null).await.fails(400, text);
    let token = json!({"spec": {"audiences": ["a"]}});
    cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", token).await.ok();
    cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.ok();
    let eviction =
        json!({"metadata": {"name": "p", "namespace": "default"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    cluster.post(&format!("{PODS}/p/eviction"), eviction).await.ok();

    let asked = hooks.take();
    let of = |wanted: &str| -> Vec<String> {
        asked.iter().filter(|(path, _)| path == wanted).map(|(_, request)| told(request)).collect()
    };
    let all = [
        "UPDATE deployments/scale d autoscaling/v1/Scale autoscaling/v1/Scale",
        "UPDATE deployments/status d apps/v1/Deployment apps/v1/Deployment",
        "CREATE pods/binding p v1/Binding -/-",
        "CONNECT pods/exec p v1/PodExecOptions -/-",
        "CREATE serviceaccounts/token default authentication.k8s.io/v1/TokenRequest -/-",
        "CREATE selfsubjectreviews/-  authentication.k8s.io/v1/SelfSubjectReview -/-",
        "CREATE pods/eviction p policy/v1/Eviction -/-",
    ];
    assert_eq!(of("denies"), all);
    assert_eq!(of("halves"), all, "neither is asked about what follows from a request");
    let (_, exec) = asked.iter().find(|(_, request)| request["operation"] == "CONNECT").unwrap();
    assert_eq!(
        exec["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["ls"], "stdout": true})
    );
    assert_eq!(exec["options"], Value::Null);
}
