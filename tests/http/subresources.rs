//! scale, binding, log, token.

use crate::*;
use server::{
    Objects,
    authz::{Attributes, Authorizer, Decision, Rules},
};

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, deployment("d", 2)).await.ok();
    let target = format!("{DEPLOYMENTS}/d/scale");
    let scale = cluster.get(&target).await.ok();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    let table = cluster.get_as(&target, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.ok();
    let names: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("d"), scale["spec"]["replicas"].clone(), json!(0)]
    );
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=d")));
    let patched = cluster.patch(&target, "merge-patch+json", json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!((&patched["kind"], &patched["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    let mut put = patched.clone();
    put["spec"]["replicas"] = json!(0);
    assert_eq!(cluster.put(&target, put.clone()).await.ok()["spec"], json!({}));
    assert_eq!(cluster.put(&target, put).await.code, 409, "the version is stale");
    let object = cluster.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(0), &json!(3)));
    cluster.patch(&target, "merge-patch+json", json!({"spec": {"replicas": -1}})).await.fails(
        422,
        r#"Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"#,
    );
    cluster
        .patch(&target, "merge-patch+json", json!({"metadata": {"namespace": "other"}}))
        .await
        .fails(400, "the namespace of the provided object does not match the namespace sent on the request");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    cluster.patch(&target, "merge-patch+json", json!({"metadata": {"uid": "u"}})).await.fails(
        409,
        &format!(
            r#"Operation cannot be fulfilled on deployments/scale.apps "d": Precondition failed: UID in precondition: u, UID in object meta: {uid}"#
        ),
    );
}

#[tokio::test]
async fn an_applied_scale_owns_the_replicas_of_the_object() {
    let cluster = Cluster::new().await;
    let send = async |target: String, body: Value| {
        let headers = [("content-type", "application/apply-patch+yaml")];
        cluster.send(&cluster.admin, "PATCH", &target, &headers, body.to_string()).await
    };
    let main = format!("{DEPLOYMENTS}/d");
    send(format!("{main}?fieldManager=one"), deployment("d", 1)).await.ok();
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let target = |query: &str| format!("{main}/scale?fieldManager={query}");
    let owner = |object: &Value| -> Vec<(String, String, String)> {
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let owning = entries.iter().filter(|e| e["fieldsV1"]["f:spec"].get("f:replicas").is_some());
        owning.map(|e| (text(e, "manager"), text(e, "operation"), text(e, "subresource"))).collect()
    };
    let named = |manager: &str, operation: &str, subresource: &str| {
        (manager.to_owned(), operation.to_owned(), subresource.to_owned())
    };
    send(target("two"), scale(2))
        .await
        .fails(409, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    let object = cluster.get(&main).await.ok();
    assert_eq!((object["spec"]["replicas"].clone(), owner(&object)), (json!(1), vec![named("one", "Apply", "")]));

    send(target("two&force=true"), scale(2)).await.ok();
    let object = cluster.get(&main).await.ok();
    assert_eq!((object["spec"]["replicas"].clone(), owner(&object)), (json!(2), vec![named("two", "Apply", "scale")]));

    // Who applies the same value shares it.
    let same = send(target("three"), scale(2)).await.ok();
    assert_eq!(same["spec"]["replicas"], 2);
    let shared = [named("three", "Apply", "scale"), named("two", "Apply", "scale")];
    assert_eq!(owner(&cluster.get(&main).await.ok()), shared);

    // A plain write takes it, and its owner is named with the version of the Scale.
    let patch = [("content-type", "application/merge-patch+json")];
    let text = json!({"spec": {"replicas": 4}}).to_string();
    cluster.send(&cluster.admin, "PATCH", &target("four"), &patch, text).await.ok();
    assert_eq!(owner(&cluster.get(&main).await.ok()), [named("four", "Update", "scale")]);
    send(target("two"), scale(3)).await.fails(
        409,
        "Apply failed with 1 conflict: conflict with \"four\" with subresource \"scale\" using autoscaling/v1: .spec.replicas",
    );
    let mut other = scale(3);
    other["metadata"]["name"] = json!("e");
    send(target("two&force=true"), other)
        .await
        .fails(400, "the name of the object (e) does not match the name on the URL (d)");
    send(format!("{DEPLOYMENTS}/none/scale?fieldManager=x"), scale(1))
        .await
        .fails(404, "deployments/scale.apps \"none\" not found");
}

#[tokio::test]
async fn a_binding_gives_a_pod_its_node_once() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let body = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let answer = cluster.post(&format!("{PODS}/p/binding"), body.clone()).await;
    assert_eq!((answer.code, answer.json()["status"].as_str()), (201, Some("Success")));
    let bound = cluster.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n");
    let scheduled =
        bound["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "PodScheduled").unwrap();
    assert_eq!(scheduled["status"], "True");
    cluster
        .post("/api/v1/namespaces/default/bindings", body.clone())
        .await
        .fails(409, r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#);
    cluster.post(&format!("{PODS}/q/binding"), body).await.status();
    let on_node = cluster.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn").await.ok();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_eviction_marks_a_pod_and_deletes_it_by_its_options() {
    let cluster = Cluster::new().await;
    let uid = pod(&cluster, "p").await["metadata"]["uid"].clone();
    let target = format!("{PODS}/p");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    cluster.post(&format!("{target}/binding"), binding).await.ok();
    let before = cluster.get(&target).await.ok()["metadata"]["resourceVersion"].clone();
    let evict = async |name: &str, options: Value| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}, "deleteOptions": options});
        cluster.post(&format!("{target}/eviction"), body).await
    };

    evict("q", json!({})).await.fails(400, "name in URL does not match name in Eviction object");
    let why = format!(
        "Operation cannot be fulfilled on Pod \"p\": the UID in the precondition (u) does not match the UID in record ({}). The object might have been deleted and then recreated",
        uid.as_str().unwrap()
    );
    evict("p", json!({"preconditions": {"uid": "u"}})).await.fails(409, &why);
    assert_eq!(evict("p", json!({"preconditions": {"resourceVersion": "1"}})).await.code, 409);
    evict("p", json!({"dryRun": ["All"]})).await.ok();
    assert_eq!(cluster.get(&target).await.ok()["metadata"]["resourceVersion"], before, "nothing was done so far");

    let options = json!({"gracePeriodSeconds": 7, "preconditions": {"uid": uid, "resourceVersion": before}});
    let answer = evict("p", options).await;
    assert_eq!((answer.code, &answer.json()["status"]), (201, &json!("Success")));
    let evicted = cluster.get(&target).await.ok();
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let mark = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&mark["status"], &mark["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));

    evict("p", json!({"gracePeriodSeconds": 0})).await.ok();
    evict("p", json!({})).await.fails(404, "pods \"p\" not found");
    pod(&cluster, "p").await;
    evict("p", Value::Null).await.ok();
    assert_eq!(cluster.get(&target).await.code, 404, "it was on no node");
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let cluster = Cluster::new().await;
    for (name, node) in [("p", "n"), ("q", "picky"), ("r", "gone")] {
        pod(&cluster, name).await;
        let body = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        assert_eq!(cluster.get(&format!("{PODS}/{name}/log")).await.text(), "", "no node yet");
        cluster.post(&format!("{PODS}/{name}/binding"), body).await.ok();
    }
    let log = cluster.get(&format!("{PODS}/p/log?tailLines=3&timestamps=true&unknown=1")).await;
    assert_eq!(content_type(&log), "text/plain");
    assert_eq!(log.text(), "n /containerLogs/default/p/c?timestamps=true&tailLines=3");
    cluster.get(&format!("{PODS}/p/log?container=x")).await.fails(400, "container x is not valid for pod p");
    cluster
        .get(&format!("{PODS}/q/log"))
        .await
        .fails(400, r#"container "c" in pod "p" is waiting to start: ContainerCreating"#);
    assert_eq!(cluster.get(&format!("{PODS}/r/log")).await.code, 500);
    cluster.get(&format!("{PODS}/x/log")).await.fails(404, r#"pods "x" not found"#);
}

#[tokio::test]
async fn a_token_authenticates_its_account_until_its_pod_is_gone() {
    let cluster = Cluster::new().await;
    let object = pod(&cluster, "p").await;
    let target = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": object["metadata"]["uid"]});
    let request = cluster.post(target, json!({"spec": {"boundObjectRef": bound}})).await;
    assert_eq!(request.code, 201);
    let request = request.json();
    assert_eq!(
        (&request["kind"], &request["apiVersion"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io/v1"))
    );
    assert_eq!(request["status"]["expirationTimestamp"], "2026-01-02T04:04:05Z");
    let token = request["status"]["token"].as_str().unwrap();
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let info = auth::bearer(&cluster, token, "POST", review, "{}").await.ok()["status"]["userInfo"].clone();
    assert_eq!(info["username"], "system:serviceaccount:default:default");
    assert_eq!(
        info["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(info["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    cluster.seconds.fetch_add(3600, Ordering::SeqCst);
    assert_eq!(auth::bearer(&cluster, token, "POST", review, "{}").await.code, 401, "expired");
    cluster.seconds.fetch_sub(3600, Ordering::SeqCst);
    cluster.delete(&format!("{PODS}/p"), Value::Null).await.ok();
    assert_eq!(auth::bearer(&cluster, token, "POST", review, "{}").await.code, 401, "the pod is gone");
    cluster.post(target, json!({"spec": {"expirationSeconds": 5}})).await.fails(
        422,
        r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"#,
    );
    cluster
        .post(target, json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}}))
        .await
        .fails(404, r#"pods "none" not found"#);
}

/// Lets everybody read, and the rest nobody.
struct Readers;

#[async_trait::async_trait]
impl Authorizer for Readers {
    async fn authorize(&self, _: &dyn Objects, user: &User, wanted: &Attributes<'_>) -> Decision {
        let may = user.name != "reader" || wanted.verb == "get";
        if may { Decision::Allow } else { Decision::NoOpinion }
    }

    async fn rules_for(&self, _: &dyn Objects, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

#[tokio::test]
async fn to_open_a_stream_is_to_create_also_by_get() {
    let cluster = Cluster::with(|_, parts| parts.authorizer = Arc::new(Readers)).await;
    pod(&cluster, "p").await;
    let reader = cluster.server.service_for(User::new("reader", &[]));
    for subresource in ["exec", "attach", "portforward"] {
        let target = format!("{PODS}/p/{subresource}?command=ls&stdout=1&ports=80");
        let answer = cluster.send(&reader, "GET", &target, &[], Body::empty()).await;
        let text = "User \"reader\" cannot create resource \"pods/SUB\" in API group \"\" in the namespace \"default\"";
        answer.fails(403, &format!("pods \"p\" is forbidden: {}", text.replace("SUB", subresource)));
        cluster.get(&target).await.fails(400, "pod p does not have a host assigned");
    }
}

#[tokio::test]
async fn resources_of_a_pod_are_resized_and_nothing_else_changes() {
    let cluster = Cluster::new().await;
    let target = format!("{PODS}/p/resize");
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"memory": "64Mi"}});
    let made = |cpu: &str| {
        let container = json!({"name": "c", "image": "i:1", "resources": resources(cpu)});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}})
    };
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "1"}}});
    let account = json!({"metadata": {"name": "default"}});
    cluster.post("/api/v1/namespaces/default/serviceaccounts", account).await.ok();
    cluster.post("/api/v1/namespaces/default/resourcequotas", quota).await.ok();
    let before = cluster.post(PODS, made("100m")).await.ok();
    assert_eq!(cluster.get(&target).await.ok()["kind"], "Pod");
    let strategic = async |resources: Value| {
        let container = json!({"name": "c", "image": "other:1", "resources": resources});
        let body = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container], "hostname": "h"}});
        cluster.patch(&format!("{target}?fieldManager=m"), "strategic-merge-patch+json", body).await
    };
    let after = strategic(resources("200m")).await.ok();
    let container = &after["spec"]["containers"][0];
    assert_eq!((&container["resources"], &container["image"]), (&resources("200m"), &json!("i:1")));
    assert_eq!(after["spec"]["hostname"], Value::Null);
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    let generation = |pod: &Value| pod["metadata"]["generation"].as_i64().unwrap();
    assert_eq!(generation(&after), generation(&before) + 1);
    let managers = after["metadata"]["managedFields"].as_array().unwrap();
    let own = managers.iter().find(|entry| entry["subresource"] == "resize").expect("an owner");
    let container = json!({"f:resources": {"f:requests": {"f:cpu": {}}}});
    assert_eq!(
        (&own["manager"], &own["fieldsV1"]),
        (&json!("m"), &json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": container}}}))
    );

    for (resources, code, text) in [
        (
            json!({"limits": {"cpu": "1", "memory": "32Mi"}}),
            422,
            "requests: Invalid value: \"64Mi\": must be less than or equal to memory limit of 32Mi",
        ),
        (
            json!({"requests": {"cpu": "1500m"}}),
            403,
            "exceeded quota: q, requested: requests.cpu=1300m, used: requests.cpu=200m, limited: requests.cpu=1",
        ),
        (
            json!({"requests": {"cpu": null}}),
            422,
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ),
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}}),
            422,
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            json!({"limits": {"cpu": "200m"}}),
            422,
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
        ),
    ] {
        let answer = strategic(resources).await;
        let (status, _, message) = answer.status();
        assert!(status == code && message.contains(text), "{message}");
    }
    // A node that does not tell the resources of what runs cannot change them.
    let status = json!({"status": {"containerStatuses": [{"name": "c", "image": "i:1", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {}}}]}});
    cluster.patch(&format!("{PODS}/p/status"), "merge-patch+json", status).await.ok();
    strategic(resources("300m"))
        .await
        .fails(422, "Pod \"p\" is invalid: spec: Forbidden: Pod running on node without support for resize");
    // By the pod itself they cannot be changed at all.
    let mut put = cluster.get(&format!("{PODS}/p")).await.ok();
    put["spec"]["containers"][0]["resources"] = resources("300m");
    let answer = cluster.put(&format!("{PODS}/p"), put).await;
    let (code, _, message) = answer.status();
    assert!(code == 422 && message.contains("pod updates may not change fields other than"), "{message}");
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_nothing_else_changes() {
    let cluster = Cluster::new().await;
    pod(&cluster, "p").await;
    let target = format!("{PODS}/p/ephemeralcontainers");
    let before = cluster.get(&target).await.ok();
    assert_eq!(before["kind"], "Pod");
    let add = |container: Value| json!({"metadata": {"labels": {"debugged": "1"}}, "spec": {"ephemeralContainers": [container], "terminationGracePeriodSeconds": 7}});
    let strategic = async |container: Value| cluster.patch(&target, "strategic-merge-patch+json", add(container)).await;
    let debugger =
        json!({"name": "debugger", "image": "tools:1", "stdin": true, "tty": true, "targetContainerName": "c"});
    let after = strategic(debugger.clone()).await.ok();
    let container = &after["spec"]["ephemeralContainers"][0];
    assert_eq!(
        (
            &container["name"],
            &container["imagePullPolicy"],
            &container["terminationMessagePath"],
            &container["resources"]
        ),
        (&json!("debugger"), &json!("IfNotPresent"), &json!("/dev/termination-log"), &json!({}))
    );
    assert_eq!(after["metadata"]["labels"]["debugged"], "1");
    assert_eq!(after["spec"]["terminationGracePeriodSeconds"], before["spec"]["terminationGracePeriodSeconds"]);
    let generation = |pod: &Value| pod["metadata"]["generation"].as_i64().unwrap();
    assert_eq!(generation(&after), generation(&before) + 1);

    // a merge by name adds another one
    let both = strategic(json!({"name": "second", "image": "tools:1"})).await.ok();
    assert_eq!(both["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    for (container, text) in [
        (
            json!({"name": "debugger", "image": "other:1"}),
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may not be changed\n",
        ),
        (json!({"name": "c", "image": "tools:1"}), "].name: Duplicate value: \"c\""),
        (
            json!({"name": "third", "image": "tools:1", "targetContainerName": "x"}),
            "].targetContainerName: Not found: \"x\"",
        ),
        (
            json!({"name": "third", "image": "tools:1", "ports": [{"containerPort": 80}]}),
            "].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        let answer = strategic(container).await;
        let (code, _, message) = answer.status();
        assert!(code == 422 && message.contains(text), "{message}");
    }
    let mut removed = both.clone();
    removed["spec"]["ephemeralContainers"].as_array_mut().unwrap().remove(0);
    let answer = cluster.put(&target, removed.clone()).await;
    let (code, _, message) = answer.status();
    assert!(code == 422 && message.contains("may not be removed\n"), "{message}");
    // by the pod itself they cannot be changed at all
    let answer = cluster.put(&format!("{PODS}/p"), removed).await;
    let (code, _, message) = answer.status();
    assert!(code == 422 && message.contains("pod updates may not change fields other than"), "{message}");
}

#[tokio::test]
async fn a_patch_of_a_status_finds_what_the_defaults_and_the_paths_need() {
    let cluster = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/c", "ports": [{"port": 80}]});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec});
    cluster.post(services, service).await.ok();
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let patched = cluster.patch(&format!("{services}/s/status"), "merge-patch+json", ingress).await.ok();
    assert_eq!(patched["status"]["loadBalancer"]["ingress"], json!([{"ip": "203.0.113.1", "ipMode": "VIP"}]));
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}});
    let claim = cluster.post(claims, claim).await.ok();
    assert_eq!(claim["status"], json!({}), "it is written from the start");
    let add = json!([{"op": "add", "path": "/status/allocation", "value": {}}]);
    let patched = cluster.patch(&format!("{claims}/c/status"), "json-patch+json", add).await.ok();
    assert!(patched["status"]["allocation"].is_object(), "{patched}");
}
