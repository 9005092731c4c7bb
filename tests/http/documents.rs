//! Discovery, OpenAPI, version, health, issuer, bootstrap.

use crate::*;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn aggregated_discovery_says_what_it_is_and_can_be_cached() {
    let cluster = Cluster::new().await;
    let answer = cluster.get_as("/apis", AGGREGATED).await;
    assert_eq!(content_type(&answer), "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!((answer.header("vary"), answer.header("cache-control")), ("Accept", "public"));
    let body = answer.json();
    assert_eq!(
        (&body["kind"], &body["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let apps = body["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
    let deployments = apps["versions"][0]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["resource"] == "deployments")
        .unwrap()
        .clone();
    assert_eq!(deployments["responseKind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert_eq!((&deployments["scope"], &deployments["shortNames"]), (&json!("Namespaced"), &json!(["deploy"])));
    let scale = deployments["subresources"].as_array().unwrap().iter().find(|s| s["subresource"] == "scale").unwrap();
    assert_eq!(scale["responseKind"]["group"], "autoscaling");
    let headers = [("accept", AGGREGATED), ("if-none-match", answer.header("etag"))];
    let again = cluster.send(&cluster.admin, "GET", "/apis", &headers, Body::empty()).await;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
    let core = cluster.get_as("/api", AGGREGATED).await.json();
    assert!(core["items"][0]["metadata"].get("name").is_none());
}

#[tokio::test]
async fn legacy_discovery_lists_groups_and_resources() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.get("/api").await.json()["versions"], json!(["v1"]));
    let groups = cluster.get("/apis").await.json();
    assert_eq!(groups["kind"], "APIGroupList");
    for group in groups["groups"].as_array().unwrap() {
        assert!(group["versions"].as_array().unwrap().contains(&group["preferredVersion"]));
        let one = cluster.get(&format!("/apis/{}", group["name"].as_str().unwrap())).await.json();
        assert_eq!(one["kind"], "APIGroup");
        let list =
            cluster.get(&format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap())).await.json();
        assert_eq!(list["kind"], "APIResourceList");
    }
    let core = cluster.get("/api/v1").await;
    // Scripts look for pieces of the text, in the order of Go's fields.
    let verbs = r#"["create","delete","deletecollection","get","list","patch","update","watch"]"#;
    let maps = r#"{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":"#;
    let piece = format!(r#"{maps}{verbs},"shortNames":["cm"],"storageVersionHash":""#);
    assert!(core.text().contains(&piece), "{}", core.text());
    let core = core.json();
    let named = |name: &str| core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap();
    assert_eq!(named("pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert_eq!(named("serviceaccounts/token")["group"], "authentication.k8s.io");
    assert_eq!(named("pods/log")["verbs"], json!(["get"]));
    assert_eq!(cluster.get("/apis/none").await.code, 404);
}

#[tokio::test]
async fn openapi_v3_is_found_by_hash_and_says_what_kubectl_looks_for() {
    let cluster = Cluster::new().await;
    let index = cluster.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let answer = cluster.get(&url).await;
    assert_eq!(answer.header("cache-control"), "public, immutable");
    assert!(answer.header("etag").starts_with('"'));
    let document = answer.json();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert!(
        patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
    );
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let schemas = &document["components"]["schemas"];
    assert!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"].is_array());
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let wrong = cluster.get("/openapi/v3/apis/apps/v1?hash=OLD").await;
    assert_eq!((wrong.code, wrong.header("location")), (301, url.as_str()));
    let headers = [("if-none-match", answer.header("etag"))];
    assert_eq!(cluster.send(&cluster.admin, "GET", &url, &headers, Body::empty()).await.code, 304);
    let packed = cluster.send(&cluster.admin, "GET", &url, &[("accept-encoding", "gzip")], Body::empty()).await;
    assert_eq!((packed.header("content-encoding"), &packed.bytes[..2]), ("gzip", &[0x1f, 0x8b][..]));
    assert_eq!(cluster.get("/openapi/v3/apis/none/v1").await.code, 404);
}

#[tokio::test]
async fn every_reference_in_openapi_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str() {
                        Some(text) if key == "$ref" => found.push(text),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let cluster = Cluster::new().await;
    let mut documents = vec![cluster.get("/openapi/v2").await.json()];
    let index = cluster.get("/openapi/v3").await.json();
    for entry in index["paths"].as_object().unwrap().values() {
        documents.push(cluster.get(entry["serverRelativeURL"].as_str().unwrap()).await.json());
    }
    for document in &documents {
        let mut found = Vec::new();
        references(document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
    assert_eq!(documents[0]["swagger"], "2.0");
}

#[tokio::test]
async fn version_is_what_clients_parse() {
    let cluster = Cluster::new().await;
    let version = cluster.get("/version").await.json();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36.0+sampan"));
}

#[tokio::test]
async fn health_names_its_checks() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.get("/readyz").await.text(), "ok");
    cluster.server.checks().register("informers", true, || Err("not yet".into()));
    let failed = cluster.get("/readyz").await;
    assert_eq!(
        (failed.code, failed.text().as_str()),
        (
            500,
            "[+]ping ok\n[+]store ok\n[+]poststarthook/rbac/bootstrap-roles ok\n[-]informers failed: not yet\nreadyz check failed\n"
        )
    );
    assert_eq!(cluster.get("/livez?verbose").await.text(), "[+]ping ok\nlivez check passed\n");
    assert_eq!(cluster.get("/readyz?exclude=informers").await.code, 200);
    assert_eq!(cluster.get("/readyz/ping").await.text(), "ok");
    assert_eq!(cluster.get("/readyz/none").await.code, 404);
}

#[tokio::test]
async fn the_issuer_publishes_its_keys() {
    let cluster = Cluster::new().await;
    let configuration = cluster.get("/.well-known/openid-configuration").await.json();
    assert_eq!(configuration["jwks_uri"], "https://kubernetes.default.svc.cluster.local/openid/v1/jwks");
    let keys = cluster.get("/openid/v1/jwks").await;
    assert_eq!(content_type(&keys), "application/jwk-set+json");
    assert_eq!(keys.json()["keys"][0]["kty"], "EC");
}

#[tokio::test]
async fn metrics_are_text() {
    let cluster = Cluster::new().await;
    cluster.get("/version").await;
    assert!(cluster.get("/metrics").await.text().contains("apiserver_request_total"));
}

#[tokio::test]
async fn people_get_indented_answers() {
    let cluster = Cluster::new().await;
    let pretty = cluster
        .send(&cluster.admin, "GET", "/api/v1/namespaces/default", &[("user-agent", "curl/8")], Body::empty())
        .await;
    assert!(pretty.text().starts_with("{\n  \""));
    assert!(cluster.get("/api/v1/namespaces/default?pretty=true").await.text().starts_with("{\n"));
    assert!(!cluster.get("/api/v1/namespaces/default").await.text().contains('\n'));
}

#[tokio::test]
async fn what_must_exist_exists_and_is_put_right() {
    let cluster = Cluster::new().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = cluster.get(&format!("/api/v1/namespaces/{namespace}")).await.ok();
        assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], namespace);
        assert_eq!(object["status"]["phase"], "Active");
    }
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]),
        (&json!("10.96.0.1"), &json!(443))
    );
    let slice = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok();
    assert_eq!(
        (&slice["endpoints"][0]["addresses"], &slice["ports"][0]["port"]),
        (&json!(["10.32.0.1"]), &json!(6443))
    );
    assert_eq!(
        cluster.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/apiserver-test").await.code,
        200
    );
}

#[tokio::test]
async fn each_runtime_has_a_runtime_class_and_those_of_users_stay_as_they_are() {
    let cluster = Cluster::new().await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    assert_eq!(cluster.get(classes).await.ok()["items"], json!([]), "there are no runtimes");
    let own = json!({"metadata": {"name": "wasmtime"}, "handler": "own", "scheduling": {"nodeSelector": {"a": "b"}}});
    let own = cluster.post(classes, own).await.ok();
    let runtimes = ["wasmtime", "wasmtime-isolated"].map(str::to_owned).into();
    let settings = kinds::Settings { runtimes, ..harness::settings("test") };
    let clock = api::Clock::new(|| jiff::Timestamp::from_second(NOW).unwrap());
    let bootstrap = kinds::bootstrap::Bootstrap::new(&cluster.server, settings, clock);
    bootstrap.ensure().await.unwrap();
    let class = cluster.get(&format!("{classes}/wasmtime-isolated")).await.ok();
    assert_eq!(class["handler"], "wasmtime-isolated");
    assert_eq!(cluster.get(&format!("{classes}/wasmtime")).await.ok(), own);
    cluster.delete(&format!("{classes}/wasmtime-isolated"), json!({})).await.ok();
    bootstrap.ensure().await.unwrap();
    assert_eq!(cluster.get(&format!("{classes}/wasmtime-isolated")).await.code, 200, "it is made again");
}

#[tokio::test]
async fn service_kube_dns_is_there_and_stays_as_users_write_it() {
    const KUBE_DNS: &str = "/api/v1/namespaces/kube-system/services/kube-dns";
    let cluster = Cluster::new().await;
    assert_eq!(cluster.get(KUBE_DNS).await.code, 404, "there is no server");
    let settings = kinds::Settings { dns: Some([10, 96, 0, 10].into()), ..harness::settings("test") };
    let clock = api::Clock::new(|| jiff::Timestamp::from_second(NOW).unwrap());
    let bootstrap = kinds::bootstrap::Bootstrap::new(&cluster.server, settings, clock);
    bootstrap.ensure().await.unwrap();
    let service = cluster.get(KUBE_DNS).await.ok();
    assert_eq!(
        service["metadata"]["labels"],
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"})
    );
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["selector"]), (&json!("10.96.0.10"), &Value::Null));
    let ports = json!([
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
        {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53}
    ]);
    assert_eq!(service["spec"]["ports"], ports);
    let taken = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/services", taken.clone()).await.code, 422);
    // somebody has a DNS server of their own
    let mut own = service.clone();
    own["spec"]["selector"] = json!({"k8s-app": "coredns"});
    let own = cluster.put(KUBE_DNS, own).await.ok();
    bootstrap.ensure().await.unwrap();
    assert_eq!(cluster.get(KUBE_DNS).await.ok(), own);
    // where the address is taken, the rest of the cluster is there
    cluster.delete(KUBE_DNS, json!({})).await.ok();
    cluster.post("/api/v1/namespaces/default/services", taken).await.ok();
    bootstrap.ensure().await.unwrap();
    assert_eq!(cluster.get(KUBE_DNS).await.code, 404);
    cluster.delete("/api/v1/namespaces/default/services/a", json!({})).await.ok();
    bootstrap.ensure().await.unwrap();
    assert_eq!(cluster.get(KUBE_DNS).await.code, 200, "it is made again");
}

#[tokio::test]
async fn openapi_v2_is_protobuf_for_those_who_ask_and_json_for_others() {
    let cluster = Cluster::new().await;
    for accepted in [
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ] {
        let answer = cluster.get_as("/openapi/v2", accepted).await;
        assert_eq!(content_type(&answer), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
        assert!(answer.bytes.len() > 100_000 && answer.bytes.windows(5).any(|w| w == b"\n\x032.0"));
    }
    for accepted in
        ["application/json", "*/*", "application/json,application/com.github.proto-openapi.spec.v2@v1.0+protobuf"]
    {
        let answer = cluster.get_as("/openapi/v2", accepted).await;
        assert_eq!((content_type(&answer), &answer.json()["swagger"]), ("application/json", &json!("2.0")));
    }
}

#[tokio::test]
async fn documents_are_unpacked_for_as_many_as_there_is_memory_for() {
    let cluster = Cluster::new().await;
    let ask = async |encoding: &str| {
        let request = Request::get("/openapi/v2").header("accept-encoding", encoding).body(Body::empty()).unwrap();
        cluster.admin.handle(request).await
    };
    let mut unread = Vec::new();
    let refused = loop {
        let answer = ask("identity").await;
        if answer.status() != 200 {
            break answer;
        }
        unread.push(answer);
        assert!(unread.len() < 1_000, "more than there is memory for");
    };
    assert_eq!(refused.status(), 429);
    assert!(unread.len() > 10, "{}", unread.len());
    assert_eq!(ask("gzip").await.status(), 200, "nothing is unpacked");
    drop(unread);
    assert_eq!(ask("identity").await.status(), 200);
}
