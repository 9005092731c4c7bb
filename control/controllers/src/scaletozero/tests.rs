use super::*;
use api::annotations::SCALE_TO_ZERO_AFTER;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use std::time::Duration;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn deployment(replicas: i32, available: i32, annotations: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 3, "annotations": annotations},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": []}}},
        "status": {"observedGeneration": 3, "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": available}}))
    .expect("a Deployment")
}

fn decide(deployment: &Deployment, autoscaled: bool, waited_for: bool) -> Action {
    plan(&Seen { deployment, autoscaled, waited_for }, None, at(0))
}

#[test]
fn what_is_asleep_wakes_by_a_request_and_only_then() {
    let asked = json!({SCALE_TO_ZERO_AFTER: "1m", SCALED_TO_ZERO: "2"});
    let autoscaled = json!({SCALED_TO_ZERO: "1"});
    let hand = json!({SCALE_TO_ZERO_AFTER: "1m"});
    for (what, deployment, by_autoscaler, waits, wanted) in [
        ("nobody asks", deployment(0, 0, asked.clone()), false, false, Action::Nothing),
        ("a request", deployment(0, 0, asked.clone()), false, true, Action::Wake(2)),
        (
            "a request of what an autoscaler put to zero",
            deployment(0, 0, autoscaled.clone()),
            true,
            true,
            Action::Wake(1),
        ),
        ("a mark that is no number", deployment(0, 0, json!({SCALED_TO_ZERO: "x"})), true, true, Action::Wake(1)),
        ("the autoscaler is gone", deployment(0, 0, autoscaled), false, true, Action::Unmark),
        ("a user put it to zero", deployment(0, 0, hand), false, true, Action::Nothing),
        ("it starts", deployment(2, 0, asked.clone()), false, true, Action::Nothing),
        ("it serves", deployment(2, 1, asked.clone()), false, true, Action::Unmark),
    ] {
        assert_eq!(decide(&deployment, by_autoscaler, waits), wanted, "{what}");
    }
    let mut old = deployment(2, 1, asked);
    old.metadata.generation = Some(4);
    assert_eq!(decide(&old, false, true), Action::Nothing, "what the status tells is of before");
}

#[test]
fn what_had_no_request_for_long_enough_sleeps() {
    let deployment = deployment(2, 2, json!({SCALE_TO_ZERO_AFTER: "1m"}));
    let seen = Seen { deployment: &deployment, autoscaled: false, waited_for: false };
    assert!(plan::looks_for_idleness(&seen));
    let look = Action::Look(plan::PERIOD);
    let sleep = Action::Sleep { replicas: 2, text: "Scaled down from 2 to 0: no request for 1m".to_owned() };
    let mut idle = None;
    for (second, rates, wanted) in [
        (0, Ok(vec![0, 0]), look.clone()),
        (30, Ok(vec![0, 1]), look.clone()),
        (40, Ok(vec![0]), look.clone()),
        (50, Ok(vec![0, 0]), look.clone()),
        (60, Err("no metrics".to_owned()), look.clone()),
        (70, Ok(vec![0, 0]), look.clone()),
        (125, Ok(vec![0, 0]), Action::Look(Duration::from_secs(5))),
        (130, Ok(vec![0, 0]), sleep),
    ] {
        let next = Idle::after(idle, &deployment, rates.clone(), at(second));
        assert_eq!(plan(&seen, Some(&next), at(second)), wanted, "{second} {rates:?}");
        idle = Some(next);
    }
    let stale = plan(&seen, idle.as_ref(), at(200));
    assert!(matches!(stale, Action::Look(_)), "an old look says nothing of now: {stale:?}");
}

#[test]
fn that_nobody_knows_is_told() {
    let deployment = deployment(1, 1, json!({SCALE_TO_ZERO_AFTER: "30s"}));
    let seen = Seen { deployment: &deployment, autoscaled: false, waited_for: false };
    let first = Idle::after(None, &deployment, Ok(Vec::new()), at(0));
    assert_eq!(plan(&seen, Some(&first), at(0)), Action::Look(plan::PERIOD));
    let later = Idle::after(Some(first), &deployment, Ok(Vec::new()), at(61));
    assert!(matches!(plan(&seen, Some(&later), at(61)), Action::Warn("IdlenessUnknown", _)));
}

#[test]
fn idleness_is_asked_of_what_is_settled_and_wants_it() {
    let asked = json!({SCALE_TO_ZERO_AFTER: "1m"});
    for (what, deployment, wanted) in [
        ("settled", deployment(2, 2, asked.clone()), true),
        ("not asked for", deployment(2, 2, json!({})), false),
        ("no time", deployment(2, 2, json!({SCALE_TO_ZERO_AFTER: "soon"})), false),
        ("a pod is missing", deployment(2, 1, asked.clone()), false),
        ("nothing there", deployment(0, 0, asked), false),
        ("it wakes", deployment(1, 0, json!({SCALE_TO_ZERO_AFTER: "1m", SCALED_TO_ZERO: "1"})), false),
    ] {
        let seen = Seen { deployment: &deployment, autoscaled: false, waited_for: false };
        assert_eq!(plan::looks_for_idleness(&seen), wanted, "{what}");
    }
}

#[test]
fn the_mark_and_the_replicas_are_one_write() {
    assert_eq!(
        plan::patch(Some(0), Some(3), Some("7")),
        json!({"metadata": {"annotations": {SCALED_TO_ZERO: "3"}, "resourceVersion": "7"}, "spec": {"replicas": 0}})
    );
    assert_eq!(plan::patch(None, None, None), json!({"metadata": {"annotations": {SCALED_TO_ZERO: null}}}));
}

#[test]
fn a_service_tells_of_those_that_it_selects() {
    let service = |selector: Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": selector}}))
            .expect("a Service")
    };
    let named = |name: &str, annotations: Value| {
        let mut one = deployment(0, 0, annotations);
        one.metadata.name = Some(name.to_owned());
        one
    };
    let deployments = Informer::new();
    index(&deployments);
    let mark = json!({SCALED_TO_ZERO: "1"});
    deployments.replace(vec![named("a", mark.clone()), named("b", mark), named("c", json!({}))], 1);
    for (selector, wanted) in [
        (json!({"app": "web"}), Some("a,b")),
        (json!({"app": "web", "tier": "front"}), Some("a,b")),
        (json!({"app": "web", "tier": "back"}), None),
        (json!({"app": "other"}), None),
        (json!({}), None),
    ] {
        assert_eq!(asleep(&service(selector.clone()), &deployments).as_deref(), wanted, "{selector}");
    }
}
