use super::{
    indexes::INDEX,
    tests::{conditions, indexes, job, names, now, pod},
    view::Plan,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A pass of a controller that has just started.
fn plan(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    super::plan(job, pods, &Default::default(), now())
}

fn indexed(spec: Value, status: Value) -> Job {
    let mut all = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
    spec.as_object().into_iter().flatten().for_each(|(k, v)| all[k] = v.clone());
    job(all, status)
}

/// A pod that ended with a code `ago` seconds ago.
fn ended(name: &str, code: i32, ago: i64, counted: bool, more: Value) -> Arc<Pod> {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let at = (now() - SignedDuration::from_secs(ago)).to_string();
    let status = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "finishedAt": at}}}]);
    let mut all = json!({"metadata": {"namespace": "ns"}, "status": {"containerStatuses": status}});
    for (k, v) in more.as_object().into_iter().flatten() {
        v.as_object().into_iter().flatten().for_each(|(k2, v2)| all[k][k2] = v2.clone());
    }
    pod(name, phase, counted, all)
}

fn at(index: i32, failures: Option<i32>) -> Value {
    let mut annotations = json!({INDEX: index.to_string()});
    if let Some(n) = failures {
        annotations["batch.kubernetes.io/job-index-failure-count"] = n.to_string().into();
    }
    json!({"metadata": {"annotations": annotations}})
}

fn reason(p: &Plan) -> (String, String) {
    let last = p.status.conditions.as_ref().and_then(|c| c.last()).cloned().expect("a condition");
    (last.reason.unwrap_or_default(), last.message.unwrap_or_default())
}

fn rule(action: &str, code: i32) -> Value {
    json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}})
}

#[test]
fn a_failure_that_is_ignored_counts_against_no_limit() {
    let policy = json!({"rules": [rule("Ignore", 7), rule("Count", 8)]});
    let mut j = job(json!({"podFailurePolicy": policy, "backoffLimit": 0}), json!({}));
    let ignored = |counted| ended("a", 7, 60, counted, json!({}));
    let p = plan(&j, &[ignored(false)]);
    assert_eq!((conditions(&p), names(&p.strip), p.create.len()), (String::new(), "a".into(), 1));
    j.status = Some(p.status);
    let p = plan(&j, &[ignored(true)]);
    assert_eq!((p.status.failed, conditions(&p)), (None, String::new()), "it is never counted");
    let p = plan(&j, &[ended("b", 8, 60, false, json!({}))]);
    assert_eq!((reason(&p).0.as_str(), p.create.len()), ("BackoffLimitExceeded", 0), "the second rule counts");
    let p = plan(&j, &[ended("a", 7, 4, false, json!({}))]);
    assert_eq!((p.create.len(), p.after), (0, Some(Duration::from_secs(6))), "but it is waited for");
}

#[test]
fn a_failure_can_end_the_job_at_once() {
    let policy = json!({"rules": [rule("FailJob", 42), rule("Ignore", 7)]});
    let mut j = job(json!({"podFailurePolicy": policy, "parallelism": 3, "completions": 3}), json!({}));
    let busy = || pod("busy", "Running", false, json!({}));
    let bad = |counted| ended("bad", 42, 5, counted, json!({}));
    let p = plan(&j, &[busy(), bad(false), ended("other", 7, 5, false, json!({}))]);
    assert_eq!(conditions(&p), "FailureTarget=True");
    let text = "Container c for pod ns/bad failed with exit code 42 matching FailJob rule at index 0";
    assert_eq!(reason(&p), ("PodFailurePolicy".into(), text.into()));
    assert_eq!((names(&p.delete), names(&p.strip)), ("busy".into(), "busy bad other".into()));
    assert_eq!((p.status.active, p.status.terminating, p.events.len()), (Some(0), Some(1), 0));
    j.status = Some(p.status);
    let leaving = pod("busy", "Running", true, json!({"metadata": {"deletionTimestamp": "2026-01-01T01:00:30Z"}}));
    let p = plan(&j, &[leaving, bad(true)]);
    assert_eq!(conditions(&p), "FailureTarget=True", "one is terminating still");
    j.status = Some(p.status);
    let p = plan(&j, &[bad(true)]);
    assert_eq!(
        (conditions(&p), p.status.failed),
        ("FailureTarget=True Failed=True".into(), Some(2)),
        "not the ignored one"
    );
    assert_eq!((p.events[0].1.as_str(), p.events[0].2.as_str()), ("PodFailurePolicy", text));
}

#[test]
fn a_policy_of_failures_waits_until_a_pod_has_ended() {
    let j = job(json!({"podFailurePolicy": {"rules": []}}), json!({}));
    let leaving =
        |phase: &str| pod("a", phase, false, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let p = plan(&j, &[leaving("Running")]);
    assert_eq!((p.create.len(), names(&p.strip), p.status.terminating), (0, String::new(), Some(1)));
    let p = plan(&j, &[leaving("Failed")]);
    assert_eq!((p.create.len(), names(&p.strip), p.status.terminating), (1, "a".into(), Some(0)));
}

#[test]
fn an_index_is_not_given_out_while_its_pod_terminates() {
    let j = indexed(json!({"podReplacementPolicy": "Failed"}), json!({}));
    let mut more = at(0, None);
    more["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let leaving = pod("a", "Running", false, more.clone());
    assert_eq!(indexes(&plan(&j, std::slice::from_ref(&leaving))), [1, 2]);
    let eager = indexed(json!({}), json!({}));
    let gone = pod("a", "Running", true, more);
    assert_eq!((indexes(&plan(&eager, &[gone])), indexes(&plan(&eager, &[leaving]))), (vec![0, 1, 2], vec![0, 1, 2]));
}

#[test]
fn enough_successes_end_the_job() {
    let spec =
        json!({"successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}, {"succeededCount": 2}]}});
    let mut j = indexed(spec, json!({}));
    let busy = || [pod("b", "Running", false, at(1, None)), pod("c", "Running", false, at(2, None))];
    let first = |counted| ended("a", 0, 1, counted, at(0, None));
    let p = plan(&j, &[&[first(false)][..], &busy()].concat());
    assert_eq!(
        (conditions(&p), reason(&p)),
        ("SuccessCriteriaMet=True".into(), ("SuccessPolicy".into(), "Matched rules at index 0".into()))
    );
    assert_eq!((names(&p.delete), names(&p.strip), p.create.len()), ("b c".into(), "a b c".into(), 0));
    assert_eq!((p.status.completed_indexes.as_deref(), p.status.succeeded), (Some("0"), Some(1)));
    j.status = Some(p.status);
    let p = plan(&j, &[first(true)]);
    assert_eq!(conditions(&p), "SuccessCriteriaMet=True Complete=True");
    assert_eq!((p.status.failed, p.events[0].1.as_str()), (None, "Completed"), "those that were ended have not failed");
    assert_eq!(reason(&p), ("SuccessPolicy".into(), "Matched rules at index 0".into()));
}

#[test]
fn success_is_looked_for_last() {
    let spec = json!({"successPolicy": {"rules": [{"succeededCount": 1}]}, "backoffLimit": 0});
    let pods = [ended("a", 0, 1, false, at(0, None)), ended("b", 1, 1, false, at(1, None))];
    assert_eq!(reason(&plan(&indexed(spec.clone(), json!({})), &pods)).0, "BackoffLimitExceeded");
    let met = json!({"conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy"}]});
    assert_eq!(conditions(&plan(&indexed(spec, met), &pods)), "SuccessCriteriaMet=True", "what was decided stays");
}

#[test]
fn each_index_has_its_own_limit_and_pause() {
    let mut j = indexed(json!({"backoffLimitPerIndex": 1, "backoffLimit": i32::MAX}), json!({}));
    let p = plan(&j, &[]);
    assert_eq!((indexes(&p), p.status.failed_indexes.as_deref()), (vec![0, 1, 2], Some("")));
    let create = |p: &Plan, at: usize| {
        let mut pod = Pod::default();
        p.create[at].and_then(|slot| slot.failures).expect("failures").mark(&mut pod);
        pod.metadata.annotations.expect("annotations").into_iter().collect::<Vec<_>>()
    };
    let failures = |n: &str| vec![("batch.kubernetes.io/job-index-failure-count".to_owned(), n.to_owned())];
    assert_eq!(create(&p, 0), failures("0"));
    let others = || [ended("b", 0, 1, false, at(1, Some(0))), pod("c", "Running", false, at(2, Some(0)))];

    // the first failure of index 0 is waited for, and its pod holds the count
    let p = plan(&j, &[&[ended("a", 1, 4, false, at(0, Some(0)))][..], &others()].concat());
    assert_eq!((p.create.len(), p.after, names(&p.strip)), (0, Some(Duration::from_secs(6)), "b".into()));
    let p = plan(&j, &[&[ended("a", 1, 10, false, at(0, Some(0)))][..], &others()].concat());
    assert_eq!((indexes(&p), create(&p, 0), names(&p.strip)), (vec![0], failures("1"), "b".into()));
    assert_eq!(p.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.clone()), None);

    // the replacement has the count: the failed pod is counted and goes
    j.status = Some(p.status);
    let second = || pod("a2", "Running", false, at(0, Some(1)));
    let p = plan(&j, &[&[ended("a", 1, 10, false, at(0, Some(0))), second()][..], &others()].concat());
    assert_eq!((names(&p.strip), p.create.len()), ("a b".into(), 0));

    // the second failure is the last
    j.status = Some(p.status);
    let third = pod("c", "Running", false, at(2, Some(0)));
    let p = plan(&j, &[ended("a2", 1, 60, false, at(0, Some(1))), third]);
    assert_eq!((p.create.len(), names(&p.strip)), (0, "a2".into()));
    assert_eq!((p.status.failed_indexes.as_deref(), p.status.completed_indexes.as_deref()), (Some("0"), Some("1")));
    assert_eq!(conditions(&p), "", "the others go on");
    j.status = Some(p.status);
    let p = plan(&j, &[ended("c", 0, 1, false, at(2, Some(0)))]);
    assert_eq!(reason(&p), ("FailedIndexes".into(), "Job has failed indexes".into()));
}

#[test]
fn an_index_can_fail_by_policy_and_too_many_end_the_job() {
    let policy = json!({"rules": [rule("FailIndex", 9), rule("Ignore", 7)]});
    let spec = |max: Value| json!({"backoffLimitPerIndex": 5, "backoffLimit": i32::MAX, "maxFailedIndexes": max, "podFailurePolicy": policy});
    let mut pods = vec![
        ended("a", 9, 1, false, at(0, Some(0))),
        pod("b", "Running", false, at(1, Some(0))),
        pod("c", "Running", false, at(2, Some(0))),
    ];
    let p = plan(&indexed(spec(json!(1)), json!({})), &pods);
    assert_eq!(
        (p.status.failed_indexes.as_deref(), names(&p.strip), conditions(&p)),
        (Some("0"), "a".into(), String::new())
    );
    let p = plan(&indexed(spec(json!(0)), json!({})), &pods);
    assert_eq!(
        reason(&p),
        ("MaxFailedIndexesExceeded".into(), "Job has exceeded the specified maximal number of failed indexes".into())
    );
    assert_eq!(names(&p.delete), "b c");

    // an ignored failure lengthens the pause but is not counted
    pods[0] = ended("a", 7, 10, false, at(0, Some(5)));
    let p = plan(&indexed(spec(json!(0)), json!({})), &pods);
    assert_eq!((indexes(&p), p.after), (vec![], Some(Duration::from_secs(310))), "the sixth failure");
    pods[0] = ended("a", 7, 320, false, at(0, Some(5)));
    let p = plan(&indexed(spec(json!(0)), json!({})), &pods);
    let mut new = Pod::default();
    p.create[0].and_then(|slot| slot.failures).expect("failures").mark(&mut new);
    let annotations = serde_json::to_value(new.metadata.annotations).expect("JSON");
    assert_eq!(
        annotations,
        json!({"batch.kubernetes.io/job-index-failure-count": "5", "batch.kubernetes.io/job-index-ignored-failure-count": "1"})
    );
}

#[test]
fn of_several_failed_pods_the_last_holds_the_count() {
    let j = indexed(json!({"backoffLimitPerIndex": 9, "backoffLimit": i32::MAX}), json!({}));
    let pods = [ended("old", 1, 500, false, at(0, Some(0))), ended("new", 1, 400, false, at(0, Some(1)))];
    let p = plan(&j, &pods);
    assert_eq!((names(&p.strip), indexes(&p)), ("old".into(), vec![0, 1, 2]));
}

#[test]
fn an_indexed_job_grows_and_shrinks() {
    let all = |n: i32| json!({"completions": n, "parallelism": n});
    let status = json!({"completedIndexes": "0-2", "succeeded": 3});
    let p = plan(&indexed(all(2), status), &[]);
    assert_eq!((p.status.succeeded, p.status.completed_indexes.as_deref()), (Some(2), Some("0,1")));
    assert_eq!(conditions(&p), "SuccessCriteriaMet=True Complete=True");
    let pods = [ended("c", 0, 9, true, at(2, None)), pod("d", "Running", false, at(3, None))];
    let p = plan(&indexed(all(2), json!({"completedIndexes": "0", "succeeded": 1})), &pods);
    assert_eq!((names(&p.remove), p.status.active), ("d".into(), Some(0)));
    let p = plan(&indexed(all(4), json!({"completedIndexes": "0,1", "succeeded": 2})), &pods[..1]);
    assert_eq!(indexes(&p), [2, 3], "what was out of range runs again");
}

#[test]
fn the_pod_that_is_furthest_on_keeps_its_index() {
    let j = indexed(json!({}), json!({}));
    let ready = json!({"metadata": {"annotations": {INDEX: "0"}}, "spec": {"nodeName": "n"}});
    let pods = [pod("pending", "Pending", false, at(0, None)), pod("running", "Running", false, ready)];
    assert_eq!(names(&plan(&j, &pods).remove), "pending");
}

#[test]
fn a_job_that_is_deleted_starts_nothing_and_lets_its_pods_go() {
    let mut j = job(json!({"completions": 2, "parallelism": 2}), json!({}));
    j.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let p = plan(&j, &[pod("a", "Running", false, json!({}))]);
    assert_eq!((p.create.len(), names(&p.strip), conditions(&p)), (0, "a".into(), String::new()));
    let p = plan(&j, &[ended("a", 0, 1, false, json!({})), ended("b", 0, 1, false, json!({}))]);
    assert_eq!(conditions(&p), "SuccessCriteriaMet=True");
}
