//! Idle Deployments at zero replicas, and what wakes them. What holds the request is the node's network, which is tested there.

use crate::{
    endpoints::slices,
    world::{DEPLOYMENTS, World, complete, deployment},
};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const AFTER: &str = "sampan.dev/scale-to-zero-after";
const MARK: &str = "sampan.dev/scaled-to-zero";
const WAKE: &str = "sampan.dev/wake-requested";

fn replicas(world: &World) -> i64 {
    world.find("apps", "deployments", "web").unwrap()["spec"]["replicas"].as_i64().unwrap()
}

fn mark(world: &World) -> Value {
    world.find("apps", "deployments", "web").unwrap()["metadata"]["annotations"][MARK].clone()
}

/// The annotations of the Service's slice by which nodes see what is asleep and what was asked for.
fn told(world: &World) -> (Value, Value) {
    let slices = slices(world, "web", "endpointslice-controller");
    let annotations = &slices[0]["metadata"]["annotations"];
    (annotations[MARK].clone(), annotations[WAKE].clone())
}

/// As a node does for which a request waits.
async fn ask(world: &World) {
    let name = slices(world, "web", "endpointslice-controller")[0]["metadata"]["name"].clone();
    let url = format!("{SLICES}/{}", name.as_str().unwrap());
    world.call("PATCH", &url, json!({"metadata": {"annotations": {WAKE: "2026-01-01T00:00:00Z"}}})).await;
}

async fn web(world: &World, replicas: i64, annotations: Value) {
    let mut web = deployment("web", replicas, "i:1");
    web["metadata"]["annotations"] = annotations;
    world.call("POST", DEPLOYMENTS, web).await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    world.call("POST", SERVICES, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    world.until("all replicas", |w| complete(w, "web")).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_deployment_sleeps_and_a_request_wakes_it_again_and_again() {
    let world = World::start().await;
    web(&world, 2, json!({AFTER: "2m"})).await;
    world.pass(600).await;
    assert_eq!(replicas(&world), 2, "it has requests");
    for round in 0..2 {
        let begin = world.elapsed();
        world.machines["n1"].runtime.set_quiet(true);
        world.until("it to sleep", |w| replicas(w) == 0).await;
        let took = (world.elapsed() - begin).as_secs();
        assert!((115..200).contains(&took), "round {round}: {took} s");
        assert_eq!(mark(&world), "2", "what it wakes with, in the same write");
        world.until("no pods", |w| w.pods().is_empty()).await;
        assert_eq!(told(&world), (json!("web"), Value::Null));
        let said = "\"web\" \"ScaledToZero\" \"Scaled down from 2 to 0: no request for 2m\"";
        world.until("the event", |w| w.events().iter().any(|event| event == said)).await;
        world.pass(3600).await;
        assert_eq!(replicas(&world), 0, "nobody asks");
        world.machines["n1"].runtime.set_quiet(false);
        let begin = world.elapsed();
        ask(&world).await;
        world.until("both replicas", |w| complete(w, "web") && replicas(w) == 2).await;
        assert!((world.elapsed() - begin).as_secs() < 10, "it starts at once");
        world.until("the mark to end", |w| mark(w).is_null()).await;
        world.until("the slice to say so", |w| told(w) == (Value::Null, Value::Null)).await;
        let said = "\"web\" \"WokenByRequest\" \"Scaled up to 2: a request waits\"";
        assert!(world.events().iter().any(|event| event == said), "{:#?}", world.events());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_user_put_to_zero_stays_there() {
    let world = World::start().await;
    web(&world, 1, json!({AFTER: "1m"})).await;
    let url = format!("{DEPLOYMENTS}/web");
    world.call("PATCH", &url, json!({"spec": {"replicas": 0}})).await;
    world.until("no pods", |w| w.pods().is_empty()).await;
    ask(&world).await;
    world.pass(600).await;
    assert_eq!((replicas(&world), told(&world).0), (0, Value::Null));
    // who takes the annotation away from a sleeping one means it
    world.machines["n1"].runtime.set_quiet(true);
    world.call("PATCH", &url, json!({"spec": {"replicas": 1}})).await;
    world.until("a replica", |w| complete(w, "web") && replicas(w) == 1).await;
    world.until("it to sleep", |w| replicas(w) == 0 && told(w).0 == "web").await;
    world.call("PATCH", &url, json!({"metadata": {"annotations": {AFTER: Value::Null}}})).await;
    world.until("no mark", |w| mark(w).is_null() && told(w).0.is_null()).await;
    ask(&world).await;
    world.pass(60).await;
    assert_eq!(replicas(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_saw_before_a_restart_wakes_it_afterwards() {
    let log = store::Memory::default();
    let begin = tokio::time::Instant::now();
    let mut world = World::over(log.clone(), 1, begin).await;
    world.node("n1", 4, |_, _| container::fake::Script::Run).await;
    web(&world, 1, json!({AFTER: "1m"})).await;
    world.machines["n1"].runtime.set_quiet(true);
    world.until("it to sleep", |w| replicas(w) == 0 && told(w).0 == "web").await;
    world.until("no pods", |w| w.pods().is_empty()).await;
    // the write of the node is the last thing that the control plane sees
    world.switch.cut();
    ask(&world).await;
    assert_eq!(replicas(&world), 0);
    world.end().await;
    let mut world = World::over(log, 2, begin).await;
    world.node("n1", 4, |_, _| container::fake::Script::Run).await;
    world.until("a replica", |w| complete(w, "web") && replicas(w) == 1).await;
    world.until("the mark to end", |w| mark(w).is_null() && told(w) == (Value::Null, Value::Null)).await;
}

/// An autoscaler of `web`, down to nothing.
async fn autoscale(world: &World) {
    let about = json!({"apiVersion": "v1", "kind": "Service", "name": "web"});
    let metrics = json!([{"type": "Object", "object": {"describedObject": about, "metric": {"name": "http_requests_per_second"},
        "target": {"type": "AverageValue", "averageValue": "20"}}}]);
    let spec = json!({"minReplicas": 0, "maxReplicas": 3, "metrics": metrics,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
    let url = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    world.call("POST", url, json!({"metadata": {"name": "web"}, "spec": spec})).await;
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_without_minimum_sleeps_by_its_metric_and_wakes_by_a_request() {
    let world = World::start().await;
    web(&world, 1, json!({})).await;
    autoscale(&world).await;
    world.pass(600).await;
    assert_eq!(replicas(&world), 1, "it has requests");
    world.machines["n1"].runtime.set_quiet(true);
    let begin = world.elapsed();
    world.until("it to sleep", |w| replicas(w) == 0).await;
    assert!((world.elapsed() - begin).as_secs() >= 280, "after the window of the autoscaler");
    assert_eq!(mark(&world), "1", "in the same write");
    world.until("no pods", |w| w.pods().is_empty() && told(w).0 == "web").await;
    world.pass(600).await;
    assert_eq!(replicas(&world), 0);
    ask(&world).await;
    world.until("a replica", |w| complete(w, "web") && replicas(w) == 1).await;
    world.until("the mark to end", |w| mark(w).is_null()).await;
    let begin = world.elapsed();
    world.pass(200).await;
    assert_eq!(replicas(&world), 1, "a wake-up counts as a recommendation, although nothing was measured yet");
    world.until("it to sleep again", |w| replicas(w) == 0).await;
    assert!((world.elapsed() - begin).as_secs() >= 280);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_wakes_nothing_is_marked_and_requests_are_refused() {
    let world = World::with_controllers("*,-scale-to-zero-controller").await;
    web(&world, 1, json!({AFTER: "1m"})).await;
    world.machines["n1"].runtime.set_quiet(true);
    world.pass(600).await;
    assert_eq!(replicas(&world), 1, "nobody looks at the annotation");
    autoscale(&world).await;
    world.until("it to be scaled down", |w| replicas(w) == 0).await;
    world.until("no pods", |w| w.pods().is_empty()).await;
    assert_eq!((mark(&world), told(&world)), (Value::Null, (Value::Null, Value::Null)));
    // one that was marked when somebody woke
    let url = format!("{DEPLOYMENTS}/web");
    world.call("PATCH", &url, json!({"metadata": {"annotations": {MARK: "1"}}})).await;
    world.pass(60).await;
    assert_eq!(told(&world), (Value::Null, Value::Null), "a node that sees no mark refuses at once");
    world.machines["n1"].runtime.set_quiet(false);
    world.call("PATCH", &url, json!({"spec": {"replicas": 1}})).await;
    world.until("a replica", |w| complete(w, "web")).await;
}
