//! One scheduling decision: filter, score, choose, or say why not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    node::NodeInfo,
    plugin::{Plugins, Reason, Verdict},
    pod::PodInfo,
    snapshot::Snapshot,
};

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Bind(String),
    /// No node takes it.
    Refuse {
        /// Upstream's words for it.
        message: String,
        /// The plugins that refused it.
        refused_by: Vec<&'static str>,
    },
}

/// Decides for one pod. `chance` picks among equally good nodes.
pub fn schedule(pod: &PodInfo, nodes: &Snapshot, plugins: &Plugins, chance: &mut fastrand::Rng) -> Decision {
    let total = nodes.count();
    if total == 0 {
        return Decision::Refuse { message: "no nodes available to schedule pods".to_owned(), refused_by: Vec::new() };
    }
    if let Some((plugin, reason)) = plugins.iter().find_map(|p| p.pre_filter(pod).map(|r| (p.name(), r))) {
        let help = format!("0/{total} nodes are available: {total} Preemption is not helpful for scheduling.");
        let message = format!("0/{total} nodes are available: {reason}. preemption: {help}");
        return Decision::Refuse { message, refused_by: vec![plugin] };
    }
    let mut fitting = Vec::new();
    let mut diagnosis = Diagnosis::default();
    for node in nodes.iter() {
        match refusal(pod, node, plugins) {
            None => fitting.push(node),
            Some((plugin, verdict)) => diagnosis.note(pod, node, plugin, verdict),
        }
    }
    match fitting.as_slice() {
        [] => Decision::Refuse {
            message: diagnosis.message(pod, total),
            refused_by: diagnosis.plugins.into_iter().collect(),
        },
        [only] => Decision::Bind(only.name().to_owned()),
        several => Decision::Bind(best(pod, several, plugins, chance).name().to_owned()),
    }
}

/// The first plugin that refuses the node.
fn refusal(pod: &PodInfo, node: &NodeInfo, plugins: &Plugins) -> Option<(&'static str, Verdict)> {
    plugins.iter().find_map(|p| match p.filter(pod, node) {
        Verdict::Fit => None,
        verdict => Some((p.name(), verdict)),
    })
}

fn best<'a>(pod: &PodInfo, nodes: &[&'a NodeInfo], plugins: &Plugins, chance: &mut fastrand::Rng) -> &'a NodeInfo {
    let mut totals = vec![0; nodes.len()];
    let mut scores = Vec::with_capacity(nodes.len());
    for plugin in plugins.iter().filter(|p| p.scores(pod)) {
        scores.clear();
        scores.extend(nodes.iter().map(|n| plugin.score(pod, n)));
        plugin.normalize(&mut scores);
        totals.iter_mut().zip(&scores).for_each(|(t, s)| *t += s * plugin.weight());
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let count = totals.iter().filter(|t| **t == top).count();
    let choice = chance.usize(..count.max(1));
    let index = totals.iter().enumerate().filter(|(_, t)| **t == top).nth(choice).map_or(0, |(i, _)| i);
    nodes[index]
}

/// Why nodes refused.
#[derive(Default)]
struct Diagnosis {
    reasons: BTreeMap<Reason, usize>,
    plugins: BTreeSet<&'static str>,
    /// Nodes where taking pods away could help in principle.
    resolvable: usize,
    /// Of these, nodes with pods of lower priority.
    victims: usize,
}

impl Diagnosis {
    fn note(&mut self, pod: &PodInfo, node: &NodeInfo, plugin: &'static str, verdict: Verdict) {
        self.plugins.insert(plugin);
        let reasons = match verdict {
            Verdict::Unschedulable(reasons) => {
                self.resolvable += 1;
                self.victims += usize::from(node.pods.values().any(|p| p.priority < pod.priority));
                reasons
            }
            Verdict::Unresolvable(reasons) => reasons,
            Verdict::Fit => return,
        };
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// As upstream prints it, counts and reasons sorted as text.
    fn message(&self, pod: &PodInfo, total: usize) -> String {
        let head = format!("0/{total} nodes are available: {}.", histogram(self.reasons.iter()));
        let never = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never");
        let preemption = if never {
            "not eligible due to preemptionPolicy=Never.".to_owned()
        } else if self.victims > 0 {
            // upstream would now evict pods of lower priority; we do not (yet), and say so
            "not available.".to_owned()
        } else {
            let victims: (Reason, usize) = ("No preemption victims found for incoming pod".into(), self.resolvable);
            let helpless = ("Preemption is not helpful for scheduling".into(), total - self.resolvable);
            let parts = [victims, helpless];
            let parts = parts.iter().filter(|(_, n)| *n > 0).map(|(r, n)| (r, n));
            format!("0/{total} nodes are available: {}.", histogram(parts))
        };
        format!("{head} preemption: {preemption}")
    }
}

fn histogram<'a>(reasons: impl Iterator<Item = (&'a Reason, &'a usize)>) -> String {
    let mut parts: Vec<String> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cache::Cache,
        plugins::{Strategy, defaults},
    };

    fn cluster(list: Value) -> Cache {
        let mut nodes = Cache::default();
        for n in list.as_array().expect("a list") {
            let value = json!({"metadata": {"name": n["name"], "labels": n["labels"]},
                "spec": {"unschedulable": n["cordoned"].as_bool().unwrap_or(false), "taints": n["taints"]},
                "status": {"allocatable": {"cpu": n["cpu"].as_str().unwrap_or("4"), "memory": "8Gi",
                    "pods": n["pods"].as_str().unwrap_or("10")}}});
            nodes.set_node(Arc::new(serde_json::from_value(value).expect("a node")));
        }
        nodes
    }

    fn pod(uid: &str, cpu: &str, spec: Value) -> Arc<PodInfo> {
        let mut value = json!({"metadata": {"name": uid, "uid": uid},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        for (k, v) in spec.as_object().into_iter().flatten() {
            value["spec"][k] = v.clone();
        }
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn run(pod: &PodInfo, nodes: &Cache) -> Decision {
        schedule(pod, &nodes.snapshot(), &defaults(Strategy::default()), &mut fastrand::Rng::with_seed(1))
    }

    fn message(pod: &PodInfo, nodes: &Cache) -> String {
        match run(pod, nodes) {
            Decision::Refuse { message, .. } => message,
            Decision::Bind(node) => format!("bound to {node}"),
        }
    }

    #[test]
    fn refusals_are_told_in_upstreams_words() {
        let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let mixed = cluster(json!([{"name": "a"}, {"name": "b", "taints": taint}, {"name": "c", "taints": taint}]));
        assert_eq!(
            message(&pod("p", "5", json!({})), &mixed),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are available: \
             3 Preemption is not helpful for scheduling."
        );
        let mut full = cluster(json!([{"name": "a"}]));
        full.assume(pod("other", "3", json!({})), "a");
        assert_eq!(
            message(&pod("p", "2", json!({})), &full),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for \
             incoming pod."
        );
        assert_eq!(
            message(&pod("p", "2", json!({"preemptionPolicy": "Never"})), &full),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
        );
        assert_eq!(message(&pod("p", "1", json!({})), &Cache::default()), "no nodes available to schedule pods");
        let several = cluster(json!([{"name": "a", "cordoned": true}, {"name": "b", "pods": "0"}, {"name": "c"}]));
        let picky = pod("p", "1", json!({"nodeSelector": {"disk": "ssd"}}));
        assert_eq!(
            message(&picky, &several),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector. preemption: \
             0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn a_pod_goes_where_every_plugin_lets_it() {
        let nodes = cluster(json!([
            {"name": "cordoned", "cordoned": true},
            {"name": "tainted", "taints": [{"key": "k", "effect": "NoExecute"}]},
            {"name": "small", "cpu": "1"},
            {"name": "labelled", "labels": {"zone": "a"}},
        ]));
        let exists = json!([{"key": "k", "operator": "Exists"}]);
        let cordon = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]);
        for (spec, cpu, expected) in [
            (json!({"nodeSelector": {"zone": "a"}}), "1", "labelled"),
            (json!({}), "2", "labelled"),
            (json!({"nodeName": "tainted", "tolerations": exists}), "1", "tainted"),
            (json!({"nodeName": "cordoned", "tolerations": cordon}), "1", "cordoned"),
        ] {
            assert_eq!(run(&pod("p", cpu, spec), &nodes), Decision::Bind(expected.into()));
        }
    }

    #[test]
    fn load_spreads_or_packs_as_the_strategy_says() {
        let mut nodes = cluster(json!([{"name": "a"}, {"name": "b"}]));
        nodes.assume(pod("other", "2", json!({})), "a");
        for (strategy, expected) in [(Strategy::LeastAllocated, "b"), (Strategy::MostAllocated, "a")] {
            let decision = schedule(
                &pod("p", "1", json!({})),
                &nodes.snapshot(),
                &defaults(strategy),
                &mut fastrand::Rng::with_seed(1),
            );
            assert_eq!(decision, Decision::Bind(expected.into()));
        }
    }

    #[test]
    fn a_hundred_pods_spread_evenly_over_ten_nodes() {
        let list: Vec<Value> = (0..10).map(|i| json!({"name": format!("n{i}"), "cpu": "64", "pods": "110"})).collect();
        let mut nodes = cluster(json!(list));
        let mut chance = fastrand::Rng::with_seed(7);
        let plugins = defaults(Strategy::default());
        for i in 0..100 {
            let pod = pod(&format!("p{i}"), "100m", json!({}));
            let Decision::Bind(node) = schedule(&pod, &nodes.snapshot(), &plugins, &mut chance) else {
                panic!("refused")
            };
            nodes.assume(pod, &node);
        }
        assert!(nodes.snapshot().iter().all(|n| n.pods.len() == 10));
    }

    #[test]
    fn host_ports_are_given_once() {
        let mut nodes = cluster(json!([{"name": "a"}]));
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        nodes.assume(pod("other", "0", port.clone()), "a");
        assert_eq!(
            message(&pod("p", "0", port), &nodes),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are \
             available: 1 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn preferred_nodes_win() {
        let nodes = cluster(json!([{"name": "a"}, {"name": "b", "labels": {"zone": "z"}},
            {"name": "c", "taints": [{"key": "k", "effect": "PreferNoSchedule"}]}]));
        let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]}}});
        assert_eq!(run(&pod("p", "1", wish), &nodes), Decision::Bind("b".into()));
        for _ in 0..20 {
            assert_ne!(run(&pod("p", "1", json!({})), &nodes), Decision::Bind("c".into()));
        }
    }
}
