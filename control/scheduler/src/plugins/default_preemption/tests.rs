use super::*;
use crate::{
    Plugins,
    cache::Cache,
    cycle::{Decision, Nomination},
    listers::Held,
    plugins::{Strategy, defaults},
    testing::{cluster, decide, info, node, pod},
};
use client::{Informer, WatchEvent};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

fn of(name: &str, priority: i32, cpu: &str) -> Value {
    let mut value = pod(name, json!({"app": name}), json!({"priority": priority}));
    value["spec"]["containers"][0]["resources"]["requests"]["cpu"] = cpu.into();
    value
}

fn with(mut pod: Value, path: &str, value: Value) -> Value {
    *pod.pointer_mut(path.rsplit_once('/').expect("a path").0)
        .and_then(|parent| parent.as_object_mut())
        .expect("an object")
        .entry(path.rsplit_once('/').expect("a path").1)
        .or_insert(Value::Null) = value;
    pod
}

fn plugins(budgets: &[Value]) -> Plugins {
    let informer = Informer::<PodDisruptionBudget>::new();
    for budget in budgets {
        informer.apply(WatchEvent::Added(serde_json::from_value(budget.clone()).expect("a budget")));
    }
    defaults(Strategy::default(), &Listers::new(Held { budgets: Some(informer), ..Held::default() }))
}

fn budget(app: &str, allowed: i32) -> Value {
    json!({"metadata": {"name": app, "namespace": "d", "uid": app, "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}})
}

/// The nominated node and the victims, or the message and whether a nomination is cleared.
fn outcome(plugins: &Plugins, cache: &Cache, pod: Value) -> String {
    let (decision, state) = decide(plugins, cache, &info(pod));
    match decision {
        Decision::Refuse { nomination: Nomination::To { node, plugin }, .. } => {
            assert_eq!(plugin, "DefaultPreemption");
            let victims = state.read::<Victims>().expect("victims");
            let names: Vec<&str> = victims.pods.iter().map(|pod| pod.uid()).collect();
            let lower: Vec<&str> = victims.lower.iter().map(|pod| pod.uid()).collect();
            let lower = if lower.is_empty() { String::new() } else { format!(" not {}", lower.join(" ")) };
            format!("{node}: {}{lower}", names.join(" "))
        }
        Decision::Refuse { nomination, message, .. } => {
            let cleared = if nomination == Nomination::Cleared { " (cleared)" } else { "" };
            let (_, why) = message.split_once("preemption: ").expect("preemption is told of");
            format!("{why}{cleared}")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn pods_of_lower_priority_make_room() {
    let (a, b) = (|| node("a", json!({})), || node("b", json!({})));
    let started =
        |pod: Value, day: u32| with(pod, "/status", json!({"startTime": format!("2026-01-{day:02}T00:00:00Z")}));
    for (what, nodes, pods, budgets, incoming, expected) in [
        ("the only one", vec![a()], vec![("a", of("x", 0, "3"))], vec![], of("p", 5, "2"), "a: x"),
        (
            "as few as possible, the least important",
            vec![a()],
            vec![("a", of("x", 1, "1")), ("a", of("y", 2, "1")), ("a", of("z", 3, "1")), ("a", of("w", 9, "1"))],
            vec![],
            of("p", 5, "2"),
            "a: y x",
        ),
        (
            "of equals the youngest goes",
            vec![a()],
            vec![("a", started(of("old", 0, "2"), 1)), ("a", started(of("new", 0, "2"), 2))],
            vec![],
            of("p", 5, "2"),
            "a: new",
        ),
        (
            "where it costs least",
            vec![a(), b()],
            vec![("a", of("x", 4, "3")), ("b", of("y", 3, "3"))],
            vec![],
            of("p", 5, "2"),
            "b: y",
        ),
        (
            "a budget is kept if another node allows it",
            vec![a(), b()],
            vec![("a", of("x", 1, "3")), ("b", of("y", 3, "3"))],
            vec![budget("x", 0)],
            of("p", 5, "2"),
            "b: y",
        ),
        (
            "and broken if none does",
            vec![a()],
            vec![("a", of("x", 1, "3"))],
            vec![budget("x", 0)],
            of("p", 5, "2"),
            "a: x",
        ),
        (
            "protected pods come back first, whatever their priority",
            vec![a()],
            vec![("a", of("x", 1, "2")), ("a", of("y", 3, "2"))],
            vec![budget("x", 0)],
            of("p", 5, "2"),
            "a: y",
        ),
        (
            "nobody has a lower priority",
            vec![a(), b()],
            vec![("a", of("x", 5, "3")), ("b", of("y", 6, "3"))],
            vec![],
            of("p", 5, "2"),
            "0/2 nodes are available: 2 No preemption victims found for incoming pod. (cleared)",
        ),
        (
            "not enough would become free",
            vec![a(), b()],
            vec![("a", of("x", 0, "1")), ("a", of("big", 9, "3")), ("b", of("y", 6, "3"))],
            vec![],
            of("p", 5, "2"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod. (cleared)",
        ),
        (
            "no pod that goes helps",
            vec![a()],
            vec![("a", of("x", 0, "3"))],
            vec![],
            of("p", 5, "5"),
            "0/1 nodes are available: 1 Preemption is not helpful for scheduling. (cleared)",
        ),
        (
            "it must not",
            vec![a()],
            vec![("a", of("x", 0, "3"))],
            vec![],
            with(of("p", 5, "2"), "/spec/preemptionPolicy", "Never".into()),
            "not eligible due to preemptionPolicy=Never.",
        ),
    ] {
        let cache = cluster(&nodes, &pods);
        assert_eq!(outcome(&plugins(&budgets), &cache, incoming), expected, "{what}");
    }
}

#[test]
fn a_pod_waits_for_its_victims_and_preempts_no_others() {
    let gone = |mut pod: Value, reason: &str| {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["status"] = json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]});
        pod
    };
    let nominated = |node: &str| with(of("p", 5, "2"), "/status", json!({"nominatedNodeName": node}));
    let waits = "not eligible due to a terminating pod on the nominated node.";
    let tainted = with(node("t", json!({})), "/spec", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
    for (what, nodes, pods, incoming, expected) in [
        (
            "its victim ends",
            vec![node("a", json!({})), node("b", json!({}))],
            vec![("a", gone(of("x", 0, "3"), "PreemptionByScheduler")), ("b", of("y", 0, "3"))],
            nominated("a"),
            waits,
        ),
        (
            "a pod ends for another reason",
            vec![node("a", json!({}))],
            vec![("a", gone(of("x", 0, "3"), "EvictionByEvictionAPI"))],
            nominated("a"),
            "a: x",
        ),
        (
            "its node is no longer possible",
            vec![tainted, node("b", json!({}))],
            vec![("t", gone(of("x", 0, "3"), "PreemptionByScheduler")), ("b", of("y", 0, "3"))],
            nominated("t"),
            "b: y",
        ),
        ("its node is gone", vec![node("b", json!({}))], vec![("b", of("y", 0, "3"))], nominated("a"), "b: y"),
    ] {
        assert_eq!(outcome(&plugins(&[]), &cluster(&nodes, &pods), incoming), expected, "{what}");
    }
}

#[test]
fn a_nominated_pod_counts_for_those_that_are_not_more_important() {
    let mut cache = cluster(&[node("a", json!({}))], &[]);
    cache.nominate(info(of("first", 5, "3")), "a");
    let plugins = plugins(&[]);
    let of_priority = |priority| outcome(&plugins, &cache, of("p", priority, "2"));
    let full = "0/1 nodes are available: 1 No preemption victims found for incoming pod. (cleared)";
    assert_eq!(of_priority(4), full);
    assert_eq!(of_priority(5), full);
    assert_eq!(of_priority(6), "Bind(\"a\")");
    // its own nomination is no obstacle, and its node comes first
    let first = with(of("first", 5, "3"), "/status", json!({"nominatedNodeName": "a"}));
    cache.set_node(crate::testing::object(node("b", json!({}))));
    for _ in 0..5 {
        assert_eq!(outcome(&plugins, &cache, first.clone()), "Bind(\"a\")");
    }
    // who takes the place tells the other
    cache.remove_node("b");
    cache.assume(info(of("x", 1, "4")), "a");
    assert_eq!(outcome(&plugins, &cache, of("p", 9, "4")), "a: x not first");
}

/// Affinity and spreading are part of the dry run.
#[test]
fn victims_are_those_that_are_in_the_way() {
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    let lonely = with(of("p", 5, "100m"), "/spec/affinity", apart);
    let cache =
        cluster(&[node("a", json!({}))], &[("a", of("x", 0, "1")), ("a", of("y", 0, "1")), ("a", of("z", 0, "1"))]);
    assert_eq!(outcome(&plugins(&[]), &cache, lonely), "a: x");
    let even = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}}}]);
    let mut spread = with(of("p", 5, "3500m"), "/spec/topologySpreadConstraints", even);
    spread["metadata"]["labels"]["app"] = "x".into();
    let nodes = [node("a", json!({"zone": "1"})), node("b", json!({"zone": "2"}))];
    let x = |name: &str, priority| {
        let mut pod = of(name, priority, "100m");
        pod["metadata"]["labels"]["app"] = "x".into();
        pod
    };
    let cache = cluster(&nodes, &[("a", x("x1", 0)), ("a", of("low", 0, "2")), ("b", of("high", 9, "3"))]);
    // the room that `low` holds is not enough: with x1 there it would be one too many in zone 1
    assert_eq!(outcome(&plugins(&[]), &cache, spread), "a: low x1");
}

#[test]
fn a_share_of_the_nodes_is_tried_and_the_next_time_others() {
    let args = DefaultPreemptionArgs::default();
    assert_eq!([5000, 1000, 500, 50, 0].map(|nodes| args.candidates(nodes)), [500, 100, 100, 50, 0]);
    let some = DefaultPreemptionArgs { min_candidate_nodes_percentage: 50, min_candidate_nodes_absolute: 0 };
    assert_eq!(some.candidates(7), 3);
    let names: Vec<String> = (0..4).map(|n| format!("n{n}")).collect();
    let nodes: Vec<Value> = names.iter().map(|name| node(name, json!({}))).collect();
    let pods: Vec<(&str, Value)> = names.iter().map(|name| (name.as_str(), of(&format!("x{name}"), 0, "3"))).collect();
    let one = DefaultPreemptionArgs { min_candidate_nodes_percentage: 0, min_candidate_nodes_absolute: 1 };
    let plugins = Plugins::from(vec![
        Box::new(crate::plugins::NodeResourcesFit::new(Strategy::default())) as Box<dyn Plugin>,
        Box::new(DefaultPreemption::new(one, Listers::default())),
    ]);
    let cache = cluster(&nodes, &pods);
    let chosen: std::collections::BTreeSet<String> =
        (0..4).map(|_| outcome(&plugins, &cache, of("p", 5, "2"))).collect();
    assert_eq!(chosen.len(), 4, "{chosen:?}");
}

/// What a plugin keeps is right after any change: it chooses the same as one that has kept nothing.
#[test]
fn what_is_kept_is_what_a_fresh_look_finds() {
    let mut random = fastrand::Rng::with_seed(5);
    let names: Vec<String> = (0..6).map(|n| format!("n{n}")).collect();
    let nodes: Vec<Value> = names.iter().map(|name| node(name, json!({}))).collect();
    let mut cache = cluster(&nodes, &[]);
    // all nodes are tried, so that where a search begins makes no difference but among equals
    let all = || {
        Plugins::from(vec![
            Box::new(crate::plugins::NodeResourcesFit::new(Strategy::default())) as Box<dyn Plugin>,
            Box::new(DefaultPreemption::new(DefaultPreemptionArgs::default(), Listers::default())),
        ])
    };
    let (kept, mut nominated) = (all(), 0);
    for step in 0..1500 {
        let (name, at) = (format!("x{}", random.usize(..16)), &names[random.usize(..6)]);
        match random.usize(..10) {
            0..=6 => {
                // no two pods are equally important, so that no two nodes are equals
                let cpu = ["1", "1500m", "2"][random.usize(..3)];
                cache.assume(info(of(&name, step, cpu)), at);
            }
            7..=8 => drop(cache.remove_pod(&name)),
            _ if cache.nomination("other").is_some() => drop(cache.withdraw("other")),
            _ => cache.nominate(info(of("other", random.i32(..3000), "1")), at),
        }
        let incoming = of("p", [step / 2, 4000][random.usize(..2)], ["2", "3"][random.usize(..2)]);
        let said = outcome(&kept, &cache, incoming.clone());
        assert_eq!(said, outcome(&all(), &cache, incoming), "step {step}");
        nominated += usize::from(said.starts_with('n') && !said.starts_with("not"));
    }
    assert!(nominated > 50, "{nominated}");
}
