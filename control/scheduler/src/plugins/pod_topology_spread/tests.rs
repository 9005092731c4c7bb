use super::*;
use crate::{
    listers::Held,
    testing::{cluster, filtered, info, node, object, pod, put, scored, within},
};
use client::{Informer, WatchEvent};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Service};
use serde_json::{Value, json};

const SKEW: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "!node(s) didn't match pod topology spread constraints (missing required label)";
const ZONE: &str = "topology.kubernetes.io/zone";

fn constraint(max_skew: i32, key: &str, action: &str) -> Value {
    json!({"maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": action,
        "labelSelector": {"matchLabels": {"app": "a"}}})
}

fn with(mut constraint: Value, more: Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        constraint[key] = value.clone();
    }
    constraint
}

fn hard(max_skew: i32, key: &str) -> Value {
    constraint(max_skew, key, "DoNotSchedule")
}

fn soft(max_skew: i32, key: &str) -> Value {
    constraint(max_skew, key, "ScheduleAnyway")
}

fn spread(constraints: Value) -> Value {
    pod("p", json!({"app": "a"}), json!({"topologySpreadConstraints": constraints}))
}

fn a(name: &str) -> Value {
    pod(name, json!({"app": "a"}), json!({}))
}

/// Two nodes in zone 1, one in zone 2, one without a zone.
fn nodes() -> Vec<Value> {
    vec![
        node("a", json!({ZONE: "1"})),
        node("b", json!({ZONE: "1"})),
        node("c", json!({ZONE: "2"})),
        node("d", json!({})),
    ]
}

fn plugin() -> PodTopologySpread {
    PodTopologySpread::new(Defaulting::System, Listers::default())
}

#[test]
fn domains_differ_by_no_more_than_is_allowed() {
    let tainted = {
        let mut c = node("c", json!({ZONE: "2"}));
        c["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        vec![node("a", json!({ZONE: "1"})), node("b", json!({ZONE: "1"})), c, node("d", json!({}))]
    };
    let deleted = {
        let mut pod = a("gone");
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod
    };
    let only_zone_1 = |policy: &str| {
        let mut pod = spread(json!([with(hard(1, ZONE), json!({"nodeAffinityPolicy": policy}))]));
        pod["spec"]["nodeSelector"] = json!({ZONE: "1"});
        pod
    };
    let taints = |policy: &str| spread(json!([with(hard(1, ZONE), json!({"nodeTaintsPolicy": policy}))]));
    for (what, nodes, existing, pod, expected) in [
        ("nothing is there", nodes(), vec![], spread(json!([hard(1, ZONE)])), ["", "", "", NO_LABEL]),
        (
            "one more in zone 1",
            nodes(),
            vec![("a", a("x"))],
            spread(json!([hard(1, ZONE)])),
            [SKEW, SKEW, "", NO_LABEL],
        ),
        ("two are allowed", nodes(), vec![("a", a("x"))], spread(json!([hard(2, ZONE)])), ["", "", "", NO_LABEL]),
        (
            "other pods do not count",
            nodes(),
            vec![("a", pod("x", json!({"app": "b"}), json!({}))), ("a", within("e", a("y"))), ("a", deleted)],
            spread(json!([hard(1, ZONE)])),
            ["", "", "", NO_LABEL],
        ),
        (
            "by host, also without a zone",
            nodes(),
            vec![("a", a("x")), ("b", a("y"))],
            spread(json!([hard(1, HOSTNAME)])),
            [SKEW, SKEW, "", ""],
        ),
        (
            "both must hold",
            nodes(),
            vec![("a", a("x")), ("c", a("y"))],
            spread(json!([hard(1, ZONE), hard(1, HOSTNAME)])),
            [SKEW, "", SKEW, NO_LABEL],
        ),
        (
            "too few domains: the least is 0",
            nodes(),
            vec![("a", a("x")), ("c", a("y"))],
            spread(json!([with(hard(1, ZONE), json!({"minDomains": 3}))])),
            [SKEW, SKEW, SKEW, NO_LABEL],
        ),
        (
            "enough domains",
            nodes(),
            vec![("a", a("x")), ("c", a("y"))],
            spread(json!([with(hard(1, ZONE), json!({"minDomains": 2}))])),
            ["", "", "", NO_LABEL],
        ),
        (
            "nodes that it cannot use are no domain",
            nodes(),
            vec![("a", a("x"))],
            only_zone_1("Honor"),
            ["", "", "", NO_LABEL],
        ),
        ("unless they are to count", nodes(), vec![("a", a("x"))], only_zone_1("Ignore"), [SKEW, SKEW, "", NO_LABEL]),
        ("taints do not count", tainted.clone(), vec![("a", a("x"))], taints("Ignore"), [SKEW, SKEW, "", NO_LABEL]),
        ("unless they are to", tainted, vec![("a", a("x"))], taints("Honor"), ["", "", "", NO_LABEL]),
        (
            "a pod that is not selected adds nothing",
            nodes(),
            vec![("a", a("x"))],
            with(spread(json!([hard(1, ZONE)])), json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}})),
            ["", "", "", NO_LABEL],
        ),
        (
            "by the pod's own hash",
            nodes(),
            vec![("a", pod("x", json!({"app": "a", "hash": "1"}), json!({})))],
            pod(
                "p",
                json!({"app": "a", "hash": "2"}),
                json!({"topologySpreadConstraints": [with(hard(1, ZONE), json!({"matchLabelKeys": ["hash"]}))]}),
            ),
            ["", "", "", NO_LABEL],
        ),
        ("a wish is no filter", nodes(), vec![("a", a("x"))], spread(json!([soft(1, ZONE)])), ["", "", "", ""]),
    ] {
        let cache = cluster(&nodes, &existing);
        assert_eq!(filtered(&plugin(), &info(pod), &cache.snapshot()), expected, "{what}");
    }
}

#[test]
fn emptier_domains_score_higher() {
    let two = || vec![("a", a("x")), ("a", a("y")), ("c", a("z"))];
    for (what, existing, pod, expected) in [
        ("no constraint", two(), a("p"), None),
        ("by host", two(), spread(json!([soft(1, HOSTNAME)])), Some(vec![0, 100, 50, 100])),
        ("by zone; without one the least", two(), spread(json!([soft(1, ZONE)])), Some(vec![33, 33, 100, 0])),
        (
            "a skew that is allowed waters it down",
            two(),
            spread(json!([soft(9, HOSTNAME)])),
            Some(vec![66, 100, 83, 100]),
        ),
        ("all are empty", vec![], spread(json!([soft(1, HOSTNAME)])), Some(vec![100, 100, 100, 100])),
    ] {
        let cache = cluster(&nodes(), &existing);
        assert_eq!(scored(&plugin(), &info(pod), &cache.snapshot()), expected, "{what}");
    }
}

/// A ReplicaSet r, and a Service s, that select app=a.
fn listers() -> Listers {
    let (services, replica_sets) = (Informer::<Service>::new(), Informer::<ReplicaSet>::new());
    let meta = |name: &str| json!({"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"});
    let service = json!({"metadata": meta("s"), "spec": {"selector": {"app": "a"}}});
    let set = json!({"metadata": meta("r"), "spec": {"selector": {"matchLabels": {"app": "r"}}}});
    services.apply(WatchEvent::Added(serde_json::from_value(service).expect("a Service")));
    replica_sets.apply(WatchEvent::Added(serde_json::from_value(set).expect("a ReplicaSet")));
    Listers::new(Held { services: Some(services), replica_sets: Some(replica_sets), ..Held::default() })
}

#[test]
fn pods_without_constraints_are_spread_with_those_of_their_service_and_controller() {
    let owned = |labels: Value| {
        let mut pod = pod("p", labels, json!({}));
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        info(pod)
    };
    let r = |name: &str| pod(name, json!({"app": "r"}), json!({}));
    let cache = cluster(&nodes(), &[("a", a("x")), ("c", r("y"))]);
    let snapshot = cache.snapshot();
    let system = PodTopologySpread::new(Defaulting::System, listers());
    assert_eq!(scored(&system, &info(pod("p", json!({"app": "none"}), json!({}))), &snapshot), None);
    let of_service = scored(&system, &info(a("p")), &snapshot).expect("scores");
    assert!(of_service[0] < of_service[1] && of_service[1] < of_service[2], "{of_service:?}");
    let of_set = scored(&system, &owned(json!({"app": "r"})), &snapshot).expect("scores");
    assert!(of_set[2] < of_set[0] && of_set[0] == of_set[1], "{of_set:?}");
    assert!(of_set[3] > of_set[0], "a node without a zone counts as well: {of_set:?}");
    // own constraints win
    assert_eq!(scored(&system, &info(spread(json!([hard(1, ZONE)]))), &snapshot), None);
    // a configured default may also refuse
    let list =
        serde_json::from_value(json!([{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"}]));
    let listed = PodTopologySpread::new(Defaulting::List(list.expect("constraints")), listers());
    assert_eq!(filtered(&listed, &info(a("p")), &snapshot), [SKEW, SKEW, "", NO_LABEL]);
    assert_eq!(filtered(&listed, &info(pod("p", json!({"app": "none"}), json!({}))), &snapshot), ["", "", "", ""]);
}

/// What a plugin keeps is right after any change: it says the same as one that has kept nothing.
#[test]
fn what_is_kept_is_what_a_fresh_look_finds() {
    let (kept, mut random, mut cache) = (plugin(), fastrand::Rng::with_seed(3), cluster(&nodes(), &[]));
    let mut refused = 0;
    for step in 0..2000 {
        let name = format!("p{}", random.usize(..14));
        let at = ["a", "b", "c", "d", "unknown"][random.usize(..5)];
        match random.usize(..10) {
            0..=5 => {
                let mut pod = if random.bool() { a(&name) } else { pod(&name, json!({"app": "b"}), json!({})) };
                if random.u8(..8) == 0 {
                    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                }
                put(&mut cache, at, pod);
            }
            6..=7 => drop(cache.remove_pod(&name)),
            8 if step % 5 == 0 => {
                let zone = ["1", "2", "3"][random.usize(..3)];
                drop(cache.set_node(object(node("d", json!({ZONE: zone})))));
            }
            9 if step % 5 == 0 => cache.remove_node("d"),
            _ => {}
        }
        let keys = [ZONE, HOSTNAME];
        let (one, other) = (keys[random.usize(..2)], keys[random.usize(..2)]);
        let pod = info(spread(json!([hard(random.i32(1..3), one), soft(1, other)])));
        let (snapshot, fresh) = (cache.snapshot(), plugin());
        let found = filtered(&kept, &pod, &snapshot);
        assert_eq!(found, filtered(&fresh, &pod, &snapshot), "step {step}");
        assert_eq!(scored(&kept, &pod, &snapshot), scored(&fresh, &pod, &snapshot), "step {step}");
        refused += usize::from(found.iter().any(|why| why == SKEW));
    }
    assert!(refused > 300, "something is refused: {refused}");
}

#[test]
fn a_dry_run_changes_what_filter_sees() {
    let cache = cluster(&nodes(), &[("a", a("x")), ("b", a("y")), ("c", a("z"))]);
    let (snapshot, plugin) = (cache.snapshot(), plugin());
    let pod = info(spread(json!([hard(1, ZONE)])));
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, &pod, &snapshot);
    let fits = |state: &CycleState| {
        ["a", "b", "c"].map(|n| plugin.filter(state, &pod, snapshot.get(n).expect("a node")) == Status::Success)
    };
    assert_eq!(fits(&state), [false, false, true]);
    let at = |name: &str| snapshot.get(name).expect("a node");
    let mut dry = state.clone();
    plugin.remove_pod(&mut dry, &pod, &info(a("x")), at("a"));
    assert_eq!(fits(&dry), [true, true, true], "one and one");
    plugin.remove_pod(&mut dry, &pod, &info(a("z")), at("c"));
    assert_eq!(fits(&dry), [false, false, true], "one and none: the least falls as well");
    plugin.add_pod(&mut dry, &pod, &info(a("z")), at("c"));
    plugin.add_pod(&mut dry, &pod, &info(a("w")), at("c"));
    assert_eq!(fits(&dry), [true, true, false], "one and two");
    assert_eq!(fits(&state), [false, false, true], "the state itself is as it was");
}

#[test]
fn pods_wake_for_changes_that_can_help() {
    let plugin = plugin();
    let pod_of = info(spread(json!([hard(1, ZONE)])));
    let (x, y) = (info(a("x")), info(pod("y", json!({"app": "b"}), json!({}))));
    let elsewhere = info(within("e", a("x")));
    let n = |labels: Value| object(node("n", labels));
    let (one, two, none) = (n(json!({ZONE: "1"})), n(json!({ZONE: "2"})), n(json!({})));
    let tainted = {
        let mut node = node("n", json!({ZONE: "1"}));
        node["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        object(node)
    };
    for (event, expected) in [
        (Event::PodAdded(&x), true),
        (Event::PodAdded(&y), false),
        (Event::PodAdded(&elsewhere), false),
        (Event::PodRemoved(&x), true),
        (Event::PodRemoved(&y), false),
        (Event::PodChanged { old: &y, new: &x }, true),
        (Event::PodChanged { old: &x, new: &x }, false),
        (Event::NodeAdded(&one), true),
        (Event::NodeAdded(&none), false),
        (Event::NodeRemoved(&one), true),
        (Event::NodeRemoved(&none), false),
        (Event::NodeUpdated { old: &one, new: &two }, true),
        (Event::NodeUpdated { old: &none, new: &one }, true),
        (Event::NodeUpdated { old: &one, new: &one }, false),
        (Event::NodeUpdated { old: &one, new: &tainted }, true),
        (Event::NodeUpdated { old: &none, new: &none }, false),
        (Event::PodUpdated, true),
    ] {
        assert_eq!(plugin.wakes_on(&event, &pod_of), expected, "{event:?}");
    }
}
