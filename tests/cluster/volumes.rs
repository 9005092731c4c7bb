//! Claims and volumes: binding, volumes that are folders of nodes, and what becomes of the data.

use crate::world::{World, condition};
use serde_json::{Value, json};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn claim(name: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn pod(name: &str, volume: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "volumes": [volume],
        "containers": [{"name": "c", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}})
}

fn of_claim(name: &str) -> Value {
    json!({"name": "v", "persistentVolumeClaim": {"claimName": name}})
}

fn phase(world: &World, resource: &str, name: &str) -> String {
    world.find("", resource, name).map_or("gone".into(), |o| o["status"]["phase"].as_str().unwrap_or_default().into())
}

fn is_ready(world: &World, name: &str) -> bool {
    world.find("", "pods", name).is_some_and(|pod| condition(&pod, "Ready") == "True")
}

/// The folders of a node's volumes.
fn folders(world: &World, node: &str) -> Vec<String> {
    let all = std::fs::read_dir(world.dir(node).join("persistent")).into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_the_smallest_volume_that_fits_and_leaves_it_released() {
    let world = World::with_nodes(1, 3).await;
    for (name, size) in [("big", "9Gi"), ("good", "2Gi"), ("small", "500Mi")] {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "hostPath": {"path": "/none"},
            "storageClassName": ""});
        world.call("POST", "/api/v1/persistentvolumes", json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    world.call("POST", CLAIMS, claim("c", json!({"storageClassName": ""}))).await;
    world.until("the claim to be bound", |w| phase(w, "persistentvolumeclaims", "c") == "Bound").await;
    let bound = world.find("", "persistentvolumeclaims", "c").unwrap();
    assert_eq!(bound["spec"]["volumeName"], "good");
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(phase(&world, "persistentvolumes", "good"), "Bound");
    assert_eq!(phase(&world, "persistentvolumes", "big"), "Available");
    world.call("DELETE", &format!("{CLAIMS}/c"), json!({})).await;
    world.until("the volume to be released", |w| phase(w, "persistentvolumes", "good") == "Released").await;
    assert_eq!(phase(&world, "persistentvolumeclaims", "c"), "gone");
    // A claim of the same name does not get the data of the one before.
    world.call("POST", CLAIMS, claim("c", json!({"storageClassName": ""}))).await;
    world.until("the other volume", |w| phase(w, "persistentvolumeclaims", "c") == "Bound").await;
    assert_eq!(world.find("", "persistentvolumeclaims", "c").unwrap()["spec"]["volumeName"], "big");
}

#[tokio::test(start_paused = true)]
async fn the_default_class_makes_a_folder_where_the_pod_is_and_removes_it_after_the_claim() {
    let world = World::with_nodes(2, 4).await;
    world.call("POST", CLAIMS, claim("c", json!({}))).await;
    world
        .until("the claim to wait", |w| {
            w.events().iter().any(|event| event.starts_with("\"c\" \"WaitForFirstConsumer\""))
        })
        .await;
    assert_eq!(world.find("", "persistentvolumeclaims", "c").unwrap()["spec"]["storageClassName"], "local");
    world.call("POST", PODS, pod("p", of_claim("c"))).await;
    world.until("the pod to be ready", |w| is_ready(w, "p")).await;
    let node = world.find("", "pods", "p").unwrap()["spec"]["nodeName"].as_str().unwrap().to_owned();
    let volume =
        world.find("", "persistentvolumeclaims", "c").unwrap()["spec"]["volumeName"].as_str().unwrap().to_owned();
    assert_eq!(folders(&world, &node).join(","), volume);
    std::fs::write(world.dir(&node).join("persistent").join(&volume).join("f"), "data").unwrap();

    // A claim in use stays until its pod is gone.
    world.call("DELETE", &format!("{CLAIMS}/c"), json!({})).await;
    world.pass(20).await;
    assert_eq!(phase(&world, "persistentvolumeclaims", "c"), "Bound", "its pod runs");
    world.call("DELETE", &format!("{PODS}/p"), json!({})).await;
    world.until("the volume to be gone", |w| phase(w, "persistentvolumes", &volume) == "gone").await;
    assert_eq!(phase(&world, "persistentvolumeclaims", "c"), "gone");
    assert!(folders(&world, &node).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_pod_of_a_claim_is_where_its_data_is() {
    let mut world = World::with_nodes(3, 5).await;
    world.call("POST", CLAIMS, claim("c", json!({}))).await;
    let mut nodes = std::collections::BTreeSet::new();
    for name in ["p", "q", "r"] {
        world.call("POST", PODS, pod(name, of_claim("c"))).await;
        world.until("the pod to be ready", |w| is_ready(w, name)).await;
        nodes.insert(world.find("", "pods", name).unwrap()["spec"]["nodeName"].to_string());
        world.call("DELETE", &format!("{PODS}/{name}"), json!({})).await;
        world.until("the pod to be gone", |w| w.find("", "pods", name).is_none()).await;
    }
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    let node = nodes.first().unwrap().trim_matches('"').to_owned();
    assert_eq!(folders(&world, &node).len(), 1);
    // The agent ends while the volume is released: the data goes when it is back.
    world.stop_agent(&node).await;
    let volume = folders(&world, &node).remove(0);
    world.call("DELETE", &format!("{CLAIMS}/c"), json!({})).await;
    world.until("the volume to be released", |w| phase(w, "persistentvolumes", &volume) == "Released").await;
    assert_eq!(folders(&world, &node).len(), 1);
    world.run_agent(&node, 4);
    world.until("the volume to be gone", |w| phase(w, "persistentvolumes", &volume) == "gone").await;
    assert!(folders(&world, &node).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_kept_keeps_its_data_and_a_claim_grows() {
    let world = World::with_nodes(1, 6).await;
    let class = json!({"metadata": {"name": "kept"}, "provisioner": agent::LOCAL_VOLUMES, "reclaimPolicy": "Retain", "allowVolumeExpansion": true});
    world.call("POST", "/apis/storage.k8s.io/v1/storageclasses", class).await;
    world.call("POST", CLAIMS, claim("c", json!({"storageClassName": "kept"}))).await;
    world.until("the claim to be bound at once", |w| phase(w, "persistentvolumeclaims", "c") == "Bound").await;
    let volume =
        world.find("", "persistentvolumeclaims", "c").unwrap()["spec"]["volumeName"].as_str().unwrap().to_owned();
    let path = format!("{CLAIMS}/c");
    let size = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    world.call("PATCH", &path, size("3Gi")).await;
    world
        .until("the claim to grow", |w| {
            w.find("", "persistentvolumeclaims", "c").unwrap()["status"]["capacity"]["storage"] == "3Gi"
        })
        .await;
    assert_eq!(world.find("", "persistentvolumes", &volume).unwrap()["spec"]["capacity"]["storage"], "3Gi");
    let error = world.try_call("PATCH", &path, size("2Gi")).await.unwrap_err();
    assert!(error.to_string().contains("field can not be less than status.capacity"), "{error}");
    world.call("POST", PODS, pod("p", of_claim("c"))).await;
    world.until("the pod to be ready", |w| is_ready(w, "p")).await;
    assert_eq!(folders(&world, "n1").join(","), volume);
    world.call("DELETE", &format!("{PODS}/p"), json!({})).await;
    world.call("DELETE", &path, json!({})).await;
    world.until("the volume to be released", |w| phase(w, "persistentvolumes", &volume) == "Released").await;
    world.call("DELETE", &format!("/api/v1/persistentvolumes/{volume}"), json!({})).await;
    world.until("the volume to be gone", |w| phase(w, "persistentvolumes", &volume) == "gone").await;
    assert_eq!(folders(&world, "n1"), [volume]);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_volume_goes_with_its_pod() {
    let world = World::with_nodes(1, 7).await;
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": template}});
    world.call("POST", PODS, pod("p", volume)).await;
    world.until("the pod to be ready", |w| is_ready(w, "p")).await;
    assert_eq!(phase(&world, "persistentvolumeclaims", "p-v"), "Bound");
    assert_eq!(folders(&world, "n1").len(), 1);
    world.call("DELETE", &format!("{PODS}/p"), json!({})).await;
    world.until("the folder to be gone", |w| folders(w, "n1").is_empty()).await;
    world
        .until("all to be gone", |w| {
            phase(w, "persistentvolumeclaims", "p-v") == "gone" && w.all_in("", "", "persistentvolumes").is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn each_pod_of_a_statefulset_has_a_volume_that_stays_or_goes_by_the_policy() {
    for (scaled, left) in [("Retain", vec!["data-db-0", "data-db-1"]), ("Delete", vec!["data-db-0"])] {
        let world = World::with_nodes(2, 8).await;
        let template = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let mut template_pod = pod("x", json!({"name": "other", "emptyDir": {}}));
        template_pod["metadata"] = json!({"labels": {"app": "db"}});
        let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}}, "template": template_pod, "volumeClaimTemplates": [template],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": scaled}}});
        let left: Vec<String> = left.iter().map(|name| name.replace("data", "v")).collect();
        world.call("POST", "/apis/apps/v1/namespaces/default/statefulsets", set).await;
        world.until("both to be ready", |w| is_ready(w, "db-0") && is_ready(w, "db-1")).await;
        let claims = |w: &World| -> Vec<String> {
            let all = w.all("", "persistentvolumeclaims");
            all.iter().map(|claim| claim["metadata"]["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(claims(&world), ["v-db-0", "v-db-1"]);
        let volume = |w: &World| w.find("", "persistentvolumeclaims", "v-db-0").unwrap()["spec"]["volumeName"].clone();
        let first = volume(&world);
        world.call("DELETE", &format!("{PODS}/db-0"), json!({})).await;
        world.pass(5).await;
        world.until("the pod to be back", |w| is_ready(w, "db-0")).await;
        assert_eq!(volume(&world), first, "with its data");
        let path = "/apis/apps/v1/namespaces/default/statefulsets/db";
        world.call("PATCH", path, json!({"spec": {"replicas": 1}})).await;
        world.until("one to go", |w| w.find("", "pods", "db-1").is_none()).await;
        world.pass(30).await;
        assert_eq!(claims(&world), left, "{scaled}");
        world.call("DELETE", path, json!({})).await;
        // What was kept when it was scaled down has no owner to go with, but for the set.
        world.until("all claims to go with the set", |w| claims(w).is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_writes_more_than_its_claim_has_is_evicted_and_the_data_stays() {
    let world = World::with_nodes(1, 9).await;
    let size = json!({"resources": {"requests": {"storage": "1Mi"}}});
    world.call("POST", CLAIMS, claim("c", size)).await;
    world.call("POST", PODS, pod("p", of_claim("c"))).await;
    world.until("the pod to be ready", |w| is_ready(w, "p")).await;
    let file = world.dir("n1").join("persistent").join(folders(&world, "n1").remove(0)).join("f");
    std::fs::write(&file, vec![1; 900 << 10]).unwrap();
    world.pass(60).await;
    assert!(is_ready(&world, "p"));
    std::fs::write(&file, vec![1; 1100 << 10]).unwrap();
    world.until("the pod to be evicted", |w| phase(w, "pods", "p") == "Failed").await;
    let status = world.find("", "pods", "p").unwrap()["status"].take();
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(status["message"], "Usage of PersistentVolumeClaim \"c\" exceeds its capacity \"1Mi\". ");
    assert!(file.exists());
}
