//! ReplicationControllers: as ReplicaSets, with a map of labels as the selector.

use crate::world::World;
use serde_json::{Value, json};

const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
const CONTROLLER: &str = "/api/v1/namespaces/default/replicationcontrollers/c";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn controller(replicas: i64) -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "c"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn complete(world: &World, replicas: i64) -> bool {
    let status = world.find("", "replicationcontrollers", "c").unwrap()["status"].clone();
    let count = |name: &str| status[name].as_i64().unwrap_or(0);
    ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"]
        .iter()
        .all(|name| count(name) == replicas)
}

fn owned(world: &World) -> Vec<String> {
    let own = |pod: &&Value| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController";
    world.pods().iter().filter(own).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn it_keeps_its_pods_adopts_what_fits_and_leaves_them_behind() {
    let world = World::start().await;
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "c"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    world.call("POST", PODS, orphan).await;
    let made = world.call("POST", CONTROLLERS, controller(3)).await;
    assert_eq!((&made["spec"]["selector"], &made["metadata"]["labels"]), (&json!({"app": "c"}), &json!({"app": "c"})));
    world.until("three pods", |w| complete(w, 3) && owned(w).len() == 3).await;
    assert!(owned(&world).contains(&"orphan".to_owned()), "{:?}", owned(&world));
    assert!(world.events().iter().any(|event| event.contains("SuccessfulCreate")), "{:?}", world.events());
    let scale = world.call("GET", &format!("{CONTROLLER}/scale"), Value::Null).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("app=c")));
    world.call("PATCH", &format!("{CONTROLLER}/scale"), json!({"spec": {"replicas": 1}})).await;
    world.until("one pod", |w| complete(w, 1) && w.pods().len() == 1).await;
    // A pod whose labels change is released and replaced.
    let name = owned(&world)[0].clone();
    world.call("PATCH", &format!("{PODS}/{name}"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    world.until("another pod", |w| complete(w, 1) && w.pods().len() == 2 && !owned(w).contains(&name)).await;
    world.call("DELETE", CONTROLLER, Value::Null).await;
    world.until("it to be gone", |w| w.find("", "replicationcontrollers", "c").is_none()).await;
    assert_eq!(world.pods().len(), 2, "a delete without a policy leaves the pods, as for ever");
    // A budget knows its scale.
    world.call("POST", CONTROLLERS, controller(4)).await;
    let budget = json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "c"}}}});
    world.call("POST", "/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget).await;
    world
        .until("the budget", |w| {
            let status = w.find("policy", "poddisruptionbudgets", "b").unwrap()["status"].clone();
            complete(w, 4) && status["expectedPods"] == 4 && status["disruptionsAllowed"] == 1
        })
        .await;
    world.call("DELETE", CONTROLLER, json!({"propagationPolicy": "Background"})).await;
    world.until("its pods to go too", |w| owned(w).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn it_says_that_pods_cannot_be_made_and_goes_on_when_they_can() {
    let world = World::start().await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]}});
    world.call("POST", "/api/v1/namespaces/default/limitranges", range).await;
    let mut wanted = controller(1);
    wanted["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    world.call("POST", CONTROLLERS, wanted).await;
    world
        .until("it to say so", |w| {
            let controller = w.find("", "replicationcontrollers", "c").unwrap();
            let condition = controller["status"]["conditions"][0].clone();
            let text = condition["message"].as_str().unwrap_or_default();
            condition["type"] == "ReplicaFailure"
                && condition["reason"] == "FailedCreate"
                && text.ends_with("is forbidden: maximum cpu usage per Container is 1, but limit is 2")
        })
        .await;
    let template = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    world.call("PATCH", CONTROLLER, template).await;
    world.until("a pod", |w| complete(w, 1)).await;
    let pod = &world.pods()[0];
    let expected = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}});
    assert_eq!(pod["spec"]["containers"][0]["resources"], expected);
    let told = "LimitRanger plugin set: cpu request for container c; cpu limit for container c";
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"], told);
    assert!(world.find("", "replicationcontrollers", "c").unwrap()["status"]["conditions"].is_null());
}
