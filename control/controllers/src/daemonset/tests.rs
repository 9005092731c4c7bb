use super::{
    failed::Failed,
    place::{self, Place},
    plan::{Plan, plan},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use serde_json::{Value, json};
use std::sync::Arc;

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().unwrap()
}

fn set(more: Value) -> DaemonSet {
    let mut value = json!({"metadata": {"name": "d", "namespace": "ns", "uid": "s", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    json_patch(&mut value["spec"], &more);
    serde_json::from_value(value).unwrap()
}

fn json_patch(target: &mut Value, patch: &Value) {
    match patch.as_object() {
        Some(fields) => fields.iter().for_each(|(key, value)| json_patch(&mut target[key], value)),
        None => *target = patch.clone(),
    }
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let mut value = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {}});
    json_patch(&mut value, &more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
    names.iter().map(|name| node(name, json!({}))).collect()
}

/// A pod `NODE REVISION STATE`; the state is `ready`, `unready`, `failed`, `succeeded` or `ending`.
fn pod(set: &DaemonSet, text: &str) -> Arc<Pod> {
    let [node, revision, state] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let mut pod = place::pod(set, &set.spec.as_ref().unwrap().template, revision, node);
    pod.metadata.name = Some(format!("{node}-{revision}"));
    let phase = match state {
        "failed" => "Failed",
        "succeeded" => "Succeeded",
        _ => "Running",
    };
    let ready = if state == "ready" { "True" } else { "False" };
    pod.status = serde_json::from_value(json!({"phase": phase, "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:30Z"}]}))
    .unwrap();
    if state == "ending" {
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:50Z")).unwrap();
    }
    Arc::new(pod)
}

fn run(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[&str]) -> Plan {
    let pods: Vec<_> = pods.iter().map(|text| pod(set, text)).collect();
    plan(set, "new", 0, nodes, &pods, &mut Failed::default(), now())
}

/// `+node` and `-pod`.
fn steps(plan: &Plan) -> Vec<String> {
    let created = plan.create.iter().map(|node| format!("+{node}"));
    let deleted = plan.delete.iter().map(|pod| format!("-{}", pod.metadata.name.as_deref().unwrap()));
    created.chain(deleted).collect()
}

#[test]
fn nodes_are_chosen_by_name_labels_affinity_and_taints() {
    let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    let template = |spec: Value| json!({"template": {"spec": spec}});
    let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}]}}}});
    let tolerant = json!({"tolerations": [{"key": "own", "operator": "Exists"}]});
    for (spec, node_more, expected) in [
        (json!({}), json!({}), Place::Runs),
        (json!({"nodeName": "n1"}), json!({}), Place::Runs),
        (json!({"nodeName": "n2"}), json!({}), Place::No),
        (json!({"nodeSelector": {"disk": "ssd"}}), json!({}), Place::Runs),
        (json!({"nodeSelector": {"disk": "hdd"}}), json!({}), Place::No),
        (affinity, json!({}), Place::No),
        (json!({}), taint("own", "NoSchedule"), Place::Stays),
        (json!({}), taint("own", "NoExecute"), Place::No),
        (json!({}), taint("own", "PreferNoSchedule"), Place::Runs),
        (tolerant, taint("own", "NoExecute"), Place::Runs),
        (json!({}), taint("node.kubernetes.io/unreachable", "NoExecute"), Place::Runs),
        (json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), Place::Runs),
        (json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Place::Stays),
        (json!({"hostNetwork": true}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Place::Runs),
    ] {
        assert_eq!(
            place::place(&set(template(spec.clone())), &node("n1", node_more.clone())),
            expected,
            "{spec} {node_more}"
        );
    }
}

#[test]
fn each_node_has_one_pod() {
    let tainted = |effect: &str| vec![node("a", json!({"spec": {"taints": [{"key": "x", "effect": effect}]}}))];
    let two = || nodes(&["a", "b"]);
    for (nodes, pods, expected) in [
        (two(), vec![], vec!["+a", "+b"]),
        (two(), vec!["a new ready"], vec!["+b"]),
        (two(), vec!["a new ready", "b new ready"], vec![]),
        (two(), vec!["a new ending", "b new ready"], vec![]),
        (two(), vec!["a new failed", "b new succeeded"], vec!["-a-new", "-b-new"]),
        (two(), vec!["a new ready", "b new ready", "b old ready"], vec!["-b-old"]),
        (two(), vec!["a new ready", "b new ready", "gone new unready"], vec!["-gone-new"]),
        (tainted("NoSchedule"), vec!["a new ready"], vec![]),
        (tainted("NoSchedule"), vec![], vec![]),
        (tainted("NoExecute"), vec!["a new ready"], vec!["-a-new"]),
        (tainted("NoExecute"), vec!["a new ending"], vec![]),
    ] {
        assert_eq!(steps(&run(&set(json!({})), &nodes, &pods)), expected, "{pods:?}");
    }
}

#[test]
fn a_pod_is_bound_to_its_node_and_tolerates_its_troubles() {
    let pod = pod(&set(json!({})), "a new ready");
    assert_eq!(place::node_of(&pod), Some("a"));
    assert_eq!(pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap().len(), 6);
    assert_eq!(pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"], "new");
}

#[test]
fn an_update_replaces_as_many_as_may_be_missing() {
    let at_most = |count: Value| set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": count}}}));
    let four = nodes(&["a", "b", "c", "d"]);
    for (set, states, expected) in [
        (at_most(json!(1)), ["old ready", "old ready", "old ready", "old ready"], vec!["-a-old"]),
        (at_most(json!("50%")), ["old ready", "old ready", "old ready", "old ready"], vec!["-a-old", "-b-old"]),
        (at_most(json!(1)), ["new unready", "old ready", "old ready", "old ready"], vec![]),
        (at_most(json!(2)), ["new unready", "old ready", "old ready", "old ready"], vec!["-b-old"]),
        (at_most(json!(1)), ["new ready", "old ready", "old ready", "old ready"], vec!["-b-old"]),
        // One that is not available goes at once.
        (at_most(json!(1)), ["old ready", "old unready", "old ready", "old ready"], vec!["-b-old"]),
        (at_most(json!(1)), ["old ending", "old ready", "old ready", "old ready"], vec![]),
        (at_most(json!(1)), ["new ready", "new ready", "new ready", "new ready"], vec![]),
        (
            set(json!({"updateStrategy": {"type": "OnDelete"}})),
            ["old ready", "old ready", "old ready", "old ready"],
            vec![],
        ),
    ] {
        let pods: Vec<_> =
            ["a", "b", "c", "d"].iter().zip(states).map(|(node, state)| format!("{node} {state}")).collect();
        let pods: Vec<_> = pods.iter().map(String::as_str).collect();
        assert_eq!(steps(&run(&set, &four, &pods)), expected, "{states:?}");
    }
}

#[test]
fn a_surge_starts_new_pods_beside_old_ones() {
    let set = set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}));
    let three = nodes(&["a", "b", "c"]);
    for (pods, expected) in [
        (vec!["a old ready", "b old ready", "c old ready"], vec!["+a"]),
        (vec!["a old ready", "a new unready", "b old ready", "c old ready"], vec![]),
        (vec!["a old ready", "a new ready", "b old ready", "c old ready"], vec!["-a-old"]),
        (vec!["a old unready", "a new unready", "b old ready", "c old ready"], vec!["-a-old"]),
        (vec!["a new ready", "b old ready", "c old ready"], vec!["+b"]),
        // One that is not available is replaced beyond the surge.
        (vec!["a old unready", "b old ready", "c old ready"], vec!["+a", "+b"]),
        (vec!["a new ending", "b new ready", "c new ready"], vec!["+a"]),
        (vec!["a new ready", "b new ready", "c new ready"], vec![]),
    ] {
        assert_eq!(steps(&run(&set, &three, &pods)), expected, "{pods:?}");
    }
}

#[test]
fn the_status_counts_nodes() {
    let mut all = nodes(&["a", "b", "c"]);
    all.push(node("x", json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}})));
    let set = set(json!({"minReadySeconds": 60}));
    let plan = run(&set, &all, &["a new ready", "b old unready", "x new ready"]);
    let s = &plan.status;
    assert_eq!((s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled), (3, 2, 1));
    assert_eq!(
        (s.number_ready, s.updated_number_scheduled, s.number_available, s.number_unavailable),
        (1, Some(1), None, Some(3))
    );
    assert_eq!((s.observed_generation, plan.again.map(|wait| wait.as_secs())), (Some(2), Some(30)));
}

#[test]
fn failures_are_told_and_tried_again_with_back_off() {
    let set = set(json!({}));
    let (nodes, pods) = (nodes(&["a"]), [pod(&set, "a new failed")]);
    let mut failed = Failed::default();
    let first = plan(&set, "new", 0, &nodes, &pods, &mut failed, now());
    assert_eq!((steps(&first), first.events[0].reason), (vec!["-a-new".to_owned()], "FailedDaemonPod"));
    assert_eq!(first.events[0].message, "Found failed daemon pod ns/a-new on node a, will try to kill it");
    let second = plan(&set, "new", 0, &nodes, &pods, &mut failed, now());
    assert_eq!((steps(&second), second.again.map(|wait| wait.as_secs())), (vec![], Some(1)));
}
