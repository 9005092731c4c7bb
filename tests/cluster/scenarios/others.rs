//! Scenarios of what is not a workload: quotas, namespaces, owners, volumes, Services, nodes and the scheduler.

use super::{Scenario, patch, template, with};
use crate::world::{DEPLOYMENTS, PODS, World, complete, condition, deployment};
use serde_json::{Value, json};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = with(template(name, "c"), spec);
    pod["metadata"]["name"] = name.into();
    pod
}

fn ready(world: &World, name: &str) -> bool {
    world.find("", "pods", name).is_some_and(|pod| condition(&pod, "Ready") == "True")
}

fn phase(world: &World, resource: &str, name: &str) -> String {
    world.find("", resource, name).map_or("gone".into(), |o| o["status"]["phase"].as_str().unwrap_or_default().into())
}

/// A quota that holds back a Deployment until it is larger.
pub const QUOTA: Scenario = Scenario { nodes: 1, play: |w| Box::pin(quota(w)) };

async fn quota(world: &mut World) {
    let url = "/api/v1/namespaces/default/resourcequotas";
    let hard = |pods: &str| json!({"spec": {"hard": {"pods": pods, "count/configmaps": "5"}}});
    let mut first = hard("2");
    first["metadata"] = json!({"name": "q"});
    world.call("POST", url, first).await;
    let used = |w: &World, pods: &str| w.find("", "resourcequotas", "q").unwrap()["status"]["used"]["pods"] == pods;
    world.until("the quota to be counted", |w| used(w, "0")).await;
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    world.until("it to be full", |w| used(w, "2") && w.in_phase("Running") == 2).await;
    patch(world, &format!("{url}/q"), hard("4")).await;
    // Who was refused waits longer and longer.
    world.until("all", |w| complete(w, "web") && used(w, "3")).await;
}

/// A namespace with all kinds of things in it, and its end; and the end of a ServiceAccount, which comes back.
pub const NAMESPACE: Scenario = Scenario { nodes: 1, play: |w| Box::pin(namespace(w)) };

async fn namespace(world: &mut World) {
    for name in ["team", "stays"] {
        world.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
        let filled = |w: &World| {
            !w.all_in(name, "", "serviceaccounts").is_empty() && !w.all_in(name, "", "configmaps").is_empty()
        };
        world.until("what each namespace has", filled).await;
    }
    world.call("POST", "/apis/apps/v1/namespaces/team/deployments", deployment("web", 2, "i:1")).await;
    world.call("POST", "/api/v1/namespaces/team/configmaps", json!({"metadata": {"name": "c"}})).await;
    world.call("POST", "/api/v1/namespaces/team/services", service("web")).await;
    let running = |w: &World| w.all_in("team", "", "pods").iter().filter(|p| condition(p, "Ready") == "True").count();
    world.until("its pods", |w| running(w) == 2).await;
    world.call("DELETE", "/api/v1/namespaces/team", json!({})).await;
    world.until("its end", |w| w.find("", "namespaces", "team").is_none()).await;
    world.call("DELETE", "/api/v1/namespaces/stays/serviceaccounts/default", json!({})).await;
    world.call("DELETE", "/api/v1/namespaces/stays/configmaps/kube-root-ca.crt", json!({})).await;
    let back = |w: &World| {
        !w.all_in("stays", "", "serviceaccounts").is_empty() && !w.all_in("stays", "", "configmaps").is_empty()
    };
    world.until("both to be back", back).await;
}

/// Owners that go before, after and without what they own.
pub const OWNERS: Scenario = Scenario { nodes: 1, play: |w| Box::pin(owners(w)) };

async fn owners(world: &mut World) {
    for (name, policy) in [("a", "Background"), ("b", "Foreground"), ("c", "Orphan")] {
        world.call("POST", DEPLOYMENTS, deployment(name, 2, "i:1")).await;
        world.until("a Deployment", |w| complete(w, name)).await;
        world.call("DELETE", &format!("{DEPLOYMENTS}/{name}"), json!({"propagationPolicy": policy})).await;
    }
    let left =
        |w: &World| [("apps", "deployments"), ("apps", "replicasets"), ("", "pods")].map(|(g, r)| w.all(g, r).len());
    world.until("orphans only", |w| left(w) == [0, 1, 2]).await;
}

/// Claims: one of a volume that is there, one of a folder that is made, grows and goes, and one of a pod.
pub const VOLUMES: Scenario = Scenario { nodes: 1, play: |w| Box::pin(volumes(w)) };

async fn volumes(world: &mut World) {
    let claim = |name: &str, class: Option<&str>, size: &str| {
        let mut claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = class.into();
        }
        claim
    };
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "hostPath": {"path": "/none"}, "storageClassName": ""});
    world.call("POST", "/api/v1/persistentvolumes", json!({"metadata": {"name": "there"}, "spec": spec})).await;
    world.call("POST", CLAIMS, claim("static", Some(""), "1Gi")).await;
    world
        .until("it to be bound", |w| {
            phase(w, "persistentvolumes", "there") == "Bound" && phase(w, "persistentvolumeclaims", "static") == "Bound"
        })
        .await;
    for name in ["kept", "gone"] {
        world.call("POST", CLAIMS, claim(name, None, "1Gi")).await;
        let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
        world.call("POST", PODS, pod(name, json!({"volumes": volume}))).await;
    }
    let template = json!({"spec": claim("", None, "1Gi")["spec"]});
    let volume = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
    world.call("POST", PODS, pod("own", json!({"volumes": volume}))).await;
    world.until("all to be ready", |w| ["kept", "gone", "own"].iter().all(|name| ready(w, name))).await;
    patch(world, &format!("{CLAIMS}/kept"), json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).await;
    let grown =
        |w: &World| w.find("", "persistentvolumeclaims", "kept").unwrap()["status"]["capacity"]["storage"] == "2Gi";
    world.until("it to grow", grown).await;
    // A claim in use goes after its pod; one of a pod goes with it.
    world.call("DELETE", &format!("{CLAIMS}/gone"), json!({})).await;
    for name in ["gone", "own"] {
        world.call("DELETE", &format!("{PODS}/{name}"), json!({})).await;
    }
    world.call("DELETE", &format!("{CLAIMS}/static"), json!({})).await;
    let left = |w: &World| {
        w.all("", "persistentvolumeclaims").len() == 1 && phase(w, "persistentvolumes", "there") == "Released"
    };
    world
        .until("one to be left", |w| left(w) && w.store.snapshot(None).unwrap().count("/core/persistentvolumes/") == 2)
        .await;
}

fn service(app: &str) -> Value {
    json!({"metadata": {"name": app}, "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// A Service whose pods come, go and are others.
pub const SERVICE: Scenario = Scenario { nodes: 1, play: |w| Box::pin(services(w)) };

async fn services(world: &mut World) {
    let url = "/api/v1/namespaces/default/services";
    world.call("POST", url, service("web")).await;
    let known = |w: &World, number: usize| {
        let slices = w.all("discovery.k8s.io", "endpointslices");
        let endpoints = slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        let all: Vec<Value> = endpoints.flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default()).collect();
        all.len() == number && all.iter().all(|e| e["conditions"]["ready"] == true)
    };
    for name in ["web", "other"] {
        world.call("POST", DEPLOYMENTS, deployment(name, 2, "i:1")).await;
    }
    world.until("two endpoints", |w| complete(w, "web") && complete(w, "other") && known(w, 2)).await;
    patch(world, &format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 3}})).await;
    world.until("three", |w| known(w, 3)).await;
    patch(world, &format!("{url}/web"), json!({"spec": {"selector": {"app": "other"}}})).await;
    world.until("two others", |w| known(w, 2)).await;
    world.call("POST", url, service("other")).await;
    world.call("DELETE", &format!("{url}/web"), json!({})).await;
    world
        .until("only those of the other", |w| {
            w.find("", "endpoints", "web").is_none() && known(w, 0) && w.find("", "endpoints", "other").is_some()
        })
        .await;
}

/// A node that falls silent, whose pods are replaced elsewhere, and that comes back.
pub const NODE: Scenario = Scenario { nodes: 2, play: |w| Box::pin(silent_node(w)) };

async fn silent_node(world: &mut World) {
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let mut web = deployment("web", 2, "i:1");
    web["spec"]["template"]["spec"]["topologySpreadConstraints"] = spread;
    world.call("POST", DEPLOYMENTS, web).await;
    world.until("the Deployment", |w| complete(w, "web")).await;
    world.stop_agent("n2").await;
    let on = |w: &World, node: &str| w.pods().iter().filter(|p| p["spec"]["nodeName"] == node).count();
    world.until("all to be elsewhere", |w| on(w, "n1") == 2 && complete(w, "web")).await;
    world.run_agent("n2", 4);
    let back = |w: &World| {
        let node = w.find("", "nodes", "n2").unwrap();
        condition(&node, "Ready") == "True" && node["spec"]["taints"].is_null()
    };
    world.until("it to be back", |w| back(w) && w.all("", "pods").len() == 2).await;
    // And one that is removed for good: its pod has no node any more.
    world.call("POST", PODS, pod("lost", json!({"nodeName": "n2"}))).await;
    world.until("a pod on it", |w| ready(w, "lost")).await;
    world.stop_agent("n2").await;
    world.call("DELETE", "/api/v1/nodes/n2", json!({})).await;
    world.until("its pod to be collected", |w| w.find("", "pods", "lost").is_none()).await;
}

/// Pods that wait, are bound, and take the place of lesser ones.
pub const SCHEDULER: Scenario = Scenario { nodes: 1, play: |w| Box::pin(scheduler(w)) };

async fn scheduler(world: &mut World) {
    for (name, value) in [("low", 10), ("high", 1000)] {
        let class = json!({"metadata": {"name": name}, "value": value});
        world.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
    }
    let of = |name: &str, class: &str, cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu}});
        let containers = json!([{"name": "c", "image": "i:1", "resources": resources}]);
        pod(name, json!({"priorityClassName": class, "containers": containers}))
    };
    for (name, cpu) in [("first", "1"), ("second", "2")] {
        world.call("POST", PODS, of(name, "low", cpu)).await;
    }
    world.until("both to run", |w| ready(w, "first") && ready(w, "second")).await;
    world.call("POST", PODS, of("urgent", "high", "2500m")).await;
    world.until("it to run", |w| ready(w, "urgent") && w.find("", "pods", "second").is_none()).await;
    let mut gated = of("gated", "low", "100m");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    world.call("POST", PODS, gated).await;
    world.call("POST", PODS, of("waits", "low", "2")).await;
    world.until("a refusal", |w| condition(&w.find("", "pods", "waits").unwrap(), "PodScheduled") == "False").await;
    patch(world, &format!("{PODS}/gated"), json!({"spec": {"schedulingGates": null}})).await;
    world.until("it to run", |w| ready(w, "gated")).await;
    world.call("DELETE", &format!("{PODS}/urgent"), json!({})).await;
    world.until("it to run", |w| ready(w, "waits") && w.find("", "pods", "urgent").is_none()).await;
}
