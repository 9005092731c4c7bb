//! Jobs whose policies say what a failure or a success means, whose indexes fail alone, and whose size changes.

use crate::world::{World, condition};
use container::fake::Script;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn job(spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i:1"}]}}}});
    job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    job
}

fn indexed(completions: i32, spec: Value) -> Value {
    let mut all = json!({"completionMode": "Indexed", "completions": completions, "parallelism": completions});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    job(all)
}

/// A node whose containers end with these codes, one after the other; further ones run on.
async fn world(codes: &'static [i32]) -> World {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| Script::Run).await;
    let next = AtomicU32::new(0);
    // The sandbox is asked for as well; only containers count.
    world.machines["n1"].runtime.script(move |name, _| {
        let at = if name == "c" { next.fetch_add(1, Ordering::SeqCst) as usize } else { codes.len() };
        codes.get(at).map_or(Script::Run, |code| Script::Exit(Duration::from_secs(1), *code))
    });
    world
}

fn status(world: &World) -> Value {
    world.find("batch", "jobs", "j").unwrap()["status"].take()
}

async fn until(world: &World, kind: &str) -> Value {
    world.until(kind, |w| condition(&w.find("batch", "jobs", "j").unwrap(), kind) == "True").await;
    status(world)
}

fn last_condition(status: &Value) -> (Value, Value) {
    let last = status["conditions"].as_array().unwrap().last().unwrap();
    (last["reason"].clone(), last["message"].clone())
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_ignored_is_tried_again_and_never_counted() {
    let world = world(&[7, 7, 0]).await;
    let rule = json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}});
    world.call("POST", JOBS, job(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [rule]}}))).await;
    let status = until(&world, "Complete").await;
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(1), &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn an_exit_code_can_end_the_whole_job() {
    let world = world(&[42]).await;
    let rule = json!({"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}});
    let spec = json!({"parallelism": 3, "completions": 3, "podFailurePolicy": {"rules": [rule]}});
    world.call("POST", JOBS, job(spec)).await;
    let status = until(&world, "Failed").await;
    let (reason, message) = last_condition(&status);
    assert_eq!(reason, "PodFailurePolicy");
    let message = message.as_str().unwrap();
    assert!(message.starts_with("Container c for pod default/j-"), "{message}");
    assert!(message.ends_with(" failed with exit code 42 matching FailJob rule at index 0"), "{message}");
    assert_eq!((&status["failed"], &status["active"], &status["terminating"]), (&json!(3), &Value::Null, &json!(0)));
    world.until("its containers to end", |w| w.machines["n1"].runtime.running().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn each_index_fails_alone() {
    let world = world(&[1; 64]).await;
    let begin = world.elapsed();
    world.call("POST", JOBS, indexed(3, json!({"backoffLimitPerIndex": 1}))).await;
    let status = until(&world, "Failed").await;
    assert_eq!(last_condition(&status), ("FailedIndexes".into(), "Job has failed indexes".into()));
    assert_eq!((&status["failedIndexes"], &status["failed"]), (&json!("0-2"), &json!(6)));
    let took = (world.elapsed() - begin).as_secs();
    assert!((10..25).contains(&took), "10 s between the two tries of each index: {took}");
    let mut counts: Vec<String> = world
        .all("", "pods")
        .iter()
        .map(|p| p["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"].to_string())
        .collect();
    counts.sort();
    assert_eq!(counts, ["\"0\"", "\"0\"", "\"0\"", "\"1\"", "\"1\"", "\"1\""]);
    let tracked = world.all("", "pods").iter().any(|p| p["metadata"]["finalizers"].is_array());
    assert!(!tracked, "pods are released once they are counted");
}

#[tokio::test(start_paused = true)]
async fn too_many_failed_indexes_end_the_job() {
    let world = world(&[9, 9]).await;
    let rule = json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [9]}});
    let spec = json!({"backoffLimitPerIndex": 5, "maxFailedIndexes": 1, "podFailurePolicy": {"rules": [rule]}});
    world.call("POST", JOBS, indexed(4, spec)).await;
    let status = until(&world, "Failed").await;
    assert_eq!(last_condition(&status).0, "MaxFailedIndexesExceeded");
    assert_eq!(status["failedIndexes"].as_str().unwrap().len(), 3, "two of four: {status}");
}

#[tokio::test(start_paused = true)]
async fn enough_successes_end_the_job_and_its_other_pods() {
    let world = world(&[0]).await;
    let policy = json!({"rules": [{"succeededCount": 1}]});
    world.call("POST", JOBS, indexed(3, json!({ "successPolicy": policy }))).await;
    let status = until(&world, "Complete").await;
    assert_eq!(last_condition(&status), ("SuccessPolicy".into(), "Matched rules at index 0".into()));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(1), &Value::Null), "{status}");
    world.until("its containers to end", |w| w.machines["n1"].runtime.running().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_is_made_larger_and_smaller() {
    let world = world(&[]).await;
    world.call("POST", JOBS, indexed(2, json!({}))).await;
    world.until("two pods", |w| w.in_phase("Running") == 2).await;
    let url = format!("{JOBS}/j");
    let alone = world.try_call("PATCH", &url, json!({"spec": {"completions": 3}})).await.unwrap_err().to_string();
    assert!(alone.contains("can only be modified in tandem with spec.parallelism"), "{alone}");
    world.call("PATCH", &url, json!({"spec": {"completions": 4, "parallelism": 4}})).await;
    world.until("four pods", |w| w.in_phase("Running") == 4).await;
    world.call("PATCH", &url, json!({"spec": {"completions": 1, "parallelism": 1}})).await;
    world.until("one pod", |w| w.all("", "pods").len() == 1).await;
    let left = &world.all("", "pods")[0];
    assert_eq!(left["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"], "0");
    assert_eq!(status(&world)["failed"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_another_controller_is_left_alone() {
    let world = world(&[]).await;
    world.call("POST", JOBS, job(json!({"managedBy": "example.com/other"}))).await;
    world.pass(120).await;
    assert!(world.pods().is_empty() && status(&world) == json!({}));
    let url = format!("{JOBS}/j/status");
    let wrong = json!({"status": {"conditions": [{"type": "Failed", "status": "True"}], "active": 1}});
    let refused = world.try_call("PATCH", &url, wrong).await.unwrap_err().to_string();
    assert!(refused.contains("cannot set Failed=True condition without the FailureTarget=true condition"), "{refused}");
    world.call("PATCH", &url, json!({"status": {"startTime": "2026-01-01T00:00:00Z", "active": 3, "ready": 1}})).await;
    assert_eq!(status(&world)["active"], 3);
}
