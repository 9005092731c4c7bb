//! Pods that do not fit wait, and wake when they may.

use crate::world::{DEPLOYMENTS, PODS, World, complete, condition, deployment};
use container::fake::Script;
use serde_json::{Value, json};
use std::time::Duration;

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn runs(world: &World, name: &str) -> bool {
    world.find("", "pods", name).is_some_and(|p| p["status"]["phase"] == "Running")
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_bound_when_capacity_appears() {
    let mut world = World::start().await;
    world.call("POST", PODS, pod("first", "3")).await;
    world.until("the first to run", |w| runs(w, "first")).await;
    world.call("POST", PODS, pod("second", "3")).await;
    world
        .until("the second to be refused", |w| {
            condition(&w.find("", "pods", "second").unwrap(), "PodScheduled") == "False"
        })
        .await;
    let second = world.find("", "pods", "second").unwrap();
    let why = &second["status"]["conditions"][0];
    assert_eq!(why["reason"], "Unschedulable");
    let text = why["message"].as_str().unwrap();
    assert!(text.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{text}");
    // by a pod that goes
    let asked = world.elapsed();
    world.call("DELETE", &format!("{PODS}/first"), Value::Null).await;
    world.until("the second to run", |w| runs(w, "second")).await;
    assert!(world.elapsed() - asked < Duration::from_secs(30), "woken, not found by chance");
    // by a node that comes
    world.call("POST", PODS, pod("third", "3")).await;
    world
        .until("the third to be refused", |w| {
            condition(&w.find("", "pods", "third").unwrap(), "PodScheduled") == "False"
        })
        .await;
    let asked = world.elapsed();
    world.node("n2", 4, |_, _| Script::Run).await;
    world.until("the third to run", |w| runs(w, "third")).await;
    assert!(world.elapsed() - asked < Duration::from_secs(30));
    assert_eq!(world.find("", "pods", "third").unwrap()["spec"]["nodeName"], "n2");
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_node_takes_nothing_new_until_it_is_open_again() {
    let world = World::start().await;
    world.call("PATCH", "/api/v1/nodes/n1", json!({"spec": {"unschedulable": true}})).await;
    world.until("the taint", |w| w.find("", "nodes", "n1").unwrap()["spec"]["taints"].is_array()).await;
    world.call("POST", PODS, pod("p", "1")).await;
    world.until("a refusal", |w| condition(&w.find("", "pods", "p").unwrap(), "PodScheduled") == "False").await;
    // not long after a try without any event, which comes every five minutes and begins a pause
    world.pass(590).await;
    assert!(!runs(&world, "p"));
    let opened = world.elapsed();
    world.call("PATCH", "/api/v1/nodes/n1", json!({"spec": {"unschedulable": null}})).await;
    world.until("it to run", |w| runs(w, "p")).await;
    assert!(world.elapsed() - opened < Duration::from_millis(900), "at once: {:?}", world.elapsed() - opened);
}

/// A pod that goes around the scheduler and asks for more than numbers hold.
#[tokio::test(start_paused = true)]
async fn a_pod_that_asks_for_everything_and_is_refused_makes_no_room_for_others() {
    let world = World::start().await;
    let mut set = deployment("d", 6, "i:1");
    let whole = &mut set["spec"]["template"]["spec"]["containers"][0]["resources"];
    *whole = json!({"requests": {"cpu": "1200m", "memory": "200Mi"}});
    world.call("POST", DEPLOYMENTS, set).await;
    let waiting = |w: &World| w.pods().iter().filter(|p| condition(p, "PodScheduled") == "False").count();
    world.until("three to run and three to wait", |w| w.in_phase("Running") == 3 && waiting(w) == 3).await;
    let container = |name: &str| json!({"name": name, "image": "i:1", "resources": {"requests": {"cpu": "9E", "memory": "9E", "ephemeral-storage": "9E"}}});
    let mut huge = pod("huge", "1");
    huge["spec"]["containers"] = json!([container("a"), container("b")]);
    huge["spec"]["nodeName"] = "n1".into();
    world.call("POST", PODS, huge).await;
    world.until("a refusal", |w| w.find("", "pods", "huge").unwrap()["status"]["phase"] == "Failed").await;
    world.pass(60).await;
    assert_eq!((world.pods().len(), world.in_phase("Running"), waiting(&world)), (7, 3, 3));
}

/// Upstream makes thousands of them.
#[tokio::test(start_paused = true)]
async fn pods_that_their_node_refuses_are_replaced_ever_more_slowly() {
    let world = World::start().await;
    let mut set = deployment("d", 3, "i:1");
    set["spec"]["template"]["spec"]["nodeName"] = "n1".into();
    set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "64"}});
    world.call("POST", DEPLOYMENTS, set.clone()).await;
    world.until("two rounds", |w| w.in_phase("Failed") == 6).await;
    world.pass(60).await;
    let count = world.pods().len();
    assert!((15..=24).contains(&count), "1, 2, 4, 8, 16 and 32 s apart, three each: {count}");
    assert_eq!(count, world.in_phase("Failed"));
    // What is mended begins anew.
    set["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    world.call("PATCH", &format!("{DEPLOYMENTS}/d"), json!({"spec": set["spec"]})).await;
    world.until_within(Duration::from_secs(30), "those that fit", |w| complete(w, "d")).await;
}

/// A pod of an app, with parts of a spec.
fn app(name: &str, app: &str, spec: Value) -> Value {
    let mut pod = pod(name, "100m");
    pod["metadata"]["labels"] = json!({"app": app});
    for (key, part) in spec.as_object().unwrap() {
        pod["spec"][key] = part.clone();
    }
    pod
}

fn on(world: &World, name: &str) -> String {
    world
        .find("", "pods", name)
        .map(|p| p["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

fn why(world: &World, name: &str) -> String {
    let conditions = world.find("", "pods", name).map(|p| p["status"]["conditions"].clone()).unwrap_or_default();
    let scheduled = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "PodScheduled");
    scheduled.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn pods_are_near_those_they_want_and_apart_from_those_they_do_not() {
    let world = World::with_nodes(3, 5).await;
    let terms =
        |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let apart =
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms("a")}}});
    for number in 1..=4 {
        world.call("POST", PODS, app(&format!("a{number}"), "a", apart.clone())).await;
    }
    world.until("three to run and one to wait", |w| w.in_phase("Running") == 3 && !why(w, "a4").is_empty()).await;
    let nodes: std::collections::BTreeSet<String> = (1..=3).map(|n| on(&world, &format!("a{n}"))).collect();
    assert_eq!(nodes.len(), 3, "each on its own");
    assert!(
        why(&world, "a4").starts_with("0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."),
        "{}",
        why(&world, "a4")
    );
    // one that wants to be with a pod that is not there waits for it, and follows it
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms("b")}}});
    world.call("POST", PODS, app("c", "c", near)).await;
    world.until("a refusal", |w| !why(w, "c").is_empty()).await;
    assert!(
        why(&world, "c").starts_with("0/3 nodes are available: 3 node(s) didn't match pod affinity rules."),
        "{}",
        why(&world, "c")
    );
    let asked = world.elapsed();
    world.call("POST", PODS, app("b", "b", json!({}))).await;
    world.until("both to run", |w| runs(w, "b") && runs(w, "c")).await;
    assert!(world.elapsed() - asked < Duration::from_secs(30), "woken by it");
    assert_eq!(on(&world, "b"), on(&world, "c"));
    // a place that becomes free is taken
    let freed = on(&world, "a2");
    world.call("DELETE", &format!("{PODS}/a2"), Value::Null).await;
    world.until("the fourth to run", |w| runs(w, "a4")).await;
    assert_eq!(on(&world, "a4"), freed);
}

#[tokio::test(start_paused = true)]
async fn pods_are_spread_over_zones() {
    let world = World::with_nodes(3, 6).await;
    for (node, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        world.call("PATCH", &format!("/api/v1/nodes/{node}"), labels).await;
    }
    let mut set = deployment("d", 6, "i:1");
    set["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "d"}}, "matchLabelKeys": ["pod-template-hash"]}]);
    world.call("POST", DEPLOYMENTS, set.clone()).await;
    world.until("all to be there", |w| complete(w, "d")).await;
    let in_b = |w: &World| w.pods().iter().filter(|p| p["spec"]["nodeName"] == "n3").count();
    assert_eq!(in_b(&world), 3, "three in each zone");
    // another version counts by itself
    set["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    world.call("PATCH", &format!("{DEPLOYMENTS}/d"), json!({"spec": set["spec"]})).await;
    world.until("the update", |w| complete(w, "d")).await;
    assert_eq!(in_b(&world), 3, "three in each zone again");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_higher_priority_takes_the_place_of_a_lower_one() {
    let mut world = World::start().await;
    world.node("n2", 4, |_, _| Script::Run).await;
    let class = |name: &str, value: i32| json!({"metadata": {"name": name}, "value": value});
    let mut modest = class("modest", 1000);
    modest["preemptionPolicy"] = "Never".into();
    for class in [class("low", 10), class("high", 1000), modest] {
        world.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
    }
    let of = |name: &str, class: &str, cpu: &str| {
        let mut pod = pod(name, cpu);
        pod["spec"]["priorityClassName"] = class.into();
        pod
    };
    for (name, class) in [("keep", "high"), ("victim", "low")] {
        world.call("POST", PODS, of(name, class, "3")).await;
    }
    world.until("both to run", |w| runs(w, "keep") && runs(w, "victim")).await;
    let place = on(&world, "victim");
    let (asked, from) = (world.elapsed(), world.store.revision());
    world.call("POST", PODS, of("urgent", "high", "3")).await;
    world.until("it to run", |w| runs(w, "urgent")).await;
    let nominated = (from..=world.store.revision()).any(|revision| {
        let snapshot = world.store.snapshot(Some(revision)).unwrap();
        let pod =
            snapshot.get("/core/pods/default/urgent").map(|e| serde_json::from_slice::<Value>(&e.stored).unwrap());
        pod.is_some_and(|pod| pod["status"]["nominatedNodeName"] == place.as_str())
    });
    assert!(nominated, "it is nominated before its place is free");
    assert!(world.elapsed() - asked < Duration::from_secs(30), "{:?}", world.elapsed() - asked);
    assert_eq!(on(&world, "urgent"), place);
    let urgent = world.find("", "pods", "urgent").unwrap();
    assert!(urgent["status"]["nominatedNodeName"].is_null(), "bound: nominated no more");
    assert!(runs(&world, "keep") && world.find("", "pods", "victim").is_none());
    let told = format!(
        "\"victim\" \"Preempted\" \"Preempted by pod {} on node {place}\"",
        urgent["metadata"]["uid"].as_str().unwrap()
    );
    assert!(world.events().contains(&told), "{:#?}", world.events());
    // who must not preempt waits
    world.call("POST", PODS, of("third", "low", "500m")).await;
    world.until("it to run", |w| runs(w, "third")).await;
    world.call("POST", PODS, of("modest", "modest", "3")).await;
    world.until("a refusal", |w| !why(w, "modest").is_empty()).await;
    assert!(
        why(&world, "modest").ends_with("preemption: not eligible due to preemptionPolicy=Never."),
        "{}",
        why(&world, "modest")
    );
    world.pass(60).await;
    assert!(runs(&world, "third"));
}
