use super::*;
use crate::testing::{cluster, filtered, info, node, object, pod, put, scored, within};
use serde_json::{Value, json};

const NO_AFFINITY: &str = "!node(s) didn't match pod affinity rules";
const ANTI: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const HOST: &str = "kubernetes.io/hostname";

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn required(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn preferred(kind: &str, weight: i32, term: Value) -> Value {
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]}}})
}

fn app(name: &str) -> Value {
    json!({"app": name})
}

/// Two nodes in zone z1, one in z2, one without a zone.
fn nodes() -> Vec<Value> {
    vec![
        node("a", json!({"zone": "z1"})),
        node("b", json!({"zone": "z1"})),
        node("c", json!({"zone": "z2"})),
        node("d", json!({})),
    ]
}

#[test]
fn required_terms_are_met_by_domain() {
    let near = |terms: Value| pod("p", app("p"), required("podAffinity", terms));
    let apart = |terms: Value| pod("p", app("p"), required("podAntiAffinity", terms));
    let mut everywhere = term("zone", "x");
    everywhere["namespaceSelector"] = json!({});
    for (what, existing, pod, expected) in [
        ("no terms", vec![("a", pod("x", app("x"), json!({})))], pod("p", app("p"), json!({})), ["", "", "", ""]),
        (
            "near, by zone",
            vec![("a", pod("x", app("x"), json!({})))],
            near(json!([term("zone", "x")])),
            ["", "", NO_AFFINITY, NO_AFFINITY],
        ),
        (
            "near, by host",
            vec![("a", pod("x", app("x"), json!({})))],
            near(json!([term(HOST, "x")])),
            ["", NO_AFFINITY, NO_AFFINITY, NO_AFFINITY],
        ),
        (
            "another namespace is another matter",
            vec![("a", within("e", pod("x", app("x"), json!({}))))],
            near(json!([term("zone", "x")])),
            [NO_AFFINITY; 4],
        ),
        (
            "unless all are meant",
            vec![("a", within("e", pod("x", app("x"), json!({}))))],
            near(json!([everywhere])),
            ["", "", NO_AFFINITY, NO_AFFINITY],
        ),
        (
            "one pod must match all terms",
            vec![("a", pod("x", app("x"), json!({}))), ("a", pod("y", app("y"), json!({})))],
            near(json!([term("zone", "x"), term("zone", "y")])),
            [NO_AFFINITY; 4],
        ),
        (
            "the first of a group goes anywhere with the label",
            vec![],
            near(json!([term("zone", "p")])),
            ["", "", "", NO_AFFINITY],
        ),
        (
            "the second does not",
            vec![("c", pod("q", app("p"), json!({})))],
            near(json!([term("zone", "p")])),
            [NO_AFFINITY, NO_AFFINITY, "", NO_AFFINITY],
        ),
        (
            "apart, by zone",
            vec![("a", pod("x", app("x"), json!({})))],
            apart(json!([term("zone", "x")])),
            [ANTI, ANTI, "", ""],
        ),
        (
            "apart from any of several",
            vec![("a", pod("x", app("x"), json!({}))), ("c", pod("y", app("y"), json!({})))],
            apart(json!([term(HOST, "x"), term(HOST, "y")])),
            [ANTI, "", ANTI, ""],
        ),
        (
            "an existing pod wants to be apart",
            vec![("a", pod("x", app("x"), required("podAntiAffinity", json!([term("zone", "p")]))))],
            pod("p", app("p"), json!({})),
            [EXISTING, EXISTING, "", ""],
        ),
        (
            "not from this one",
            vec![("a", pod("x", app("x"), required("podAntiAffinity", json!([term("zone", "q")]))))],
            pod("p", app("p"), json!({})),
            ["", "", "", ""],
        ),
        (
            "affinity is told before anti-affinity",
            vec![("a", pod("x", app("x"), json!({}))), ("a", pod("y", app("y"), json!({})))],
            pod(
                "p",
                app("p"),
                json!({"affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("zone", "x")]},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(HOST, "y")]}}}),
            ),
            [ANTI, "", NO_AFFINITY, NO_AFFINITY],
        ),
    ] {
        let cache = cluster(&nodes(), &existing);
        assert_eq!(filtered(&InterPodAffinity::default(), &info(pod), &cache.snapshot()), expected, "{what}");
    }
}

#[test]
fn a_namespace_is_selected_by_its_labels() {
    let mut by_team = term("zone", "x");
    by_team["namespaceSelector"] = json!({"matchLabels": {"team": "t"}});
    let plugin = InterPodAffinity::default();
    let mut cache = cluster(&nodes(), &[("a", within("e", pod("x", app("x"), json!({}))))]);
    let apart = info(pod("p", app("p"), required("podAntiAffinity", json!([by_team.clone()]))));
    let free = ["", "", "", ""];
    assert_eq!(filtered(&plugin, &apart, &cache.snapshot()), free);
    let labels = |team: &str| Some([("team".to_owned(), team.to_owned())].into());
    cache.set_namespace("e", labels("t"));
    assert_eq!(filtered(&plugin, &apart, &cache.snapshot()), [ANTI, ANTI, "", ""]);
    cache.set_namespace("e", labels("u"));
    assert_eq!(filtered(&plugin, &apart, &cache.snapshot()), free);
    // an existing pod means the namespaces of others by their labels
    put(&mut cache, "c", within("e", pod("y", app("y"), required("podAntiAffinity", json!([by_team])))));
    let x = info(pod("p", app("x"), json!({})));
    assert_eq!(filtered(&plugin, &x, &cache.snapshot()), free);
    cache.set_namespace("d", labels("t"));
    assert_eq!(filtered(&plugin, &x, &cache.snapshot()), ["", "", EXISTING, ""]);
}

/// What a plugin keeps is right after any change: it says the same as one that has kept nothing.
#[test]
fn what_is_kept_is_what_a_fresh_look_finds() {
    let plugin = InterPodAffinity::default();
    let mut random = fastrand::Rng::with_seed(7);
    let mut cache = cluster(&nodes(), &[]);
    let apps = ["x", "y", "p"];
    let spec = |random: &mut fastrand::Rng| {
        let (key, other) = (["zone", HOST][random.usize(..2)], apps[random.usize(..3)]);
        match random.usize(..6) {
            0 => required("podAffinity", json!([term(key, other)])),
            1 => required("podAntiAffinity", json!([term(key, other)])),
            2 => preferred("podAffinity", 7, term(key, other)),
            3 => preferred("podAntiAffinity", 3, term(key, other)),
            _ => json!({}),
        }
    };
    let mut differ = 0;
    for step in 0..2000 {
        let name = format!("p{}", random.usize(..12));
        let at = ["a", "b", "c", "d", "unknown"][random.usize(..5)];
        match random.usize(..10) {
            0..=5 => put(&mut cache, at, pod(&name, app(apps[random.usize(..3)]), spec(&mut random))),
            6..=7 => drop(cache.remove_pod(&name)),
            8 if step % 5 == 0 => {
                let zone = ["z1", "z2"][random.usize(..2)];
                drop(cache.set_node(object(node("d", json!({"zone": zone})))));
            }
            9 if step % 5 == 0 => cache.remove_node("d"),
            _ => {}
        }
        let incoming = info(pod("new", app(apps[random.usize(..3)]), spec(&mut random)));
        let (snapshot, fresh) = (cache.snapshot(), InterPodAffinity::default());
        let found = filtered(&plugin, &incoming, &snapshot);
        assert_eq!(found, filtered(&fresh, &incoming, &snapshot), "step {step}");
        assert_eq!(scored(&plugin, &incoming, &snapshot), scored(&fresh, &incoming, &snapshot), "step {step}");
        differ += usize::from(found.iter().any(|why| !why.is_empty()));
    }
    assert!(differ > 300, "something is refused: {differ}");
}

#[test]
fn preferred_terms_of_both_sides_add_up() {
    let x = || ("a", pod("x", app("x"), json!({})));
    for (what, args, existing, pod, expected) in [
        ("nothing is preferred", InterPodAffinityArgs::default(), vec![x()], pod("p", app("p"), json!({})), None),
        (
            "near",
            InterPodAffinityArgs::default(),
            vec![x()],
            pod("p", app("p"), preferred("podAffinity", 5, term("zone", "x"))),
            Some(vec![100, 100, 0, 0]),
        ),
        (
            "apart",
            InterPodAffinityArgs::default(),
            vec![x()],
            pod("p", app("p"), preferred("podAntiAffinity", 5, term(HOST, "x"))),
            Some(vec![0, 100, 100, 100]),
        ),
        (
            "existing pods prefer",
            InterPodAffinityArgs::default(),
            vec![
                ("a", pod("x", app("x"), preferred("podAffinity", 8, term(HOST, "p")))),
                ("c", pod("y", app("y"), preferred("podAntiAffinity", 2, term(HOST, "p")))),
            ],
            pod("p", app("p"), json!({})),
            Some(vec![100, 20, 0, 20]),
        ),
        (
            "existing pods require",
            InterPodAffinityArgs::default(),
            vec![("a", pod("x", app("x"), required("podAffinity", json!([term("zone", "p")]))))],
            pod("p", app("p"), json!({})),
            Some(vec![100, 100, 0, 0]),
        ),
        (
            "what they require may have no weight",
            InterPodAffinityArgs { hard_pod_affinity_weight: 0, ..InterPodAffinityArgs::default() },
            vec![("a", pod("x", app("x"), required("podAffinity", json!([term("zone", "p")]))))],
            pod("p", app("p"), json!({})),
            None,
        ),
        (
            "what they prefer may not count",
            InterPodAffinityArgs { ignore_preferred_terms_of_existing_pods: true, ..InterPodAffinityArgs::default() },
            vec![("a", pod("x", app("x"), preferred("podAffinity", 8, term(HOST, "p"))))],
            pod("p", app("p"), json!({})),
            None,
        ),
    ] {
        let cache = cluster(&nodes(), &existing);
        assert_eq!(scored(&InterPodAffinity::new(args), &info(pod), &cache.snapshot()), expected, "{what}");
    }
}

#[test]
fn a_dry_run_changes_what_filter_sees() {
    let cache = cluster(&nodes(), &[("a", pod("x", app("x"), json!({})))]);
    let snapshot = cache.snapshot();
    let plugin = InterPodAffinity::default();
    let x = info(pod("x", app("x"), json!({})));
    let apart = info(pod("p", app("p"), required("podAntiAffinity", json!([term("zone", "x")]))));
    let near = info(pod("p", app("p"), required("podAffinity", json!([term("zone", "x")]))));
    let says = |state: &CycleState, pod: &PodInfo, node: &str| {
        plugin.filter(state, pod, snapshot.get(node).expect("a node")) == Status::Success
    };
    for (pod, before) in [(apart, [false, false, true]), (near, [true, true, false])] {
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, &pod, &snapshot);
        let all = |state: &CycleState| ["a", "b", "c"].map(|node| says(state, &pod, node));
        assert_eq!(all(&state), before);
        let mut dry = state.clone();
        plugin.remove_pod(&mut dry, &pod, &x, snapshot.get("a").expect("a"));
        plugin.add_pod(&mut dry, &pod, &x, snapshot.get("c").expect("c"));
        assert_eq!(all(&dry), before.map(|fits| !fits));
        plugin.remove_pod(&mut dry, &pod, &x, snapshot.get("c").expect("c"));
        plugin.add_pod(&mut dry, &pod, &x, snapshot.get("a").expect("a"));
        assert_eq!(all(&dry), before);
        assert_eq!(all(&state), before, "the state itself is as it was");
    }
    // the only pod of a group goes: the next one is the first again
    let cache = cluster(&nodes(), &[("c", pod("q", app("p"), json!({})))]);
    let snapshot = cache.snapshot();
    let own = info(pod("p", app("p"), required("podAffinity", json!([term("zone", "p")]))));
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, &own, &snapshot);
    let a = snapshot.get("a").expect("a");
    assert_ne!(plugin.filter(&state, &own, a), Status::Success);
    let gone = info(pod("q", app("p"), json!({})));
    plugin.remove_pod(&mut state, &own, &gone, snapshot.get("c").expect("c"));
    assert_eq!(plugin.filter(&state, &own, a), Status::Success);
}

#[test]
fn pods_wake_for_changes_that_can_help() {
    let plugin = InterPodAffinity::default();
    let (x, y) = (info(pod("x", app("x"), json!({}))), info(pod("y", app("y"), json!({}))));
    let hates = info(pod("h", app("h"), required("podAntiAffinity", json!([term("zone", "p")]))));
    let near = info(pod("p", app("p"), required("podAffinity", json!([term("zone", "x")]))));
    let apart = info(pod("p", app("p"), required("podAntiAffinity", json!([term("zone", "x")]))));
    let (z1, z2, none) = (
        object(node("n", json!({"zone": "z1"}))),
        object(node("n", json!({"zone": "z2"}))),
        object(node("n", json!({}))),
    );
    for (event, for_near, for_apart) in [
        (Event::PodAdded(&x), true, false),
        (Event::PodAdded(&y), false, false),
        (Event::PodRemoved(&x), false, true),
        (Event::PodRemoved(&y), false, false),
        (Event::PodRemoved(&hates), true, true),
        (Event::PodChanged { old: &y, new: &x }, true, false),
        (Event::PodChanged { old: &x, new: &y }, false, true),
        (Event::NodeAdded(&z1), true, true),
        (Event::NodeAdded(&none), false, true),
        (Event::NodeUpdated { old: &none, new: &z1 }, true, false),
        (Event::NodeUpdated { old: &z1, new: &none }, false, true),
        (Event::NodeUpdated { old: &z1, new: &z2 }, true, true),
        (Event::NodeUpdated { old: &z1, new: &z1 }, false, false),
        (Event::PodUpdated, true, true),
    ] {
        assert_eq!(plugin.wakes_on(&event, &near), for_near, "near: {event:?}");
        assert_eq!(plugin.wakes_on(&event, &apart), for_apart, "apart: {event:?}");
        assert!(plugin.listens(&event));
    }
}
