//! Create and update.

use crate::*;

#[tokio::test]
async fn a_create_answers_201_with_what_the_system_sets() {
    let cluster = Cluster::new().await;
    let answer = cluster
        .post(MAPS, json!({"metadata": {"name": "a", "uid": "mine", "creationTimestamp": "2000-01-01T00:00:00Z"}}))
        .await;
    assert_eq!(answer.code, 201);
    assert!(!answer.header("audit-id").is_empty());
    assert_eq!(answer.header("cache-control"), "no-cache, private");
    let object = answer.json();
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let metadata = &object["metadata"];
    assert_eq!(metadata["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 1);
    let fetched = cluster.get(&map("a")).await.ok();
    assert_eq!(fetched, object);
}

#[tokio::test]
async fn refused_creates_use_upstreams_words() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let ns = "/api/v1/namespaces/default";
    for (target, body, code, message) in [
        (MAPS.to_owned(), json!({"metadata": {"name": "a"}}), 409, r#"configmaps "a" already exists"#),
        (
            MAPS.to_owned(),
            json!({"metadata": {}}),
            422,
            r#"ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required"#,
        ),
        (
            MAPS.to_owned(),
            json!({"metadata": {"name": "b", "resourceVersion": "5"}}),
            500,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            MAPS.to_owned(),
            json!({"metadata": {"name": "b", "namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            MAPS.to_owned(),
            json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "b"}}),
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            "/api/v1/namespaces/none/configmaps".to_owned(),
            json!({"metadata": {"name": "b"}}),
            404,
            r#"namespaces "none" not found"#,
        ),
        (
            format!("{MAPS}?dryRun=Some"),
            json!({"metadata": {"name": "b"}}),
            422,
            r#"CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: "Some": supported values: "All""#,
        ),
        (
            format!("{ns}/pods"),
            json!({"metadata": {"name": "b"}, "spec": {"containers": "x"}}),
            400,
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"#,
        ),
    ] {
        cluster.post(&target, body).await.fails(code, message);
    }
    let answer = cluster.send(&cluster.admin, "POST", MAPS, &[("content-type", "text/plain")], "x").await;
    assert_eq!(answer.status().1, "UnsupportedMediaType");
    let answer = cluster.send(&cluster.admin, "POST", MAPS, &[], "{").await;
    assert_eq!(answer.code, 400);
    assert!(
        answer
            .status()
            .2
            .starts_with("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind")
    );
    let large = vec![b' '; 3 * 1024 * 1024 + 1];
    cluster
        .send(&cluster.admin, "POST", MAPS, &[], large)
        .await
        .fails(413, "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn generated_names_are_the_prefix_and_five_characters() {
    let cluster = Cluster::new().await;
    let long = "a".repeat(70);
    for (prefix, length) in [("web-", 9), (long.as_str(), 63)] {
        let object = cluster.post(MAPS, json!({"metadata": {"generateName": prefix}})).await.ok();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        assert_eq!(name.len(), length);
        assert!(name.ends_with(|c: char| "bcdfghjklmnpqrstvwxz2456789".contains(c)));
    }
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_refused_warned_about_or_ignored() {
    let cluster = Cluster::new().await;
    let body = |name: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"unknownField":"foo","replicas":1,"replicas":2,"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}}}}}"#
        )
    };
    let send = |mode: &'static str, name: &str| {
        let (target, body) = (format!("{DEPLOYMENTS}?fieldValidation={mode}"), body(name));
        let cluster = &cluster;
        async move { cluster.send(&cluster.admin, "POST", &target, &[], body).await }
    };
    send("Strict", "a").await.fails(
        400,
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#,
    );
    let warned = send("Warn", "b").await;
    assert_eq!(warned.code, 201);
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert_eq!(
        warnings,
        [r#"299 - "unknown field \"spec.unknownField\"""#, r#"299 - "duplicate field \"spec.replicas\"""#]
    );
    assert!(warned.json()["spec"].get("unknownField").is_none());
    let ignored = send("Ignore", "c").await;
    assert_eq!((ignored.code, ignored.header("warning")), (201, ""));
    assert_eq!(send("Sometimes", "d").await.code, 422);
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_stores_nothing() {
    let cluster = Cluster::new().await;
    let before = cluster.store.revision();
    let object = cluster.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}})).await.ok();
    assert!(object["metadata"].get("resourceVersion").is_none());
    assert!(object["metadata"]["uid"].is_string());
    assert_eq!(cluster.get(&map("a")).await.code, 404);
    cluster.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "A"}})).await.status();
    assert_eq!(cluster.store.revision(), before);
    cluster.create_map("a", json!({})).await;
    cluster
        .post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}}))
        .await
        .fails(409, r#"configmaps "a" already exists"#);
}

#[tokio::test]
async fn a_service_takes_its_address_and_port_only_when_it_is_stored() {
    let cluster = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let body = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 30077}]}});
    cluster.post(&format!("{services}?dryRun=All"), body("a")).await.ok();
    let stored = cluster.post(services, body("a")).await.ok();
    assert_eq!(stored["spec"]["clusterIP"], "10.96.0.77");
    assert_eq!(cluster.post(services, body("b")).await.code, 422);
    cluster.delete(&format!("{services}/a"), Value::Null).await.ok();
    cluster.post(services, body("b")).await.ok();
}

#[tokio::test]
async fn an_update_needs_the_current_version_if_it_names_one() {
    let cluster = Cluster::new().await;
    let mut object = cluster.create_map("a", json!({})).await;
    let stale = object.clone();
    object["data"]["k"] = json!("w");
    let updated = cluster.put(&map("a"), object.clone()).await.ok();
    assert_ne!(updated["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    cluster.put(&map("a"), stale).await.fails(
        409,
        r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#,
    );
    let unconditional = json!({"metadata": {"name": "a"}, "data": {"k": "x"}});
    assert_eq!(cluster.put(&map("a"), unconditional).await.ok()["data"]["k"], "x");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let cluster = Cluster::new().await;
    let object = cluster.create_map("a", json!({"l": "1"})).await;
    cluster.seconds.fetch_add(100, Ordering::SeqCst);
    let before = cluster.store.revision();
    assert_eq!(cluster.put(&map("a"), object.clone()).await.ok(), object);
    assert_eq!(cluster.patch(&map("a"), "merge-patch+json", json!({"data": {"k": "v"}})).await.ok(), object);
    assert_eq!(cluster.store.revision(), before);
}

#[tokio::test]
async fn refused_updates_use_upstreams_words() {
    let cluster = Cluster::new().await;
    let object = cluster.create_map("a", json!({})).await;
    cluster.put(&map("b"), json!({"metadata": {"name": "b"}})).await.fails(404, r#"configmaps "b" not found"#);
    cluster
        .put(&map("a"), json!({"metadata": {"name": "b"}}))
        .await
        .fails(400, "the name of the object (b) does not match the name on the URL (a)");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    cluster.put(&map("a"), json!({"metadata": {"name": "a", "uid": "other"}})).await.fails(
        409,
        &format!(r#"Operation cannot be fulfilled on configmaps "a": StorageError: invalid object, Code: 4, Key: /configmaps/default/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {uid}"#),
    );
    cluster.patch(&map("a"), "merge-patch+json", json!({"metadata": {"labels": {"-": "x"}}})).await.status();
}

#[tokio::test]
async fn a_lease_is_created_by_put_and_needs_a_version_afterwards() {
    let cluster = Cluster::new().await;
    let target = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let body = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 1}});
    assert_eq!(cluster.put(target, body.clone()).await.code, 201);
    cluster.put(target, body).await.fails(
        422,
        r#"leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"#,
    );
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_only() {
    let cluster = Cluster::new().await;
    let target = format!("{DEPLOYMENTS}/d");
    let object = cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    assert_eq!(object["metadata"]["generation"], 1);
    let labelled = cluster.patch(&target, "merge-patch+json", json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = cluster.patch(&target, "merge-patch+json", json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!(scaled["metadata"]["generation"], 2);
    let status = cluster
        .patch(
            &format!("{target}/status"),
            "merge-patch+json",
            json!({"status": {"replicas": 3}, "spec": {"replicas": 9}}),
        )
        .await
        .ok();
    assert_eq!(
        (&status["metadata"]["generation"], &status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(2), &json!(3), &json!(3))
    );
    let ignored = cluster.patch(&target, "merge-patch+json", json!({"status": {"replicas": 7}})).await.ok();
    assert_eq!(ignored["status"]["replicas"], 3);
}

#[tokio::test]
async fn who_owns_what_is_recorded_apart_for_status() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("d", 1)).await.ok();
    let target = format!("{DEPLOYMENTS}/d/status?fieldManager=controller");
    let object = cluster.patch(&target, "merge-patch+json", json!({"status": {"replicas": 1}})).await.ok();
    let fields = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = |manager: &str| fields.iter().find(|f| f["manager"] == manager).unwrap();
    assert_eq!(entry("controller")["subresource"], "status");
    assert_eq!(entry("controller")["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(entry("test")["operation"], "Update");
    assert!(entry("test")["fieldsV1"].get("f:status").is_none());
    assert!(entry("test")["fieldsV1"]["f:spec"].get("f:replicas").is_some());
}

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let cluster = Cluster::new().await;
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer =
        cluster.send(&cluster.admin, "POST", MAPS, &headers, "metadata:\n  name: yam\ndata:\n  k: 'yes'\n").await;
    assert_eq!((answer.code, content_type(&answer)), (201, "application/yaml"), "{}", answer.text());
    assert!(answer.text().contains("kind: ConfigMap"), "{}", answer.text());
}

#[tokio::test]
async fn events_of_both_groups_are_one() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "m", "type": "Normal", "source": {"component": "kubelet"}, "count": 2});
    cluster.post("/api/v1/namespaces/default/events", body).await.ok();
    let other = cluster.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!(
        (&other["apiVersion"], &other["regarding"]["name"], &other["note"]),
        (&json!("events.k8s.io/v1"), &json!("p"), &json!("m"))
    );
    let selected = cluster.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp,reason%3DStarted").await.ok();
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_that_stops_waiting_does_not_free_what_its_write_took() {
    let cluster = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let body =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.96.0.99", "ports": [{"port": 80}]}});
    {
        // Polled once: the write is on its way to the store's writer, then the client is gone.
        let request = cluster.post(services, body("a"));
        tokio::pin!(request);
        assert!(futures::poll!(&mut request).is_pending());
    }
    while cluster.get(&format!("{services}/a")).await.code == 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.post(services, body("b")).await.code, 422, "the address is taken");
}

#[tokio::test]
async fn endless_lists_and_growing_objects_are_refused() {
    let cluster = Cluster::new().await;
    let volumes: Vec<_> = (0..5_000).map(|n| json!({"name": format!("v{n}")})).collect();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes}});
    let text = "Pod \"p\" is invalid: spec.volumes: Too many: 5000: must have at most 2000 items";
    cluster.post("/api/v1/namespaces/default/pods", pod).await.fails(422, text);
    cluster.create_map("a", json!({})).await;
    let mut last = 200;
    for round in 0..4 {
        let labels: serde_json::Map<_, _> = (0..28_000).map(|n| (format!("r{round}-{n:040}"), json!("x"))).collect();
        let patch = json!({"metadata": {"labels": labels}});
        last = cluster.patch(&map("a"), "merge-patch+json", patch).await.code;
    }
    assert_eq!(last, 413, "patches add up to no more than one request may carry");
}
