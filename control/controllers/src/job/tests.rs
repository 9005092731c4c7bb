use super::{FINALIZER, Failures, indexes::INDEX, plan::is_finished, view::Plan};
use crate::{meta, status::differs};
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(super) fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

/// A pass of a controller that has just started.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    super::plan(job, pods, &Failures::default(), now)
}

pub(super) fn job(spec: Value, status: Value) -> Job {
    let mut value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "job"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}},
        "status": status});
    for (k, v) in spec.as_object().into_iter().flatten() {
        value["spec"][k] = v.clone();
    }
    serde_json::from_value(value).expect("a Job")
}

/// A pod in `phase`, with the finalizer unless `counted`.
pub(super) fn pod(name: &str, phase: &str, counted: bool, more: Value) -> Arc<Pod> {
    let finalizers = if counted { json!([]) } else { json!([FINALIZER]) };
    let mut value = json!({"metadata": {"name": name, "uid": name, "finalizers": finalizers, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase}});
    for (k, v) in more.as_object().into_iter().flatten() {
        for (k2, v2) in v.as_object().into_iter().flatten() {
            value[k][k2] = v2.clone();
        }
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

pub(super) fn plain(name: &str, phase: &str) -> Arc<Pod> {
    pod(name, phase, false, json!({}))
}

pub(super) fn conditions(p: &Plan) -> String {
    let all = p.status.conditions.iter().flatten();
    all.map(|c| format!("{}={}", c.type_, c.status)).collect::<Vec<_>>().join(" ")
}

pub(super) fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|p| meta::name(&p.metadata)).collect::<Vec<_>>().join(" ")
}

/// The indexes of the pods that are to be created.
pub(super) fn indexes(p: &Plan) -> Vec<i32> {
    p.create.iter().flatten().map(|slot| slot.index).collect()
}

#[test]
fn as_many_pods_run_as_are_asked_for_and_still_needed() {
    let running = |n: usize| (0..n).map(|i| plain(&format!("r{i}"), "Running")).collect::<Vec<_>>();
    // (parallelism, completions, counted successes, active, created, deleted)
    for (parallelism, completions, succeeded, active, created, deleted) in [
        (3, Some(5), 0, 0, 3, 0),
        (3, Some(5), 0, 2, 1, 0),
        (3, Some(5), 4, 0, 1, 0),
        (3, Some(5), 4, 1, 0, 0),
        (1, Some(5), 0, 3, 0, 2),
        (0, Some(5), 0, 2, 0, 2),
        (3, None, 0, 1, 2, 0),
        (3, None, 1, 2, 0, 0),
        (1000, Some(1000), 0, 0, 500, 0),
    ] {
        let job = job(json!({"parallelism": parallelism, "completions": completions}), json!({"succeeded": succeeded}));
        let p = plan(&job, &running(active), now());
        assert_eq!(
            (p.create.len(), p.remove.len(), p.delete.len()),
            (created, deleted, 0),
            "{parallelism} {completions:?} {succeeded} {active}"
        );
        assert_eq!(p.status.active, Some(i32::try_from(active - deleted).expect("small")));
        assert_eq!(p.status.start_time.as_ref().map(|t| t.0), Some(now()));
    }
}

#[test]
fn a_pod_that_succeeds_is_counted_exactly_once_and_completes_the_job() {
    let mut j = job(json!({}), json!({}));
    let first = plan(&j, &[plain("a", "Succeeded")], now());
    assert_eq!(conditions(&first), "SuccessCriteriaMet=True");
    assert_eq!((names(&first.strip), first.create.len()), ("a".into(), 0));
    assert_eq!(first.status.succeeded, None, "not before the finalizer is gone");
    j.status = Some(first.status);
    let again = plan(&j, &[plain("a", "Succeeded")], now());
    assert_eq!(
        (names(&again.strip), differs(j.status.as_ref(), &again.status)),
        ("a".into(), false),
        "still to be released"
    );
    let done = plan(&j, &[pod("a", "Succeeded", true, json!({}))], now());
    assert_eq!(done.status.succeeded, Some(1));
    assert_eq!(conditions(&done), "SuccessCriteriaMet=True Complete=True");
    assert_eq!(done.status.completion_time.as_ref().map(|t| t.0), Some(now()));
    assert_eq!(done.events[0].1, "Completed");
    assert_eq!(serde_json::to_value(&done.status).expect("JSON")["uncountedTerminatedPods"], json!({}));
    j.status = Some(done.status);
    assert!(is_finished(&j));
    let over = plan(&j, &[pod("a", "Succeeded", true, json!({}))], now());
    assert!(!differs(j.status.as_ref(), &over.status) && over.create.is_empty());
}

#[test]
fn a_pod_that_vanishes_after_it_was_noted_still_counts() {
    let j = job(json!({"completions": 2}), json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}));
    let p = plan(&j, &[], now());
    assert_eq!((p.status.succeeded, p.create.len()), (Some(1), 1));
}

#[test]
fn failures_are_replaced_after_a_pause_that_doubles() {
    let ended = |name: &str, at: &str| {
        pod(
            name,
            "Failed",
            true,
            json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}),
        )
    };
    let j = job(json!({}), json!({"failed": 2}));
    let p = plan(&j, &[ended("a", "2026-01-01T00:59:00Z"), ended("b", "2026-01-01T00:59:55Z")], now());
    assert_eq!((p.create.len(), p.after), (0, Some(Duration::from_secs(15))));
    let p = plan(&j, &[ended("a", "2026-01-01T00:59:00Z"), ended("b", "2026-01-01T00:59:40Z")], now());
    assert_eq!((p.create.len(), p.after), (1, None));
}

#[test]
fn too_many_failures_end_the_job() {
    let mut j = job(json!({"backoffLimit": 1, "parallelism": 2, "completions": 3}), json!({"failed": 1}));
    let pods = [plain("bad", "Failed"), plain("busy", "Running")];
    let p = plan(&j, &pods, now());
    assert_eq!((names(&p.delete), conditions(&p)), ("busy".into(), "FailureTarget=True".into()));
    let c = &p.status.conditions.as_ref().expect("a condition")[0];
    assert_eq!(c.reason.as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(c.message.as_deref(), Some("Job has reached the specified backoff limit"));
    j.status = Some(p.status);
    let gone = [pod("bad", "Failed", true, json!({}))];
    let p = plan(&j, &gone, now());
    assert_eq!((conditions(&p), p.status.failed), ("FailureTarget=True Failed=True".into(), Some(3)));
    assert_eq!(p.events[0].1, "BackoffLimitExceeded");
}

#[test]
fn restarts_in_place_count_against_the_limit() {
    let restarted = |n: i32| {
        pod(
            "a",
            "Running",
            false,
            json!({"status": {"containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n}]}}),
        )
    };
    let j = job(
        json!({"backoffLimit": 3, "template": {"spec": {"containers": [], "restartPolicy": "OnFailure"}}}),
        json!({}),
    );
    assert_eq!(conditions(&plan(&j, &[restarted(2)], now())), "");
    assert_eq!(conditions(&plan(&j, &[restarted(3)], now())), "FailureTarget=True");
}

#[test]
fn the_deadline_ends_the_job() {
    let spec = || json!({"activeDeadlineSeconds": 60});
    let p = plan(&job(spec(), json!({"startTime": "2026-01-01T00:59:20Z"})), &[plain("a", "Running")], now());
    assert_eq!(p.after, Some(Duration::from_secs(20)));
    let p = plan(&job(spec(), json!({"startTime": "2026-01-01T00:59:00Z"})), &[plain("a", "Running")], now());
    assert_eq!((names(&p.delete), conditions(&p)), ("a".into(), "FailureTarget=True".into()));
}

#[test]
fn a_job_that_is_suspended_rests_and_starts_its_time_anew() {
    let mut j = job(json!({"suspend": true}), json!({"startTime": "2026-01-01T00:00:00Z"}));
    let p = plan(&j, &[plain("a", "Running")], now());
    assert_eq!((names(&p.remove), conditions(&p)), ("a".into(), "Suspended=True".into()));
    assert_eq!((p.events[0].1.as_str(), p.status.start_time.clone()), ("Suspended", None));
    assert!(p.delete.is_empty() && p.strip.is_empty(), "nothing of it is counted");
    j.status = Some(p.status);
    let removed = pod("a", "Running", true, json!({"metadata": {"deletionTimestamp": "2026-01-01T01:00:30Z"}}));
    let p = plan(&j, &[removed], now());
    assert_eq!((p.status.failed, p.failures.pause(now()), p.status.start_time.clone()), (None, Duration::ZERO, None));
    j.status = Some(p.status);
    j.spec.as_mut().expect("a spec").suspend = Some(false);
    let p = plan(&j, &[], now());
    assert_eq!((p.create.len(), conditions(&p)), (1, "Suspended=False".into()));
    assert_eq!(p.status.start_time.as_ref().map(|t| t.0), Some(now()));
}

#[test]
fn indexed_jobs_fill_the_free_indexes_and_write_ranges() {
    let at = |name: &str, phase: &str, index: i32| {
        pod(name, phase, false, json!({"metadata": {"annotations": {INDEX: index.to_string()}}}))
    };
    let mut j =
        job(json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3}), json!({"completedIndexes": "0"}));
    let p = plan(&j, &[at("a", "Succeeded", 2), at("b", "Running", 1)], now());
    assert_eq!(indexes(&p), [3, 4]);
    assert_eq!((p.status.completed_indexes.as_deref(), p.status.succeeded), (Some("0,2"), Some(2)));
    assert_eq!(names(&p.strip), "a");
    let twice = [at("b", "Running", 1), at("c", "Running", 1), at("d", "Running", 2), at("e", "Running", 9)];
    j.status = Some(p.status);
    assert_eq!(names(&plan(&j, &twice, now()).remove), "d e b", "doubled, done and impossible indexes");
    let all =
        job(json!({"completionMode": "Indexed", "completions": 2}), json!({"completedIndexes": "0,1", "succeeded": 2}));
    assert_eq!(conditions(&plan(&all, &[], now())), "SuccessCriteriaMet=True Complete=True", "nothing to wait for");
}

#[test]
fn a_terminating_pod_is_replaced_at_once_unless_the_policy_waits() {
    let leaving = || pod("a", "Running", false, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let eager = plan(&job(json!({}), json!({})), &[leaving()], now());
    assert_eq!((eager.create.len(), eager.status.terminating), (1, Some(1)));
    let patient = plan(&job(json!({"podReplacementPolicy": "Failed"}), json!({})), &[leaving()], now());
    assert_eq!((patient.create.len(), names(&patient.strip)), (0, String::new()));
}

#[test]
fn a_pod_that_somebody_deleted_is_replaced_after_the_pause() {
    let mut j = job(json!({}), json!({}));
    let left = |counted: bool| {
        pod(
            "a",
            "Running",
            counted,
            json!({"metadata": {"deletionTimestamp": "2026-01-01T01:00:30Z", "deletionGracePeriodSeconds": 30},
                "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]}}),
        )
    };
    let p = plan(&j, &[left(false)], now());
    assert_eq!((p.create.len(), p.after, names(&p.strip)), (0, Some(Duration::from_secs(10)), "a".into()));
    j.status = Some(p.status);
    let second = now() + jiff::SignedDuration::from_secs(1);
    let p = super::plan(&j, &[left(true)], &p.failures, second);
    assert_eq!((p.create.len(), p.after, p.status.failed), (0, Some(Duration::from_secs(9)), Some(1)));
    j.status = Some(p.status);
    let p = super::plan(&j, &[], &p.failures, second);
    assert_eq!((p.create.len(), p.after), (0, Some(Duration::from_secs(9))), "also once it is gone");
    let p = super::plan(&j, &[], &p.failures, now() + jiff::SignedDuration::from_secs(10));
    assert_eq!((p.create.len(), p.after), (1, None));
}

#[test]
fn a_success_ends_the_pauses_and_many_failures_take_no_room() {
    let mut failures = Failures::default();
    let ended = |name: &str, at: Timestamp| {
        pod(
            name,
            "Failed",
            true,
            json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at.to_string()}}}]}}),
        )
    };
    let many: Vec<_> = (0..50).map(|i| ended(&format!("p{i}"), now())).collect();
    failures.note([].iter(), many.iter());
    assert_eq!(failures.pause(now()), Duration::from_secs(600));
    let success = ended("s", now() + jiff::SignedDuration::from_secs(1));
    failures.note([success].iter(), many.iter());
    assert_eq!(failures.pause(now()), Duration::ZERO);
}
