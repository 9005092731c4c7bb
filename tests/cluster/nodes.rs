//! Nodes that fall silent, and nodes that come back.

use crate::world::{DEPLOYMENTS, World, complete, condition, deployment};
use container::fake::Script;

#[tokio::test(start_paused = true)]
async fn pods_of_a_lost_node_are_replaced_elsewhere() {
    let mut world = World::with_nodes(2, 5).await;
    world.call("POST", DEPLOYMENTS, deployment("web", 4, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let on = |w: &World, node: &str| w.pods().iter().filter(|p| p["spec"]["nodeName"] == node).count();
    assert!(on(&world, "n1") > 0 && on(&world, "n2") > 0, "spread over both");
    world.stop_agent("n2").await;
    let silent = world.elapsed();
    let status = |w: &World| condition(&w.find("", "nodes", "n2").unwrap(), "Ready");
    assert_eq!(status(&world), "True", "nobody knows yet");
    world.until("the node to be Unknown", |w| status(w) == "Unknown").await;
    let took = (world.elapsed() - silent).as_secs();
    assert!((35..70).contains(&took), "50 s after the last renewal: {took}");
    world
        .until("its pods to be unready", |w| {
            w.pods().iter().filter(|p| p["spec"]["nodeName"] == "n2").all(|p| condition(p, "Ready") == "False")
        })
        .await;
    let node = world.find("", "nodes", "n2").unwrap();
    let taints = node["spec"]["taints"].as_array().unwrap();
    for effect in ["NoSchedule", "NoExecute"] {
        let found = taints.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == effect);
        assert!(found, "{effect} in {taints:?}");
    }
    assert!(on(&world, "n2") > 0, "pods tolerate that for five minutes");
    world.until("replacements", |w| on(w, "n1") == 4 && complete(w, "web")).await;
    let took = (world.elapsed() - silent).as_secs();
    assert!((300..420).contains(&took), "five minutes later: {took}");
    let leaving = world.all("", "pods").into_iter().filter(|p| !p["metadata"]["deletionTimestamp"].is_null());
    assert!(leaving.count() > 0, "nobody on the node has confirmed the end");
    world.run_agent("n2", 4);
    world.until("the node to be back", |w| status(w) == "True").await;
    world.until("the old pods to be gone", |w| w.all("", "pods").len() == 4).await;
    world.until("the taints to be gone", |w| w.find("", "nodes", "n2").unwrap()["spec"]["taints"].is_null()).await;
    assert!(world.machines["n2"].runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_goes_on_with_the_same_pods() {
    let mut world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 2, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let names = |w: &World| {
        w.pods().iter().map(|p| (p["metadata"]["uid"].clone(), p["status"]["podIP"].clone())).collect::<Vec<_>>()
    };
    let before = names(&world);
    world.stop_agent("n1").await;
    assert!(world.machines["n1"].runtime.running().is_empty(), "drained");
    assert_eq!(names(&world), before, "no object changed");
    world.run_agent("n1", 4);
    let restarted = |w: &World| {
        w.pods().iter().all(|p| {
            let container = &p["status"]["containerStatuses"][0];
            container["lastState"]["terminated"].is_object() && container["state"]["running"].is_object()
        })
    };
    world.until("the containers to run again", |w| restarted(w) && complete(w, "web")).await;
    assert_eq!(names(&world).iter().map(|n| &n.0).collect::<Vec<_>>(), before.iter().map(|n| &n.0).collect::<Vec<_>>());
    let state = &world.pods()[0]["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert!(state["exitCode"].is_number(), "{state}");
    assert_eq!(world.pods()[0]["status"]["containerStatuses"][0]["restartCount"], 0, "a planned stop is not counted");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_leaves_no_pods_behind() {
    let mut world = World::with_nodes(1, 6).await;
    world.node("n2", 4, |_, _| Script::Run).await;
    world.call("POST", DEPLOYMENTS, deployment("web", 4, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    world.stop_agent("n2").await;
    world.call("DELETE", "/api/v1/nodes/n2", serde_json::Value::Null).await;
    world
        .until("everything on n1", |w| {
            let pods = w.all("", "pods");
            complete(w, "web") && pods.len() == 4 && pods.iter().all(|p| p["spec"]["nodeName"] == "n1")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_is_short_takes_nothing_new() {
    let world = World::start().await;
    let short = |is: bool| world.machines["n1"].disk_short.store(is, std::sync::atomic::Ordering::SeqCst);
    let tainted =
        |w: &World| w.find("", "nodes", "n1").unwrap()["spec"]["taints"].to_string().contains("disk-pressure");
    short(true);
    world.until("the taint", tainted).await;
    world.call("POST", DEPLOYMENTS, deployment("web", 1, "i:1")).await;
    world.until("the refusal", |w| w.events().iter().any(|e| e.contains("untolerated taint"))).await;
    assert_eq!(world.in_phase("Running"), 0);
    short(false);
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    assert!(!tainted(&world));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_deleted_while_its_agent_runs_comes_back_with_its_pods() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 2, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let uids = |w: &World| w.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect::<Vec<_>>();
    let lease = |w: &World| w.all_in("kube-node-lease", "coordination.k8s.io", "leases").into_iter().next();
    let (pods, node) = (uids(&world), world.find("", "nodes", "n1").unwrap());
    world.until("the Lease", |w| lease(w).is_some()).await;
    world.call("DELETE", "/api/v1/nodes/n1", serde_json::Value::Null).await;
    let deleted = world.elapsed();
    let back = |w: &World| {
        let node = w.find("", "nodes", "n1")?;
        let lease = lease(w)?;
        let mine = lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"];
        (mine && condition(&node, "Ready") == "True").then(|| node["metadata"]["uid"].clone())
    };
    world.until("the node to be back", |w| back(w).is_some_and(|uid| uid != node["metadata"]["uid"])).await;
    let took = (world.elapsed() - deleted).as_secs();
    assert!(took <= 20, "by the next heartbeats: {took}");
    world.pass(120).await;
    assert!(back(&world).is_some(), "and stays");
    assert_eq!(uids(&world), pods, "its pods never left");
    assert!(complete(&world, "web"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_called_unready_for_its_nodes_sake_is_ready_again_once_the_node_is() {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("web", 1, "i:1")).await;
    world.until("the Deployment to be complete", |w| complete(w, "web")).await;
    let ready = |w: &World| condition(&w.pods()[0], "Ready");
    // What the node life cycle writes when a node does not answer; the agent's own view of the pod has not changed.
    let pod = world.pods().remove(0);
    let mut conditions = pod["status"]["conditions"].clone();
    for one in conditions.as_array_mut().unwrap().iter_mut().filter(|c| c["type"] == "Ready") {
        one["status"] = "False".into();
    }
    let status = format!("/api/v1/namespaces/default/pods/{}/status", pod["metadata"]["name"].as_str().unwrap());
    let said = world.call("PATCH", &status, serde_json::json!({"status": {"conditions": conditions}})).await;
    assert_eq!(condition(&said, "Ready"), "False");
    let begin = world.elapsed();
    world.until("the pod to be ready again", |w| ready(w) == "True" && complete(w, "web")).await;
    let took = (world.elapsed() - begin).as_secs();
    assert!(took < 60, "the agent sees it and says so: {took} s");
}
