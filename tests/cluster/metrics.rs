//! metrics.k8s.io as metrics-server serves it: from the agents' figures through the kubelets' paths.

use crate::world::{PODS, World};
use serde_json::{Value, json};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const OF_PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

async fn get(world: &World, url: &str) -> Value {
    world.call("GET", url, Value::Null).await
}

async fn refused(world: &World, url: &str) -> String {
    world.try_call("GET", url, Value::Null).await.expect_err("refused").to_string()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

/// A cluster of two nodes with a pod on each.
async fn world() -> World {
    let world = World::with_nodes(2, 7).await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let containers = json!([{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]);
        let labels = json!({"app": name});
        let pod =
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node, "containers": containers}});
        world.call("POST", PODS, pod).await;
    }
    world.until("the pods to run", |w| w.in_phase("Running") == 2).await;
    world
}

#[tokio::test(start_paused = true)]
async fn pods_and_nodes_have_metrics_after_two_readings() {
    let world = world().await;
    let groups = get(&world, "/apis").await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "metrics.k8s.io"), "{groups}");
    let found = get(&world, METRICS).await;
    let resources: Vec<_> = found["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["name"], &r["kind"], &r["namespaced"], &r["verbs"]))
        .collect();
    let verbs = json!(["get", "list"]);
    assert_eq!(
        resources,
        [
            (&json!("nodes"), &json!("NodeMetrics"), &json!(false), &verbs),
            (&json!("pods"), &json!("PodMetrics"), &json!(true), &verbs)
        ]
    );
    let none = get(&world, &format!("{METRICS}/pods")).await;
    assert_eq!(
        none,
        json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": []})
    );
    let unknown = refused(&world, &format!("{OF_PODS}/a")).await;
    assert!(unknown.contains("podmetrics.metrics.k8s.io \"default/a\" not found"), "{unknown}");

    world.pass(40).await;
    let pods = get(&world, &format!("{METRICS}/pods")).await;
    assert_eq!(names(&pods), ["a", "b"]);
    let one = get(&world, &format!("{OF_PODS}/a")).await;
    assert_eq!(
        (&one["kind"], &one["metadata"]["namespace"], &one["metadata"]["labels"]),
        (&json!("PodMetrics"), &json!("default"), &json!({"app": "a"}))
    );
    assert!(one["timestamp"].is_string() && one["metadata"]["creationTimestamp"].is_string(), "{one}");
    let window: f64 = one["window"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!((10.0..30.0).contains(&window), "{one}");
    assert_eq!(
        one["containers"],
        json!([
        {"name": "c", "usage": {"cpu": "500m", "memory": "1Mi"}}, {"name": "d", "usage": {"cpu": "500m", "memory": "1Mi"}}])
    );
    let node = get(&world, &format!("{METRICS}/nodes/n2")).await;
    assert_eq!((&node["kind"], &node["usage"]), (&json!("NodeMetrics"), &json!({"cpu": "250m", "memory": "64Mi"})));
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n2");
    assert_eq!(names(&get(&world, &format!("{METRICS}/nodes")).await), ["n1", "n2"]);
}

#[tokio::test(start_paused = true)]
async fn metrics_are_selected_and_refused_as_objects_are() {
    let mut world = world().await;
    world.pass(40).await;
    assert_eq!(names(&get(&world, &format!("{OF_PODS}?labelSelector=app%3Db")).await), ["b"]);
    assert_eq!(names(&get(&world, &format!("{OF_PODS}?fieldSelector=metadata.name%3Da")).await), ["a"]);
    assert_eq!(
        names(&get(&world, &format!("{METRICS}/nodes?labelSelector=kubernetes.io/hostname%3Dn1")).await),
        ["n1"]
    );
    assert_eq!(names(&get(&world, &format!("{METRICS}/namespaces/other/pods")).await), [""; 0]);
    for (url, text) in [
        (format!("{OF_PODS}/x"), "pods \"x\" not found"),
        (format!("{METRICS}/nodes/x"), "nodes \"x\" not found"),
        (format!("{OF_PODS}?labelSelector=%2C%2C"), "unable to parse requirement"),
    ] {
        let said = refused(&world, &url).await;
        assert!(said.contains(text), "{said}");
    }
    world.try_call("DELETE", &format!("{OF_PODS}/a"), Value::Null).await.expect_err("not stored");
    // what a node does not tell, nobody makes up
    world.stop_agent("n2").await;
    world.pass(60).await;
    assert_eq!(names(&get(&world, &format!("{METRICS}/pods")).await), ["a"]);
    let gone = refused(&world, &format!("{METRICS}/nodes/n2")).await;
    assert!(gone.contains("nodemetrics.metrics.k8s.io \"n2\" not found"), "{gone}");
}
