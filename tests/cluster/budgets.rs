//! PodDisruptionBudgets: what evictions they allow, and how they count.

use crate::world::{DEPLOYMENTS, World, complete, deployment};
use serde_json::{Value, json};
use std::time::Duration;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn budget(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"app": "d"}});
    json!({"metadata": {"name": name}, "spec": spec})
}

fn status(world: &World, name: &str) -> Value {
    world.find("policy", "poddisruptionbudgets", name).unwrap()["status"].clone()
}

/// Allowed, healthy, desired, expected.
fn counts(world: &World, name: &str) -> [i64; 4] {
    let status = status(world, name);
    ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]
        .map(|count| status[count].as_i64().unwrap())
}

async fn evict(world: &World, pod: &str, options: Value) -> client::Result<Value> {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"},
        "deleteOptions": options});
    world.try_call("POST", &format!("{PODS}/{pod}/eviction"), body).await
}

fn names(world: &World) -> Vec<String> {
    let running = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    world.pods().iter().filter(running).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// A Deployment of so many pods, ready.
async fn start(replicas: i64) -> World {
    let world = World::start().await;
    world.call("POST", DEPLOYMENTS, deployment("d", replicas, "i:1")).await;
    world.until("the Deployment", |w| complete(w, "d")).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_by_number_share_and_scale() {
    let world = start(4).await;
    for (name, spec, expected) in [
        ("min", json!({"minAvailable": 3}), [1, 4, 3, 4]),
        ("share", json!({"minAvailable": "50%"}), [2, 4, 2, 4]),
        ("max", json!({"maxUnavailable": 1}), [1, 4, 3, 4]),
        ("most", json!({"maxUnavailable": "30%"}), [2, 4, 2, 4]),
        ("strict", json!({"minAvailable": "100%"}), [0, 4, 4, 4]),
    ] {
        world.call("POST", BUDGETS, budget(name, &spec)).await;
        world.until(name, |w| status(w, name)["observedGeneration"] == 1).await;
        assert_eq!(counts(&world, name), expected, "{name}");
        let condition = &status(&world, name)["conditions"][0];
        let reason = if expected[0] > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!((&condition["type"], &condition["reason"]), (&json!("DisruptionAllowed"), &json!(reason)));
    }
    world.call("PATCH", &format!("{DEPLOYMENTS}/d"), json!({"spec": {"replicas": 6}})).await;
    world
        .until("all to follow the scale", |w| counts(w, "max") == [1, 6, 5, 6] && counts(w, "share") == [3, 6, 3, 6])
        .await;
    world.until("the number to stay", |w| counts(w, "min") == [3, 6, 3, 6]).await;
    let body = json!({"spec": {"minAvailable": 6}});
    world.call("PATCH", &format!("{BUDGETS}/min"), body).await;
    world.until("a change", |w| status(w, "min")["observedGeneration"] == 2 && counts(w, "min") == [0, 6, 6, 6]).await;
    world.call("DELETE", &format!("{DEPLOYMENTS}/d"), Value::Null).await;
    world.until("no pods", |w| counts(w, "min") == [0, 0, 6, 0] && counts(w, "max") == [0, 0, 0, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_without_a_scale_makes_the_budget_refuse() {
    let world = World::start().await;
    world.call("POST", BUDGETS, budget("b", &json!({"maxUnavailable": 1}))).await;
    world.until("the budget", |w| status(w, "b")["observedGeneration"] == 1).await;
    let template =
        json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let set =
        json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template}});
    world.call("POST", "/apis/apps/v1/namespaces/default/daemonsets", set).await;
    world
        .until("the failure", |w| {
            let condition = &status(w, "b")["conditions"][0];
            condition["reason"] == "SyncFailed"
                && condition["message"] == "daemonsets.apps does not implement the scale subresource"
        })
        .await;
    world
        .until("a ready pod", |w| w.pods().first().is_some_and(|pod| crate::world::condition(pod, "Ready") == "True"))
        .await;
    let error = evict(&world, &names(&world)[0], json!({})).await.unwrap_err();
    let status = error.status().unwrap();
    let told = &status.details.as_ref().unwrap().causes[0];
    assert_eq!((status.code, told.reason.as_str()), (429, "DisruptionBudget"));
    assert!(
        told.message.ends_with("it failed sync: daemonsets.apps does not implement the scale subresource"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn evictions_never_take_more_pods_than_the_budget_allows() {
    let world = start(5).await;
    world.call("POST", BUDGETS, budget("b", &json!({"minAvailable": 3}))).await;
    world.until("the budget", |w| counts(w, "b") == [2, 5, 3, 5]).await;
    let all = names(&world);
    evict(&world, &all[0], json!({"dryRun": ["All"]})).await.unwrap();
    assert_eq!((counts(&world, "b")[0], names(&world).len()), (2, 5), "a dry run takes nothing");
    // All at once: each sees the budget as it is when it is written.
    let tries = futures::future::join_all(all.iter().map(|pod| evict(&world, pod, json!({})))).await;
    let refused: Vec<_> = tries.iter().filter_map(|one| one.as_ref().err()).collect();
    assert_eq!(tries.len() - refused.len(), 2, "{tries:?}");
    for error in refused {
        let status = error.status().unwrap();
        assert_eq!(
            (status.code, status.message.as_str()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        assert_eq!(status.details.as_ref().unwrap().causes[0].reason, "DisruptionBudget");
    }
    // Their replacements come up, and more may go.
    world.until("replacements", |w| complete(w, "d") && counts(w, "b") == [2, 5, 3, 5]).await;
    assert!(status(&world, "b")["disruptedPods"].is_null());
    evict(&world, &names(&world)[0], json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_not_deleted_counts_again_after_two_minutes() {
    let world = start(2).await;
    world.call("POST", BUDGETS, budget("b", &json!({"maxUnavailable": 1}))).await;
    world.until("the budget", |w| counts(w, "b") == [1, 2, 1, 2]).await;
    // What an eviction leaves whose server ends before the pod is deleted.
    let pod = names(&world)[0].clone();
    let now = world.clock.now().to_string();
    let mark = json!({"status": {"disruptionsAllowed": 0, "disruptedPods": {&pod: now}}});
    world.call("PATCH", &format!("{BUDGETS}/b/status"), mark).await;
    let condition = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": world.clock.now().to_string()}]}});
    let body = condition.to_string().into_bytes();
    let patch = Some(("application/strategic-merge-patch+json", body));
    world.admin.raw(http::Method::PATCH, &format!("{PODS}/{pod}/status"), patch).await.unwrap();
    world.until("it to count", |w| counts(w, "b") == [0, 1, 1, 2]).await;
    world.pass(100).await;
    assert_eq!(counts(&world, "b"), [0, 1, 1, 2]);
    let within = Duration::from_secs(30);
    world
        .until_within(within, "it to count no more", |w| {
            counts(w, "b") == [1, 2, 1, 2] && status(w, "b")["disruptedPods"].is_null()
        })
        .await;
    world
        .until_within(within, "the pod's condition to be taken back", |w| {
            let pod = w.find("", "pods", &pod).unwrap();
            crate::world::condition(&pod, "DisruptionTarget") == "False"
        })
        .await;
    assert!(world.events().iter().any(|event| event.contains("NotDeleted")), "{:?}", world.events());
}

#[tokio::test(start_paused = true)]
async fn unhealthy_pods_go_by_the_policy_and_two_budgets_are_an_error() {
    let mut world = World::start().await;
    world.node("n2", 4, |_, _| container::fake::Script::Run).await;
    world.call("POST", DEPLOYMENTS, deployment("d", 3, "i:1")).await;
    world.until("the Deployment", |w| complete(w, "d")).await;
    world.call("POST", BUDGETS, budget("b", &json!({"minAvailable": 3}))).await;
    world.until("the budget", |w| counts(w, "b") == [0, 3, 3, 3]).await;
    // A gate that nobody opens makes a pod unready.
    let pod = json!({"metadata": {"name": "sick", "labels": {"app": "d"}},
        "spec": {"readinessGates": [{"conditionType": "never"}], "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i:1"}]}});
    let sick = async |world: &World| {
        world.call("POST", PODS, pod.clone()).await;
        world
            .until("it to run", |w| w.find("", "pods", "sick").is_some_and(|pod| pod["status"]["phase"] == "Running"))
            .await;
    };
    sick(&world).await;
    evict(&world, "sick", json!({})).await.unwrap();
    world.until("it to be gone", |w| w.find("", "pods", "sick").is_none()).await;
    // Where the budget is not kept, IfHealthyBudget refuses and AlwaysAllow does not.
    sick(&world).await;
    world.call("PATCH", &format!("{BUDGETS}/b"), json!({"spec": {"minAvailable": 4}})).await;
    world.until("the budget", |w| counts(w, "b") == [0, 3, 4, 4]).await;
    let error = evict(&world, "sick", json!({})).await.unwrap_err();
    let told = error.status().unwrap().details.as_ref().unwrap().causes[0].message.clone();
    assert_eq!(told, "The disruption budget b needs 4 healthy pods and has 3 currently");
    world.call("PATCH", &format!("{BUDGETS}/b"), json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})).await;
    evict(&world, "sick", json!({})).await.unwrap();
    world.call("POST", BUDGETS, budget("c", &json!({"minAvailable": 0}))).await;
    let error = evict(&world, &names(&world)[0], json!({})).await.unwrap_err();
    let status = error.status().unwrap();
    let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!((status.code, status.message.as_str()), (500, text));
}
