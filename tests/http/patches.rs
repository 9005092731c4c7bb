//! PATCH in its four types.

use crate::*;

#[tokio::test]
async fn every_type_patches() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({"l": "1"})).await;
    for (kind, patch, data) in [
        ("merge-patch+json", json!({"data": {"x": "1", "k": null}}), json!({"x": "1"})),
        ("strategic-merge-patch+json", json!({"data": {"y": "2"}}), json!({"x": "1", "y": "2"})),
        (
            "json-patch+json",
            json!([{"op": "test", "path": "/data/x", "value": "1"}, {"op": "remove", "path": "/data/x"}]),
            json!({"y": "2"}),
        ),
    ] {
        assert_eq!(cluster.patch(&map("a"), kind, patch).await.ok()["data"], data, "{kind}");
    }
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_key() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}, {"name": "e", "image": "e:1"}]}}}});
    let object = cluster.patch(&format!("{DEPLOYMENTS}/d"), "strategic-merge-patch+json", patch).await.ok();
    let mut images: Vec<_> = object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["image"].as_str().unwrap())
        .collect();
    images.sort_unstable();
    assert_eq!(images, ["e:1", "i:2"]);
}

#[tokio::test]
async fn refused_patches_use_upstreams_words() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let unknown = cluster.patch(&map("a"), "x-patch", json!({})).await;
    assert_eq!((unknown.code, unknown.status().1.as_str()), (415, "UnsupportedMediaType"));
    assert!(unknown.status().2.ends_with(
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
    ));
    let test = json!([{"op": "test", "path": "/data/k", "value": "other"}]);
    let refused = cluster.patch(&map("a"), "json-patch+json", test).await;
    assert_eq!(refused.json()["details"], json!({}), "upstream does not say why, and kubectl prints causes instead");
    refused.fails(422, "the server rejected our request due to an error in our request");
    cluster.patch(&map("b"), "merge-patch+json", json!({})).await.fails(404, r#"configmaps "b" not found"#);
    cluster.patch(&map("a"), "merge-patch+json", json!({"metadata": {"resourceVersion": "1"}})).await.fails(
        409,
        r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#,
    );
    let many: Vec<_> = (0..10_001).map(|_| json!({"op": "remove", "path": "/data"})).collect();
    cluster
        .patch(&map("a"), "json-patch+json", json!(many))
        .await
        .fails(413, "The allowed maximum operations in a JSON patch is 10000, got 10001");
    let strict = format!("{}?fieldValidation=Strict", map("a"));
    let message = cluster.patch(&strict, "merge-patch+json", json!({"dota": {}})).await.status().2;
    assert!(message.contains(r#"strict decoding error: unknown field "dota""#), "{message}");
    cluster.patch(&format!("{}?force=true", map("a")), "merge-patch+json", json!({})).await.fails(
        422,
        r#"PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch"#,
    );
}

#[tokio::test]
async fn apply_creates_updates_removes_and_conflicts() {
    let cluster = Cluster::new().await;
    let apply = |manager: &str, body: Value, more: &str| {
        let target = format!("{}?fieldManager={manager}{more}", map("a"));
        let cluster = &cluster;
        async move { cluster.patch(&target, "apply-patch+yaml", body).await }
    };
    let config =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    assert_eq!(apply("one", config(json!({"x": "1", "y": "1"})), "").await.code, 201);
    let before = cluster.store.revision();
    assert_eq!(apply("one", config(json!({"x": "1", "y": "1"})), "").await.code, 200);
    assert_eq!(cluster.store.revision(), before, "the same configuration again changes nothing");
    let removed = apply("one", config(json!({"x": "1"})), "").await.ok();
    assert_eq!(removed["data"], json!({"x": "1"}));

    let conflict = apply("two", config(json!({"x": "2"})), "").await;
    assert_eq!(conflict.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(conflict.json()["details"]["causes"][0]["field"], ".data.x");
    conflict.fails(409, r#"Apply failed with 1 conflict: conflict with "one": .data.x"#);
    let forced = apply("two", config(json!({"x": "2"})), "&force=true").await.ok();
    assert_eq!(forced["data"], json!({"x": "2"}));
}

#[tokio::test]
async fn refused_applies_use_upstreams_words() {
    let cluster = Cluster::new().await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    cluster.patch(&map("a"), "apply-patch+yaml", config.clone()).await.fails(
        422,
        r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
    );
    let target = format!("{}?fieldManager=m", map("a"));
    let mut managed = config.clone();
    managed["metadata"]["managedFields"] = json!([{}]);
    cluster.patch(&target, "apply-patch+yaml", managed).await.fails(400, "metadata.managedFields must be nil");
    let mut unknown = config.clone();
    unknown["dota"] = json!({"a": "b"});
    cluster.patch(&target, "apply-patch+yaml", unknown.clone()).await.fails(
        500,
        "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dota: field not declared in schema",
    );
    unknown["metadata"]["lables"] = json!({});
    cluster.patch(&target, "apply-patch+yaml", unknown).await.fails(
        500,
        "failed to create typed patch object (/a; /v1, Kind=ConfigMap): errors:\n  \
         .dota: field not declared in schema\n  .metadata.lables: field not declared in schema",
    );
    let container = json!({"name": "c", "image": "i", "imag": "x"});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}});
    cluster.patch(&format!("{PODS}/a?fieldManager=m"), "apply-patch+yaml", pod).await.fails(
        500,
        "failed to create typed patch object (/a; /v1, Kind=Pod): .spec.containers[name=\"c\"].imag: field not declared in schema",
    );
    let mut uid = config;
    uid["metadata"]["uid"] = json!("u");
    assert_eq!(cluster.patch(&target, "apply-patch+yaml", uid).await.code, 409);
}

#[tokio::test]
async fn clashing_patches_without_a_version_all_win() {
    let cluster = Arc::new(Cluster::new().await);
    cluster.create_map("a", json!({})).await;
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let key = format!("k{n}");
                cluster.patch(&map("a"), "merge-patch+json", json!({"data": {key: "v"}})).await.ok();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(cluster.get(&map("a")).await.ok()["data"].as_object().unwrap().len(), 7);
}

#[tokio::test]
async fn what_a_patch_empties_in_the_metadata_is_left_out() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({"l": "1"})).await;
    let patch = json!({"metadata": {"labels": {"l": "1"}, "finalizers": ["example.com/hold"]}});
    cluster.patch(&map("a"), "merge-patch+json", patch).await.ok();
    let patch = json!({"metadata": {"labels": {"l": null}, "finalizers": []}});
    let object = cluster.patch(&map("a"), "merge-patch+json", patch).await.ok();
    assert_eq!((&object["metadata"]["labels"], &object["metadata"]["finalizers"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn many_patches_of_one_object_all_arrive() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let cluster = std::sync::Arc::new(cluster);
    let patches = (0..48).map(|n| {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let body = json!({"data": {format!("k{n}"): "v"}});
            cluster.patch(&map("a"), "merge-patch+json", body).await.code
        })
    });
    for patch in patches.collect::<Vec<_>>() {
        assert_eq!(patch.await.unwrap(), 200);
    }
    assert_eq!(cluster.get(&map("a")).await.ok()["data"].as_object().unwrap().len(), 49);
}

#[tokio::test]
async fn whoever_applies_null_owns_the_field() {
    let cluster = Cluster::new().await;
    let body = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": null}, "data": {"k": null, "l": "m"}}"#;
    let headers = [("content-type", "application/apply-patch+yaml")];
    let target = format!("{}?fieldManager=one", map("a"));
    let object = cluster.send(&cluster.admin, "PATCH", &target, &headers, body).await.ok();
    assert_eq!(object["metadata"].get("labels"), None);
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:metadata"], json!({"f:labels": {}}));
    assert_eq!(fields["f:data"]["f:l"], json!({}));
}

#[tokio::test]
async fn what_go_leaves_out_is_not_stored() {
    let cluster = Cluster::new().await;
    let body = r#"{"metadata": {"name": "a", "labels": {}, "generateName": ""}, "data": {}, "binaryData": {"b": null}, "immutable": false}"#;
    let object = cluster.send(&cluster.admin, "POST", MAPS, &[], body).await.ok();
    assert_eq!((object.get("data"), &object["immutable"]), (None, &json!(false)));
    assert_eq!(object["binaryData"], json!({"b": ""}));
    assert_eq!((object["metadata"].get("labels"), object["metadata"].get("generateName")), (None, None));
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}});
    let event = cluster.post("/api/v1/namespaces/default/events", event).await.ok();
    for field in ["eventTime", "firstTimestamp", "lastTimestamp"] {
        assert_eq!(event.get(field), Some(&Value::Null), "{field}");
    }
    let lease = json!({"metadata": {"name": "l"}, "spec": {"strategy": "OldestEmulationVersion", "preferredHolder": "x", "holderIdentity": "y"}});
    let lease = cluster.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", lease).await.ok();
    assert_eq!(lease["spec"], json!({"holderIdentity": "y"}));
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Local"}});
    let service = cluster.post("/api/v1/namespaces/default/services", service).await.ok();
    assert_eq!(service["spec"].get("internalTrafficPolicy"), None);
}

#[tokio::test]
async fn the_address_of_a_pod_is_one() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let target = format!("{PODS}/p/status");
    cluster.patch(&target, "merge-patch+json", json!({"status": {"podIP": "x"}})).await.fails(
        422,
        "Pod \"p\" is invalid: status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    );
    let set = cluster.patch(&target, "merge-patch+json", json!({"status": {"podIP": "10.0.0.1"}})).await.ok();
    assert_eq!(set["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
}

/// What upstream stores of an element without its key: Go writes the zero of a field without `omitempty`.
#[tokio::test]
async fn an_element_of_a_status_always_has_its_key_so_that_a_strategic_patch_finds_it() {
    let cluster = Cluster::new().await;
    let odd = json!({"status": {"conditions": [{}, null], "addresses": [{}]}});
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "Hostname", "address": "h"}]}});
    for (name, kind) in [("a", "merge-patch+json"), ("b", "strategic-merge-patch+json")] {
        cluster.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok();
        let node = &format!("/api/v1/nodes/{name}/status");
        let stored = cluster.patch(node, kind, odd.clone()).await.ok();
        let none = json!({"type": "", "status": "", "lastHeartbeatTime": null, "lastTransitionTime": null});
        assert!(stored["status"]["conditions"].as_array().unwrap().contains(&none), "{kind}: {stored}");
        assert!(stored["status"]["addresses"].as_array().unwrap().contains(&json!({"type": "", "address": ""})));
        let patched = cluster.patch(node, "strategic-merge-patch+json", ready.clone()).await.ok();
        let conditions = patched["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{kind}: {patched}");
    }
}

#[tokio::test]
async fn what_was_stored_without_a_key_is_read_as_go_reads_it() {
    let cluster = Cluster::new().await;
    let bytes = r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"old"},"status":{"conditions":[{},null],"addresses":[{"address":"a"}]}}"#;
    cluster.store.put("/core/nodes/old", store::Expect::Absent, Bytes::from(bytes), None).await.unwrap();
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "Hostname", "address": "h"}]}});
    let node = cluster.patch("/api/v1/nodes/old/status", "strategic-merge-patch+json", ready).await.ok();
    assert_eq!(node["status"]["conditions"].as_array().unwrap().len(), 3, "{node}");
    let broken = json!({"status": {"conditions": [{"status": "True"}]}});
    cluster
        .patch("/api/v1/nodes/old/status", "strategic-merge-patch+json", broken)
        .await
        .fails(500, "map: map[status:True] does not contain declared merge key: type");
}
