//! Jobs: completions, failures with back-off, and the end of their time.

use crate::world::{PODS, World, condition};
use container::fake::Script;
use serde_json::{Value, json};
use std::time::Duration;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn job(spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i:1"}]}}}});
    job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    job
}

#[tokio::test(start_paused = true)]
async fn a_job_makes_its_completions_with_its_parallelism() {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| Script::Exit(Duration::from_secs(3), 0)).await;
    let from = world.store.revision();
    world.call("POST", JOBS, job(json!({"completions": 5, "parallelism": 2}))).await;
    world
        .until("the Job to be complete", |w| condition(&w.find("batch", "jobs", "j").unwrap(), "Complete") == "True")
        .await;
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(5), &Value::Null));
    assert!(status["completionTime"].is_string());
    assert_eq!(world.all("", "pods").len(), 5);
    for revision in from..=world.store.revision() {
        let snapshot = world.store.snapshot(Some(revision)).unwrap();
        let active = snapshot.range("/core/pods/default/", None).filter(|e| {
            let pod: Value = serde_json::from_slice(&e.stored).unwrap();
            !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap())
        });
        assert!(active.count() <= 2, "more than its parallelism at {revision}");
    }
    let tracked = world.all("", "pods").iter().any(|p| p["metadata"]["finalizers"].is_array());
    assert!(!tracked, "pods are released once they are counted");
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_back_off_and_then_given_up() {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| Script::Exit(Duration::from_secs(1), 1)).await;
    let begin = world.elapsed();
    world.call("POST", JOBS, job(json!({"backoffLimit": 3}))).await;
    world.until("the Job to fail", |w| condition(&w.find("batch", "jobs", "j").unwrap(), "Failed") == "True").await;
    let took = (world.elapsed() - begin).as_secs();
    assert!((70..120).contains(&took), "10 s, 20 s and 40 s between four tries: {took}");
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert_eq!(status["failed"], 4);
    let failed = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Failed").unwrap().clone();
    assert_eq!(
        (&failed["reason"], &failed["message"]),
        (&json!("BackoffLimitExceeded"), &json!("Job has reached the specified backoff limit"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_at_first_completes_in_the_end() {
    let mut world = World::empty(1).await;
    let tries = std::sync::atomic::AtomicU32::new(0);
    let script = move |_: &str, _| match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 | 1 => Script::Exit(Duration::from_secs(1), 7),
        _ => Script::Exit(Duration::from_secs(1), 0),
    };
    // The runtime asks for a script when it prepares and when it creates; only what it creates counts.
    world.node("n1", 4, |_, _| Script::Run).await;
    let script = std::sync::Arc::new(script);
    world.machines["n1"]
        .runtime
        .script(move |name, attempt| if name == "c" { script(name, attempt) } else { Script::Run });
    world.call("POST", JOBS, job(json!({}))).await;
    world
        .until("the Job to be complete", |w| condition(&w.find("batch", "jobs", "j").unwrap(), "Complete") == "True")
        .await;
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(1), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_goes_when_its_time_is_up() {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| Script::Exit(Duration::from_secs(1), 0)).await;
    world.call("POST", JOBS, job(json!({"ttlSecondsAfterFinished": 100}))).await;
    world
        .until("the Job to be complete", |w| condition(&w.find("batch", "jobs", "j").unwrap(), "Complete") == "True")
        .await;
    let finished = world.elapsed();
    world.until("the Job to be gone", |w| w.find("batch", "jobs", "j").is_none()).await;
    let took = (world.elapsed() - finished).as_secs();
    assert!((98..110).contains(&took), "{took}");
    world.until("its pods to be gone", |w| w.all("", "pods").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_fails_and_stops_its_pods() {
    let world = World::start().await;
    world.call("POST", JOBS, job(json!({"activeDeadlineSeconds": 60}))).await;
    world.until("the Job to fail", |w| condition(&w.find("batch", "jobs", "j").unwrap(), "Failed") == "True").await;
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert!(status["conditions"].as_array().unwrap().iter().any(|c| c["reason"] == "DeadlineExceeded"), "{status}");
    world.until("its containers to end", |w| w.machines["n1"].runtime.running().is_empty()).await;
}

/// A Job of four that run until they are stopped and end badly then.
async fn four(world: &World) {
    world.call("POST", JOBS, job(json!({"parallelism": 4, "completions": 5, "backoffLimit": 1}))).await;
    world.until("four pods to run", |w| w.in_phase("Running") == 4).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_the_job_takes_away_are_no_failures() {
    let world = World::start().await;
    four(&world).await;
    let url = format!("{JOBS}/j");
    world.call("PATCH", &url, json!({"spec": {"parallelism": 1}})).await;
    world.until("one pod to be left", |w| w.all("", "pods").len() == 1).await;
    world.pass(300).await;
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert_eq!((&status["failed"], &status["active"], &status["conditions"]), (&Value::Null, &json!(1), &Value::Null));
    world.call("PATCH", &url, json!({"spec": {"suspend": true}})).await;
    world.until("all to go", |w| w.all("", "pods").is_empty()).await;
    let status = world.find("batch", "jobs", "j").unwrap()["status"].take();
    assert_eq!((&status["failed"], &status["startTime"]), (&Value::Null, &Value::Null));
    world.call("PATCH", &url, json!({"spec": {"parallelism": 2, "suspend": false}})).await;
    let resumed = world.elapsed();
    world.until("two pods to run", |w| w.in_phase("Running") == 2).await;
    assert!((world.elapsed() - resumed).as_secs() < 5, "no pause: nothing failed");
    assert!(world.find("batch", "jobs", "j").unwrap()["status"]["startTime"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_deletes_is_a_failure_and_is_replaced_after_the_pause() {
    let world = World::start().await;
    world.call("POST", JOBS, job(json!({}))).await;
    world.until("a pod to run", |w| w.in_phase("Running") == 1).await;
    world.pass(60).await;
    let name = world.pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let deleted = world.elapsed();
    world.call("DELETE", &format!("{PODS}/{name}"), Value::Null).await;
    world.until("another pod", |w| !w.pods().is_empty()).await;
    let took = (world.elapsed() - deleted).as_secs();
    assert!((9..12).contains(&took), "{took}");
    assert_eq!(world.find("batch", "jobs", "j").unwrap()["status"]["failed"], 1);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_job_that_was_replaced_by_another_of_its_name_go() {
    let world = World::start().await;
    world.call("POST", JOBS, job(json!({"suspend": true}))).await;
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "the-old-one", "controller": true});
    let foreign =
        json!({"apiVersion": "batch.example.com/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true});
    for (name, owner) in [("old", owner), ("foreign", foreign)] {
        let pod = json!({"metadata": {"name": name, "finalizers": ["batch.kubernetes.io/job-tracking"], "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        world.call("POST", PODS, pod).await;
    }
    world.until("the old one to go", |w| w.find("", "pods", "old").is_none()).await;
    let foreign = world.find("", "pods", "foreign").unwrap();
    assert_eq!(foreign["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]), "not ours");
}
