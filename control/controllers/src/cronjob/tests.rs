use super::plan::{Plan, plan, started};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};
use std::sync::Arc;

/// Every hour, created at 08:30 and looked at at a time of that day.
fn cron(more: Value) -> CronJob {
    let mut spec = json!({"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
        "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u",
        "creationTimestamp": "2026-03-28T08:30:00Z"}, "spec": spec}))
    .unwrap()
}

fn at(time: &str) -> Timestamp {
    format!("2026-03-28T{time}Z").parse().unwrap()
}

/// A Job; `state` is `Complete`, `Failed` or empty.
fn job(name: &str, state: &str, start: &str) -> Arc<Job> {
    let conditions = if state.is_empty() { json!([]) } else { json!([{"type": state, "status": "True"}]) };
    let mut status = json!({"conditions": conditions, "startTime": at(start).to_string()});
    if state == "Complete" {
        status["completionTime"] = json!(at(start).to_string());
    }
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")}, "status": status}),
        )
        .unwrap(),
    )
}

/// With these Jobs listed as active.
fn active(mut cron: CronJob, jobs: &[Arc<Job>], last: &str) -> CronJob {
    let status = cron.status.get_or_insert_default();
    for job in jobs {
        started(status, job, at(last));
    }
    cron
}

fn run(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(cron, jobs, &|_| false, at(now))
}

fn name(plan: &Plan) -> Option<String> {
    plan.create.as_ref().and_then(|(job, _)| job.metadata.name.clone())
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.events.iter().map(|event| event.1).collect()
}

#[test]
fn a_job_starts_when_its_time_has_come_and_once() {
    let hour = |time: &str| Some(format!("c-{}", at(time).as_second() / 60));
    for (more, now, expected, again) in [
        (json!({}), "08:59:59", None, 1),
        (json!({}), "09:00:00", hour("09:00:00"), 3600),
        (json!({}), "09:20:00", hour("09:00:00"), 2400),
        (json!({}), "11:20:00", hour("11:00:00"), 2400),
        (json!({"startingDeadlineSeconds": 60}), "09:00:30", hour("09:00:00"), 3570),
        (json!({"startingDeadlineSeconds": 60}), "09:20:00", None, 2400),
        (json!({"schedule": "@every 2h"}), "10:30:00", hour("10:30:00"), 7200),
    ] {
        let plan = run(&cron(more.clone()), &[], now);
        assert_eq!((name(&plan), plan.again.map(|again| again.as_secs())), (expected, Some(again)), "{more} at {now}");
    }
    let old = [job("c-old", "Complete", "09:00:00")];
    let plan = run(&active(cron(json!({})), &old, "09:00:00"), &old, "09:00:01");
    assert_eq!((name(&plan), reasons(&plan)), (None, vec!["SawCompletedJob"]));
    assert_eq!(plan.events[0].2, "Saw completed job: c-old, condition: Complete");
    assert_eq!(plan.status.last_successful_time.map(|time| time.0), Some(at("09:00:00")));
    assert_eq!((plan.status.active, plan.again.map(|again| again.as_secs())), (None, Some(3599)));
}

#[test]
fn nothing_starts_while_suspended_or_with_a_wrong_schedule_or_zone() {
    for (more, expected) in [
        (json!({"suspend": true}), vec![]),
        (
            json!({"timeZone": "Nowhere/Else"}),
            vec![("UnknownTimeZone", "invalid timeZone: \"Nowhere/Else\": unknown time zone Nowhere/Else")],
        ),
        (
            json!({"schedule": "x"}),
            vec![("UnparseableSchedule", "unparseable schedule: \"x\" : expected exactly 5 fields, found 1: [x]")],
        ),
        (
            json!({"schedule": "0 0 30 2 *"}),
            vec![(
                "InvalidSchedule",
                "invalid schedule: 0 0 30 2 * : time difference between two schedules is less than 1 second",
            )],
        ),
    ] {
        let plan = run(&cron(more.clone()), &[], "09:20:00");
        let told: Vec<_> = plan.events.iter().map(|event| (event.1, event.2.as_str())).collect();
        assert_eq!((told, name(&plan), plan.again), (expected, None, None), "{more}");
    }
}

#[test]
fn policies_decide_what_becomes_of_a_job_that_still_runs() {
    let old = [job("c-old", "", "09:00:00")];
    for (policy, starts, replaced, told) in
        [("Allow", true, 0, vec![]), ("Forbid", false, 0, vec!["JobAlreadyActive"]), ("Replace", true, 1, vec![])]
    {
        let cron = active(cron(json!({"concurrencyPolicy": policy})), &old, "09:00:00");
        let plan = run(&cron, &old, "10:00:00");
        assert_eq!((name(&plan).is_some(), plan.replace.len(), reasons(&plan)), (starts, replaced, told), "{policy}");
    }
}

#[test]
fn finished_jobs_are_kept_up_to_a_limit_and_lost_ones_are_told() {
    let done: Vec<_> = (0..5).map(|n| job(&format!("done-{n}"), "Complete", &format!("0{n}:00:00"))).collect();
    let failed = [job("bad-1", "Failed", "01:00:00"), job("bad-0", "Failed", "00:00:00")];
    let all = [&done[..], &failed[..]].concat();
    let removed = |plan: &Plan| plan.remove.iter().map(|job| job.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(removed(&run(&cron(json!({})), &all, "08:40:00")), ["done-0", "done-1", "bad-0"]);
    assert_eq!(removed(&run(&cron(json!({"failedJobsHistoryLimit": 0})), &failed, "08:40:00")), ["bad-0", "bad-1"]);
    let lost = active(cron(json!({})), &[job("gone", "", "08:00:00")], "08:00:00");
    assert_eq!(reasons(&run(&lost, &[], "08:40:00")), ["MissingJob"]);
    assert_eq!(reasons(&plan(&lost, &[], &|name| name == "gone", at("08:40:00"))), [""; 0], "it has lost its owner");
    assert_eq!(reasons(&run(&cron(json!({})), &[job("own", "", "08:00:00")], "08:40:00")), ["UnexpectedJob"]);
}

#[test]
fn a_job_is_made_of_the_template_in_the_time_zone() {
    let cron = cron(json!({"timeZone": "Europe/Berlin", "schedule": "31 9 * * *", "startingDeadlineSeconds": 7200}));
    let plan = run(&cron, &[], "08:32:00");
    let (job, time) = plan.create.unwrap();
    assert_eq!(time, at("08:31:00"));
    let value = serde_json::to_value(&job).unwrap();
    assert_eq!(
        value["metadata"],
        json!({"name": format!("c-{}", time.as_second() / 60), "namespace": "ns", "labels": {"a": "b"},
            "annotations": {"x": "y", "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-03-28T09:31:00+01:00"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "u",
                "controller": true, "blockOwnerDeletion": true}]})
    );
    assert_eq!(value["spec"]["template"]["spec"]["restartPolicy"], "Never");
}

#[test]
fn very_many_missed_times_start_one_job_and_are_told() {
    let mut cron = cron(json!({"schedule": "* * * * *"}));
    cron.status.get_or_insert_default().last_schedule_time =
        serde_json::from_value(json!("2025-03-28T08:30:00Z")).unwrap();
    let plan = run(&cron, &[], "08:31:10");
    assert_eq!(
        (reasons(&plan), plan.create.as_ref().map(|(_, time)| *time)),
        (vec!["TooManyMissedTimes"], Some(at("08:31:00")))
    );
}
