//! DELETE: answers, grace, finalizers, propagation, preconditions, collections.

use crate::*;

#[tokio::test]
async fn a_delete_answers_a_status_or_the_object() {
    let cluster = Cluster::new().await;
    let object = cluster.create_map("a", json!({})).await;
    let status = cluster.delete(&map("a"), json!({"propagationPolicy": "Background"})).await.ok();
    assert_eq!(
        status,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "kind": "configmaps", "uid": object["metadata"]["uid"]}})
    );
    cluster.delete(&map("a"), Value::Null).await.fails(404, r#"configmaps "a" not found"#);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(accounts, json!({"metadata": {"name": "s"}})).await.ok();
    assert_eq!(cluster.delete(&format!("{accounts}/s"), Value::Null).await.ok()["kind"], "ServiceAccount");
    cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    let details = cluster.delete(&format!("{DEPLOYMENTS}/d"), Value::Null).await.ok()["details"].clone();
    assert_eq!((&details["group"], &details["kind"]), (&json!("apps"), &json!("deployments")));
}

#[tokio::test]
async fn preconditions_must_hold() {
    let cluster = Cluster::new().await;
    let object = cluster.create_map("a", json!({})).await;
    let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
    cluster.delete(&map("a"), json!({"preconditions": {"uid": "x"}})).await.fails(
        409,
        &format!(r#"Operation cannot be fulfilled on configmaps "a": Precondition failed: UID in precondition: x, UID in object meta: {uid}"#),
    );
    assert_eq!(cluster.delete(&map("a"), json!({"preconditions": {"resourceVersion": "1"}})).await.code, 409);
    assert_eq!(cluster.delete(&map("a"), json!({"propagationPolicy": "Sometimes"})).await.code, 422);
    assert_eq!(cluster.delete(&format!("{}?dryRun=All", map("a")), Value::Null).await.code, 200);
    assert_eq!(cluster.get(&map("a")).await.code, 200);
    cluster.delete(&map("a"), json!({"preconditions": {"uid": uid}})).await.ok();
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}})).await.ok();
    let pending = cluster.delete(&map("a"), Value::Null).await.ok();
    assert_eq!(pending["metadata"]["deletionTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 0);
    let more = json!({"metadata": {"finalizers": ["example.com/f", "example.com/g"]}});
    cluster.patch(&map("a"), "merge-patch+json", more).await.fails(
        422,
        r#"ConfigMap "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/g"}"#,
    );
    let last = cluster.patch(&map("a"), "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(last.code, 200);
    assert_eq!(cluster.get(&map("a")).await.code, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let cluster = Cluster::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
        let pending = cluster.delete(&format!("{DEPLOYMENTS}/d"), json!({"propagationPolicy": policy})).await.ok();
        assert_eq!(pending["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(pending["metadata"]["generation"], 2);
        cluster.delete(&format!("{DEPLOYMENTS}/d"), json!({"propagationPolicy": "Background"})).await.ok();
        assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/d")).await.code, 404);
    }
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_which_may_only_become_shorter() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let target = format!("{PODS}/p");
    cluster
        .post(&format!("{target}/binding"), json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}))
        .await
        .ok();
    let pending = cluster.delete(&target, Value::Null).await.ok();
    assert_eq!(pending["kind"], "Pod");
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(pending["metadata"]["deletionTimestamp"], "2026-01-02T03:04:35Z");
    let before = cluster.store.revision();
    cluster.delete(&target, json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(cluster.store.revision(), before, "a longer grace changes nothing");
    let shorter = cluster.delete(&target, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-02T03:04:10Z");
    cluster.delete(&target, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(cluster.get(&target).await.code, 404);
}

#[tokio::test]
async fn an_unscheduled_pod_goes_at_once() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    assert_eq!(cluster.delete(&format!("{PODS}/p"), Value::Null).await.ok()["kind"], "Pod");
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn a_namespace_waits_for_finalize_and_takes_nothing_new() {
    let cluster = Cluster::new().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.ok();
    let pending = cluster.delete("/api/v1/namespaces/n", Value::Null).await.ok();
    assert_eq!(
        (&pending["status"]["phase"], &pending["spec"]["finalizers"]),
        (&json!("Terminating"), &json!(["kubernetes"]))
    );
    let refused = cluster.post("/api/v1/namespaces/n/configmaps", json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert!(refused.status().2.ends_with("unable to create new content in namespace n because it is being terminated"));
    let mut finalized = pending.clone();
    finalized["spec"] = json!({});
    cluster.put("/api/v1/namespaces/n/finalize", finalized).await.ok();
    assert_eq!(cluster.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn a_collection_honours_selectors_and_answers_what_it_deleted() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({"l": "1"})).await;
    cluster.create_map("b", json!({"l": "1"})).await;
    cluster.create_map("c", json!({})).await;
    let list = cluster.delete(&format!("{MAPS}?labelSelector=l%3D1"), Value::Null).await.ok();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 2));
    let rest = cluster.get(MAPS).await.ok();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(cluster.delete("/api/v1/configmaps", Value::Null).await.code, 405, "never over all namespaces");
}
