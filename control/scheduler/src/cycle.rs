//! One scheduling decision: filter and score the nodes, then choose one or explain why none fits. Pure.

use crate::{
    cycle_state::CycleState,
    node::NodeInfo,
    plugin::{Filters, Plugin, Plugins, PostFilter, PreFilter, PreScore},
    pod::PodInfo,
    search::Search,
    snapshot::Snapshot,
    status::{NodeToStatus, Reason, Status},
};
use std::collections::BTreeSet;

/// The result of a scheduling cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod is bound to this node.
    Bind(String),
    /// No node fits.
    Refuse {
        /// Upstream's message.
        message: String,
        /// The plugins that rejected the pod.
        refused_by: Vec<&'static str>,
        /// What becomes of the pod's nomination to a node.
        nomination: Nomination,
    },
    /// The cycle failed with this error. The pod is tried again after its back-off.
    Error(String),
}

/// What becomes of a pod's nomination when no node fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nomination {
    /// It stays as it is.
    Kept,
    /// There is none any more.
    Cleared,
    /// The pod is nominated to `node`, where preemption of `plugin` can make it fit.
    To {
        /// The plugin.
        plugin: &'static str,
        /// The node.
        node: String,
    },
}

/// Schedules one pod. `chance` picks among nodes with equal scores.
pub fn schedule(
    state: &mut CycleState,
    pod: &PodInfo,
    snapshot: &Snapshot,
    plugins: &Plugins,
    search: &mut Search,
    chance: &mut fastrand::Rng,
) -> Decision {
    if snapshot.count() == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Refuse { message, refused_by: Vec::new(), nomination: Nomination::Cleared };
    }
    let mut statuses = NodeToStatus::new(snapshot);
    let Prepared { filters, nodes, narrowed_by, refused } = pre_filter(state, pod, snapshot, plugins);
    if let Some((refused_by, status)) = refused {
        let why = status.reasons().join(", ");
        statuses.set_absent(status);
        return refuse(state, pod, plugins, (&statuses, &filters), &why, refused_by);
    }
    let allows = |node: &NodeInfo| nodes.as_ref().is_none_or(|names| names.contains(node.name()));
    let nominated = snapshot.get(pod.nominated_node()).filter(|node| allows(node));
    if let Some(node) = nominated.filter(|node| filters.refusal(state, pod, node).is_none()) {
        return Decision::Bind(node.name().to_owned());
    }
    let mut refused_by: BTreeSet<&'static str> = narrowed_by.iter().copied().collect();
    let mut fitting = Vec::new();
    let mut fits = |node| match filters.refusal(state, pod, node) {
        None => {
            fitting.push(node);
            true
        }
        Some((plugin, status)) => {
            refused_by.insert(plugin);
            statuses.refuse(node, status);
            false
        }
    };
    match &nodes {
        None => search.run(snapshot, fits),
        Some(names) => names.iter().filter_map(|name| snapshot.get(name)).for_each(|node| _ = fits(node)),
    }
    match fitting.as_slice() {
        [] => {
            if nodes.is_some() {
                let why = format!("node(s) didn't satisfy plugin(s) [{}]", narrowed_by.join(" "));
                statuses.set_absent(Status::UnschedulableAndUnresolvable(why.into()));
            }
            let why = statuses.histogram();
            refuse(state, pod, plugins, (&statuses, &filters), &why, refused_by.into_iter().collect())
        }
        [only] => Decision::Bind(only.name().to_owned()),
        several => Decision::Bind(best(state, pod, several, snapshot, plugins, chance).name().to_owned()),
    }
}

/// The result of preFilter.
struct Prepared<'a> {
    filters: Filters<'a>,
    /// The nodes to filter; `None` is all.
    nodes: Option<BTreeSet<String>>,
    /// The plugins that narrowed `nodes`.
    narrowed_by: Vec<&'static str>,
    /// If no node is left: by which plugins, and why.
    refused: Option<(Vec<&'static str>, Status)>,
}

/// Runs preFilter of all plugins.
fn pre_filter<'a>(state: &mut CycleState, pod: &PodInfo, snapshot: &'a Snapshot, plugins: &'a Plugins) -> Prepared<'a> {
    let mut running: Vec<&'a dyn Plugin> = Vec::with_capacity(plugins.len());
    let (mut nodes, mut narrowed_by, mut refused) = (None::<BTreeSet<String>>, Vec::new(), None);
    for plugin in plugins.iter() {
        match plugin.pre_filter(state, pod, snapshot) {
            PreFilter::Skip => continue,
            PreFilter::AllNodes => {}
            PreFilter::Nodes(names) => {
                narrowed_by.push(plugin.name());
                narrowed_by.sort_unstable();
                nodes = Some(match nodes.take() {
                    None => names,
                    Some(before) => before.intersection(&names).cloned().collect(),
                });
            }
            // the other plugins still run, because postFilter needs the state that they compute
            PreFilter::Unschedulable(why) => {
                refused = Some((vec![plugin.name()], Status::Unschedulable(why.into())));
            }
            PreFilter::UnschedulableAndUnresolvable(why) => {
                refused = Some((vec![plugin.name()], Status::UnschedulableAndUnresolvable(why.into())));
                break;
            }
        }
        if nodes.as_ref().is_some_and(BTreeSet::is_empty) {
            let why = match narrowed_by.as_slice() {
                [one] => format!("node(s) didn't satisfy plugin {one}"),
                several => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", several.join(" ")),
            };
            refused = Some((narrowed_by.clone(), Status::UnschedulableAndUnresolvable(why.into())));
            break;
        }
        running.push(plugin.as_ref());
    }
    Prepared { filters: Filters::new(running, snapshot), nodes, narrowed_by, refused }
}

/// No node fits: runs postFilter, and makes the message.
fn refuse(
    state: &mut CycleState,
    pod: &PodInfo,
    plugins: &Plugins,
    (statuses, filters): (&NodeToStatus<'_>, &Filters<'_>),
    why: &str,
    refused_by: Vec<&'static str>,
) -> Decision {
    let mut nomination = Nomination::Kept;
    let mut reasons: Vec<Reason> = Vec::new();
    for plugin in plugins.iter() {
        match plugin.post_filter(state, pod, statuses, filters) {
            PostFilter::Skip => {}
            PostFilter::Unschedulable(reason) => reasons.push(reason),
            PostFilter::Cleared(reason) => {
                nomination = Nomination::Cleared;
                reasons.push(reason);
            }
            PostFilter::Nominated(node) => {
                nomination = Nomination::To { plugin: plugin.name(), node };
                reasons.clear();
                break;
            }
        }
    }
    let mut message = format!("0/{} nodes are available: {why}.", statuses.snapshot().count());
    if !reasons.is_empty() {
        message.push(' ');
        message.push_str(&reasons.join(", "));
    }
    Decision::Refuse { message, refused_by, nomination }
}

fn best<'a>(
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &[&'a NodeInfo],
    snapshot: &Snapshot,
    plugins: &Plugins,
    chance: &mut fastrand::Rng,
) -> &'a NodeInfo {
    let mut scoring: Vec<&dyn Plugin> = Vec::with_capacity(plugins.len());
    for plugin in plugins.iter().filter(|p| p.weight() != 0) {
        if plugin.pre_score(state, pod, nodes, snapshot) == PreScore::Score {
            scoring.push(plugin.as_ref());
        }
    }
    let mut totals = vec![0; nodes.len()];
    let mut scores = Vec::with_capacity(nodes.len());
    for plugin in scoring {
        scores.clear();
        scores.extend(nodes.iter().map(|n| plugin.score(state, pod, n)));
        plugin.normalize_score(state, pod, nodes, &mut scores);
        totals.iter_mut().zip(&scores).for_each(|(t, s)| *t += s * plugin.weight());
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let count = totals.iter().filter(|t| **t == top).count();
    let choice = chance.usize(..count.max(1));
    let index = totals.iter().enumerate().filter(|(_, t)| **t == top).nth(choice).map_or(0, |(i, _)| i);
    nodes[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Listers,
        cache::Cache,
        plugins::{Strategy, defaults},
    };
    use serde_json::{Value, json};
    use std::sync::Arc;

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
        schedule(
            &mut CycleState::default(),
            pod,
            &nodes.snapshot(),
            &defaults(Strategy::default(), &Listers::default()),
            &mut Search::default(),
            &mut fastrand::Rng::with_seed(1),
        )
    }

    fn message(pod: &PodInfo, nodes: &Cache) -> String {
        match run(pod, nodes) {
            Decision::Refuse { message, .. } => message,
            other => format!("{other:?}"),
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
                &mut CycleState::default(),
                &pod("p", "1", json!({})),
                &nodes.snapshot(),
                &defaults(strategy, &Listers::default()),
                &mut Search::default(),
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
        let (plugins, mut search) = (defaults(Strategy::default(), &Listers::default()), Search::default());
        for i in 0..100 {
            let pod = pod(&format!("p{i}"), "100m", json!({}));
            let Decision::Bind(node) =
                schedule(&mut CycleState::default(), &pod, &nodes.snapshot(), &plugins, &mut search, &mut chance)
            else {
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
