//! Deleting: owners and what they own, and whole namespaces.

use crate::world::{DEPLOYMENTS, PODS, World, complete, deployment};
use serde_json::{Value, json};

async fn running(world: &World) {
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
}

async fn delete(world: &World, policy: &str) {
    world.call("DELETE", &format!("{DEPLOYMENTS}/web"), json!({"propagationPolicy": policy})).await;
}

fn left(world: &World) -> (usize, usize, usize) {
    (world.all("apps", "deployments").len(), world.all("apps", "replicasets").len(), world.all("", "pods").len())
}

#[tokio::test(start_paused = true)]
async fn in_the_background_dependents_follow_their_owner() {
    let world = World::start().await;
    running(&world).await;
    delete(&world, "Background").await;
    assert_eq!(left(&world).0, 0, "the owner is gone at once");
    world.until("nothing to be left", |w| left(w) == (0, 0, 0)).await;
    assert!(world.machines["n1"].runtime.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_the_owner_goes_last() {
    let world = World::start().await;
    running(&world).await;
    let from = world.store.revision();
    delete(&world, "Foreground").await;
    let owner = world.find("apps", "deployments", "web").expect("the owner waits");
    assert_eq!(owner["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    world.until("nothing to be left", |w| left(w) == (0, 0, 0)).await;
    assert_eq!(world.store.snapshot(Some(from)).unwrap().count("/apps/deployments/default/"), 1);
    for revision in from..=world.store.revision() {
        let snapshot = world.store.snapshot(Some(revision)).unwrap();
        let [deployments, sets, pods] =
            ["apps/deployments", "apps/replicasets", "core/pods"].map(|p| snapshot.count(&format!("/{p}/default/")));
        assert!(sets <= deployments, "the Deployment went before its ReplicaSet at {revision}");
        assert!(pods == 0 || sets > 0, "the ReplicaSet went before its pods at {revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_and_can_be_adopted_again() {
    let world = World::start().await;
    running(&world).await;
    let names = |w: &World| w.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect::<Vec<_>>();
    let before = names(&world);
    delete(&world, "Orphan").await;
    world.until("the owner to be gone", |w| left(w).0 == 0).await;
    world.pass(120).await;
    assert_eq!((left(&world), names(&world)), ((0, 1, 3), before.clone()));
    assert_eq!(world.all("apps", "replicasets")[0]["metadata"]["ownerReferences"], Value::Null);
    running(&world).await;
    assert_eq!((left(&world), names(&world)), ((1, 1, 3), before), "adopted, not made anew");
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let world = World::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    world.call("POST", maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    world.call("DELETE", &format!("{maps}/held"), Value::Null).await;
    world.pass(60).await;
    assert!(world.find("", "configmaps", "held").unwrap()["metadata"]["deletionTimestamp"].is_string());
    world.call("PATCH", &format!("{maps}/held"), json!({"metadata": {"finalizers": null}})).await;
    assert!(world.find("", "configmaps", "held").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_takes_everything_with_it() {
    let world = World::start().await;
    world.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    world.until("its ServiceAccount", |w| !w.all_in("team", "", "serviceaccounts").is_empty()).await;
    let deployments = "/apis/apps/v1/namespaces/team/deployments";
    world.call("POST", deployments, deployment("web", 2, "i:1")).await;
    world.call("POST", "/api/v1/namespaces/team/services", json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})).await;
    world
        .call(
            "POST",
            "/api/v1/namespaces/team/secrets",
            json!({"metadata": {"name": "s", "finalizers": ["example.com/hold"]}}),
        )
        .await;
    let ready = |w: &World| {
        let slices = w.all_in("team", "discovery.k8s.io", "endpointslices");
        slices.iter().any(|s| s["endpoints"].as_array().is_some_and(|e| e.len() == 2))
    };
    world.until("two endpoints", ready).await;
    world.call("DELETE", "/api/v1/namespaces/team", Value::Null).await;
    let refused =
        world.try_call("POST", "/api/v1/namespaces/team/configmaps", json!({"metadata": {"name": "late"}})).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("because it is being terminated"), "{text}");
    world.pass(120).await;
    let held = world.find("", "namespaces", "team").expect("the Secret's finalizer holds it");
    let told = held["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True");
    assert!(told, "{}", held["status"]);
    assert!(world.all_in("team", "", "pods").is_empty());
    world.call("PATCH", "/api/v1/namespaces/team/secrets/s", json!({"metadata": {"finalizers": null}})).await;
    world.until("the namespace to be gone", |w| w.find("", "namespaces", "team").is_none()).await;
    let snapshot = world.store.snapshot(None).unwrap();
    let rest: Vec<String> =
        snapshot.range("/", None).map(|e| e.key.to_string()).filter(|k| k.contains("/team/")).collect();
    assert!(rest.is_empty(), "{rest:?}");
    assert!(world.machines["n1"].runtime.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_given_its_grace() {
    let world = World::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 20, "containers": [{"name": "slow", "image": "i:1"}]}});
    world.machines["n1"].runtime.script(|_, _| container::fake::Script::SlowStop(std::time::Duration::from_secs(12)));
    world.call("POST", PODS, pod).await;
    world.until("it to run", |w| w.in_phase("Running") == 1).await;
    let asked = world.elapsed();
    world.call("DELETE", &format!("{PODS}/p"), Value::Null).await;
    world.until("it to be gone", |w| w.all("", "pods").is_empty()).await;
    let took = (world.elapsed() - asked).as_secs();
    assert!((12..20).contains(&took), "{took}");
}

/// A pod that is owned, blocking, by the one before it in a ring.
fn owned(name: &str, owner: Option<&Value>) -> Value {
    let owners: Vec<Value> = owner.iter().map(|o| owner_reference(o)).collect();
    json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn owner_reference(owner: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true})
}

/// The public conformance suite's "should not be blocked by dependency circle", and the same with all of them deleted at once.
#[tokio::test(start_paused = true)]
async fn a_circle_of_owners_goes() {
    for deleted in [&["pod1"][..], &["pod1", "pod2", "pod3"]] {
        let world = World::start().await;
        let first = world.call("POST", PODS, owned("pod1", None)).await;
        let second = world.call("POST", PODS, owned("pod2", Some(&first))).await;
        let third = world.call("POST", PODS, owned("pod3", Some(&second))).await;
        let circle = json!({"metadata": {"ownerReferences": [owner_reference(&third)]}});
        world.call("PATCH", &format!("{PODS}/pod1"), circle).await;
        world.until("all to run", |w| w.in_phase("Running") == 3).await;
        for name in deleted {
            let foreground = json!({"propagationPolicy": "Foreground"});
            // the collector may have been faster
            drop(world.try_call("DELETE", &format!("{PODS}/{name}"), foreground).await);
        }
        let patience = std::time::Duration::from_secs(90);
        world.until_within(patience, "all to go", |w| w.all("", "pods").is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_is_named_by_every_coordinate() {
    let world = World::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let other = "/api/v1/namespaces/other/configmaps";
    world.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    let own = world.call("POST", maps, json!({"metadata": {"name": "own"}})).await;
    let of = |name: &str, wrong: Value| {
        let mut owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "own", "uid": own["metadata"]["uid"]});
        owner.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        json!({"metadata": {"name": name, "ownerReferences": [owner]}})
    };
    for (name, wrong) in [
        ("right", json!({})),
        ("wrong-name", json!({"name": "wrong"})),
        ("wrong-kind", json!({"kind": "Secret"})),
        ("wrong-uid", json!({"uid": "00000000-0000-0000-0000-000000000000"})),
        ("wrong-version", json!({"apiVersion": "v2"})),
        ("no-such-kind", json!({"apiVersion": "gone.example.com/v1", "kind": "Gone"})),
    ] {
        world.call("POST", maps, of(name, wrong)).await;
    }
    world.call("POST", other, of("elsewhere", json!({}))).await;
    world.call("POST", "/api/v1/namespaces", of("cluster-scoped", json!({}))).await;
    let names = |w: &World| {
        let all = w.all("", "configmaps").into_iter().chain(w.all_in("other", "", "configmaps"));
        let names = all.map(|m| m["metadata"]["name"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.filter(|n| n != "kube-root-ca.crt").collect();
        names.sort();
        names
    };
    // what cannot be looked up is kept, as upstream: the kind may come back
    let kept = ["no-such-kind", "own", "right", "wrong-version"];
    world.until("the wrong ones to go", |w| names(w) == kept).await;
    world.pass(600).await;
    assert_eq!(names(&world), kept);
    assert!(world.find("", "namespaces", "cluster-scoped").is_some());
    let told = |namespace: &str, name: &str| {
        let told = world.all_in(namespace, "", "events").into_iter().filter(|e| e["involvedObject"]["name"] == name);
        told.map(|e| [e["type"].clone(), e["reason"].clone(), e["message"].clone()]).collect::<Vec<_>>()
    };
    let text = |namespace: &str| {
        let uid = own["metadata"]["uid"].as_str().unwrap();
        let message = format!(
            "ownerRef [v1/ConfigMap, namespace: {namespace}, name: own, uid: {uid}] does not exist in namespace \"{namespace}\""
        );
        [json!("Warning"), json!("OwnerRefInvalidNamespace"), json!(message)]
    };
    assert_eq!(told("other", "elsewhere"), [text("other")]);
    assert_eq!(told("default", "cluster-scoped"), [text("")]);
    assert!(told("default", "wrong-name").is_empty());
    world.call("DELETE", &format!("{maps}/own"), json!({"propagationPolicy": "Foreground"})).await;
    world.until("the right one to go", |w| names(w) == ["no-such-kind", "wrong-version"]).await;
}
