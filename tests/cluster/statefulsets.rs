//! StatefulSets: order, names, updates and their history.

use crate::world::{World, condition};
use serde_json::{Value, json};

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/db";

fn set(replicas: i64, more: Value) -> Value {
    let mut spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "i:1"}]}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "db"}, "spec": spec})
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn status(world: &World) -> Value {
    world.find("apps", "statefulsets", "db").unwrap()["status"].take()
}

/// Whether all replicas are ready, of the newest template, and known to be.
fn complete(world: &World) -> bool {
    let set = world.find("apps", "statefulsets", "db").unwrap();
    let (status, wanted) = (&set["status"], &set["spec"]["replicas"]);
    let all = |field: &str| &status[field] == wanted || *wanted == json!(0) && status[field].is_null();
    status["observedGeneration"] == set["metadata"]["generation"]
        && all("replicas")
        && all("readyReplicas")
        && all("updatedReplicas")
        && status["currentRevision"] == status["updateRevision"]
}

/// Name and image of each pod, by name.
fn pods(world: &World) -> Vec<String> {
    let text =
        |pod: &Value| format!("{} {}", pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]).replace('"', "");
    let mut pods: Vec<_> = world.pods().iter().map(text).collect();
    pods.sort();
    pods
}

/// The numbers of pods, and of ready ones, at each revision of the store from one on.
fn over_time(world: &World, from: u64) -> Vec<(Vec<String>, usize)> {
    let at = |revision| {
        let snapshot = world.store.snapshot(Some(revision)).unwrap();
        let pods: Vec<Value> =
            snapshot.range("/core/pods/default/", None).map(|e| serde_json::from_slice(&e.stored).unwrap()).collect();
        let ready = pods.iter().filter(|pod| condition(pod, "Ready") == "True").count();
        (pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect(), ready)
    };
    (from..=world.store.revision()).map(at).collect()
}

#[tokio::test(start_paused = true)]
async fn pods_come_and_go_in_order_with_their_names() {
    let world = World::with_nodes(2, 1).await;
    let from = world.store.revision();
    world.call("POST", SETS, set(3, json!({}))).await;
    world.until("the set to be complete", complete).await;
    assert_eq!(pods(&world), ["db-0 i:1", "db-1 i:1", "db-2 i:1"]);
    for (names, ready) in over_time(&world, from) {
        assert!(names.len() <= ready + 1, "{names:?} with {ready} ready");
    }
    let pod = world.find("", "pods", "db-1").unwrap();
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    let events = world.events();
    let created = "\"db\" \"SuccessfulCreate\" \"Create Pod db-0 in StatefulSet db successful";
    assert!(events.iter().any(|event| event.starts_with(created)), "{events:#?}");

    world.call("DELETE", "/api/v1/namespaces/default/pods/db-1", json!({})).await;
    world
        .until("another pod of that name", |w| {
            w.find("", "pods", "db-1").is_some_and(|new| new["metadata"]["uid"] != pod["metadata"]["uid"])
                && complete(w)
        })
        .await;

    let from = world.store.revision();
    world.call("PATCH", SET, json!({"spec": {"replicas": 1}})).await;
    world.until("two to go", |w| complete(w) && pods(w) == ["db-0 i:1"]).await;
    let gone_out_of_order = over_time(&world, from)
        .iter()
        .any(|(names, _)| names.contains(&"db-2".to_owned()) && !names.contains(&"db-1".to_owned()));
    assert!(!gone_out_of_order);
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_backwards_one_at_a_time_and_can_be_undone() {
    let world = World::with_nodes(2, 2).await;
    world.call("POST", SETS, set(3, json!({}))).await;
    world.until("the first rollout", complete).await;
    let first = status(&world)["updateRevision"].clone();
    let from = world.store.revision();
    world.call("PATCH", SET, image("i:2")).await;
    world.until("the second rollout", |w| complete(w) && pods(w) == ["db-0 i:2", "db-1 i:2", "db-2 i:2"]).await;
    for (names, ready) in over_time(&world, from) {
        assert!(ready >= 2, "{names:?} with {ready} ready");
    }
    let revisions = world.all("apps", "controllerrevisions");
    assert_eq!(revisions.len(), 2);
    assert_eq!(status(&world)["currentReplicas"], 3);
    // kubectl's undo patches the template of the older revision.
    let older = revisions.iter().find(|one| one["metadata"]["name"] == first).unwrap();
    world.call("PATCH", SET, older["data"].clone()).await;
    world.until("the undo", |w| complete(w) && pods(w) == ["db-0 i:1", "db-1 i:1", "db-2 i:1"]).await;
    let revisions = world.all("apps", "controllerrevisions");
    let mut numbers: Vec<_> = revisions.iter().map(|one| one["revision"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(
        (numbers, &status(&world)["currentRevision"]),
        (vec![2, 3], &first),
        "the older one is the newest again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_partition_keeps_the_first_pods_as_they_are() {
    let world = World::with_nodes(2, 3).await;
    let rolling = |partition: i64| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    world.call("POST", SETS, set(3, rolling(2))).await;
    world.until("the first rollout", complete).await;
    world.call("PATCH", SET, image("i:2")).await;
    world.until("the last pod", |w| pods(w) == ["db-0 i:1", "db-1 i:1", "db-2 i:2"]).await;
    world.call("DELETE", "/api/v1/namespaces/default/pods/db-0", json!({})).await;
    world
        .until("the first pod as it was", |w| {
            pods(w) == ["db-0 i:1", "db-1 i:1", "db-2 i:2"] && status(w)["readyReplicas"] == 3
        })
        .await;
    assert_eq!((&status(&world)["currentReplicas"], &status(&world)["updatedReplicas"]), (&json!(2), &json!(1)));
    world.call("PATCH", SET, json!({"spec": rolling(0)})).await;
    world.until("all pods", |w| complete(w) && pods(w) == ["db-0 i:2", "db-1 i:2", "db-2 i:2"]).await;
}

#[tokio::test(start_paused = true)]
async fn parallel_pods_start_together_and_all_go_with_the_set() {
    let world = World::with_nodes(2, 4).await;
    let from = world.store.revision();
    world.call("POST", SETS, set(4, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 3}}))).await;
    world.until("the set to be complete", complete).await;
    assert_eq!(pods(&world), ["db-3 i:1", "db-4 i:1", "db-5 i:1", "db-6 i:1"]);
    assert!(over_time(&world, from).iter().any(|(names, ready)| names.len() == 4 && *ready == 0), "none waited");
    world.call("DELETE", SET, json!({})).await;
    world
        .until("everything to be gone", |w| {
            w.all("", "pods").is_empty() && w.all("apps", "controllerrevisions").is_empty()
        })
        .await;
}
