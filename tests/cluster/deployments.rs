//! From a Deployment to pods that serve, and from one template to the next.

use crate::world::{DEPLOYMENTS, World, complete, condition, deployment};
use serde_json::{Value, json};

/// Pods at one revision of the store: those not being deleted, and those of them that are ready.
fn pods_at(world: &World, revision: u64) -> (usize, usize) {
    let snapshot = world.store.snapshot(Some(revision)).unwrap();
    let pods: Vec<Value> =
        snapshot.range("/core/pods/default/", None).map(|e| serde_json::from_slice(&e.stored).unwrap()).collect();
    let living: Vec<_> = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    (living.len(), living.iter().filter(|pod| condition(pod, "Ready") == "True").count())
}

fn images(world: &World) -> Vec<String> {
    let pods = world.pods();
    let mut images: Vec<_> =
        pods.iter().map(|p| p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).collect();
    images.sort();
    images.dedup();
    images
}

#[tokio::test(start_paused = true)]
async fn a_deployment_becomes_available_pods() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 3, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let web = world.find("apps", "deployments", "web").unwrap();
    assert_eq!((condition(&web, "Available"), condition(&web, "Progressing")), ("True".into(), "True".into()));
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let sets = world.all("apps", "replicasets");
    assert_eq!(sets.len(), 1);
    for pod in world.pods() {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], sets[0]["metadata"]["uid"]);
        assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["phase"]), (&json!("n1"), &json!("Running")));
        assert_eq!(condition(&pod, "PodScheduled"), "True");
    }
    assert_eq!(world.machines["n1"].runtime.running().len(), 3);
    let expected = "\"web\" \"ScalingReplicaSet\" \"Scaled up replica set ";
    assert!(world.events().iter().any(|e| e.starts_with(expected)), "{:#?}", world.events());
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_keeps_its_limits_at_every_revision() {
    for (surge, unavailable, most, least) in
        [(json!("25%"), json!("25%"), 5, 3), (json!(1), json!(0), 5, 4), (json!(0), json!(1), 4, 3)]
    {
        let world = World::with_nodes(2, 3).await;
        let mut web = deployment("web", 4, "i:1");
        web["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        world.call("POST", DEPLOYMENTS, web).await;
        world.until("the first rollout", |w| complete(w, "web")).await;
        let from = world.store.revision();
        let patch = json!({"spec": {"template": {"spec": {"containers": [deployment("web", 4, "i:2")["spec"]["template"]["spec"]["containers"][0]]}}}});
        world.call("PATCH", &format!("{DEPLOYMENTS}/web"), patch).await;
        world.until("the second rollout", |w| complete(w, "web") && images(w) == ["i:2"]).await;
        let mut both = false;
        for revision in from..=world.store.revision() {
            let (living, ready) = pods_at(&world, revision);
            assert!(living <= most, "{living} pods at revision {revision}, at most {most} with {surge}");
            assert!(ready >= least, "{ready} ready pods at revision {revision}, at least {least} with {unavailable}");
            both |= living != 4 || ready != 4;
        }
        assert!(both, "nothing was seen to move");
        assert_eq!(world.all("apps", "replicasets").len(), 2, "the old ReplicaSet is kept as history");
    }
}

#[tokio::test(start_paused = true)]
async fn recreate_lets_old_pods_go_first() {
    let world = World::start().await;
    let mut web = deployment("web", 2, "i:1");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    world.call("POST", DEPLOYMENTS, web).await;
    world.until("the first rollout", |w| complete(w, "web")).await;
    let from = world.store.revision();
    let template = deployment("web", 2, "i:2")["spec"]["template"].take();
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), json!({"spec": {"template": template}})).await;
    world.until("the second rollout", |w| complete(w, "web") && images(w) == ["i:2"]).await;
    for revision in from..=world.store.revision() {
        let snapshot = world.store.snapshot(Some(revision)).unwrap();
        let mut seen: Vec<String> = snapshot
            .range("/core/pods/default/", None)
            .map(|e| serde_json::from_slice::<Value>(&e.stored).unwrap()["spec"]["containers"][0]["image"].to_string())
            .collect();
        seen.dedup();
        seen.sort();
        seen.dedup();
        assert!(seen.len() <= 1, "both templates at revision {revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_template_can_come_back() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 2, "i:1")).await;
    world.until("the first rollout", |w| complete(w, "web")).await;
    let to = |image: &str| json!({"spec": {"template": deployment("web", 2, image)["spec"]["template"].take()}});
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), to("i:2")).await;
    world.until("the second rollout", |w| complete(w, "web") && images(w) == ["i:2"]).await;
    world.call("PATCH", &format!("{DEPLOYMENTS}/web"), to("i:1")).await;
    world.until("the rollback", |w| complete(w, "web") && images(w) == ["i:1"]).await;
    let sets = world.all("apps", "replicasets");
    assert_eq!(sets.len(), 2, "the old ReplicaSet is used again");
    let revision = |set: &Value| set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone();
    let mut revisions: Vec<_> = sets.iter().map(|set| (revision(set), set["spec"]["replicas"].clone())).collect();
    revisions.sort_by_key(|(revision, _)| revision.to_string());
    assert_eq!(revisions, [(json!("2"), json!(0)), (json!("3"), json!(2))]);
    let web = world.find("apps", "deployments", "web").unwrap();
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
}

#[tokio::test(start_paused = true)]
async fn a_paused_deployment_scales_but_does_not_roll() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 2, "i:1")).await;
    world.until("the first rollout", |w| complete(w, "web")).await;
    let template = deployment("web", 2, "i:2")["spec"]["template"].take();
    let url = format!("{DEPLOYMENTS}/web");
    world.call("PATCH", &url, json!({"spec": {"paused": true, "replicas": 3, "template": template}})).await;
    world.until("three pods", |w| w.in_phase("Running") == 3).await;
    world.pass(120).await;
    assert_eq!(images(&world), ["i:1"]);
    let web = world.find("apps", "deployments", "web").unwrap();
    assert_eq!(condition(&web, "Progressing"), "Unknown");
    world.call("PATCH", &url, json!({"spec": {"paused": false}})).await;
    world.until("the rollout", |w| complete(w, "web") && images(w) == ["i:2"]).await;
}

#[tokio::test(start_paused = true)]
async fn scaling_down_and_up_again_ends_at_the_last_wish() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 1, "i:1")).await;
    for replicas in [8, 0, 5, 2, 6] {
        world.call("PATCH", &format!("{DEPLOYMENTS}/web/scale"), json!({"spec": {"replicas": replicas}})).await;
        world.pass(1).await;
    }
    world.until("six pods", |w| complete(w, "web") && w.all("", "pods").len() == 6).await;
    assert_eq!(world.machines["n1"].runtime.running().len(), 6);
    assert_eq!(world.machines["n1"].runtime.sandboxes().len(), 6);
}
