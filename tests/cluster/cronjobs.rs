//! CronJobs: Jobs at their times, kept and removed.

use crate::world::World;
use container::fake::Script;
use serde_json::{Value, json};
use std::time::Duration;

const CRONS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

fn cron(spec: Value) -> Value {
    let mut cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}}}});
    cron["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cron
}

fn status(world: &World) -> Value {
    world.find("batch", "cronjobs", "tick").unwrap()["status"].take()
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_each_minute_and_the_last_three_are_kept() {
    let mut world = World::empty(1).await;
    world.node("n1", 4, |_, _| Script::Exit(Duration::from_secs(3), 0)).await;
    world.call("POST", CRONS, cron(json!({}))).await;
    world.pass(600).await;
    let jobs = world.all("batch", "jobs");
    assert_eq!(jobs.len(), 3, "{jobs:#?}");
    let scheduled =
        |job: &Value| job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].to_string();
    let mut times: Vec<_> = jobs.iter().map(scheduled).collect();
    times.sort();
    times.dedup();
    assert!(times.len() == 3 && times.iter().all(|time| time.ends_with(":00Z\"")), "{times:?}");
    let status = status(&world);
    assert!(status["lastScheduleTime"].is_string() && status["lastSuccessfulTime"].is_string(), "{status}");
    let made = world
        .events()
        .iter()
        .filter(|event| event.starts_with("\"tick\" \"SuccessfulCreate\" \"Created job tick-"))
        .count();
    assert!((9..=10).contains(&made), "{made} events of ten minutes");
    world.call("DELETE", &format!("{CRONS}/tick"), json!({})).await;
    world.until("everything to be gone", |w| w.all("batch", "jobs").is_empty() && w.all("", "pods").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_is_waited_for_or_replaced() {
    for (policy, most) in [("Forbid", 1), ("Replace", 1), ("Allow", 5)] {
        let mut world = World::empty(2).await;
        world.node("n1", 16, |_, _| Script::Exit(Duration::from_secs(250), 0)).await;
        world.call("POST", CRONS, cron(json!({"concurrencyPolicy": policy}))).await;
        world.pass(230).await;
        let jobs = world.all("batch", "jobs");
        let running = jobs.iter().filter(|job| job["metadata"]["deletionTimestamp"].is_null()).count();
        assert!((1..=most).contains(&running), "{policy}: {running}");
        assert_eq!(running > 1, policy == "Allow", "{policy}: {running}");
        assert_eq!(status(&world)["active"].as_array().unwrap().len(), running, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_one_starts_nothing_until_it_goes_on() {
    let mut world = World::empty(3).await;
    world.node("n1", 4, |_, _| Script::Exit(Duration::from_secs(3), 0)).await;
    world.call("POST", CRONS, cron(json!({"suspend": true, "startingDeadlineSeconds": 10}))).await;
    world.pass(300).await;
    assert!(world.all("batch", "jobs").is_empty());
    world.call("PATCH", &format!("{CRONS}/tick"), json!({"spec": {"suspend": false}})).await;
    world.pass(70).await;
    let jobs = world.all("batch", "jobs").len();
    assert!((1..=2).contains(&jobs), "that of the next minute, and of this one if it has just begun: {jobs}");
}
