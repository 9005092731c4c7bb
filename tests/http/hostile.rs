//! What the server must not take since nobody could read it back, and what it does with stored bytes that cannot be read.

use crate::*;
use bytes::Bytes;
use store::Expect;

/// A ConfigMap whose `managedFields` hold a value as deep as the whole body is.
fn nested(name: &str, depth: usize) -> String {
    // metadata, managedFields, its entry and the body itself are four levels
    let inner = depth - 4;
    let value = format!("{}{{}}{}", "{\"f:a\":".repeat(inner - 1), "}".repeat(inner - 1));
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","managedFields":[{{"manager":"m","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{value}}}]}}}}"#
    )
}

#[tokio::test]
async fn nesting_is_bounded_alike_in_json_and_yaml_and_well_below_what_readers_follow() {
    let cluster = Cluster::new().await;
    for (name, depth, code) in
        [("a", api::MAX_DEPTH, 201), ("b", api::MAX_DEPTH + 1, 400), ("c", 123, 400), ("d", 500, 400)]
    {
        for media in ["application/json", "application/yaml"] {
            let name = format!("{name}{}", &media[12..]);
            let answer =
                cluster.send(&cluster.admin, "POST", MAPS, &[("content-type", media)], nested(&name, depth)).await;
            assert_eq!(answer.code, code, "{media} {depth}: {}", answer.text());
            if code == 201 {
                cluster.patch(&map(&name), "merge-patch+json", json!({"data": {"k": "v"}})).await.ok();
                cluster.delete(&map(&name), Value::Null).await.ok();
            } else {
                assert!(answer.text().contains("max depth"), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn times_that_cannot_be_written_are_refused_wherever_they_stand() {
    let cluster = Cluster::new().await;
    let time = "0000-01-01T00:00:00+23:59";
    let fields = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    let why = format!("parsing time \"{time}\": year out of range");
    let mut template = deployment("d", 1);
    template["spec"]["template"]["metadata"]["creationTimestamp"] = json!(time);
    for (target, body) in [(MAPS, json!({"metadata": {"name": "a", "managedFields": fields}})), (DEPLOYMENTS, template)]
    {
        let answer = cluster.post(target, body).await;
        let (code, _, message) = answer.status();
        assert!(code == 400 && message.contains(&why), "{code} {message}");
    }
    cluster.create_map("b", json!({})).await;
    let answer = cluster.patch(&map("b"), "merge-patch+json", json!({"metadata": {"managedFields": fields}})).await;
    assert!(answer.code >= 400 && answer.text().contains("year out of range"), "{}", answer.text());
}

/// Bytes that another program, an older version or a disk may leave: too deep, cut, no JSON, nothing.
fn damaged() -> [(&'static str, String); 5] {
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let head = |name: &str| {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","uid":"u","finalizers":["example.com/f"]}}"#
        )
    };
    [
        ("deep", format!("{},\"data\":{deep}}}", head("deep"))),
        ("cut", format!("{},\"data\":{{", head("cut"))),
        ("list", "[]".to_owned()),
        ("noise", "\u{0}\u{1}".to_owned()),
        ("empty", String::new()),
    ]
}

#[tokio::test]
async fn what_is_no_object_is_left_out_of_lists_and_watches_and_counted() {
    let cluster = Cluster::new().await;
    let prefix = cluster.map_key();
    cluster.create_map("first", json!({})).await;
    for (name, bytes) in damaged().into_iter().filter(|(name, _)| *name != "deep") {
        cluster.store.put(&format!("{prefix}{name}"), Expect::Absent, Bytes::from(bytes), None).await.unwrap();
    }
    cluster.create_map("last", json!({})).await;
    let listed = |answer: Answer| {
        let names = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_owned();
        answer.ok()["items"].as_array().unwrap().iter().map(names).collect::<Vec<_>>()
    };
    assert_eq!(listed(cluster.get(MAPS).await), ["first", "last"]);
    let of_every_cluster =
        ["extension-apiserver-authentication", "kube-apiserver-legacy-service-account-token-tracking"];
    let all = [&["first", "last"], &of_every_cluster[..]].concat();
    assert_eq!(listed(cluster.get("/api/v1/configmaps").await), all);
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(listed(cluster.get_as(MAPS, partial).await), ["first", "last"]);
    let metrics = cluster.get("/metrics").await.text();
    assert!(metrics.contains("sampan_store_unreadable_objects_total 12"), "{metrics}");
    let watched = cluster.get(&format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=1")).await;
    let watch = |text: String| {
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
        events.iter().map(|e| format!("{} {}", e["type"], e["object"]["metadata"]["name"])).collect::<Vec<_>>()
    };
    let names = watch(watched.text());
    assert_eq!(names, [r#""ADDED" "first""#, r#""ADDED" "last""#]);
    let since = cluster.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.delete(&map("noise"), Value::Null).await.ok();
    cluster.delete(&map("first"), Value::Null).await.ok();
    let watched = cluster.get(&format!("{MAPS}?watch=true&resourceVersion={since}&timeoutSeconds=1")).await;
    assert_eq!(watch(watched.text()), [r#""DELETED" "first""#]);
}

#[tokio::test]
async fn whatever_is_stored_can_be_deleted_and_is_not_written_over() {
    let cluster = Cluster::new().await;
    let prefix = cluster.map_key();
    for (name, bytes) in damaged() {
        cluster.store.put(&format!("{prefix}{name}"), Expect::Absent, Bytes::from(bytes), None).await.unwrap();
    }
    for (name, _) in damaged() {
        let (code, _, message) =
            cluster.patch(&map(name), "merge-patch+json", json!({"data": {"a": "b"}})).await.status();
        assert_eq!(code, 500, "{name}");
        assert!(message.contains(&format!("the stored object configmaps \"{name}\" cannot be read")), "{message}");
        let table = cluster.get_as(&map(name), "application/json;as=Table;g=meta.k8s.io;v=v1").await;
        assert_eq!(table.code, 200, "{name}: {}", table.text());
        cluster.delete(&format!("{}?dryRun=All", map(name)), Value::Null).await.ok();
        cluster.delete(&map(name), Value::Null).await.ok();
        assert_eq!(cluster.get(&map(name)).await.code, 404, "{name}");
    }
    for (name, bytes) in damaged() {
        cluster.store.put(&format!("{prefix}{name}"), Expect::Absent, Bytes::from(bytes), None).await.unwrap();
    }
    cluster.create_map("good", json!({})).await;
    cluster.delete(MAPS, Value::Null).await.ok();
    assert_eq!(cluster.get(MAPS).await.ok()["items"], json!([]));
}
