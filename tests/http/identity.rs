//! Who an object is: names, namespaces, uids, owners and kinds in bodies, and what a body that is not meant for the path does (nothing).

use crate::*;

const OTHER_NAME: &str = "the name of the object (zz) does not match the name on the URL (a)";
const NO_NAME: &str = "the name of the object (a based on URL) was undeterminable: name must be provided";
const OTHER_NAMESPACE: &str = "the namespace of the provided object does not match the namespace sent on the request";

#[tokio::test]
async fn a_patch_cannot_make_it_another_object() {
    let cluster = Cluster::new().await;
    let before = cluster.create_map("a", json!({})).await;
    for (kind, patch, code, message) in [
        ("merge-patch+json", json!({"metadata": {"name": "zz"}}), 400, OTHER_NAME.to_owned()),
        ("merge-patch+json", json!({"metadata": null}), 400, NO_NAME.to_owned()),
        ("merge-patch+json", json!({"metadata": {"name": null}}), 400, NO_NAME.to_owned()),
        ("strategic-merge-patch+json", json!({"metadata": {"name": "zz"}}), 400, OTHER_NAME.to_owned()),
        ("json-patch+json", json!([{"op": "replace", "path": "/metadata/name", "value": "zz"}]), 400, OTHER_NAME.to_owned()),
        ("json-patch+json", json!([{"op": "remove", "path": "/metadata"}]), 400, NO_NAME.to_owned()),
        ("merge-patch+json", json!({"metadata": {"namespace": "b"}}), 400, OTHER_NAMESPACE.to_owned()),
        (
            "merge-patch+json",
            json!({"metadata": {"uid": "x"}}),
            422,
            "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable".to_owned(),
        ),
        (
            "merge-patch+json",
            json!({"metadata": {"deletionGracePeriodSeconds": 5}}),
            422,
            "ConfigMap \"a\" is invalid: metadata.deletionGracePeriodSeconds: Invalid value: 5: field is immutable".to_owned(),
        ),
        (
            "merge-patch+json",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            422,
            "ConfigMap \"a\" is invalid: metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable".to_owned(),
        ),
    ] {
        cluster.patch(&map("a"), kind, patch).await.fails(code, &message);
    }
    let fine = json!({"metadata": {"namespace": null, "uid": null, "creationTimestamp": null}});
    assert_eq!(cluster.patch(&map("a"), "merge-patch+json", fine).await.ok(), before);
}

#[tokio::test]
async fn a_put_names_its_object() {
    let cluster = Cluster::new().await;
    let before = cluster.create_map("a", json!({})).await;
    cluster.put(&map("a"), json!({"metadata": {}})).await.fails(400, NO_NAME);
    cluster.put(&map("a"), json!({"metadata": {"name": "zz"}})).await.fails(400, OTHER_NAME);
    cluster.put(&map("a"), json!({"metadata": {"name": "a", "namespace": "b"}})).await.fails(400, OTHER_NAMESPACE);
    let other = cluster.put(&map("a"), json!({"metadata": {"name": "a", "uid": "x"}})).await.status();
    assert_eq!((other.0, other.1.as_str()), (409, "Conflict"));
    assert_eq!(cluster.get(&map("a")).await.ok(), before);
}

#[tokio::test]
async fn an_apply_may_leave_the_name_of_what_exists_out() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let headers = [("content-type", "application/apply-patch+yaml")];
    let send = async |name: &str, metadata: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"l": "m"}});
        let target = format!("{}?fieldManager=one", map(name));
        cluster.send(&cluster.admin, "PATCH", &target, &headers, body.to_string()).await
    };
    assert_eq!(send("a", json!({})).await.ok()["data"], json!({"k": "v", "l": "m"}));
    send("a", json!({"name": "zz"})).await.fails(400, OTHER_NAME);
    let none = "the name of the object (b based on URL) was undeterminable: name must be provided";
    send("b", json!({})).await.fails(400, none);
}

#[tokio::test]
async fn an_applied_element_may_leave_its_key_out() {
    let cluster = Cluster::new().await;
    let mut body = deployment("d", 1);
    body["spec"]["template"]["spec"]["containers"] = json!([{"image": "i:1"}]);
    let headers = [("content-type", "application/apply-patch+yaml")];
    let target = format!("{DEPLOYMENTS}/d?fieldManager=one");
    cluster
        .send(&cluster.admin, "PATCH", &target, &headers, body.to_string())
        .await
        .fails(422, "Deployment.apps \"d\" is invalid: spec.template.spec.containers[0].name: Required value");
}

#[tokio::test]
async fn a_delete_takes_options_only() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let scheme = "in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"";
    for (body, message) in [
        (
            json!({"kind": "Pod", "apiVersion": "v1"}),
            format!("no kind \"Pod\" is registered for version \"v1\" {scheme}"),
        ),
        (
            json!({"kind": "Deployment", "apiVersion": "apps/v1"}),
            format!("no kind \"Deployment\" is registered for version \"apps/v1\" {scheme}"),
        ),
        (
            json!({"kind": "Status", "apiVersion": "v1"}),
            "converting (v1.Status) to (v1.DeleteOptions): unknown conversion".to_owned(),
        ),
    ] {
        cluster.delete(&map("a"), body.clone()).await.fails(400, &message);
        cluster.delete(MAPS, body).await.fails(400, &message);
    }
    let refused = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
    cluster.delete(&format!("{}?propagationPolicy=", map("a")), Value::Null).await.fails(422, refused);
    cluster.get(&map("a")).await.ok();
    for (name, body) in [
        ("a", json!({"kind": "DeleteOptions", "apiVersion": "v1"})),
        ("b", json!({"kind": "DeleteOptions", "apiVersion": "apps/v1"})),
        ("c", json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"})),
        ("d", json!({})),
    ] {
        if name != "a" {
            cluster.create_map(name, json!({})).await;
        }
        cluster.delete(&map(name), body).await.ok();
        assert_eq!(cluster.get(&map(name)).await.code, 404, "{name}");
    }
}

#[tokio::test]
async fn a_collection_is_deleted_as_it_was_seen() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    cluster.store.compact(cluster.store.revision());
    let old = cluster.delete(&format!("{MAPS}?resourceVersion=1"), Value::Null).await.status();
    assert_eq!((old.0, old.1.as_str()), (410, "Expired"));
    let future = cluster.delete(&format!("{MAPS}?resourceVersion=99999"), Value::Null).await.status();
    assert_eq!((future.0, future.1.as_str()), (504, "Timeout"));
    cluster.get(&map("a")).await.ok();
}

#[tokio::test]
async fn continue_tokens_stay_within_what_exists() {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let token = |rv: i64, start: &str| {
        let text = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": start}).to_string();
        format!("{MAPS}?limit=1&continue={}", BASE64_URL_SAFE_NO_PAD.encode(text))
    };
    let revision = i64::try_from(cluster.store.revision()).unwrap();
    let future = cluster.get(&token(revision + 1000, "a")).await;
    assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let (code, reason, message) = future.status();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert!(message.contains("Too large resource version: "), "{message}");
    cluster
        .get(&token(revision, "../secrets/"))
        .await
        .fails(400, "invalid continue token: continue key is not valid: ../secrets/");
    cluster.get(&token(0, "a")).await.fails(
        400,
        "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
    );
    cluster.get(&format!("{MAPS}?resourceVersion=x")).await.fails(
        400,
        "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
    );
    assert_eq!(cluster.get(&token(revision, "a\0")).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn owners_are_checked_and_named_once() {
    let cluster = Cluster::new().await;
    let owner =
        |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": "1-2"});
    let body = |owners: Value| json!({"metadata": {"name": "a", "ownerReferences": owners}});
    let invalid = |text: &str| format!("ConfigMap \"a\" is invalid: metadata.ownerReferences{text}");
    for (owners, message) in [
        (
            json!([owner("v1", "Event")]),
            invalid(
                ": Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"o\",\"uid\":\"1-2\"}: /v1, Kind=Event is disallowed from being an owner",
            ),
        ),
        (json!([owner("a/b/c", "X")]), invalid(".apiVersion: Invalid value: \"a/b/c\": version must not be empty")),
        (
            json!([{"apiVersion": "v1", "kind": "X", "name": "o"}]),
            invalid(".uid: Invalid value: \"\": must not be empty"),
        ),
    ] {
        cluster.post(MAPS, body(owners)).await.fails(422, &message);
    }
    let twice = cluster.post(MAPS, body(json!([owner("v1", "X"), owner("v1", "Y"), owner("v1", "X")]))).await;
    assert!(
        twice
            .header("warning")
            .starts_with("299 - \".metadata.ownerReferences contains duplicate entries; API server dedups"),
        "{}",
        twice.header("warning")
    );
    assert!(twice.header("warning").ends_with("duplicate UID(s) observed: 1-2\""));
    assert_eq!(twice.ok()["metadata"]["ownerReferences"], json!([owner("v1", "X"), owner("v1", "Y")]));
    let patched = cluster
        .patch(
            &map("a"),
            "merge-patch+json",
            json!({"metadata": {"ownerReferences": [owner("v1", "X"), owner("v1", "X")]}}),
        )
        .await;
    assert!(patched.header("warning").contains("duplicate entries after mutating admission happens"));
    assert_eq!(patched.ok()["metadata"]["ownerReferences"], json!([owner("v1", "X")]));
    let finalizers = json!({"metadata": {"name": "b", "finalizers": ["a.b/c", "x"]}});
    cluster.post(MAPS, finalizers).await.fails(
        422,
        "ConfigMap \"b\" is invalid: metadata.finalizers[1]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
    );
}
