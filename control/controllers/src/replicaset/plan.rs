//! What a ReplicaSet needs done, given its pods. Pure.

use super::{rank, refused};
use crate::{
    claim::{Claim, claim},
    meta, pods,
};
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Most pods that one reconcile creates or deletes.
pub(super) const BURST: usize = 500;

/// The work of one reconcile.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Pods to adopt: they match and have no controller.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods to release: their labels match no longer.
    pub release: Vec<Arc<Pod>>,
    /// How many pods to create.
    pub create: usize,
    /// The back-off before more pods are created, because a node refused some; zero for none.
    pub pause: Duration,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// The replicas that count for the status.
    pub active: Vec<Arc<Pod>>,
    /// The number of terminating replicas.
    pub terminating: usize,
}

/// Compares `rs` with the pods that it controls or may adopt. `related` returns the pods of all ReplicaSets with the same owner, which tell how
/// crowded nodes are; it is called only if pods must be deleted.
pub(crate) fn plan(
    rs: &ReplicaSet,
    selector: &Selector,
    candidates: &[Arc<Pod>],
    related: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let deleting = rs.metadata.deletion_timestamp.is_some();
    for pod in candidates {
        if pods::is_terminating(pod) {
            let ours = meta::is_controlled_by(&pod.metadata, meta::uid(&rs.metadata));
            plan.terminating += usize::from(ours && meta::matches(selector, pod.metadata.labels.as_ref()));
        }
        if !pods::is_active(pod) {
            continue;
        }
        match claim(&rs.metadata, selector, &pod.metadata) {
            Claim::Keep => plan.active.push(pod.clone()),
            Claim::Adopt => {
                plan.adopt.push(pod.clone());
                plan.active.push(pod.clone());
            }
            Claim::Release => plan.release.push(pod.clone()),
            Claim::Ignore => {}
        }
    }
    if deleting {
        return plan;
    }
    let desired = usize::try_from(replicas(rs)).unwrap_or(0);
    plan.create = desired.saturating_sub(plan.active.len()).min(BURST);
    if plan.create > 0 {
        plan.pause = refused::pause(meta::uid(&rs.metadata), candidates, now);
        plan.create = if plan.pause.is_zero() { plan.create } else { 0 };
    }
    let excess = plan.active.len().saturating_sub(desired).min(BURST);
    if excess > 0 {
        plan.delete = rank::to_delete(&plan.active, &related(), excess, now);
    }
    plan
}

/// `spec.replicas`, 1 where absent.
pub(super) fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn min_ready_seconds(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// The status after a reconcile; `failure` is its error, if any.
pub(crate) fn status(rs: &ReplicaSet, plan: &Plan, failure: Option<&str>, now: Timestamp) -> ReplicaSetStatus {
    let old = rs.status.clone().unwrap_or_default();
    let empty = BTreeMap::new();
    let template = rs.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref());
    let labels = template.and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    for pod in &plan.active {
        let has = |(k, v): (&String, &String)| pod.metadata.labels.as_ref().and_then(|l| l.get(k)) == Some(v);
        labelled += i32::from(labels.iter().all(has));
        ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, min_ready_seconds(rs), now));
    }
    let active = count(plan.active.len());
    let conditions = conditions(old.conditions, failure, active - replicas(rs), now);
    ReplicaSetStatus {
        replicas: active,
        fully_labeled_replicas: meta::counted(labelled),
        ready_replicas: meta::counted(ready),
        available_replicas: meta::counted(available),
        terminating_replicas: Some(count(plan.terminating)),
        observed_generation: rs.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&str>,
    surplus: i32,
    now: Timestamp,
) -> Vec<ReplicaSetCondition> {
    let mut conditions = old.unwrap_or_default();
    let present = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(message) if !present => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: match surplus {
                n if n < 0 => Some("FailedCreate".into()),
                n if n > 0 => Some("FailedDelete".into()),
                _ => None,
            },
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    conditions
}

/// When the next ready pod becomes available, which changes the status.
pub(super) fn next_availability(rs: &ReplicaSet, plan: &Plan, now: Timestamp) -> Option<Duration> {
    let seconds = min_ready_seconds(rs);
    let pending = plan.active.iter().filter_map(|p| pods::available_in(p, seconds, now));
    pending.filter(|d| !d.is_zero()).min()
}

/// When to reconcile again without a change: to create pods after the back-off, or when a pod becomes available.
pub(super) fn next_look(rs: &ReplicaSet, plan: &Plan, now: Timestamp) -> Option<Duration> {
    let paused = Some(plan.pause).filter(|pause| !pause.is_zero());
    paused.into_iter().chain(next_availability(rs, plan, now)).min()
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::differs;
    use serde_json::{Value, json};

    fn rs(replicas: i32, more: Value) -> ReplicaSet {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web", "tier": "x"}}, "spec": {"containers": []}}},
        });
        for (k, v) in more.as_object().into_iter().flatten() {
            for (k2, v2) in v.as_object().into_iter().flatten() {
                value[k][k2] = v2.clone();
            }
        }
        serde_json::from_value(value).expect("a ReplicaSet")
    }

    fn pod(name: &str, labels: Value, owner: Option<&str>, phase: &str, deleting: bool) -> Arc<Pod> {
        let owners = owner.map(
            |uid| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid, "controller": true}]),
        );
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels, "ownerReferences": owners, "deletionTimestamp": deleted},
                "spec": {"containers": [], "nodeName": "n"}, "status": {"phase": phase},
            }))
            .expect("a pod"),
        )
    }

    fn ready(name: &str, since: &str) -> Arc<Pod> {
        let mut pod = (*pod(name, json!({"app": "web", "tier": "x"}), Some("rs"), "Running", false)).clone();
        pod.status = serde_json::from_value(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": since}]}))
        .expect("a status");
        Arc::new(pod)
    }

    fn run(rs: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
        let selector = meta::selector(&rs.spec.as_ref().expect("a spec").selector).expect("a selector");
        plan(rs, &selector, pods, Vec::new, Timestamp::UNIX_EPOCH)
    }

    fn names(pods: &[Arc<Pod>]) -> String {
        pods.iter().map(|p| meta::name(&p.metadata)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_are_created_deleted_adopted_and_released() {
        let web = || json!({"app": "web"});
        let own = |n| pod(n, web(), Some("rs"), "Running", false);
        // (replicas, pods, "create/delete/adopt/release/active/terminating")
        let cases: Vec<(&str, i32, Vec<Arc<Pod>>, &str)> = vec![
            ("nothing there", 3, vec![], "3/0/0/0/0/0"),
            ("a burst at most", 1200, vec![], "500/0/0/0/0/0"),
            ("as desired", 2, vec![own("a"), own("b")], "0/0/0/0/2/0"),
            ("one too many", 1, vec![own("a"), own("b")], "0/1/0/0/2/0"),
            ("finished pods are replaced", 1, vec![pod("a", web(), Some("rs"), "Failed", false)], "1/0/0/0/0/0"),
            ("terminating pods are replaced", 1, vec![pod("a", web(), Some("rs"), "Running", true)], "1/0/0/0/0/1"),
            ("an orphan is adopted", 1, vec![pod("a", web(), None, "Running", false)], "0/0/1/0/1/0"),
            ("a terminating orphan is not", 1, vec![pod("a", web(), None, "Running", true)], "1/0/0/0/0/0"),
            ("relabelled pods are released", 1, vec![pod("a", json!({}), Some("rs"), "Running", false)], "1/0/0/1/0/0"),
            ("others' pods are left alone", 1, vec![pod("a", web(), Some("other"), "Running", false)], "1/0/0/0/0/0"),
        ];
        for (what, replicas, pods, expected) in cases {
            let p = run(&rs(replicas, json!({})), &pods);
            let got = format!(
                "{}/{}/{}/{}/{}/{}",
                p.create,
                p.delete.len(),
                p.adopt.len(),
                p.release.len(),
                p.active.len(),
                p.terminating
            );
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn pods_in_the_place_of_refused_ones_wait() {
        let refused = |owner: &str| {
            let mut pod = Pod::clone(&pod("a", json!({"app": "web"}), Some(owner), "Failed", false));
            let status = json!({"phase": "Failed", "reason": "OutOfmemory", "startTime": "2026-01-01T00:00:00Z"});
            pod.status = Some(serde_json::from_value(status).expect("a status"));
            Arc::new(pod)
        };
        let selector = meta::selector(&rs(0, json!({})).spec.expect("a spec").selector).expect("a selector");
        let plan = |owner: &str, replicas: i32, now: &str| {
            let set = rs(replicas, json!({}));
            let now = now.parse().expect("a time");
            let plan = plan(&set, &selector, &[refused(owner)], Vec::new, now);
            (plan.create, next_look(&set, &plan, now).map(|look| look.as_millis()))
        };
        assert_eq!(plan("rs", 2, "2026-01-01T00:00:00.2Z"), (0, Some(800)));
        assert_eq!(plan("rs", 2, "2026-01-01T00:00:01Z"), (2, None));
        assert_eq!(plan("rs", 0, "2026-01-01T00:00:00Z"), (0, None), "nothing is wanted");
        assert_eq!(plan("other", 2, "2026-01-01T00:00:00Z"), (2, None), "another's pod");
    }

    #[test]
    fn a_replica_set_that_is_deleted_does_nothing_but_report() {
        let rs = rs(5, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        let p = run(
            &rs,
            &[
                pod("a", json!({"app": "web"}), Some("rs"), "Running", false),
                pod("b", json!({"app": "web"}), None, "Running", false),
            ],
        );
        assert_eq!(
            (p.create, names(&p.delete), names(&p.adopt), names(&p.active)),
            (0, String::new(), String::new(), "a".into())
        );
    }

    #[test]
    fn the_status_counts_labelled_ready_and_available_pods() {
        let set = rs(4, json!({"spec": {"minReadySeconds": 60}}));
        let now = "2026-01-01T00:01:30Z".parse().expect("a time");
        let pods = [
            ready("old", "2026-01-01T00:00:00Z"),
            ready("young", "2026-01-01T00:01:00Z"),
            pod("plain", json!({"app": "web"}), Some("rs"), "Running", false),
        ];
        let p = run(&set, &pods);
        let s = status(&set, &p, None, now);
        assert_eq!(
            serde_json::to_value(&s).expect("JSON"),
            json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1, "terminatingReplicas": 0,
                   "observedGeneration": 2})
        );
        assert_eq!(next_availability(&set, &p, now), Some(Duration::from_secs(30)));
        assert!(differs(set.status.as_ref(), &s));
        let mut same = set.clone();
        same.status = Some(s.clone());
        assert!(!differs(same.status.as_ref(), &s));
        let none = serde_json::to_value(status(&set, &run(&set, &[]), None, now)).expect("JSON");
        assert_eq!(
            none,
            json!({"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 2}),
            "upstream leaves zeros out"
        );
    }

    #[test]
    fn a_failure_becomes_a_condition_and_goes_with_the_next_success() {
        let mut set = rs(1, json!({}));
        let p = run(&set, &[]);
        let failed = status(&set, &p, Some("quota"), Timestamp::UNIX_EPOCH);
        let condition = &failed.conditions.as_ref().expect("a condition")[0];
        assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
        set.status = Some(failed);
        assert_eq!(status(&set, &p, None, Timestamp::UNIX_EPOCH).conditions, None);
    }
}
