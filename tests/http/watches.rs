//! WATCH.

use crate::*;
use axum::body::BodyDataStream;
use futures::StreamExt;
use std::time::Duration;

pub(crate) struct Watching {
    stream: BodyDataStream,
    buffer: Vec<u8>,
}

impl Watching {
    pub(crate) async fn open(cluster: &Cluster, target: &str, accept: &str) -> Self {
        let request = Request::get(target).header("accept", accept).body(Body::empty()).unwrap();
        let response = cluster.admin.handle(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        Self { stream: response.into_body().into_data_stream(), buffer: Vec::new() }
    }

    /// The next event, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(7200), self.stream.next()).await.expect("an event")?;
            self.buffer.extend_from_slice(&piece.unwrap());
        }
    }

    pub(crate) async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("the stream goes on");
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!(name)), "{event}");
        event["object"].clone()
    }
}

#[tokio::test]
async fn a_watch_begins_with_what_exists_and_goes_on_live() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let mut watch = Watching::open(&cluster, &format!("{MAPS}?watch=true"), "").await;
    watch.expect("ADDED", "a").await;
    cluster.create_map("b", json!({})).await;
    watch.expect("ADDED", "b").await;
    let changed = cluster.patch(&map("a"), "merge-patch+json", json!({"data": {"x": "y"}})).await.ok();
    assert_eq!(watch.expect("MODIFIED", "a").await, changed);
    cluster.delete(&map("a"), Value::Null).await.ok();
    let gone = watch.expect("DELETED", "a").await;
    assert_eq!(gone["metadata"]["resourceVersion"], json!(cluster.store.revision().to_string()));
    assert_eq!(gone["data"]["x"], "y");
}

#[tokio::test]
async fn a_watch_from_a_revision_misses_nothing_after_it() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let list = cluster.get(MAPS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    cluster.create_map("b", json!({})).await;
    let mut watch = Watching::open(&cluster, &format!("{MAPS}?watch=true&resourceVersion={revision}"), "").await;
    watch.expect("ADDED", "b").await;
}

#[tokio::test]
async fn a_revision_that_is_too_old_ends_in_an_error_event() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    cluster.create_map("b", json!({})).await;
    cluster.store.compact(cluster.store.revision());
    let mut watch = Watching::open(&cluster, &format!("{MAPS}?watch=true&resourceVersion=2"), "").await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 2 ("));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector() {
    let cluster = Cluster::new().await;
    let mut watch = Watching::open(&cluster, &format!("{MAPS}?watch=true&labelSelector=l%3D1"), "").await;
    cluster.create_map("a", json!({"l": "2"})).await;
    cluster.patch(&map("a"), "merge-patch+json", json!({"metadata": {"labels": {"l": "1"}}})).await.ok();
    watch.expect("ADDED", "a").await;
    let left = cluster.patch(&map("a"), "merge-patch+json", json!({"metadata": {"labels": {"l": "3"}}})).await.ok();
    let gone = watch.expect("DELETED", "a").await;
    assert_eq!(gone["metadata"]["labels"]["l"], "1", "the last state that matched");
    assert_eq!(gone["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    cluster.delete(&map("a"), Value::Null).await.ok();
    cluster.create_map("b", json!({"l": "1"})).await;
    watch.expect("ADDED", "b").await;
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_what_existed() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let target =
        format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut watch = Watching::open(&cluster, &target, "").await;
    watch.expect("ADDED", "a").await;
    let mark = watch.next().await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(mark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], json!(cluster.store.revision().to_string()));
    cluster.create_map("b", json!({})).await;
    watch.expect("ADDED", "b").await;
    cluster.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.fails(
        422,
        r#"ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"#,
    );
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute_and_tell_the_newest_revision() {
    let cluster = Cluster::new().await;
    let revision = cluster.store.revision();
    let target = format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
    let mut watch = Watching::open(&cluster, &target, "").await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], json!(cluster.store.revision().to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_timeout_and_at_shutdown() {
    let cluster = Cluster::new().await;
    let mut short = Watching::open(&cluster, &format!("{MAPS}?watch=true&timeoutSeconds=5"), "").await;
    let begin = tokio::time::Instant::now();
    assert!(short.next().await.is_none());
    assert_eq!(begin.elapsed().as_secs(), 5);
    let mut long = Watching::open(&cluster, &format!("{MAPS}?watch=true"), "").await;
    cluster.shutdown.cancel();
    assert!(long.next().await.is_none());
}

#[tokio::test]
async fn tables_are_watched_with_their_columns_once() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let mut watch =
        Watching::open(&cluster, &format!("{MAPS}?watch=true"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let first = watch.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert!(first["object"]["columnDefinitions"].is_array());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    cluster.create_map("b", json!({})).await;
    let second = watch.next().await.unwrap();
    assert_eq!(
        (&second["object"]["columnDefinitions"], &second["object"]["rows"][0]["cells"][0]),
        (&Value::Null, &json!("b"))
    );
}

#[tokio::test]
async fn one_object_is_watched_by_name_or_by_the_old_path() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    cluster.create_map("ab", json!({})).await;
    for target in [
        format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da"),
        format!("{}?watch=true", map("a")),
        "/api/v1/watch/namespaces/default/configmaps/a".to_owned(),
    ] {
        let mut watch = Watching::open(&cluster, &target, "").await;
        watch.expect("ADDED", "a").await;
        cluster.patch(&map("ab"), "merge-patch+json", json!({"data": {"t": target}})).await.ok();
        cluster.patch(&map("a"), "merge-patch+json", json!({"data": {"t": target}})).await.ok();
        watch.expect("MODIFIED", "a").await;
    }
}

#[tokio::test]
async fn all_watchers_see_the_same_order() {
    let cluster = Cluster::new().await;
    let target = format!("{MAPS}?watch=true");
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(Watching::open(&cluster, &target, "").await);
    }
    for n in 0..20 {
        cluster.create_map(&format!("m{n}"), json!({})).await;
    }
    let mut orders = Vec::new();
    for watch in &mut watches {
        let mut order = Vec::new();
        for _ in 0..20 {
            order.push(watch.next().await.unwrap()["object"]["metadata"]["resourceVersion"].clone());
        }
        orders.push(order);
    }
    assert!(orders.iter().all(|o| *o == orders[0]));
}

#[tokio::test]
async fn a_watch_without_a_revision_marks_the_end_of_what_was_there() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    for query in ["", "&resourceVersion=0", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"] {
        let target = format!("{MAPS}?watch=true&allowWatchBookmarks=true{query}");
        let mut watch = Watching::open(&cluster, &target, "").await;
        watch.expect("ADDED", "a").await;
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(mark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}), "{query}");
    }
}

#[tokio::test]
async fn the_first_event_of_a_table_has_the_columns_whatever_it_is() {
    let cluster = Cluster::new().await;
    let target =
        format!("{MAPS}?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = Watching::open(&cluster, &target, table).await;
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    let names: Vec<&Value> =
        mark["object"]["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["Name", "Data", "Age"]);
    let row = &mark["object"]["rows"][0];
    assert_eq!(row["cells"], json!(["", 0, "<unknown>"]));
    assert_eq!(row["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    cluster.create_map("a", json!({})).await;
    assert_eq!(watch.next().await.unwrap()["object"]["columnDefinitions"], Value::Null);
}
