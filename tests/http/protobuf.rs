//! Answers in protobuf, for clients that accept nothing else. What is in them is compared with the JSON of the same request.

use crate::{
    customresources::{WIDGETS, spec, version, widget, with_widgets},
    *,
};
use axum::body::{BodyDataStream, HttpBody};
use futures::StreamExt;
use std::time::Duration;
use store::Expect;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PARTIAL: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// The JSON in an answer, which is protobuf.
#[track_caller]
fn decoded(answer: &Answer) -> Value {
    assert_eq!(content_type(answer), PROTOBUF, "{}", answer.text());
    api::protobuf::decode(&answer.bytes).unwrap_or_else(|e| panic!("{e}: {:?}", answer.bytes))
}

/// Asks for the same in both forms, and returns the JSON.
async fn both(cluster: &Cluster, target: &str, form: &str) -> Value {
    let json = cluster.get_as(target, &format!("application/json{form}")).await.ok();
    let answer = cluster.get_as(target, &format!("{PROTOBUF}{form}")).await;
    assert_eq!((answer.code, content_type(&answer)), (200, PROTOBUF), "{target}");
    assert_eq!(answer.bytes, api::protobuf::encode(&json).unwrap(), "{target}: {json}");
    json
}

#[tokio::test]
async fn objects_and_lists_are_protobuf_for_who_accepts_nothing_else() {
    let cluster = Cluster::new().await;
    let empty = both(&cluster, MAPS, "").await;
    assert_eq!(empty["items"], json!([]));
    for name in ["a", "b", "c"] {
        cluster.create_map(name, json!({"l": name})).await;
    }
    let json = both(&cluster, &map("a"), "").await;
    assert_eq!(decoded(&cluster.get_as(&map("a"), PROTOBUF).await), json);
    let list = decoded(&cluster.get_as(MAPS, PROTOBUF).await);
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(list["kind"], "ConfigMapList");
    for query in ["", "?limit=2", "?labelSelector=l%3Db", "?fieldSelector=metadata.name%3Dc"] {
        both(&cluster, &format!("{MAPS}{query}"), "").await;
    }
    let page = decoded(&cluster.get_as(&format!("{MAPS}?limit=2"), PROTOBUF).await);
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let next = format!("{MAPS}?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap());
    assert_eq!(both(&cluster, &next, "").await["items"].as_array().unwrap().len(), 1);
    // The length is known before, as of JSON.
    let request = Request::get(MAPS).header("accept", PROTOBUF).body(Body::empty()).unwrap();
    let response = cluster.admin.handle(request).await;
    let length = HttpBody::size_hint(response.body()).exact().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len() as u64, length);
}

#[tokio::test]
async fn json_stays_the_answer_where_a_client_accepts_it_too() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    for accept in ["application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf, */*"] {
        for target in [MAPS.to_owned(), map("a"), map("none"), "/api".to_owned(), "/apis".to_owned()] {
            let answer = cluster.get_as(&target, accept).await;
            assert_eq!(content_type(&answer), "application/json", "{target}");
        }
    }
}

#[tokio::test]
async fn writes_are_answered_in_protobuf() {
    let cluster = Cluster::new().await;
    let send = async |method: &str, target: &str, media: &str, body: Vec<u8>| {
        let headers = [("accept", PROTOBUF), ("content-type", media), ("user-agent", "test/1")];
        cluster.send(&cluster.admin, method, target, &headers, body).await
    };
    let body = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let made = send("POST", MAPS, PROTOBUF, api::protobuf::encode(&body).unwrap()).await;
    assert_eq!(made.code, 201);
    let mut made = decoded(&made);
    assert_eq!(made, cluster.get(&map("a")).await.ok());
    made["data"] = json!({"k": "w"});
    let put = decoded(&send("PUT", &map("a"), PROTOBUF, api::protobuf::encode(&made).unwrap()).await);
    assert_eq!(put, cluster.get(&map("a")).await.ok());
    let patch = br#"{"data": {"k": "x"}}"#.to_vec();
    let patched = decoded(&send("PATCH", &map("a"), "application/merge-patch+json", patch).await);
    assert_eq!((&patched["data"], patched.clone()), (&json!({"k": "x"}), cluster.get(&map("a")).await.ok()));
    let gone = decoded(&send("DELETE", &map("a"), "", Vec::new()).await);
    assert_eq!(
        (&gone["kind"], &gone["status"], &gone["details"]["name"]),
        (&json!("Status"), &json!("Success"), &json!("a"))
    );
    cluster.create_map("b", json!({})).await;
    let gone = decoded(&send("DELETE", MAPS, "", Vec::new()).await);
    assert_eq!((&gone["kind"], &gone["items"][0]["metadata"]["name"]), (&json!("ConfigMapList"), &json!("b")));
}

#[tokio::test]
async fn subresources_and_reviews_are_protobuf() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("d", 3)).await.ok();
    for part in ["", "/scale", "/status"] {
        both(&cluster, &format!("{DEPLOYMENTS}/d{part}"), "").await;
    }
    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let headers = [("accept", PROTOBUF), ("content-type", PROTOBUF)];
    let body = api::protobuf::encode(&review).unwrap();
    let target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = cluster.send(&cluster.admin, "POST", target, &headers, body).await;
    assert_eq!((answer.code, &decoded(&answer)["status"]["allowed"]), (201, &json!(true)));
}

#[tokio::test]
async fn errors_are_protobuf_too() {
    let cluster = Cluster::new().await;
    for target in [map("none"), format!("{MAPS}?limit=x"), "/api/v1/nothings".to_owned()] {
        let (json, answer) = (cluster.get(&target).await, cluster.get_as(&target, PROTOBUF).await);
        assert_eq!((answer.code, decoded(&answer)), (json.code, json.json()), "{target}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    // Nothing says how an error could be only metadata.
    let answer = cluster.get_as(&map("none"), PARTIAL).await;
    assert_eq!((answer.code, content_type(&answer)), (404, "application/json"));
    assert_eq!(cluster.get_as("/nothing", PROTOBUF).await.text(), "404 page not found\n");
}

#[tokio::test]
async fn custom_resources_and_tables_have_no_protobuf_form_but_their_metadata_has() {
    const ACCEPTED: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    cluster.post(WIDGETS, widget("a", json!({"color": "red"}))).await.ok();
    let one = format!("{WIDGETS}/a");
    for target in [WIDGETS.to_owned(), one.clone(), format!("{WIDGETS}?watch=true")] {
        let answer = cluster.get_as(&target, PROTOBUF).await;
        let status = decoded(&answer);
        assert_eq!(
            (answer.code, &status["reason"], &status["message"]),
            (406, &json!("NotAcceptable"), &json!(ACCEPTED))
        );
    }
    let headers = [("accept", PROTOBUF)];
    let made = cluster.send(&cluster.admin, "POST", WIDGETS, &headers, widget("b", json!({})).to_string()).await;
    assert_eq!(made.code, 406);
    assert_eq!(cluster.get(&format!("{WIDGETS}/b")).await.code, 404, "it was refused before anything was stored");
    let table = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
    cluster.get_as(MAPS, &table).await.fails(406, ACCEPTED);
    let json = both(&cluster, &one, ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    assert_eq!((&json["kind"], &json["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
    both(&cluster, WIDGETS, ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    both(&cluster, WIDGETS, ";as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io").await;
    both(&cluster, &format!("{one}/scale"), "").await;
}

/// A watch in protobuf.
struct Frames {
    stream: BodyDataStream,
    buffer: Vec<u8>,
}

impl Frames {
    async fn open(cluster: &Cluster, target: &str, accept: &str) -> Self {
        let request = Request::get(target).header("accept", accept).body(Body::empty()).unwrap();
        let response = cluster.admin.handle(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
        Self { stream: response.into_body().into_data_stream(), buffer: Vec::new() }
    }

    async fn more(&mut self) -> Option<()> {
        let piece = tokio::time::timeout(Duration::from_secs(7200), self.stream.next()).await.expect("an event")?;
        self.buffer.extend_from_slice(&piece.unwrap());
        Some(())
    }

    /// The next `WatchEvent`, or `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        while self.buffer.len() < 4 {
            self.more().await?;
        }
        let length = u32::from_be_bytes(self.buffer[..4].try_into().unwrap()) as usize;
        while self.buffer.len() < 4 + length {
            self.more().await.expect("whole events");
        }
        let event = self.buffer.drain(..4 + length).skip(4).collect();
        Some(event)
    }

    /// The next event and its object.
    async fn event(&mut self) -> Option<(String, Value)> {
        let event = self.next().await?;
        // The decoder wants an envelope, which a stream has not.
        let mut body = b"k8s\0\x0a\x10\x0a\x02v1\x12\x0aWatchEvent\x12".to_vec();
        let mut length = event.len();
        while length > 127 {
            body.push(u8::try_from(length & 127).unwrap() | 128);
            length >>= 7;
        }
        body.push(u8::try_from(length).unwrap());
        body.extend(event);
        let mut event = api::protobuf::decode(&body).unwrap();
        Some((event["type"].as_str().unwrap().to_owned(), event["object"].take()))
    }

    async fn expect(&mut self, kind: &str) -> Value {
        let (found, object) = self.event().await.expect("the stream goes on");
        assert_eq!(found, kind, "{object}");
        object
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_a_stream_of_protobuf_with_lengths() {
    let cluster = Cluster::new().await;
    let first = cluster.create_map("a", json!({})).await;
    let mut watch =
        Frames::open(&cluster, &format!("{MAPS}?watch=true"), "application/vnd.kubernetes.protobuf;stream=watch").await;
    assert_eq!(watch.expect("ADDED").await, first);
    let changed = cluster.patch(&map("a"), "merge-patch+json", json!({"data": {"x": "y"}})).await.ok();
    assert_eq!(watch.expect("MODIFIED").await, changed);
    cluster.delete(&map("a"), Value::Null).await.ok();
    let gone = watch.expect("DELETED").await;
    assert_eq!(gone["metadata"]["resourceVersion"], cluster.store.revision().to_string());

    cluster.create_map("b", json!({})).await;
    let initial = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Frames::open(&cluster, &format!("{MAPS}?{initial}"), PROTOBUF).await;
    watch.expect("ADDED").await;
    let mark = watch.expect("BOOKMARK").await;
    assert_eq!(mark["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));

    let mut watch = Frames::open(&cluster, &format!("{MAPS}?watch=true"), PARTIAL).await;
    let event = watch.next().await.unwrap();
    let json = cluster.get_as(&map("b"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await.ok();
    assert_eq!(event, api::protobuf::watch_event("ADDED", &api::protobuf::encode(&json).unwrap()));
}

#[tokio::test]
async fn a_watch_in_yaml_is_refused_with_the_types_that_can_be_streams() {
    let cluster = Cluster::new().await;
    let text = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    cluster.get_as(&format!("{MAPS}?watch=true"), "application/yaml").await.fails(406, text);
}

#[tokio::test]
async fn discovery_is_protobuf_and_the_version_is_not() {
    let cluster = Cluster::new().await;
    for target in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
        both(&cluster, target, "").await;
    }
    for version in ["v2", "v2beta1"] {
        let form = format!(";g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        for target in ["/api", "/apis"] {
            let json = cluster.get_as(target, &format!("application/json{form}")).await;
            let answer = cluster.get_as(target, &format!("{PROTOBUF}{form}")).await;
            assert_eq!(content_type(&answer), format!("{PROTOBUF}{form}"));
            assert_eq!((answer.header("etag"), answer.header("vary")), (json.header("etag"), "Accept"));
            assert_eq!(answer.bytes, api::protobuf::encode(&json.json()).unwrap(), "{target}");
        }
    }
    for target in ["/version", "/openapi/v3"] {
        assert_eq!(content_type(&cluster.get_as(target, PROTOBUF).await), "application/json", "{target}");
    }
}

#[tokio::test]
async fn what_cannot_be_encoded_is_left_out_and_stops_nobody() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let bad = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"bad","namespace":"default"},"data":[1]}"#;
    let key = format!("{}bad", cluster.map_key());
    cluster.store.put(&key, Expect::Absent, Bytes::from_static(bad), None).await.unwrap();
    let list = decoded(&cluster.get_as(MAPS, PROTOBUF).await);
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["metadata"]["name"]), (1, &json!("a")));
    assert_eq!(cluster.get_as(&map("bad"), PROTOBUF).await.code, 500);
    let mut watch = Frames::open(&cluster, &format!("{MAPS}?watch=true"), PROTOBUF).await;
    assert_eq!(watch.expect("ADDED").await["metadata"]["name"], "a");
    cluster.create_map("c", json!({})).await;
    assert_eq!(watch.expect("ADDED").await["metadata"]["name"], "c");
}
