//! Answers as a kube-apiserver gives them, found by sending the same requests to both.

use crate::*;

/// The fields of the causes of a refusal.
fn causes(answer: &Answer) -> Vec<String> {
    let causes = answer.json()["details"]["causes"].clone();
    causes.as_array().into_iter().flatten().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
}

/// The message of a refused patch after the patch itself.
fn after_patch(answer: &Answer) -> String {
    let (code, _, message) = answer.status();
    assert_eq!(code, 422, "{message}");
    message.rsplit_once("\": ").map_or(message.clone(), |(_, why)| why.to_owned())
}

#[tokio::test]
async fn a_patched_object_is_what_it_says_it_is() {
    let cluster = Cluster::new().await;
    cluster.create_map("a", json!({})).await;
    let strict = format!("{}?fieldValidation=Strict", map("a"));
    let json_patch = async |operation: Value| cluster.patch(&strict, "json-patch+json", json!([operation])).await;

    let other = json_patch(json!({"op": "replace", "path": "/kind", "value": "x"})).await;
    assert!(
        other.text().contains(
            r#"no kind \"x\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""#
        )
    );
    let version = json_patch(json!({"op": "add", "path": "/apiVersion", "value": "10%"})).await;
    assert!(
        version.text().contains(r#"no kind \"ConfigMap\" is registered for version \"10%\""#),
        "{}",
        version.text()
    );
    let account = json_patch(json!({"op": "replace", "path": "/kind", "value": "ServiceAccount"})).await;
    assert_eq!(after_patch(&account), "converting (v1.ServiceAccount) to (core.ConfigMap): unknown conversion");
    let number = json_patch(json!({"op": "add", "path": "/kind", "value": 1.5})).await;
    assert_eq!(
        after_patch(&number),
        "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string"
    );
    for refused in [&other, &version, &account, &number] {
        assert_eq!(causes(refused), ["patch"]);
    }

    // Without a version it is the internal type, which has other fields; without a kind it is what the path says.
    let missing = json_patch(json!({"op": "remove", "path": "/apiVersion"})).await;
    assert_eq!(
        after_patch(&missing),
        "strict decoding error: unknown field \"data\", unknown field \"metadata\"",
        "{}",
        missing.text()
    );
    let lenient = cluster.patch(&map("a"), "merge-patch+json", json!({"apiVersion": null})).await;
    lenient.fails(400, "the name of the object (a based on URL) was undeterminable: name must be provided");
    json_patch(json!({"op": "remove", "path": "/kind"})).await.ok();
    // A strategic merge patch is never decoded as text.
    let kind = json!({"kind": "x", "apiVersion": "y"});
    let object = cluster.patch(&strict, "strategic-merge-patch+json", kind).await.ok();
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
}

#[tokio::test]
async fn a_body_whose_type_is_no_text_is_not_recognised() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, json!({"kind": 1})).await.fails(
        400,
        r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string ({"kind":1})"#,
    );
}

#[tokio::test]
async fn a_namespace_that_is_no_name_is_an_error_of_the_server() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "a"}});
    cluster
        .post("/api/v1/namespaces/-5%25/configmaps", body.clone())
        .await
        .fails(500, r#"Internal error occurred: invalid resource name "-5%": [may not contain '%']"#);
    cluster.post("/api/v1/namespaces/none/configmaps", body).await.fails(404, r#"namespaces "none" not found"#);
}

#[tokio::test]
async fn metadata_is_named_as_often_as_upstream_looks_at_it() {
    let cluster = Cluster::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let event = json!({"metadata": {"name": "x"}, "involvedObject": {"namespace": "default"}});
    let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
    pod(&cluster, "x").await;
    for (path, body, times) in [
        (accounts, json!({"metadata": {"name": "x"}}), 4),
        (MAPS, json!({"metadata": {"name": "x"}}), 4),
        (DEPLOYMENTS, deployment("x", 1), 3),
        ("/api/v1/namespaces/default/events", event, 2),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice, 3),
        ("/api/v1/nodes", json!({"metadata": {"name": "x"}}), 4),
        (PODS, Value::Null, 4),
    ] {
        if !body.is_null() {
            cluster.post(path, body).await.ok();
        }
        let wrong = json!({"metadata": {"labels": {"l": "-"}}});
        let refused = cluster.patch(&format!("{path}/x"), "merge-patch+json", wrong).await;
        assert_eq!(causes(&refused), vec!["metadata.labels"; times], "{path}");
        let message = refused.status().2;
        assert_eq!(message.matches("metadata.labels: Invalid value").count(), 1, "{message}");
    }
    let status = json!({"metadata": {"labels": {"l": "-"}}});
    let refused = cluster.patch(&format!("{PODS}/x/status"), "merge-patch+json", status).await;
    assert_eq!(causes(&refused), vec!["metadata.labels"; 3]);
}

#[tokio::test]
async fn some_kinds_take_finalizers_of_any_name() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "x", "finalizers": ["free"]}});
    cluster.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", body.clone()).await.ok();
    let refused = cluster.post(MAPS, body).await;
    assert_eq!(causes(&refused), ["metadata.finalizers[0]"]);
}

#[tokio::test]
async fn what_pods_may_not_change_is_looked_at_again() {
    let cluster = Cluster::new().await;
    pod(&cluster, "x").await;
    let target = format!("{PODS}/x");
    let image = json!({"spec": {"containers": [{"name": "c", "image": " i"}]}});
    let refused = cluster.patch(&target, "strategic-merge-patch+json", image).await;
    assert_eq!(causes(&refused), vec!["spec.containers[0].image"; 2]);
    let toleration =
        json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "a b", "operator": "Exists"}}]);
    let refused = cluster.patch(&target, "json-patch+json", toleration).await;
    assert_eq!(causes(&refused), vec!["spec.tolerations[2].key"; 2], "{}", refused.text());
}

#[tokio::test]
async fn applied_values_are_compared_as_they_are_written() {
    let cluster = Cluster::new().await;
    pod(&cluster, "seed").await;
    let body = |cpu: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [
            {"name": "c", "image": "i:1", "resources": {"limits": {"cpu": cpu}}}]}})
    };
    cluster.post(PODS, body("500m")).await.ok();
    let apply = async |cpu: &str, force: bool| {
        let target = format!("{PODS}/x?fieldManager=b&force={force}");
        cluster.patch(&target, "apply-patch+yaml", body(cpu)).await
    };
    let conflict = r#"Apply failed with 1 conflict: conflict with "test" using v1: .spec.containers[name="c"].resources.limits.cpu"#;
    apply("0.5", false).await.fails(409, conflict);
    // Whether it can be read is found after that.
    apply("x", false).await.fails(409, conflict);
    apply("x", true).await.fails(
        500,
        "failed to convert new object (/x; /v1, Kind=Pod) to proper version: unable to convert unstructured object to /v1, Kind=Pod: \
         quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    let object = apply("0.5", true).await.ok();
    assert_eq!(object["spec"]["containers"][0]["resources"]["limits"]["cpu"], "500m");
    let creator = &object["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]["f:containers"][r#"k:{"name":"c"}"#];
    assert_eq!(creator["f:resources"]["f:limits"], json!({}), "{creator}");
}

#[tokio::test]
async fn null_takes_nothing_from_what_is_owned_item_by_item() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("x", 1)).await.ok();
    let mut config = deployment("x", 1);
    config["spec"]["template"] = json!({"metadata": null, "spec": {"containers": null}});
    let target = format!("{DEPLOYMENTS}/x?fieldManager=b");
    let object = cluster.patch(&target, "apply-patch+yaml", config).await.ok();
    assert_eq!(object["spec"]["template"]["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["name"], "c");
}

#[tokio::test]
async fn a_map_patch_wraps_integers_around() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("x", 1)).await.ok();
    let patch = json!({"status": {"availableReplicas": 2_147_483_648_u64}});
    let refused = cluster.patch(&format!("{DEPLOYMENTS}/x/status"), "strategic-merge-patch+json", patch).await;
    let message = refused.status().2;
    let wanted = "status.availableReplicas: Invalid value: -2147483648: must be greater than or equal to 0";
    assert!(message.contains(wanted), "{message}");
}

#[tokio::test]
async fn apparmor_annotations_become_fields() {
    const KEY: &str = "container.apparmor.security.beta.kubernetes.io/c";
    let cluster = Cluster::new().await;
    pod(&cluster, "seed").await;
    let body = |profile: &str| json!({"metadata": {"name": "x", "annotations": {KEY: profile}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let answer = cluster.post(PODS, body("localhost/p")).await;
    let warning = format!(
        "299 - \"metadata.annotations[{KEY}]: deprecated since v1.30; use the \\\"appArmorProfile\\\" field instead\""
    );
    let warnings: Vec<_> = answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert!(warnings.contains(&warning), "{warnings:?}");
    let object = answer.ok();
    let profile = json!({"type": "Localhost", "localhostProfile": "p"});
    assert_eq!(object["spec"]["containers"][0]["securityContext"]["appArmorProfile"], profile);
    assert!(!object["metadata"]["managedFields"].to_string().contains("appArmor"), "nobody wrote it");

    let change = json!({"metadata": {"annotations": {KEY: "unconfined"}}});
    let refused = cluster.patch(&format!("{PODS}/x"), "merge-patch+json", change).await;
    assert!(refused.status().2.contains("may not remove or update AppArmor annotations"), "{}", refused.text());
    let mut unknown = body("some");
    unknown["metadata"]["name"] = "y".into();
    let refused = cluster.post(PODS, unknown).await;
    assert!(refused.status().2.contains("invalid AppArmor profile name"), "{}", refused.text());
}

#[tokio::test]
async fn every_answer_about_endpoints_says_that_they_are_old() {
    let cluster = Cluster::new().await;
    let path = "/api/v1/namespaces/default/endpoints";
    let wrong = json!({"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": "x"}], "ports": []}]});
    let refused = cluster.post(path, wrong).await;
    assert_eq!(causes(&refused), vec!["subsets[0].addresses[0].ip"; 2]);
    for answer in [refused, cluster.get(path).await, cluster.get(&format!("{path}/none")).await] {
        assert_eq!(
            answer.header("warning"),
            "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
        );
    }
}

#[tokio::test]
async fn events_of_both_groups_are_one_kind_in_refusals() {
    let cluster = Cluster::new().await;
    let event = json!({"metadata": {"name": "-"}, "regarding": {"namespace": "default"}});
    let refused = cluster.post("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    assert!(refused.status().2.starts_with("Event \"-\" is invalid: "), "{}", refused.text());
}

#[tokio::test]
async fn a_gated_pod_says_since_when() {
    let cluster = Cluster::new().await;
    pod(&cluster, "seed").await;
    let body = json!({"metadata": {"name": "x"}, "spec": {"schedulingGates": [{"name": "a/b"}], "containers": [{"name": "c", "image": "i:1"}]}});
    let object = cluster.post(PODS, body).await.ok();
    assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
}

#[tokio::test]
async fn a_json_patch_may_replace_what_is_not_there_and_nulls_in_merged_lists_are_none() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("x", 1)).await.ok();
    let target = format!("{DEPLOYMENTS}/x");
    let replace = json!([{"op": "replace", "path": "/metadata/annotations", "value": {"a": "b"}}]);
    let object = cluster.patch(&target, "json-patch+json", replace).await.ok();
    assert_eq!(object["metadata"]["annotations"], json!({"a": "b"}));
    let containers = json!([{"name": "d", "image": "i:1", "resources": {"requests": {"cpu": null, "memory": "1Mi"}}}]);
    let merge = json!({"spec": {"template": {"spec": {"initContainers": containers}}}});
    let object = cluster.patch(&target, "merge-patch+json", merge).await.ok();
    let requests = &object["spec"]["template"]["spec"]["initContainers"][0]["resources"]["requests"];
    assert_eq!(requests, &json!({"memory": "1Mi"}));
}

/// The values of the `Warning` headers.
fn warnings(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_refusal_says_what_the_request_was_warned_of_before() {
    let cluster = Cluster::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let twice = json!({"metadata": {"name": "BAD", "ownerReferences": [owner, owner]}});
    let refused = cluster.post(MAPS, twice).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        warnings(&refused),
        [
            "299 - \".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u\""
        ]
    );
    let unknown = cluster.post(MAPS, json!({"metadata": {"name": "BAD"}, "odd": 1})).await;
    assert_eq!((unknown.code, warnings(&unknown)), (422, vec!["299 - \"unknown field \\\"odd\\\"\"".to_owned()]));
    // What is said of an object that is accepted is not said of one that is refused.
    cluster.create_map("m", json!({})).await;
    let service = |kind: &str| json!({"metadata": {"name": "s"}, "spec": {"type": kind, "externalIPs": ["010.0.0.1"], "ports": [{"port": 1}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(warnings(&cluster.post(services, service("Odd")).await), [""; 0]);
}

#[tokio::test]
async fn an_empty_list_that_is_always_written_is_null_once_it_is_stored() {
    let cluster = Cluster::new().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": []});
    for query in ["?dryRun=All", ""] {
        let made = cluster.post(&format!("{slices}{query}"), slice.clone()).await.ok();
        assert_eq!((&made["ports"], &made["endpoints"][0]["conditions"]), (&Value::Null, &json!({})));
        assert!(made.as_object().unwrap().contains_key("ports"));
        assert_eq!(
            made["metadata"]["managedFields"][0]["fieldsV1"],
            json!({"f:addressType": {}, "f:endpoints": {}, "f:ports": {}})
        );
    }
    // None and an empty list are the same, so that nothing has changed.
    let one = format!("{slices}/s");
    let patched = cluster.patch(&one, "merge-patch+json", json!({"ports": []})).await.ok();
    assert_eq!((&patched["ports"], &patched["metadata"]["generation"]), (&Value::Null, &json!(1)));
    let patched = cluster.patch(&one, "merge-patch+json", json!({"ports": [{"port": 1}]})).await.ok();
    assert_eq!((&patched["ports"][0]["port"], &patched["metadata"]["generation"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn structures_of_the_server_are_printed_by_their_go_names() {
    let cluster = Cluster::new().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000001Z", "type": "Normal", "reason": "r",
        "action": "a", "reportingController": "a.b/c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    cluster.post(events, event).await.ok();
    let change = json!({"regarding": {"name": "q"}, "action": null});
    let refused = cluster.patch(&format!("{events}/e"), "merge-patch+json", change).await;
    let shown: Vec<String> = refused.json()["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            "action: Required value",
            r#"involvedObject: Invalid value: {"Kind":"Pod","Namespace":"default","Name":"q","UID":"","APIVersion":"","ResourceVersion":"","FieldPath":""}: field is immutable"#,
            r#"action: Invalid value: "": field is immutable"#,
        ]
    );
    pod(&cluster, "p").await;
    let profiled = json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c", "image": "i",
        "securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "f"}}}]}});
    cluster.post(PODS, profiled).await.fails(
        422,
        r#"Pod "q" is invalid: spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: {"Type":"Unconfined","LocalhostProfile":"f"}: can only be set when seccomp type is Localhost"#,
    );
    let twice = json!({"status": {"podIPs": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.3"}]}});
    cluster.patch(&format!("{PODS}/p/status"), "merge-patch+json", twice).await.fails(
        422,
        r#"Pod "p" is invalid: status.podIPs: Invalid value: [{"IP":"10.1.2.3"},{"IP":"10.1.2.3"}]: may specify no more than one IP for each IP family"#,
    );
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24"]}});
    let node = cluster.post("/api/v1/nodes", node).await.ok();
    assert_eq!(node["spec"]["podCIDRs"], json!(["10.1.0.0/24"]), "the older field counts");
    let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
    let twice = json!({"status": {"addresses": [address, address]}});
    cluster.patch("/api/v1/nodes/n/status", "merge-patch+json", twice).await.fails(
        422,
        r#"Node "n" is invalid: status.addresses[1]: Duplicate value: {"Type":"InternalIP","Address":"10.0.0.1"}"#,
    );
}

#[tokio::test]
async fn the_data_of_a_revision_is_one_value() {
    let cluster = Cluster::new().await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    cluster
        .post(revisions, json!({"metadata": {"name": "r"}}))
        .await
        .fails(422, r#"ControllerRevision.apps "r" is invalid: data: Required value: data is mandatory"#);
    cluster
        .post(revisions, json!({"metadata": {"name": "r"}, "revision": 1, "data": {"spec": {"a": null}}}))
        .await
        .ok();
    let one = format!("{revisions}/r");
    cluster.patch(&one, "merge-patch+json", json!({"revision": 2})).await.ok();
    let strategic = cluster.patch(&one, "strategic-merge-patch+json", json!({"data": {"spec": {"b": 1}}})).await;
    strategic.fails(500, r#"unable to find api field in struct RawExtension for the json field "spec""#);
    // Not that it is wanted, but that it cannot change.
    cluster
        .patch(&one, "merge-patch+json", json!({"data": null}))
        .await
        .fails(422, r#"ControllerRevision.apps "r" is invalid: data: Invalid value: null: field is immutable"#);
    cluster
        .patch(&one, "merge-patch+json", json!({"data": {"spec": {"a": null}}}))
        .await
        .fails(422, r#"ControllerRevision.apps "r" is invalid: data: Invalid value: {"spec":{}}: field is immutable"#);
}

#[tokio::test]
async fn small_things_that_go_does_on_the_way() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    // A Pod never has a negative grace; a template has the one that was given.
    let hasty = json!({"metadata": {"name": "q"}, "spec": {"terminationGracePeriodSeconds": -1, "containers": [{"name": "c", "image": "i",
        "resources": {"limits": {"cpu": "0.0001", "memory": 1e30, "ephemeral-storage": "010Gi"}}}]}});
    let made = cluster.post(PODS, hasty).await.ok();
    assert_eq!(made["spec"]["terminationGracePeriodSeconds"], 1);
    // Amounts are whole thousandths, and keep a spelling that needs no change.
    let limits = json!({"cpu": "1m", "memory": "1e+30", "ephemeral-storage": "010Gi"});
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], limits);
    // Labels that are empty are printed so, and yet are none.
    let mut template = deployment("d", 1);
    template["spec"]["template"]["metadata"] = json!({"labels": {}});
    cluster.post(DEPLOYMENTS, template.clone()).await.fails(
        422,
        r#"Deployment.apps "d" is invalid: spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`"#,
    );
    template["spec"]["template"]["metadata"] = json!({});
    cluster.post(DEPLOYMENTS, template).await.fails(
        422,
        r#"Deployment.apps "d" is invalid: spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"#,
    );
    let templates = "/api/v1/namespaces/default/podtemplates";
    let made = cluster.post(templates, json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}})).await.ok();
    assert_eq!(made["template"]["metadata"], json!({}));
    cluster
        .patch(&format!("{templates}/t"), "merge-patch+json", json!({"template": {"metadata": {"labels": {}}}}))
        .await
        .ok();
    assert_eq!(
        cluster.get(&format!("{templates}/t")).await.ok()["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    // A manager's name is no longer in managedFields than in a query.
    cluster.create_map("m", json!({})).await;
    let mut named = cluster.get(&map("m")).await.ok();
    named["metadata"]["managedFields"][0]["manager"] = json!("m".repeat(129));
    cluster.put(&map("m"), named).await.fails(
        422,
        r#"ConfigMap "m" is invalid: metadata.managedFields[0].manager: Too long: may not be more than 128 bytes"#,
    );
}
