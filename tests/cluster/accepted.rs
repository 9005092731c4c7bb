//! Whatever the API accepts, everybody can live with: it is listed, watched and read as its type, it stops no component and no start, and
//! it can be deleted. Thousands of mutants of every kind, from a seed.

use crate::{
    acceptedkinds,
    mutants::{few, mutate},
    world::{DEPLOYMENTS, World, complete, condition, deployment},
};
use api::{GroupVersionKind, schema::Schema};
use client::{Kind, ListOptions};
use fastrand::Rng;
use http::Method;
use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch, certificates::v1 as certificates,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

/// A request for a certificate, as openssl makes it, in base64.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQlFEQ0I2QUlCQURBc01RMHdDd1lEVlFRS0RBUmtaWFp6TVF3d0NnWURWUVFLREFOdmNITXhEVEFMQmdOVgpCQU1NQkdwaGJtVXdXVEFUQmdjcWhrak9QUUlCQmdncWhrak9QUU1CQndOQ0FBVDcyQTJYZkt3SVY2bWZzQ1g3CjJDclRNaENScngzNFJyUSswQ2p5bHBwd0ZZcHBDVUxpNm43OHFiY0dIcTB5aFBaL1Znem93b0JIY3RVVldKVWMKNEFjY29Gb3dXQVlKS29aSWh2Y05BUWtPTVVzd1NUQkhCZ05WSFJFRVFEQStnZ2xoTG1WNFlXMXdiR1dIQkFvQQpBQUdIRUFBQUFBQUFBQUFBQUFBQUFBQUFBQUdCQzJGQVlpNWxlR0Z0Y0d4bGhneHpjR2xtWm1VNkx5OTRMM2t3CkNnWUlLb1pJemowRUF3SURSd0F3UkFJZ0ZWSUtpVm9iTGFjd3FGc2hBTnljVzJ0cU9zNE16RkN6M3RFY1hOUWYKVjFFQ0lGN1AyellMZzN0ZjhRM3UzMFlyMXU1MXFTcDlvRnppTkFvV01iSXVFcmU3Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

/// A kind that is served, and an object of it that is taken.
struct Served {
    kind: GroupVersionKind,
    /// Of the collection in namespace `default`, or of the cluster.
    path: &'static str,
    whole: Value,
}

impl Served {
    fn body(&self, name: &str) -> Value {
        let mut body = self.whole.clone();
        body["apiVersion"] = self.kind.api_version().into();
        body["kind"] = self.kind.kind.clone().into();
        body["metadata"]["name"] = name.into();
        // Some are called after what they are.
        let short = name.trim_end_matches(".example.com");
        match self.kind.kind.as_str() {
            "APIService" => {
                body["metadata"]["name"] = format!("{short}.example.com").into();
                body["spec"]["version"] = short.into();
            }
            "CustomResourceDefinition" => {
                body["metadata"]["name"] = format!("{short}.example.com").into();
                body["spec"]["names"]["plural"] = short.into();
            }
            _ => {}
        }
        body
    }

    fn schema(&self) -> Schema {
        Schema::for_kind(&self.kind).unwrap()
    }
}

fn served() -> Vec<Served> {
    let spec = json!({"containers": [{"name": "c", "image": "i:1", "env": [{"name": "A", "value": "b"}],
        "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "1m"}}, "livenessProbe": {"tcpSocket": {"port": 80}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1});
    let template = json!({"metadata": {"labels": {"app": "mutant"}}, "spec": spec});
    let selected = json!({"replicas": 1, "selector": {"matchLabels": {"app": "mutant"}}, "template": template});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    let autoscaler = json!({"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}});
    let about = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let table = [
        (
            "v1 ConfigMap",
            "/api/v1/namespaces/default/configmaps",
            json!({"data": {"k": "v"}, "binaryData": {"b": "AA=="}}),
        ),
        (
            "v1 Endpoints",
            "/api/v1/namespaces/default/endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]}),
        ),
        (
            "v1 Event",
            "/api/v1/namespaces/default/events",
            json!({"involvedObject": about, "reason": "R", "message": "m", "type": "Normal", "count": 1, "series": {"count": 2}}),
        ),
        (
            "v1 LimitRange",
            "/api/v1/namespaces/default/limitranges",
            json!({"spec": {"limits": [{"type": "PersistentVolumeClaim", "min": {"storage": "1"}, "max": {"storage": "9Gi"}}]}}),
        ),
        ("v1 Namespace", "/api/v1/namespaces", json!({})),
        (
            "v1 Node",
            "/api/v1/nodes",
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}], "podCIDR": "10.9.0.0/24"}}),
        ),
        (
            "v1 PersistentVolume",
            "/api/v1/persistentvolumes",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Delete",
                "csi": {"driver": "d.example", "volumeHandle": "h"}, "claimRef": {"namespace": "default", "name": "m0"}}}),
        ),
        (
            "v1 PersistentVolumeClaim",
            "/api/v1/namespaces/default/persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "local"}}),
        ),
        ("v1 Pod", "/api/v1/namespaces/default/pods", json!({"spec": spec})),
        ("v1 PodTemplate", "/api/v1/namespaces/default/podtemplates", json!({"template": template})),
        (
            "v1 ReplicationController",
            "/api/v1/namespaces/default/replicationcontrollers",
            json!({"spec": {"replicas": 1, "selector": {"app": "mutant"}, "template": template}}),
        ),
        (
            "v1 ResourceQuota",
            "/api/v1/namespaces/default/resourcequotas",
            json!({"spec": {"hard": {"count/leases.coordination.k8s.io": "1k"}}}),
        ),
        ("v1 Secret", "/api/v1/namespaces/default/secrets", json!({"data": {"k": "dg=="}, "stringData": {"s": "v"}})),
        (
            "v1 ServiceAccount",
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"secrets": [{"name": "s"}], "imagePullSecrets": [{"name": "p"}]}),
        ),
        (
            "v1 Service",
            "/api/v1/namespaces/default/services",
            json!({"spec": {"selector": {"app": "mutant"}, "ports": [{"port": 80}], "type": "NodePort"}}),
        ),
        (
            "apps/v1 ControllerRevision",
            "/apis/apps/v1/namespaces/default/controllerrevisions",
            json!({"data": {"a": 1}, "revision": 1}),
        ),
        ("apps/v1 Deployment", "/apis/apps/v1/namespaces/default/deployments", json!({"spec": selected})),
        ("apps/v1 ReplicaSet", "/apis/apps/v1/namespaces/default/replicasets", json!({"spec": selected})),
        ("apps/v1 DaemonSet", "/apis/apps/v1/namespaces/default/daemonsets", json!({"spec": selected})),
        ("apps/v1 StatefulSet", "/apis/apps/v1/namespaces/default/statefulsets", json!({"spec": selected})),
        (
            "batch/v1 CronJob",
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once}}}}),
        ),
        (
            "autoscaling/v1 HorizontalPodAutoscaler",
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": autoscaler["scaleTargetRef"]}}),
        ),
        ("autoscaling/v2 HorizontalPodAutoscaler", AUTOSCALERS, json!({"spec": autoscaler})),
        ("batch/v1 Job", "/apis/batch/v1/namespaces/default/jobs", json!({"spec": {"template": once}})),
        (
            "events.k8s.io/v1 Event",
            "/apis/events.k8s.io/v1/namespaces/default/events",
            json!({"regarding": about, "reason": "R", "note": "m", "type": "Normal", "action": "A",
                "reportingController": "c", "reportingInstance": "i", "eventTime": "2026-01-01T00:00:00.000000Z",
                "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
        ),
        (
            "policy/v1 PodDisruptionBudget",
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "mutant"}}}}),
        ),
        ("scheduling.k8s.io/v1 PriorityClass", "/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 5})),
        (
            "coordination.k8s.io/v1 Lease",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            json!({"spec": {"holderIdentity": "h", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 5}}),
        ),
        (
            "storage.k8s.io/v1 StorageClass",
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"provisioner": "local.sampan.dev", "parameters": {"a": "b"}, "allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b"]}]}]}),
        ),
        (
            "certificates.k8s.io/v1 CertificateSigningRequest",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            json!({"spec": {"request": REQUEST, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
                "expirationSeconds": 600}}),
        ),
        (
            "rbac.authorization.k8s.io/v1 ClusterRole",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}]}),
        ),
        (
            "rbac.authorization.k8s.io/v1 Role",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}]}),
        ),
        (
            "rbac.authorization.k8s.io/v1 RoleBinding",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "default"}]}),
        ),
        ("node.k8s.io/v1 RuntimeClass", "/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "wasmtime"})),
        (
            "discovery.k8s.io/v1 EndpointSlice",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"port": 80}]}),
        ),
    ];
    let kind = |text: &str| {
        let (version, kind) = text.split_once(' ').unwrap();
        GroupVersionKind::from_api_version(version, kind)
    };
    table.into_iter().map(|(name, path, whole)| Served { kind: kind(name), path, whole }).collect()
}

/// All kinds: those that components read as types, and the others.
fn all_served() -> Vec<Served> {
    let kind = |text: &str| {
        let (version, kind) = text.split_once(' ').unwrap();
        GroupVersionKind::from_api_version(version, kind)
    };
    let others = acceptedkinds::table().into_iter();
    served().into_iter().chain(others.map(|(name, path, whole)| Served { kind: kind(name), path, whole })).collect()
}

/// The name of an IPAddress is an address: no mutant has one.
const OWN_NAMES: &str = "networking.k8s.io/v1, Kind=IPAddress";

/// One request: a create, an update, or a patch of the object or its status.
async fn send(world: &World, served: &Served, names: &mut Vec<String>, number: usize, rng: &mut Rng) -> bool {
    let schema = served.schema();
    let mut changes = |value: &mut Value, schema: &Schema| {
        (0..=rng.u8(..3)).for_each(|_| mutate(value, schema, rng));
        few(value);
    };
    let (how, pick, yaml) = (number % 7, number / 7, number.is_multiple_of(3));
    if how < 3 || names.is_empty() {
        let name = format!("m{number}");
        let mut body = served.body(&name);
        changes(&mut body, &schema);
        let done = call(world, Method::POST, served.path, text(&body, yaml)).await;
        if done {
            // it may have been given another one
            names.push(body["metadata"]["name"].as_str().unwrap_or(&name).to_owned());
        }
        return done;
    }
    let path = format!("{}/{}", served.path, names[pick % names.len()]);
    match how {
        3 => {
            let Ok(mut body) = world.try_call("GET", &path, Value::Null).await else { return false };
            changes(&mut body, &schema);
            call(world, Method::PUT, &path, text(&body, yaml)).await
        }
        4 => {
            let mut body = json!({"metadata": {"labels": {"a": "b"}}});
            changes(&mut body, &schema);
            let media = ["application/merge-patch+json", "application/strategic-merge-patch+json"][pick % 2];
            call(world, Method::PATCH, &path, (media, body.to_string())).await
        }
        5 => {
            let mut body = served.body(path.rsplit('/').next().unwrap());
            changes(&mut body, &schema);
            let path = format!("{path}?fieldManager=mutant&force=true");
            call(world, Method::PATCH, &path, ("application/apply-patch+yaml", body.to_string())).await
        }
        _ => {
            let Some(status) = schema.field("status") else { return false };
            let mut body = json!({"status": {}});
            changes(&mut body["status"], &status);
            call(world, Method::PATCH, &format!("{path}/status"), ("application/merge-patch+json", body.to_string()))
                .await
        }
    }
}

fn text(body: &Value, yaml: bool) -> (&'static str, String) {
    if yaml { ("application/yaml", api::yaml::to_string(body)) } else { ("application/json", body.to_string()) }
}

/// Whether the request was accepted. A mutant may be refused, but must not trip the server.
async fn call(world: &World, method: Method, path: &str, (media, body): (&str, String)) -> bool {
    match world.admin.raw(method.clone(), path, Some((media, body.clone().into_bytes()))).await {
        Ok(_) => true,
        Err(error) => {
            let code = error.status().map_or(0, |status| status.code);
            // upstream answers 500 to some patches that do not fit
            let tripped =
                code < 400 || error.to_string().contains("panicked") || error.to_string().contains("cannot be read");
            assert!(!tripped, "{method} {path} {body}: {code} {error}");
            false
        }
    }
}

async fn read_as<K: Kind>(world: &World, path: &str) {
    let list = world.admin.list::<K>("", &ListOptions::default()).await.unwrap();
    // at the same revision: events are written all the time
    let at = format!("{}?resourceVersion={}&resourceVersionMatch=Exact", everywhere(path), list.resource_version);
    let raw: Value = world.call("GET", &at, Value::Null).await;
    let count = raw["items"].as_array().unwrap().len();
    assert!(list.undecodable.is_empty(), "{}: {:?}", K::KIND, list.undecodable);
    assert_eq!(list.items.len(), count, "{}", K::KIND);
    // what components of this process see, by watching
    let informer = world.informers.of::<K>();
    let revision = world.store.revision();
    let seen = tokio::time::timeout(Duration::from_secs(120), informer.synced()).await;
    assert!(seen.is_ok(), "{}: no list: {:?}", K::KIND, world.informers.missing());
    let seen = tokio::time::timeout(Duration::from_secs(120), informer.wait_for(revision)).await;
    assert!(seen.is_ok(), "{}: stands at {} of {revision}", K::KIND, informer.revision());
    assert!(informer.undecodable().is_empty(), "{}: {:?}", K::KIND, informer.undecodable());
}

/// The path of a kind's objects in all namespaces.
fn everywhere(path: &str) -> String {
    path.replace("/namespaces/default", "")
}

async fn everybody_reads_everything(world: &World) {
    macro_rules! all {
        ($($kind:ty),+ $(,)?) => {{
            let paths: BTreeMap<String, &str> = served().iter().map(|s| (format!("{}/{}", s.kind.group, s.kind.kind), s.path)).collect();
            let mut read = 0;
            $(
                let of = <$kind as k8s_openapi::Resource>::GROUP;
                read_as::<$kind>(world, paths[&format!("{of}/{}", <$kind as k8s_openapi::Resource>::KIND)]).await;
                read += 1;
            )+
            assert_eq!(read, paths.len(), "every kind is read");
        }};
    }
    all![
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::LimitRange,
        core::Namespace,
        core::Node,
        core::PersistentVolume,
        core::PersistentVolumeClaim,
        core::Pod,
        core::PodTemplate,
        core::ReplicationController,
        core::ResourceQuota,
        core::Secret,
        core::ServiceAccount,
        core::Service,
        apps::ControllerRevision,
        apps::Deployment,
        apps::ReplicaSet,
        apps::DaemonSet,
        apps::StatefulSet,
        autoscaling::HorizontalPodAutoscaler,
        batch::CronJob,
        batch::Job,
        certificates::CertificateSigningRequest,
        events::Event,
        policy::PodDisruptionBudget,
        scheduling::PriorityClass,
        coordination::Lease,
        rbac::ClusterRole,
        rbac::ClusterRoleBinding,
        rbac::Role,
        rbac::RoleBinding,
        node::RuntimeClass,
        storage::StorageClass,
        discovery::EndpointSlice,
    ];
}

/// A new Deployment comes up and goes: scheduler, controllers and agent work.
async fn all_is_alive(world: &World, name: &str) {
    world.call("POST", DEPLOYMENTS, deployment(name, 2, "i:1")).await;
    world.until_within(Duration::from_secs(600), "a new Deployment", |w| complete(w, name)).await;
    world.call("DELETE", &format!("{DEPLOYMENTS}/{name}"), Value::Null).await;
    let gone = |w: &World| w.all("", "pods").iter().all(|pod| pod["metadata"]["labels"]["app"] != name);
    world.until_within(Duration::from_secs(600), "its pods to go", gone).await;
}

async fn every_kind_is_served_here(world: &World) {
    let known: Vec<String> = all_served().into_iter().map(|s| s.kind.to_string()).collect();
    let groups = world.call("GET", "/apis", Value::Null).await;
    let versions = groups["groups"].as_array().unwrap().iter().flat_map(|g| g["versions"].as_array().unwrap());
    let roots =
        versions.map(|v| format!("/apis/{}", v["groupVersion"].as_str().unwrap())).chain(["/api/v1".to_owned()]);
    for root in roots {
        for resource in world.call("GET", &root, Value::Null).await["resources"].as_array().unwrap() {
            let can = |verb: &str| resource["verbs"].as_array().unwrap().iter().any(|v| v == verb);
            if can("create") && can("list") {
                let version = root.trim_start_matches("/apis/").trim_start_matches("/api/");
                let kind = GroupVersionKind::from_api_version(version, resource["kind"].as_str().unwrap()).to_string();
                assert!(known.contains(&kind) || kind == OWN_NAMES, "{kind} is served and has no mutants");
            }
        }
    }
}

/// Takes off what the mutants' finalizers hold and deletes everything that was made.
async fn everything_can_be_deleted(world: &World) {
    for served in all_served() {
        let list = world.call("GET", served.path, Value::Null).await;
        for object in list["items"].as_array().unwrap() {
            let name = object["metadata"]["name"].as_str().unwrap();
            if !name.starts_with('m') {
                continue;
            }
            let path = format!("{}/{name}", served.path);
            let done = world.try_call("DELETE", &path, json!({"gracePeriodSeconds": 0})).await;
            assert!(done.is_ok() || done.as_ref().is_err_and(client::Error::is_not_found), "{path}: {done:?} {object}");
            if served.kind.kind == "CustomResourceDefinition" {
                // As upstream, the status takes a list of stored versions with which every other write is refused.
                let versions = object["spec"]["versions"].as_array().into_iter().flatten();
                let stored: Vec<&Value> = versions.filter(|v| v["storage"] == true).map(|v| &v["name"]).collect();
                let _gone = world
                    .try_call("PATCH", &format!("{path}/status"), json!({"status": {"storedVersions": stored}}))
                    .await;
            }
            let freed = world.try_call("PATCH", &path, json!({"metadata": {"finalizers": null}})).await;
            assert!(
                freed.is_ok() || freed.as_ref().is_err_and(client::Error::is_not_found),
                "{path}: {freed:?} {object}"
            );
        }
    }
    for served in all_served().iter().filter(|s| s.kind.kind != "Event") {
        let begin = Instant::now();
        loop {
            let list = world.call("GET", served.path, Value::Null).await;
            let left: Vec<&Value> = list["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|o| o["metadata"]["name"].as_str().unwrap().starts_with('m'))
                .collect();
            if left.is_empty() {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(600), "{} of {} stay: {}", left.len(), served.kind, left[0]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The panics of this test's thread, on which all components run.
fn panics() -> std::sync::Arc<parking_lot::Mutex<Vec<String>>> {
    let seen = std::sync::Arc::<parking_lot::Mutex<Vec<String>>>::default();
    let (own, log, before) = (std::thread::current().id(), seen.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == own {
            log.lock().push(info.to_string());
        }
        before(info);
    }));
    seen
}

async fn mutants(seed: u64, requests: usize) {
    println!("seed {seed}");
    let panics = panics();
    let mut rng = Rng::with_seed(seed);
    let (log, begin) = (store::Memory::default(), Instant::now());
    let mut world = World::over(log.clone(), seed, begin).await;
    world.node("n1", 4, |_, _| container::fake::Script::Run).await;
    every_kind_is_served_here(&world).await;
    let kinds = all_served();
    let mut names: Vec<Vec<String>> = Vec::new();
    for (at, served) in kinds.iter().enumerate() {
        let name = format!("m-{at}");
        let made = world.call("POST", served.path, served.body(&name)).await;
        names.push(vec![made["metadata"]["name"].as_str().unwrap().to_owned()]);
    }
    let (mut sent, mut accepted) = (0, 0);
    for number in 0..requests {
        let at = rng.usize(..kinds.len());
        sent += 1;
        accepted += usize::from(send(&world, &kinds[at], &mut names[at], number, &mut rng).await);
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(rng.u64(..500))).await;
        }
    }
    println!("seed {seed}: {accepted} of {sent} accepted");
    assert!(accepted * 5 > sent, "too few mutants are accepted for the test to mean much: {accepted} of {sent}");
    everybody_reads_everything(&world).await;
    all_is_alive(&world, "canary").await;
    world.end().await;
    // Another seed: a process that is started again does not give the same uids again.
    let mut world = World::over(log, !seed, begin).await;
    everybody_reads_everything(&world).await;
    world.node("n1", 4, |_, _| container::fake::Script::Run).await;
    all_is_alive(&world, "canary").await;
    everything_can_be_deleted(&world).await;
    world.end().await;
    assert_eq!(*panics.lock(), Vec::<String>::new());
}

/// What the public conformance suite does: Go reads a condition without its time, and so must everybody here.
#[tokio::test(start_paused = true)]
async fn a_condition_without_its_time_stops_no_work_on_services() {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let world = World::start().await;
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"selector": {"app": "d"}, "ports": [{"port": 80}]}});
    world.call("POST", SERVICES, service("odd")).await;
    let status = json!({"status": {"conditions": [{"type": "Foo", "status": "True"}]}});
    world.call("PATCH", &format!("{SERVICES}/odd/status"), status).await;
    world.call("POST", SERVICES, service("new")).await;
    world.call("POST", DEPLOYMENTS, deployment("d", 2, "i:1")).await;
    for name in ["odd", "new"] {
        let ready = |w: &World| {
            let slices = w.all("discovery.k8s.io", "endpointslices");
            let own = slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == name);
            own.map(|s| s["endpoints"].as_array().map_or(0, Vec::len)).sum::<usize>() == 2
        };
        world.until_within(Duration::from_secs(120), name, ready).await;
    }
}

/// Upstream takes such a status too, but for a strategic patch of a list with a merge key that the element lacks: the kubelet and the node life
/// cycle still say theirs.
#[tokio::test(start_paused = true)]
async fn a_status_of_empty_elements_stops_no_node_and_no_pod() {
    let mut world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("d", 1, "i:1")).await;
    world.until_within(Duration::from_secs(120), "a pod", |w| complete(w, "d")).await;
    let (node, pod) = (world.all("", "nodes")[0].clone(), world.pods()[0].clone());
    let strategic = "application/strategic-merge-patch+json";
    let lists = ["conditions", "addresses", "images", "volumesAttached", "runtimeHandlers"];
    for (list, element) in lists.into_iter().flat_map(|list| [(list, json!({})), (list, Value::Null)]) {
        for media in ["application/merge-patch+json", strategic] {
            let body = json!({"status": {list: [element]}}).to_string();
            let taken = call(&world, Method::PATCH, "/api/v1/nodes/n1/status", (media, body.clone())).await;
            let keyed = list == "conditions" || list == "addresses";
            assert_eq!(taken, !(keyed && media == strategic), "{media} {body}");
            let before = renewed(&world, "n1");
            let whole = |w: &World| {
                let now = &w.all("", "nodes")[0];
                let has = |kind: &str| now["status"]["addresses"].as_array().unwrap().iter().any(|a| a["type"] == kind);
                let restored = |list: &str| now["status"][list] == node["status"][list];
                renewed(w, "n1") > before
                    && condition(now, "Ready") == "True"
                    && has("Hostname")
                    && has("InternalIP")
                    && restored("images")
                    && restored("runtimeHandlers")
            };
            world
                .until_within(Duration::from_secs(30), &format!("the Node is whole after {media} {body}"), whole)
                .await;
            let now = world.pods();
            let same = now.len() == 1 && now[0]["metadata"]["uid"] == pod["metadata"]["uid"];
            assert!(same && now[0]["status"]["phase"] == "Running" && complete(&world, "d"), "{media} {body}: {now:?}");
        }
    }
    // Pods are made, bound and run as before.
    world.call("PATCH", &format!("{DEPLOYMENTS}/d"), json!({"spec": {"replicas": 2}})).await;
    world.until_within(Duration::from_secs(120), "another pod", |w| complete(w, "d")).await;
    world.stop_agent("n1").await;
    let body = json!({"status": {"conditions": [{}], "addresses": [{}]}}).to_string();
    assert!(call(&world, Method::PATCH, "/api/v1/nodes/n1/status", ("application/merge-patch+json", body)).await);
    let silent = |w: &World| condition(&w.all("", "nodes")[0], "Ready") == "Unknown";
    world.until_within(Duration::from_secs(600), "the life cycle says that the node is silent", silent).await;
}

/// When a node last renewed its Lease.
fn renewed(world: &World, node: &str) -> String {
    let leases = world.all_in("kube-node-lease", "coordination.k8s.io", "leases");
    let own = leases.iter().find(|lease| lease["metadata"]["name"] == node);
    own.map(|lease| lease["spec"]["renewTime"].to_string()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn what_the_api_accepts_stops_nobody() {
    mutants(1, 1_000).await;
}

/// More mutants, for whoever looks for trouble: `SAMPAN_MUTANTS_SEED=3 cargo test -p tests --test cluster accepted -- --ignored`.
#[tokio::test(start_paused = true)]
#[ignore = "takes minutes"]
async fn what_the_api_accepts_stops_nobody_for_many_seeds() {
    let first = std::env::var("SAMPAN_MUTANTS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for seed in first..first + 12 {
        mutants(seed, 2_000).await;
    }
}
