//! GET, LIST, tables.

use crate::*;
use flate2::read::GzDecoder;
use std::io::Read;

#[tokio::test]
async fn lists_come_in_pages_of_one_revision() {
    let cluster = Cluster::new().await;
    for name in ["c", "a", "e", "b", "d"] {
        cluster.create_map(name, json!({})).await;
    }
    let mut target = format!("{MAPS}?limit=2");
    let (mut names, mut revisions, mut remaining) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let page = cluster.get(&target).await.ok();
        assert_eq!(page["kind"], "ConfigMapList");
        names.extend(
            page["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        revisions.push(page["metadata"]["resourceVersion"].clone());
        remaining.push(page["metadata"].get("remainingItemCount").cloned());
        let Some(next) = page["metadata"].get("continue") else { break };
        target = format!("{MAPS}?limit=2&continue={}", next.as_str().unwrap());
        // What comes later is on no page.
        cluster.post(MAPS, json!({"metadata": {"generateName": "zz-"}})).await.ok();
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    assert!(revisions.iter().all(|r| *r == revisions[0]), "{revisions:?}");
    assert_eq!(remaining, [Some(json!(3)), Some(json!(1)), None]);
}

#[tokio::test]
async fn an_expired_token_is_410_and_brings_a_fresh_one() {
    let cluster = Cluster::new().await;
    for name in ["a", "b", "c"] {
        cluster.create_map(name, json!({})).await;
    }
    let page = cluster.get(&format!("{MAPS}?limit=1")).await.ok();
    let token = page["metadata"]["continue"].as_str().unwrap();
    cluster.create_map("d", json!({})).await;
    cluster.store.compact(cluster.store.revision());
    let expired = cluster.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!((expired.code, expired.status().1.as_str()), (410, "Expired"));
    assert!(
        expired
            .status()
            .2
            .starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let fresh = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = cluster.get(&format!("{MAPS}?limit=5&continue={fresh}")).await.ok();
    let names: Vec<_> = rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b", "c", "d"]);
}

#[tokio::test]
async fn revisions_are_exact_or_at_least() {
    let cluster = Cluster::new().await;
    let first = cluster.create_map("a", json!({})).await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.create_map("b", json!({})).await;
    let count = |answer: Answer| answer.ok()["items"].as_array().unwrap().len();
    assert_eq!(count(cluster.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await), 1);
    assert_eq!(
        count(cluster.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan")).await),
        2
    );
    assert_eq!(count(cluster.get(&format!("{MAPS}?resourceVersion=0")).await), 2);
    assert_eq!(cluster.get(&format!("{MAPS}?resourceVersion=x")).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_never_comes_is_504() {
    let cluster = Cluster::new().await;
    let answer = cluster.get(&format!("{MAPS}?resourceVersion=999999&resourceVersionMatch=NotOlderThan")).await;
    let current = cluster.store.revision();
    let body = answer.json();
    assert_eq!(body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(answer.header("retry-after"), "1");
    answer.fails(504, &format!("Timeout: Too large resource version: 999999, current: {current}"));
}

#[tokio::test]
async fn list_options_are_checked() {
    let cluster = Cluster::new().await;
    for (query, message) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            r#"resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0""#,
        ),
        ("sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
    ] {
        cluster
            .get(&format!("{MAPS}?{query}"))
            .await
            .fails(422, &format!("ListOptions.meta.k8s.io \"\" is invalid: {message}"));
    }
    let only = |label: &str| {
        format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    };
    for (target, label, text) in [
        (MAPS, "spec.x", only("spec.x")),
        ("/apis/apps/v1/replicasets", "status.replicas", only("status.replicas")),
        (PODS, "spec.x", "field label not supported: spec.x".to_owned()),
        ("/api/v1/nodes", "metadata.namespace", "field label not supported: metadata.namespace".to_owned()),
        ("/api/v1/namespaces", "metadata.namespace", "field label not supported: metadata.namespace".to_owned()),
    ] {
        cluster.get(&format!("{target}?fieldSelector={label}%3Dy")).await.fails(400, &text);
    }
    for target in [MAPS, "/apis/node.k8s.io/v1/runtimeclasses", PODS] {
        cluster.get(&format!("{target}?fieldSelector=metadata.namespace%3Dx")).await.ok();
    }
    assert_eq!(cluster.get(&format!("{MAPS}?labelSelector=a%20b")).await.code, 400);
}

#[tokio::test]
async fn selectors_select() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({"app": "x", "tier": "1"})).await;
    cluster.create_map("b", json!({"app": "y"})).await;
    cluster.create_map("c", json!({})).await;
    for (query, expected) in [
        ("labelSelector=app%3Dx", vec!["a"]),
        ("labelSelector=app", vec!["a", "b"]),
        ("labelSelector=app%21%3Dx", vec!["b", "c"]),
        ("labelSelector=app%20in%20(x,y),tier", vec!["a"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name%21%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
    ] {
        let list = cluster.get(&format!("{MAPS}?{query}")).await.ok();
        let names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
    }
    let all = cluster.get("/api/v1/configmaps?labelSelector=tier").await.ok();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_accepts_it() {
    let cluster = Cluster::new().await;
    for name in ["a", "b", "c"] {
        let object = json!({"metadata": {"name": name}, "data": {"k": "text ".repeat(12_000)}});
        cluster.post(MAPS, object).await.ok();
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let pretty = format!("{MAPS}?pretty=1");
    for (target, accept) in [(MAPS, "*/*"), (MAPS, "application/yaml"), (MAPS, table), (&pretty, "*/*")] {
        let plain = cluster.get_as(target, accept).await;
        assert_eq!((plain.header("content-encoding"), plain.code), ("", 200));
        let headers = [("accept", accept), ("accept-encoding", "gzip")];
        let answer = cluster.send(&cluster.admin, "GET", target, &headers, "").await;
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            ("gzip", "Accept-Encoding"),
            "{target} {accept}"
        );
        let mut bytes = Vec::new();
        GzDecoder::new(answer.bytes.as_ref()).read_to_end(&mut bytes).unwrap();
        assert!(bytes == plain.bytes, "{target} {accept}");
    }
    // A single one has 60 kB.
    let answer = cluster.send(&cluster.admin, "GET", &map("a"), &[("accept-encoding", "gzip")], "").await;
    assert_eq!((answer.header("content-encoding"), answer.code), ("", 200));
}

#[tokio::test]
async fn tables_have_columns_rows_and_metadata() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    cluster.seconds.fetch_add(90, Ordering::SeqCst);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    let table = cluster.get_as(MAPS, accept).await.ok();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "90s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    let single = cluster.get_as(&format!("{}?includeObject=Object", map("a")), accept).await.ok();
    assert_eq!(single["rows"][0]["object"]["kind"], "ConfigMap");
    assert_eq!(single["rows"].as_array().unwrap().len(), 1);
    let none = cluster.get_as(&format!("{MAPS}?includeObject=None"), accept).await.ok();
    assert_eq!(none["rows"][0]["object"], Value::Null);
}

#[tokio::test]
async fn metadata_alone_can_be_had() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({"l": "1"})).await;
    let list = cluster.get_as(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["labels"], json!({"l": "1"}));
    assert!(list["items"][0].get("data").is_none());
    let one = cluster.get_as(&map("a"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await.ok();
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
}

#[tokio::test]
async fn an_empty_list_has_items() {
    let cluster = Cluster::new().await;
    let list = cluster.get("/api/v1/namespaces/kube-public/configmaps").await.ok();
    assert_eq!(list["items"], json!([]));
    assert!(list["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_does_not_fit_406() {
    let cluster = Cluster::new().await;
    cluster.get(&map("a")).await.fails(404, r#"configmaps "a" not found"#);
    for target in ["/apis/none/v1/x", "/x"] {
        let answer = cluster.get(target).await;
        assert_eq!((answer.code, answer.text().as_str()), (404, "404 page not found\n"), "{target}");
    }
    for target in [
        "/api/v1/nothings",
        "/api/v2/pods",
        "/apis/apps/v9/deployments",
        "/apis/apps/v1/namespaces/default/nothings/x",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/configmaps/a/b",
        "/api/v1/namespaces/default/pods/p/log/more",
    ] {
        cluster.get(target).await.fails(404, "the server could not find the requested resource");
    }
    for target in [MAPS.to_owned(), map("a"), "/api/v1/pods".to_owned()] {
        assert_eq!(cluster.send(&cluster.admin, "HEAD", &target, &[], "").await.code, 405, "{target}");
    }
    let answer = cluster.get_as(MAPS, "text/html").await;
    assert_eq!(answer.status().1, "NotAcceptable");
    let post = cluster.send(&cluster.admin, "POST", &map("a"), &[], "{}").await;
    assert_eq!(post.status().1, "MethodNotAllowed");
}

#[tokio::test]
async fn answers_that_are_built_whole_have_a_budget_until_they_are_gone() {
    let cluster = Cluster::new().await;
    let text = "v".repeat(3 << 20);
    for at in 0..11 {
        let object = format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"m-{at}","namespace":"default","uid":"{at}"}},"data":{{"k":"{text}"}}}}"#
        );
        let key = format!("/core/configmaps/default/m-{at}");
        cluster.store.put(&key, store::Expect::Absent, Bytes::from(object), None).await.map(drop).unwrap();
    }
    let ask = async |target: &str| {
        let request = Request::get(format!("{MAPS}{target}")).body(Body::empty()).unwrap();
        cluster.admin.handle(request).await
    };
    // It costs several times its size to make it, which is all there is.
    let unread = ask("?pretty=true").await;
    assert_eq!(unread.status(), 200);
    let refused = ask("?pretty=true").await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(cluster.get_as(MAPS, "application/yaml").await.code, 429);
    assert_eq!(cluster.delete(&format!("{MAPS}?dryRun=All"), Value::Null).await.code, 429);
    let streamed = ask("").await;
    assert_eq!(streamed.status(), 200, "made as it is read");
    drop(streamed);
    // One object of 3 MiB is a small part of what is left.
    let mut objects = Vec::new();
    let refused = loop {
        let one = ask("/m-1").await;
        if one.status() != 200 {
            break one;
        }
        objects.push(one);
        assert!(objects.len() < 100, "more than there is room for");
    };
    assert_eq!((refused.status().as_u16(), objects.len() > 10), (429, true));
    drop((unread, objects));
    assert_eq!(ask("?pretty=true").await.status(), 200);
}
