//! How many decisions are made per second over 5,000 nodes, without any call: `cargo test --release -p scheduler --lib -- --ignored --nocapture`.
#![allow(
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "it measures, and prints that"
)]

use crate::{
    CycleState, Listers, Plugins,
    cache::Cache,
    cycle::{Decision, Nomination, schedule},
    plugins::{Strategy, defaults},
    pod::PodInfo,
    search::Search,
    testing::{info, node, object, pod},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const NODES: usize = 5000;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

fn cluster() -> Cache {
    let mut cache = Cache::default();
    for number in 0..NODES {
        let zone = format!("zone{}", number % 3);
        cache.set_node(object(node(&format!("node-{number}"), json!({ZONE: zone, "region": "r"}))));
    }
    cache
}

fn selecting(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

fn required(kind: &str, key: &str, app: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": selecting(app)}]}}})
}

fn preferred(kind: &str, key: &str, app: &str) -> Value {
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": key, "labelSelector": selecting(app)}}]}}})
}

fn spread(key: &str, action: &str) -> Value {
    json!({"topologySpreadConstraints": [
        {"maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": action, "labelSelector": selecting("a")}]})
}

struct Run {
    cache: Cache,
    plugins: Plugins,
    search: Search,
    chance: fastrand::Rng,
    times: Vec<Duration>,
    /// CPU time of decisions: others may use the machine as well.
    cpu: Duration,
}

/// The CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number"))
}

impl Run {
    fn new() -> Self {
        let plugins = defaults(Strategy::default(), &Listers::default());
        let chance = fastrand::Rng::with_seed(1);
        Self { cache: cluster(), plugins, search: Search::default(), chance, times: Vec::new(), cpu: Duration::ZERO }
    }

    fn decide(&mut self, pod: &Arc<PodInfo>) -> (Decision, CycleState) {
        let (mut state, begin, used) = (CycleState::default(), Instant::now(), cpu());
        let Self { cache, plugins, search, chance, .. } = self;
        let decision = schedule(&mut state, pod, &cache.snapshot(), plugins, search, chance);
        if let Decision::Bind(node) = &decision {
            self.cache.assume(pod.clone(), node);
        }
        self.times.push(begin.elapsed());
        self.cpu += cpu() - used;
        (decision, state)
    }

    fn print(mut self, what: &str) {
        self.times.sort();
        let at = |share: f64| self.times[((self.times.len() - 1) as f64 * share) as usize];
        let rate = self.times.len() as f64 / self.cpu.as_secs_f64();
        println!("{what}: {rate:.0} per second of CPU, p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
    }
}

#[test]
#[ignore = "measures"]
fn decisions_per_second() {
    for (what, count, spec) in [
        ("plain", 5000, json!({})),
        ("spreading over zones, required", 5000, spread(ZONE, "DoNotSchedule")),
        ("spreading over hosts, required", 5000, spread(HOST, "DoNotSchedule")),
        ("spreading over zones, preferred", 5000, spread(ZONE, "ScheduleAnyway")),
        ("spreading over hosts, preferred", 5000, spread(HOST, "ScheduleAnyway")),
        ("affinity by zone", 5000, required("podAffinity", ZONE, "a")),
        ("affinity by host, preferred", 5000, preferred("podAffinity", HOST, "a")),
        ("anti-affinity by host", 4000, required("podAntiAffinity", HOST, "a")),
        ("anti-affinity by host, preferred", 5000, preferred("podAntiAffinity", HOST, "a")),
    ] {
        let mut run = Run::new();
        for number in 0..count {
            let pod = info(pod(&format!("pod-{number}"), json!({"app": "a"}), spec.clone()));
            let (decision, _) = run.decide(&pod);
            assert!(matches!(decision, Decision::Bind(_)), "{what} {number}: {decision:?}");
        }
        run.print(what);
    }
}

#[test]
#[ignore = "measures"]
fn preemptions_per_second() {
    let of = |name: &str, priority: i32, cpu: &str| {
        let requests = json!({"cpu": cpu, "memory": "500Mi"});
        let container = json!({"name": "c", "resources": {"requests": requests}});
        info(pod(name, json!({"app": "a"}), json!({"priority": priority, "containers": [container]})))
    };
    let mut run = Run::new();
    for number in 0..NODES * 4 {
        run.cache.assume(of(&format!("low-{number}"), 0, "900m"), &format!("node-{}", number % NODES));
    }
    for number in 0..2000 {
        let pod = of(&format!("high-{number}"), 10, "3");
        let (decision, _) = run.decide(&pod);
        let Decision::Refuse { nomination: Nomination::To { node, .. }, .. } = decision else {
            panic!("{number}: {decision:?}")
        };
        // its victims go, and it is bound
        let victims: Vec<String> = {
            let snapshot = run.cache.snapshot();
            let pods = snapshot.get(&node).expect("a node").pods.values().take(3).map(|p| p.uid().to_owned());
            pods.collect()
        };
        victims.iter().for_each(|victim| drop(run.cache.remove_pod(victim)));
        run.cache.assume(pod, &node);
    }
    run.print("preemption, nomination only");
}
