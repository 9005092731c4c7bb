//! Custom resources as clients see them. There are no controllers here: a definition is put in force by a write of its status.

use super::{watches::Watching, *};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(crate) const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

pub(crate) fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
}

pub(crate) fn spec() -> Value {
    json!({"type": "object", "properties": {"size": {"type": "integer", "default": 1}, "color": {"type": "string", "enum": ["red", "blue"]},
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}}}})
}

fn definition(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]}}})
}

async fn establish(cluster: &Cluster, name: &str) {
    let made = cluster.get(&format!("{DEFINITIONS}/{name}")).await.ok();
    let status = json!({"status": {"acceptedNames": made["spec"]["names"],
        "conditions": [{"type": "NamesAccepted", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": null},
            {"type": "Established", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": null}]}});
    cluster.patch(&format!("{DEFINITIONS}/{name}/status"), "merge-patch+json", status).await.ok();
}

/// A cluster that serves widgets.
pub(crate) async fn with_widgets(versions: Value) -> Cluster {
    let cluster = Cluster::new().await;
    cluster.post(DEFINITIONS, definition(versions)).await.ok();
    establish(&cluster, "widgets.example.com").await;
    cluster
}

pub(crate) fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_definition_is_served_from_the_write_that_puts_it_in_force() {
    let cluster = Cluster::new().await;
    let made = cluster.post(DEFINITIONS, definition(json!([version("v1", true, spec())]))).await.ok();
    let names = json!({"plural": "", "kind": ""});
    assert_eq!(made["status"], json!({"acceptedNames": names, "conditions": null, "storedVersions": ["v1"]}));
    assert_eq!(cluster.get(WIDGETS).await.code, 404, "nobody has accepted its names");
    establish(&cluster, "widgets.example.com").await;
    let list = cluster.get(WIDGETS).await.ok();
    assert_eq!((&list["kind"], &list["items"]), (&json!("WidgetList"), &json!([])));
    let found = cluster.get("/apis/example.com/v1").await.ok();
    let names: Vec<&str> = found["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(
        (&found["resources"][0]["shortNames"], &found["resources"][0]["categories"]),
        (&json!(["wd"]), &json!(["all"]))
    );
    let aggregated =
        cluster.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await.ok();
    let last = aggregated["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["metadata"]["name"], &last["versions"][0]["version"]), (&json!("example.com"), &json!("v1")));
    let deleted = cluster.delete(&format!("{DEFINITIONS}/widgets.example.com"), Value::Null).await.ok();
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    cluster
        .post(WIDGETS, widget("late", json!({})))
        .await
        .fails(405, "the server does not allow this method on the requested resource");
    let gone = json!({"metadata": {"finalizers": null}});
    cluster.patch(&format!("{DEFINITIONS}/widgets.example.com"), "merge-patch+json", gone).await.ok();
    assert_eq!(cluster.get(WIDGETS).await.code, 404);
    assert_eq!(cluster.get("/apis/example.com/v1").await.code, 404);
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_checked() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let made = cluster.post(WIDGETS, widget("a", json!({"color": "red", "odd": 1}))).await.ok();
    assert_eq!(made["spec"], json!({"color": "red", "size": 1}));
    assert_eq!((&made["metadata"]["generation"], made.get("status")), (&json!(1), None));
    let strict = cluster.post(&format!("{WIDGETS}?fieldValidation=Strict"), widget("b", json!({"odd": 1}))).await;
    let (code, _, message) = strict.status();
    assert_eq!(code, 400);
    assert!(message.ends_with("strict decoding error: unknown field \"spec.odd\""), "{message}");
    let (code, _, message) = cluster.post(WIDGETS, widget("b", json!({"color": "green", "size": "x"}))).await.status();
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""),
        "{message}"
    );
    assert!(
        message.contains("spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""),
        "{message}"
    );
    // A write needs the resourceVersion.
    let (code, _, message) = cluster.put(&format!("{WIDGETS}/a"), widget("a", json!({}))).await.status();
    assert_eq!(code, 422);
    assert!(
        message.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{message}"
    );
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    cluster.post(WIDGETS, widget("a", json!({}))).await.ok();
    let at = |part: &str| format!("{WIDGETS}/a{part}");
    let change =
        json!({"spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}, "status": {"size": 2, "selector": "a=b"}});
    let made = cluster.patch(&at("/status"), "merge-patch+json", change).await.ok();
    assert_eq!(
        (&made["spec"]["size"], &made["status"]["size"], &made["metadata"]["generation"]),
        (&json!(1), &json!(2), &json!(1))
    );
    assert_eq!(made["metadata"].get("labels"), None);
    let scale = cluster.get(&at("/scale")).await.ok();
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 1}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let scaled = cluster.patch(&at("/scale"), "merge-patch+json", json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let made = cluster.get(&at("")).await.ok();
    assert_eq!((&made["spec"]["size"], &made["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn tables_and_field_selectors_follow_the_definition() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    for (name, color) in [("a", "red"), ("b", "blue")] {
        cluster.post(WIDGETS, widget(name, json!({"color": color, "size": 7}))).await.ok();
    }
    let table = cluster.get_as(WIDGETS, "application/json;as=Table;g=meta.k8s.io;v=v1").await.ok();
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((columns, &table["rows"][0]["cells"]), (vec!["Name", "Size"], &json!(["a", 7])));
    let red = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.ok();
    assert_eq!((red["items"].as_array().unwrap().len(), &red["items"][0]["metadata"]["name"]), (1, &json!("a")));
    cluster
        .get(&format!("{WIDGETS}?fieldSelector=spec.size%3D7"))
        .await
        .fails(400, "field label not supported: spec.size");
}

#[tokio::test]
async fn a_new_schema_counts_for_what_is_stored_and_for_each_version() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    cluster.post(WIDGETS, widget("a", json!({"color": "red"}))).await.ok();
    let mut second = spec();
    second["properties"]["weight"] = json!({"type": "integer", "default": 4});
    second["properties"].as_object_mut().unwrap().remove("color");
    let mut old = version("v1", true, spec());
    old["selectableFields"] = Value::Null;
    let mut new = version("v2", false, second);
    new["selectableFields"] = Value::Null;
    let change = json!({"spec": {"versions": [old, new]}});
    cluster.patch(&format!("{DEFINITIONS}/widgets.example.com"), "merge-patch+json", change).await.ok();
    let path = WIDGETS.replace("/v1/", "/v2/");
    let read = cluster.get(&format!("{path}/a")).await.ok();
    // The stored version has its defaults, and what the other one does not have is dropped.
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("example.com/v2"), &json!({"size": 1})));
    // The stored object is as it was.
    assert_eq!(cluster.get(&format!("{WIDGETS}/a")).await.ok()["spec"], json!({"size": 1, "color": "red"}));
    let groups = cluster.get("/apis/example.com").await.ok();
    assert_eq!(groups["preferredVersion"]["version"], "v2");
    // What is written in one version is read in the other.
    let body =
        json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"weight": 9}});
    cluster.post(&path, body).await.ok();
    assert_eq!(cluster.get(&format!("{WIDGETS}/b")).await.ok()["spec"], json!({"size": 1}));
    let events = cluster.get(&format!("{path}?watch=true&timeoutSeconds=1&resourceVersion=0")).await.text();
    assert!(events.lines().all(|line| line.contains("example.com/v2") && !line.contains("\"color\"")), "{events}");
}

#[tokio::test]
async fn a_watch_ends_when_its_definition_becomes_another() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let mut watch = Watching::open(&cluster, &format!("{WIDGETS}?watch=true"), "").await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    // Neither a label of the definition nor its deletion is another definition: what is deleted with it is still told.
    cluster.patch(&path, "merge-patch+json", json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    cluster.post(WIDGETS, widget("a", json!({}))).await.ok();
    watch.expect("ADDED", "a").await;
    let more = json!([version("v1", true, spec()), version("v2", false, spec())]);
    cluster.patch(&path, "merge-patch+json", json!({"spec": {"versions": more}})).await.ok();
    cluster.get(WIDGETS).await.ok();
    assert!(watch.next().await.is_none());
    let mut watch = Watching::open(&cluster, &format!("{WIDGETS}?watch=true"), "").await;
    watch.expect("ADDED", "a").await;
    cluster.delete(&path, Value::Null).await.ok();
    cluster.delete(&format!("{WIDGETS}/a"), Value::Null).await.ok();
    watch.expect("DELETED", "a").await;
    cluster.patch(&path, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(cluster.get(WIDGETS).await.code, 404);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn apply_merges_lists_by_the_keys_of_the_schema() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let apply = async |manager: &str, parts: Value| {
        let body = widget("a", json!({"parts": parts}));
        let target = format!("{WIDGETS}/a?fieldManager={manager}");
        let headers = [("content-type", "application/apply-patch+yaml")];
        cluster.send(&cluster.admin, "PATCH", &target, &headers, body.to_string()).await
    };
    assert_eq!(apply("one", json!([{"name": "x", "n": 1}])).await.code, 201);
    let made = apply("two", json!([{"name": "y", "n": 2}])).await.ok();
    assert_eq!(made["spec"]["parts"], json!([{"name": "x", "n": 1}, {"name": "y", "n": 2}]));
    let (code, _, message) = apply("two", json!([{"name": "x", "n": 3}])).await.status();
    assert_eq!(
        (code, message.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"one\": .spec.parts[name=\"x\"].n")
    );
    let strategic = cluster.patch(&format!("{WIDGETS}/a"), "strategic-merge-patch+json", json!({})).await;
    assert_eq!(strategic.code, 415);
}

#[tokio::test]
async fn documents_describe_custom_resources() {
    let cluster = with_widgets(json!([version("v1", true, spec())])).await;
    let document = cluster.get("/openapi/v3/apis/example.com/v1").await.ok();
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["default"], 1);
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "kind": "Widget", "version": "v1"}])
    );
    let metadata = &schema["properties"]["metadata"]["allOf"][0]["$ref"];
    assert_eq!(metadata, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert!(document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    assert_eq!(schema["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
    let second = cluster.get("/openapi/v2").await.ok();
    assert!(second["definitions"]["com.example.v1.Widget"]["properties"]["spec"].is_object());
    assert!(second["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"]["post"].is_object());
}
