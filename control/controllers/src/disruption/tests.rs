//! Tables of what a budget allows.

use super::{
    plan::{Counting, Counts, counting, disrupted, expected, failed, healthy, status},
    *,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().expect("a time")
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let meta = json!({"name": "b", "namespace": "ns", "generation": 4});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).expect("a budget")
}

fn pod(name: &str, ready: bool, deleting: bool) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "ns"},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
    if deleting {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

#[test]
fn what_is_expected_follows_the_spec() {
    for (spec, by, pods, scale, wanted) in [
        (json!({"minAvailable": 3}), Counting::Pods, 5, 0, (5, 3)),
        (json!({"minAvailable": 3}), Counting::Pods, 0, 0, (0, 3)),
        (json!({"minAvailable": "28%"}), Counting::Scale, 5, 10, (10, 3)),
        (json!({"minAvailable": "0%"}), Counting::Scale, 5, 10, (10, 0)),
        (json!({"maxUnavailable": 1}), Counting::Scale, 5, 10, (10, 9)),
        (json!({"maxUnavailable": 11}), Counting::Scale, 5, 10, (10, 0)),
        (json!({"maxUnavailable": "30%"}), Counting::Scale, 5, 7, (7, 4)),
        (json!({"maxUnavailable": "100%"}), Counting::Scale, 5, 7, (7, 0)),
        (json!({}), Counting::Pods, 5, 0, (0, 0)),
    ] {
        let budget = budget(spec.clone(), json!(null));
        assert_eq!(counting(&budget), by, "{spec}");
        assert_eq!(expected(&budget, pods, scale), Ok(wanted), "{spec}");
    }
    assert!(expected(&budget(json!({"maxUnavailable": "few"}), json!(null)), 1, 1).is_err());
}

#[test]
fn an_eviction_counts_until_its_pod_is_gone_or_stays_two_minutes() {
    let told = json!({"disruptedPods": {"new": "2026-01-01T00:09:30Z", "edge": "2026-01-01T00:08:00Z", "old": "2026-01-01T00:07:59Z",
        "going": "2026-01-01T00:09:59Z", "gone": "2026-01-01T00:09:59Z"}});
    let told = budget(json!({}), told);
    let pods = [
        pod("new", true, false),
        pod("edge", true, false),
        pod("old", true, false),
        pod("going", true, true),
        pod("other", true, false),
    ];
    let seen = disrupted(&told, &pods, now());
    assert_eq!(seen.pods.keys().collect::<Vec<_>>(), ["edge", "new"]);
    assert_eq!(seen.undeleted.iter().map(|pod| meta::name(&pod.metadata)).collect::<Vec<_>>(), ["old"]);
    assert_eq!(seen.recheck, Some(Duration::ZERO), "that of the edge");
    assert_eq!(healthy(&pods, &seen.pods), 2, "old and other");
    assert_eq!(healthy(&[pod("a", false, false), pod("b", true, true)], &BTreeMap::new()), 0);
    let none = disrupted(&budget(json!({}), json!(null)), &pods, now());
    assert!(none.pods.is_empty() && none.recheck.is_none() && none.undeleted.is_empty());
}

#[test]
fn what_is_healthy_beyond_the_desired_may_go() {
    for (healthy, desired, expected, allowed) in
        [(3, 2, 3, 1), (2, 2, 3, 0), (1, 2, 3, 0), (3, 0, 3, 3), (3, 0, 0, 0), (0, 0, 0, 0), (i32::MIN, 1, 3, 0)]
    {
        let counts = Counts { healthy, desired, expected };
        let new = status(&budget(json!({}), json!(null)), counts, BTreeMap::new(), now());
        assert_eq!(new.disruptions_allowed, Some(allowed), "{counts:?}");
        let condition = &new.conditions.as_ref().expect("conditions")[0];
        let told = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), told);
        assert_eq!((condition.observed_generation, new.observed_generation), (Some(4), Some(4)));
    }
}

#[test]
fn the_condition_keeps_its_time_while_its_status_stays_and_a_failure_allows_nothing() {
    let before = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let told = json!({"disruptionsAllowed": 2, "currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3, "observedGeneration": 3,
        "conditions": [{"type": "Mine", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}, before]});
    let told = budget(json!({}), told);
    let time = |status: &PodDisruptionBudgetStatus| {
        let all = status.conditions.as_ref().expect("conditions");
        assert_eq!((all.len(), all[0].type_.as_str()), (2, "Mine"), "others stay");
        all[1].last_transition_time.0.to_string()
    };
    let none = status(&told, Counts { healthy: 1, desired: 1, expected: 1 }, BTreeMap::new(), now());
    assert_eq!(time(&none), "2026-01-01T00:00:00Z");
    let some = status(&told, Counts { healthy: 2, desired: 1, expected: 2 }, BTreeMap::new(), now());
    assert_eq!(time(&some), "2026-01-01T00:10:00Z");
    let lost = failed(&told, "why", now());
    assert_eq!(time(&lost), "2026-01-01T00:00:00Z");
    assert_eq!((lost.disruptions_allowed, lost.current_healthy, lost.observed_generation), (Some(0), Some(3), Some(3)));
    let condition = &lost.conditions.as_ref().expect("conditions")[1];
    assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("SyncFailed", "why"));
}

#[test]
fn a_selector_is_printed_as_go_does() {
    let selector = |value: Value| -> LabelSelector { serde_json::from_value(value).expect("a selector") };
    for (value, expected) in [
        (None, "nil"),
        (
            Some(json!({"matchLabels": {"b": "2", "a": "1"}})),
            "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{},}",
        ),
        (
            Some(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]})),
            "&LabelSelector{MatchLabels:map[string]string{},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:a,Operator:In,Values:[x y],},},}",
        ),
    ] {
        assert_eq!(selector_text(value.map(selector).as_ref()), expected);
    }
}
