//! DaemonSets: a pod on each node, updates, and nodes that change.

use crate::world::World;
use container::fake::Script;
use serde_json::{Value, json};

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const SET: &str = "/apis/apps/v1/namespaces/default/daemonsets/log";

fn set(more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "log"}},
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "i:1"}]}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "log"}, "spec": spec})
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// Node and image of each pod, by node.
fn pods(world: &World) -> Vec<String> {
    let text =
        |pod: &Value| format!("{} {}", pod["spec"]["nodeName"], pod["spec"]["containers"][0]["image"]).replace('"', "");
    let mut pods: Vec<_> = world.pods().iter().map(text).collect();
    pods.sort();
    pods
}

fn complete(world: &World, wanted: i64) -> bool {
    let set = world.find("apps", "daemonsets", "log").unwrap();
    let status = &set["status"];
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    status["observedGeneration"] == set["metadata"]["generation"]
        && counts.iter().all(|count| status[count] == wanted)
        && status["numberUnavailable"].is_null()
}

#[tokio::test(start_paused = true)]
async fn each_node_gets_a_pod_also_one_that_comes_later_or_is_cordoned() {
    let mut world = World::with_nodes(2, 1).await;
    world.call("PATCH", "/api/v1/nodes/n2", json!({"spec": {"unschedulable": true}})).await;
    world.call("POST", SETS, set(json!({}))).await;
    world.until("two pods", |w| complete(w, 2) && pods(w) == ["n1 i:1", "n2 i:1"]).await;
    world.node("n3", 4, |_, _| Script::Run).await;
    world.until("a third pod", |w| complete(w, 3) && pods(w) == ["n1 i:1", "n2 i:1", "n3 i:1"]).await;
    world
        .call("PATCH", SET, json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n1"}}}}}))
        .await;
    world.until("the selected node's only", |w| complete(w, 1) && pods(w) == ["n1 i:1"]).await;
    world.call("DELETE", SET, json!({})).await;
    world.until("everything to be gone", |w| w.all("", "pods").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_taint_that_is_not_tolerated_ends_the_pod_there() {
    let world = World::with_nodes(2, 2).await;
    world.call("POST", SETS, set(json!({}))).await;
    world.until("two pods", |w| complete(w, 2)).await;
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "maintenance", "effect": effect}]}});
    world.call("PATCH", "/api/v1/nodes/n2", taint("NoSchedule")).await;
    world.pass(30).await;
    let status = world.find("apps", "daemonsets", "log").unwrap()["status"].take();
    assert_eq!((&status["desiredNumberScheduled"], &status["numberMisscheduled"]), (&json!(1), &json!(1)), "it stays");
    assert_eq!(pods(&world).len(), 2);
    world.call("PATCH", "/api/v1/nodes/n2", taint("NoExecute")).await;
    world.until("one pod", |w| pods(w) == ["n1 i:1"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_replaces_one_at_a_time_or_surges() {
    for (rolling, least, most) in
        [(json!({"maxUnavailable": 1}), 2, 3), (json!({"maxUnavailable": 0, "maxSurge": 1}), 3, 4)]
    {
        let world = World::with_nodes(3, 3).await;
        let strategy = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
        world.call("POST", SETS, set(strategy)).await;
        world.until("the first rollout", |w| complete(w, 3)).await;
        let from = world.store.revision();
        world.call("PATCH", SET, image("i:2")).await;
        world.until("the second rollout", |w| complete(w, 3) && pods(w) == ["n1 i:2", "n2 i:2", "n3 i:2"]).await;
        for revision in from..=world.store.revision() {
            let snapshot = world.store.snapshot(Some(revision)).unwrap();
            let all = snapshot
                .range("/core/pods/default/", None)
                .map(|e| serde_json::from_slice::<Value>(&e.stored).unwrap());
            let all: Vec<_> = all.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
            let ready = all.iter().filter(|pod| crate::world::condition(pod, "Ready") == "True").count();
            assert!(ready >= least && all.len() <= most, "{ready} of {} at {revision} with {rolling}", all.len());
        }
        let annotations = &world.find("apps", "daemonsets", "log").unwrap()["metadata"]["annotations"];
        assert_eq!(annotations["deprecated.daemonset.template.generation"], "2");
        assert_eq!(world.all("apps", "controllerrevisions").len(), 2);
    }
}
