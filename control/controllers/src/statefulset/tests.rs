use super::{
    identity,
    plan::{Plan, Step, Version, Versions, plan},
};
use crate::history::revision_of;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Replicas, the pods that are there, and the steps.
type Case<'a> = (i32, &'a [(i32, &'a str, &'a str)], &'a [&'a str]);

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().unwrap()
}

fn set(replicas: i32, more: Value) -> StatefulSet {
    let mut spec = json!({"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
        "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "generation": 7}, "spec": spec}),
    )
    .unwrap()
}

fn versions(set: &StatefulSet) -> Versions {
    let template = set.spec.as_ref().unwrap().template.clone();
    let mut old = template.clone();
    old.spec.as_mut().unwrap().containers[0].image = Some("i:1".into());
    let version = |name: &str, template| Version { name: name.into(), template };
    Versions { current: version("old", old), update: version("new", template), collisions: 0 }
}

/// A pod of revision `old` or `new`; `state` is `ready`, `unready`, `failed` or `ending`.
fn pod(set: &StatefulSet, ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let versions = versions(set);
    let template = if revision == "old" { &versions.current.template } else { &versions.update.template };
    let mut pod = identity::pod(set, template, revision, ordinal);
    pod.metadata.uid = Some(format!("pod-{ordinal}"));
    let ready = if matches!(state, "ready" | "ending") { "True" } else { "False" };
    pod.status = serde_json::from_value(json!({"phase": if state == "failed" { "Failed" } else { "Running" },
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:30Z"}]}))
    .unwrap();
    if state == "ending" {
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:50Z")).unwrap();
    }
    Arc::new(pod)
}

fn pods(set: &StatefulSet, all: &[(i32, &str, &str)]) -> Vec<Arc<Pod>> {
    all.iter().map(|(ordinal, revision, state)| pod(set, *ordinal, revision, state)).collect()
}

fn run(set: &StatefulSet, all: &[(i32, &str, &str)]) -> Plan {
    plan(set, &versions(set), &pods(set, all), now())
}

/// Each step as `+web-0=new`, `~web-0` or `-web-0`.
fn steps(plan: &Plan) -> Vec<String> {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let text = |step: &Step| match step {
        Step::Create(pod) => format!("+{}={}", name(pod), revision_of(pod)),
        Step::Update(pod) => format!("~{}", name(pod)),
        Step::Delete(pod) => format!("-{}", name(pod)),
    };
    plan.steps.iter().map(text).collect()
}

#[test]
fn ordered_pods_come_and_go_one_at_a_time() {
    const READY: [(i32, &str, &str); 3] = [(0, "new", "ready"), (1, "new", "ready"), (2, "new", "ready")];
    let cases: &[Case<'_>] = &[
        (3, &[], &["+web-0=new"]),
        (3, &[(0, "new", "unready")], &[]),
        (3, &[(0, "new", "ready")], &["+web-1=new"]),
        (3, &[(0, "new", "ready"), (2, "new", "ready")], &["+web-1=new"]),
        (3, &READY, &[]),
        (3, &[(0, "new", "ready"), (1, "new", "failed"), (2, "new", "ready")], &["-web-1"]),
        (3, &[(0, "new", "ready"), (1, "new", "ending")], &[]),
        (1, &READY, &["-web-2"]),
        (1, &[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "ending")], &[]),
        // Only the first that is not healthy may go while it is not.
        (1, &[(0, "new", "ready"), (1, "new", "unready"), (2, "new", "ready")], &["-web-2"]),
        (1, &[(0, "new", "ready"), (1, "new", "unready"), (2, "new", "unready")], &[]),
        (1, &[(0, "new", "ready"), (1, "new", "unready")], &["-web-1"]),
        (1, &[(0, "new", "unready"), (1, "new", "ready")], &[]),
        (0, &READY, &["-web-2"]),
    ];
    for (replicas, there, expected) in cases {
        assert_eq!(&steps(&run(&set(*replicas, json!({})), there)), expected, "{replicas} of {there:?}");
    }
}

#[test]
fn parallel_pods_wait_for_nobody() {
    let parallel = |replicas| set(replicas, json!({"podManagementPolicy": "Parallel"}));
    let cases: &[Case<'_>] = &[
        (3, &[], &["+web-0=new", "+web-1=new", "+web-2=new"]),
        (3, &[(1, "new", "unready")], &["+web-0=new", "+web-2=new"]),
        (0, &[(0, "new", "ready"), (1, "new", "ending"), (2, "new", "unready")], &["-web-2", "-web-0"]),
        (2, &[(0, "new", "failed"), (1, "new", "failed")], &["-web-0", "-web-1"]),
    ];
    for (replicas, there, expected) in cases {
        assert_eq!(&steps(&run(&parallel(*replicas), there)), expected, "{replicas} of {there:?}");
    }
}

#[test]
fn any_number_of_replicas_is_made_little_by_little() {
    let many = |policy: &str| set(i32::MAX, json!({"podManagementPolicy": policy, "ordinals": {"start": 5}}));
    assert_eq!(steps(&run(&many("Parallel"), &[])).len(), 250);
    assert_eq!(steps(&run(&many("OrderedReady"), &[(5, "old", "ready")])), ["+web-6=new"]);
}

#[test]
fn an_update_goes_from_the_last_to_the_first_down_to_the_partition() {
    let old = |states: [&'static str; 3]| {
        let numbered = (0..).zip(states);
        numbered
            .map(|(n, state)| (n, state.split(' ').next().unwrap(), state.split(' ').nth(1).unwrap()))
            .collect::<Vec<_>>()
    };
    let rolling = |value: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": value}});
    let parallel = |value: Value| {
        let mut more = rolling(value);
        more["podManagementPolicy"] = "Parallel".into();
        more
    };
    for (more, there, expected) in [
        (json!({}), ["old ready", "old ready", "old ready"], vec!["-web-2"]),
        (json!({}), ["old ready", "old ready", "new ready"], vec!["-web-1"]),
        (json!({}), ["old ready", "old ready", "new unready"], vec![]),
        (json!({}), ["old ready", "old ready", "old ending"], vec![]),
        (rolling(json!({"partition": 2})), ["old ready", "old ready", "new ready"], vec![]),
        (rolling(json!({"partition": 1})), ["old ready", "old ready", "new ready"], vec!["-web-1"]),
        (json!({"updateStrategy": {"type": "OnDelete"}}), ["old ready", "old ready", "old ready"], vec![]),
        (
            rolling(json!({"partition": 0, "maxUnavailable": 2})),
            ["old ready", "old ready", "old ready"],
            vec!["-web-2", "-web-1"],
        ),
        (
            parallel(json!({"partition": 0, "maxUnavailable": "70%"})),
            ["old ready", "old ready", "new unready"],
            vec!["-web-1"],
        ),
        (parallel(json!({"partition": 0, "maxUnavailable": "1%"})), ["old ready", "old ready", "new unready"], vec![]),
    ] {
        assert_eq!(steps(&run(&set(3, more.clone()), &old(there))), expected, "{more} {there:?}");
    }
}

#[test]
fn a_pod_below_the_partition_comes_back_as_it_was() {
    let set = set(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    let plan = run(&set, &[(0, "old", "ready"), (2, "new", "ready")]);
    assert_eq!(steps(&plan), ["+web-1=old"]);
    let Step::Create(pod) = &plan.steps[0] else { panic!("{plan:?}") };
    assert_eq!(pod.spec.as_ref().unwrap().containers[0].image.as_deref(), Some("i:1"));
}

#[test]
fn numbers_may_start_higher() {
    let set = set(2, json!({"ordinals": {"start": 5}}));
    assert_eq!(steps(&run(&set, &[])), ["+web-5=new"]);
    assert_eq!(steps(&run(&set, &[(0, "new", "ready"), (5, "new", "ready"), (6, "new", "ready")])), ["-web-0"]);
}

#[test]
fn a_pod_has_its_name_its_labels_and_its_claims() {
    let claim = json!({"metadata": {"name": "data"}, "spec": {}});
    let set = set(1, json!({"volumeClaimTemplates": [claim]}));
    let plan = run(&set, &[]);
    let Step::Create(pod) = &plan.steps[0] else { panic!("{plan:?}") };
    let value = serde_json::to_value(pod).unwrap();
    assert_eq!(
        value["metadata"],
        json!({"name": "web-0", "generateName": "web-", "namespace": "ns",
            "labels": {"app": "web", "statefulset.kubernetes.io/pod-name": "web-0", "apps.kubernetes.io/pod-index": "0",
                "controller-revision-hash": "new"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s",
                "controller": true, "blockOwnerDeletion": true}]})
    );
    assert_eq!((&value["spec"]["hostname"], &value["spec"]["subdomain"]), (&json!("web-0"), &json!("web")));
    assert_eq!(
        value["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}])
    );
    let mut bare = (**super::tests::pods(&set, &[(0, "new", "ready")]).first().unwrap()).clone();
    bare.metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    let repaired = super::plan::plan(&set, &versions(&set), &[Arc::new(bare)], now());
    assert_eq!(steps(&repaired), ["~web-0"]);
}

#[test]
fn names_of_others_are_not_ours() {
    let set = set(1, json!({}));
    for (name, expected) in [
        ("web-0", Some(0)),
        ("web-12", Some(12)),
        ("web", None),
        ("web-", None),
        ("web-a", None),
        ("web-x-0", None),
        ("other-0", None),
        ("web-99999999999", None),
        ("web--1", None),
    ] {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        assert_eq!(identity::ordinal(&set, &pod), expected, "{name}");
    }
}

#[test]
fn the_status_counts_and_a_finished_update_is_the_current_revision() {
    let count = |plan: &Plan| {
        let s = &plan.status;
        (s.replicas, s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas)
    };
    let three = set(3, json!({"minReadySeconds": 60}));
    let plan = run(&three, &[(0, "old", "ready"), (1, "new", "unready"), (2, "new", "ending")]);
    assert_eq!(count(&plan), (3, Some(2), Some(0), Some(1), Some(1)));
    assert_eq!((plan.status.observed_generation, plan.status.current_revision.as_deref()), (Some(7), Some("old")));
    assert_eq!(plan.again, Some(Duration::from_secs(30)), "the first becomes available then");
    let two = set(2, json!({}));
    let plan = run(&two, &[(0, "new", "ready"), (1, "old", "ready")]);
    assert_eq!((steps(&plan), count(&plan)), (vec!["-web-1".to_owned()], (2, Some(2), Some(2), None, Some(1))));
    let plan = run(&two, &[(0, "new", "ready"), (1, "new", "ready")]);
    assert_eq!(
        (plan.status.current_revision.as_deref(), count(&plan)),
        (Some("new"), (2, Some(2), Some(2), Some(2), Some(2)))
    );
}

#[test]
fn a_set_that_is_being_deleted_is_left_to_the_collector() {
    let mut gone = set(3, json!({}));
    gone.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(steps(&run(&gone, &[(0, "old", "ready")])), [""; 0]);
}
