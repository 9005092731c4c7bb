//! Tables of what objects use, and which quotas they count for.

use super::*;
use serde_json::json;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().expect("a time")
}

fn used(resource: &str, object: &Value) -> String {
    print(&usage("", resource, object, now()))
}

fn container(name: &str, requests: Value, limits: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn a_pod_uses_what_its_containers_ask_for() {
    let both = |cpu: &str| container("c", json!({"cpu": cpu, "memory": "1Gi"}), json!({"cpu": cpu}));
    let mut sidecar = both("1");
    sidecar["restartPolicy"] = "Always".into();
    let plain = "count/pods=1,cpu=500m,limits.cpu=500m,memory=1Gi,pods=1,requests.cpu=500m,requests.memory=1Gi";
    for (what, pod, expected) in [
        ("nothing", json!({"spec": {"containers": [{"name": "c"}]}}), "count/pods=1,pods=1"),
        ("one", json!({"spec": {"containers": [both("500m")]}}), plain),
        (
            "the sum",
            json!({"spec": {"containers": [both("500m"), both("1")]}}),
            "count/pods=1,cpu=1500m,limits.cpu=1500m,memory=2Gi,pods=1,requests.cpu=1500m,requests.memory=2Gi",
        ),
        (
            "an init container that needs more",
            json!({"spec": {"containers": [both("500m")], "initContainers": [both("2")]}}),
            "count/pods=1,cpu=2,limits.cpu=2,memory=1Gi,pods=1,requests.cpu=2,requests.memory=1Gi",
        ),
        (
            "a sidecar beside both",
            json!({"spec": {"containers": [both("500m")], "initContainers": [sidecar, both("3")]}}),
            "count/pods=1,cpu=4,limits.cpu=4,memory=2Gi,pods=1,requests.cpu=4,requests.memory=2Gi",
        ),
        (
            "overhead, which makes no limit",
            json!({"spec": {"containers": [both("500m")], "overhead": {"cpu": "100m", "memory": "1Gi"}}}),
            "count/pods=1,cpu=600m,limits.cpu=600m,memory=2Gi,pods=1,requests.cpu=600m,requests.memory=2Gi",
        ),
        (
            "amounts of the pod",
            json!({"spec": {"containers": [both("500m")], "resources": {"requests": {"cpu": "3"}}}}),
            "count/pods=1,cpu=3,limits.cpu=500m,memory=1Gi,pods=1,requests.cpu=3,requests.memory=1Gi",
        ),
        (
            "others",
            json!({"spec": {"containers": [container("c", json!({"hugepages-2Mi": "4Mi", "example.com/gpu": 2, "ephemeral-storage": "1G"}), json!({"ephemeral-storage": "2G"}))]}}),
            "count/pods=1,ephemeral-storage=1G,hugepages-2Mi=4Mi,limits.ephemeral-storage=2G,pods=1,requests.ephemeral-storage=1G,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi",
        ),
        ("succeeded", json!({"spec": {"containers": [both("1")]}, "status": {"phase": "Succeeded"}}), "count/pods=1"),
        ("failed", json!({"spec": {"containers": [both("1")]}, "status": {"phase": "Failed"}}), "count/pods=1"),
        (
            "stuck",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z", "deletionGracePeriodSeconds": 59}, "spec": {"containers": [both("1")]}}),
            "count/pods=1",
        ),
        (
            "ending",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:09:00Z", "deletionGracePeriodSeconds": 60}, "spec": {"containers": [both("500m")]}}),
            plain,
        ),
    ] {
        assert_eq!(used("pods", &pod), expected, "{what}");
    }
}

#[test]
fn a_pod_that_is_resized_uses_the_highest_of_what_counts() {
    let has = |cpu: &str, allocated: &str| json!({"name": "c", "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
    let spec = |cpu: &str| json!({"containers": [container("c", json!({"cpu": cpu}), json!({"cpu": cpu}))]});
    let pending = |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
    let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [
        {"name": "c", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}]});
    let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
    for (what, spec, status, expected) in [
        ("it asks for more", spec("3"), json!({"containerStatuses": [has("1", "1")]}), ["3", "3"]),
        ("it was given more", spec("1"), json!({"containerStatuses": [has("1", "2")]}), ["2", "1"]),
        ("it has more", spec("1"), json!({"containerStatuses": [has("4", "1")]}), ["4", "4"]),
        (
            "it waits for room",
            spec("3"),
            json!({"conditions": pending("Deferred"), "containerStatuses": [has("1", "1")]}),
            ["3", "3"],
        ),
        (
            "there will never be room",
            spec("3"),
            json!({"conditions": pending("Infeasible"), "containerStatuses": [has("1", "2")]}),
            ["2", "1"],
        ),
        (
            "its node does not say",
            spec("1"),
            json!({"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "5"}}]}),
            ["1", "1"],
        ),
        ("a sidecar", sidecar, json!({"initContainerStatuses": [has("2", "3")]}), ["3", "2"]),
        ("an init container", init, json!({"initContainerStatuses": [has("2", "3")]}), ["1", ""]),
    ] {
        let usage = usage("", "pods", &json!({"spec": spec, "status": status}), now());
        let told =
            ["requests.cpu", "limits.cpu"].map(|name| usage.get(name).map(ToString::to_string).unwrap_or_default());
        assert_eq!(told, expected, "{what}");
    }
}

#[test]
fn containers_without_amounts_are_named() {
    let pod = json!({"spec": {"containers": [container("b", json!({"cpu": 1}), json!({})), {"name": "a"}],
        "initContainers": [container("i", json!({}), json!({"memory": "1Gi"}))]}});
    let all = ["limits.memory", "requests.cpu", "cpu", "pods", "requests.ephemeral-storage"];
    let text = "must specify cpu for: a,i; limits.memory for: a,b; requests.cpu for: a,i";
    assert_eq!(missing(&all, &pod).as_deref(), Some(text));
    assert_eq!(missing(&["pods", "requests.ephemeral-storage"], &pod), None);
    let whole = json!({"spec": {"containers": [{"name": "a"}], "resources": {"limits": {"cpu": 1}}}});
    assert_eq!(missing(&all, &whole), None, "the pod says it");
}

#[test]
fn services_claims_and_others_use_what_is_theirs() {
    let service = |spec: Value| used("services", &json!({"spec": spec}));
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30001}]);
    for (spec, balancers, node_ports) in [
        (json!({"type": "ClusterIP", "ports": ports}), 0, 0),
        (json!({"type": "NodePort", "ports": ports}), 0, 2),
        (json!({"type": "LoadBalancer", "ports": ports}), 1, 2),
        (json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}), 1, 1),
        (json!({"type": "ExternalName"}), 0, 0),
    ] {
        let expected =
            format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={node_ports}");
        assert_eq!(service(spec.clone()), expected, "{spec}");
    }
    let claim = |spec: Value, more: Value| {
        let mut claim = json!({"metadata": {}, "spec": spec});
        claim.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        used("persistentvolumeclaims", &claim)
    };
    let asked = json!({"resources": {"requests": {"storage": "1Gi"}}});
    assert_eq!(claim(json!({}), json!({})), "count/persistentvolumeclaims=1,persistentvolumeclaims=1");
    assert_eq!(
        claim(asked.clone(), json!({})),
        "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=1Gi"
    );
    let grown = json!({"status": {"allocatedResources": {"storage": "2Gi"}},
        "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "gold"}}});
    assert_eq!(
        claim(asked, grown),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi"
    );
    let tiny = json!({"resources": {"requests": {"storage": "1500m"}}, "storageClassName": "g"});
    assert!(claim(tiny, json!({})).ends_with(",requests.storage=2"));
    assert_eq!(used("secrets", &json!({})), "count/secrets=1,secrets=1");
    assert_eq!(print(&usage("batch", "jobs", &json!({}), now())), "count/jobs.batch=1");
    assert_eq!(print(&count("apps", "secrets", 3)), "count/secrets.apps=3");
}

#[test]
fn a_limit_is_for_the_objects_of_one_resource() {
    for (name, expected) in [
        ("pods", Some(("", "pods"))),
        ("count/pods", Some(("", "pods"))),
        ("limits.cpu", Some(("", "pods"))),
        ("requests.hugepages-2Mi", Some(("", "pods"))),
        ("requests.example.com/gpu", Some(("", "pods"))),
        ("example.com/gpu", None),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/pods", None),
        ("services.nodeports", Some(("", "services"))),
        ("configmaps", Some(("", "configmaps"))),
        ("count/things.example.com", Some(("example.com", "things"))),
        ("count/events", None),
        ("storage", None),
    ] {
        let quota = Quota::of(&json!({"hard": {name: 1}}));
        let found: Vec<GroupResource> = quota.resources().into_iter().collect();
        let expected: Vec<GroupResource> = expected.iter().map(|(g, r)| ((*g).to_owned(), (*r).to_owned())).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn scopes_select_pods_and_claims() {
    let pod = |spec: Value| json!({"spec": spec});
    let asks = pod(json!({"containers": [container("c", json!({"cpu": 1}), json!({}))]}));
    let (bare, ends) = (pod(json!({"containers": [{}]})), pod(json!({"activeDeadlineSeconds": 5})));
    let (high, far) = (
        pod(json!({"priorityClassName": "high"})),
        pod(
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {"namespaceSelector": {}}}]}}}),
        ),
    );
    let scope = |name: &str| json!({"scopes": [name], "hard": {"pods": 1}});
    let select = |name: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": name, "operator": operator, "values": values}]}, "hard": {"pods": 1}});
    for (spec, pod, expected) in [
        (json!({"hard": {"pods": 1}}), &bare, true),
        (json!({"hard": {"configmaps": 1}}), &bare, false),
        (scope("BestEffort"), &bare, true),
        (scope("BestEffort"), &asks, false),
        (scope("NotBestEffort"), &asks, true),
        (scope("Terminating"), &ends, true),
        (scope("Terminating"), &bare, false),
        (scope("NotTerminating"), &bare, true),
        (scope("CrossNamespacePodAffinity"), &far, true),
        (scope("CrossNamespacePodAffinity"), &bare, false),
        (scope("PriorityClass"), &high, true),
        (scope("PriorityClass"), &bare, false),
        (select("PriorityClass", "In", json!(["high", "low"])), &high, true),
        (select("PriorityClass", "In", json!(["low"])), &high, false),
        (select("PriorityClass", "NotIn", json!(["low"])), &high, true),
        (select("PriorityClass", "NotIn", json!(["low"])), &bare, true),
        (select("PriorityClass", "DoesNotExist", json!([])), &bare, true),
        (select("PriorityClass", "Odd", json!([])), &high, false),
        (select("VolumeAttributesClass", "Exists", json!([])), &bare, false),
    ] {
        assert_eq!(Quota::of(&spec).covers("", "pods", pod), expected, "{spec} {pod}");
    }
    let claims = json!({"hard": {"requests.storage": 1}, "scopes": ["VolumeAttributesClass"]});
    let classed = json!({"spec": {"volumeAttributesClassName": "fast"}});
    assert!(Quota::of(&claims).covers("", "persistentvolumeclaims", &classed));
    assert!(!Quota::of(&claims).covers("", "persistentvolumeclaims", &json!({"spec": {}})));
    assert!(!Quota::of(&json!({"hard": {"secrets": 1}, "scopes": ["BestEffort"]})).covers("", "secrets", &json!({})));
}

#[test]
fn what_exceeds_is_what_is_more() {
    let list = |value: Value| amounts(&value);
    let more = excess(&list(json!({"a": 3, "b": 1, "c": 2})), &list(json!({"a": 1, "b": 2})));
    assert_eq!(print(&more), "a=2,c=2");
    assert_eq!(print(&only(&more, &["c", "x"])), "c=2");
}
