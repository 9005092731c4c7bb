//! Tables of configurations.

use super::*;
use serde_json::json;

fn parsed(profiles: Value) -> Result<Configuration, String> {
    Configuration::parse(
        &json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": profiles}),
    )
}

/// The plugins of the first profile that run at a point, each with its weight.
fn at(configuration: &Configuration, point: &str) -> Vec<String> {
    let chosen = configuration.profiles[0].plugins.iter().filter(|(_, points, _)| points.has(point));
    chosen.map(|(name, _, weight)| weight.map_or(name.clone(), |weight| format!("{name}={weight}"))).collect()
}

#[test]
fn without_profiles_there_is_upstreams() {
    let configuration = parsed(json!([])).unwrap();
    assert_eq!(configuration.name(), "default-scheduler");
    let made = configuration.profiles(&Listers::default());
    let names = |plugins: &Plugins| plugins.iter().map(|p| (p.name(), p.weight())).collect::<Vec<_>>();
    assert_eq!(names(&made.all()[0].plugins), names(&defaults(Strategy::default(), &Listers::default())));
}

#[test]
fn plugins_are_chosen_by_extension_point() {
    let all = every_plugin().count();
    let configuration = parsed(json!([{"plugins": {
        "multiPoint": {"disabled": [{"name": "ImageLocality"}, {"name": "NodeVolumeLimits"}], "enabled": [{"name": "NodeAffinity", "weight": 5}]},
        "filter": {"disabled": [{"name": "NodePorts"}]},
        "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 9}]},
    }}]))
    .unwrap();
    assert_eq!(at(&configuration, "score"), ["NodeResourcesFit=9"]);
    assert_eq!(at(&configuration, "filter").len(), all - 2);
    assert!(at(&configuration, "filter").contains(&"NodeAffinity=5".to_owned()));
    let made = configuration.profiles(&Listers::default());
    let weights: Vec<_> =
        made.all()[0].plugins.iter().filter(|p| p.weight() > 0).map(|p| (p.name(), p.weight())).collect();
    assert_eq!(weights, [("NodeResourcesFit", 9)]);
    let alone = parsed(json!([{"schedulerName": "few", "plugins": {"multiPoint": {"disabled": [{"name": "*"}],
        "enabled": [{"name": "PrioritySort"}, {"name": "DefaultBinder"}]}, "filter": {"enabled": [{"name": "NodeName"}]}}}]))
    .unwrap();
    assert_eq!(
        (alone.name(), at(&alone, "filter"), at(&alone, "bind")),
        ("few", vec!["DefaultBinder".into(), "NodeName".into()], vec!["DefaultBinder".into()])
    );
}

#[test]
fn plugins_take_their_args() {
    let configuration = parsed(json!([{"pluginConfig": [
        {"name": "NodeResourcesFit", "args": {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "NodeResourcesFitArgs", "ignoredResources": ["a.example/b"],
            "scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 3}],
                "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}},
        {"name": "NodeResourcesBalancedAllocation", "args": {"resources": [{"name": "memory"}]}},
        {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 7}},
        {"name": "PodTopologySpread", "args": {"defaultingType": "List", "defaultConstraints": [
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}},
        {"name": "DefaultPreemption", "args": {"minCandidateNodesAbsolute": 9}},
        {"name": "NodeAffinity", "args": {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}]}}}},
    ]}]))
    .unwrap();
    let args = &configuration.profiles[0].args;
    assert_eq!(args.fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
    assert_eq!(args.fit.resources, [Weighted { name: "cpu".into(), weight: 3 }]);
    assert!(args.fit.ignored_resources.contains("a.example/b"));
    assert_eq!(args.balanced.as_ref().unwrap()[0].name, "memory");
    assert_eq!(args.affinity.hard_pod_affinity_weight, 7);
    assert!(matches!(&args.spread, Defaulting::List(all) if all[0].max_skew == 2));
    assert!(args.added.as_ref().is_some_and(|added| added.node_affinity.is_some()));
    assert_eq!((args.preemption.min_candidate_nodes_absolute, args.preemption.min_candidate_nodes_percentage), (9, 10));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (profiles, expected) in [
        (json!([{"name": "x"}]), "unknown field `name`"),
        (json!([{"schedulerName": ""}]), "profiles[0].schedulerName: it is empty"),
        (json!([{}, {}]), "profiles[1].schedulerName: \"default-scheduler\" has two profiles"),
        (
            json!([{"percentageOfNodesToScore": 101}]),
            "profiles[0].percentageOfNodesToScore: 101 is not between 0 and 100",
        ),
        (json!([{"plugins": {"filters": {}}}]), "profiles[0].plugins: there is no extension point \"filters\""),
        (
            json!([{"plugins": {"score": {"enabled": [{"name": "Mine"}]}}}]),
            "profiles[0].plugins.score.enabled: there is no plugin \"Mine\"; there are SchedulingGates",
        ),
        (
            json!([{"plugins": {"score": {"disabled": [{"name": "Mine"}]}}}]),
            "profiles[0].plugins.score.disabled: there is no plugin \"Mine\"",
        ),
        (
            json!([{"plugins": {"multiPoint": {"disabled": [{"name": "*"}]}}}]),
            "profiles[0].plugins: no plugin binds pods; enable DefaultBinder",
        ),
        (
            json!([{"pluginConfig": [{"name": "NodeName", "args": {}}]}]),
            "profiles[0].pluginConfig[0].args: sampan's scheduler takes no args for \"NodeName\"",
        ),
        (
            json!([{"pluginConfig": [{"name": "NodeResourcesFit", "args": {"kind": "Other"}}]}]),
            "profiles[0].pluginConfig[0].args.kind: NodeResourcesFitArgs is needed",
        ),
        (
            json!([{"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "Best"}}}]}]),
            "scoringStrategy.type: there is no \"Best\"",
        ),
        (
            json!([{"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "RequestedToCapacityRatio"}}}]}]),
            "shape: at least one point is needed",
        ),
        (
            json!([{"pluginConfig": [{"name": "PodTopologySpread", "args": {"defaultingType": "Odd"}}]}]),
            "defaultingType: there is no \"Odd\"",
        ),
        (
            json!([{"pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}]}]),
            "hardPodAffinityWeight: it is not between 0 and 100",
        ),
        (
            json!([{"pluginConfig": [{"name": "NodeAffinity", "args": {"addedAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}]}]),
            "addedAffinity: nodeSelectorTerms are empty",
        ),
        (
            json!([{"pluginConfig": [{"name": "DefaultPreemption", "args": {"minCandidateNodesAbsolute": 0, "minCandidateNodesPercentage": 0}}]}]),
            "both bounds are 0",
        ),
    ] {
        let error = parsed(profiles.clone()).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{profiles}: {error}");
    }
    let other = Configuration::parse(&json!({"apiVersion": "v1", "kind": "Pod"})).unwrap_err();
    assert!(other.contains("kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration is needed"), "{other}");
    let whole = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "leaderElection": {"leaderElect": true},
        "percentageOfNodesToScore": 40});
    let configuration = Configuration::parse(&whole).unwrap();
    assert_eq!((configuration.ignored(), configuration.profiles[0].percentage), (&["leaderElection"][..], 40));
}
