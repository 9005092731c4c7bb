//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`): profiles, their plugins and what these are told. Pure.
//!
//! Follows <https://kubernetes.io/docs/reference/scheduling/config/>. Differences: a plugin that is enabled at single extension points only comes
//! after those of `multiPoint`; extenders are refused; what concerns the process itself (leader election, connections, back-off) is
//! [ignored](Configuration::ignored).

use crate::{
    listers::Listers,
    plugin::{Plugin, Plugins},
    plugins::{
        DefaultBinder, DefaultPreemption, DefaultPreemptionArgs, Defaulting, ImageLocality, InterPodAffinity,
        InterPodAffinityArgs, NodeAffinity, NodeName, NodePorts, NodeResourcesBalancedAllocation, NodeResourcesFit,
        NodeResourcesFitArgs, NodeUnschedulable, PodTopologySpread, SchedulingGates, Strategy, TaintToleration,
        VolumeBinding, VolumeRestrictions, VolumeZone, Weighted, defaults,
    },
    profile::{DEFAULT_NAME, POINTS, Points, Profile, Profiles, Selected},
};
use k8s_openapi::api::core::v1::{Affinity, TopologySpreadConstraint};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// Plugins of upstream that are not here: they can be disabled, and the first of them enabled, without a difference.
const ABSENT: [&str; 5] =
    ["PrioritySort", "NodeVolumeLimits", "DynamicResources", "NodeDeclaredFeatures", "GangScheduling"];
/// The highest score in the shape of RequestedToCapacityRatio.
const MAX_SHAPE_SCORE: i64 = 10;

/// The profiles of a scheduler.
#[derive(Clone, Debug)]
pub struct Configuration {
    profiles: Vec<Chosen>,
    ignored: Vec<&'static str>,
}

/// A profile as it is configured.
#[derive(Clone, Debug)]
struct Chosen {
    name: String,
    percentage: usize,
    plugins: Vec<(String, Points, Option<i64>)>,
    args: Args,
}

/// What plugins are told.
#[derive(Clone, Debug, Default)]
struct Args {
    fit: NodeResourcesFitArgs,
    added: Option<Affinity>,
    balanced: Option<Vec<Weighted>>,
    affinity: InterPodAffinityArgs,
    spread: Defaulting,
    preemption: DefaultPreemptionArgs,
}

impl Default for Configuration {
    /// One profile with upstream's plugins.
    fn default() -> Self {
        let chosen = Chosen {
            name: DEFAULT_NAME.to_owned(),
            percentage: 0,
            plugins: every_plugin().map(|name| (name.to_owned(), Points::ALL, None)).collect(),
            args: Args::default(),
        };
        Self { profiles: vec![chosen], ignored: Vec::new() }
    }
}

/// The names of the plugins, in upstream's order.
fn every_plugin() -> impl Iterator<Item = &'static str> {
    let all = defaults(Strategy::default(), &Listers::default());
    all.iter().map(|plugin| plugin.name()).collect::<Vec<_>>().into_iter()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    extenders: Vec<Value>,
    parallelism: Option<Value>,
    leader_election: Option<Value>,
    client_connection: Option<Value>,
    enable_profiling: Option<Value>,
    enable_contention_profiling: Option<Value>,
    pod_initial_backoff_seconds: Option<Value>,
    pod_max_backoff_seconds: Option<Value>,
    delay_cache_until_active: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: BTreeMap<String, Set>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

/// The plugins of an extension point.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Set {
    #[serde(default)]
    enabled: Vec<Named>,
    #[serde(default)]
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

impl Configuration {
    /// From the content of a file.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let file: File = decode(value, "")?;
        if (file.api_version.as_str(), file.kind.as_str())
            != ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration")
        {
            let found = format!("{} {}", file.api_version, file.kind);
            return Err(format!(
                "it is a {found}; kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration is needed"
            ));
        }
        if !file.extenders.is_empty() {
            return Err("extenders: there are none in sampan".to_owned());
        }
        let given = [
            ("parallelism", &file.parallelism),
            ("leaderElection", &file.leader_election),
            ("clientConnection", &file.client_connection),
            ("enableProfiling", &file.enable_profiling),
            ("enableContentionProfiling", &file.enable_contention_profiling),
            ("podInitialBackoffSeconds", &file.pod_initial_backoff_seconds),
            ("podMaxBackoffSeconds", &file.pod_max_backoff_seconds),
            ("delayCacheUntilActive", &file.delay_cache_until_active),
        ];
        let ignored = given.into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect();
        let percentage = percentage(file.percentage_of_nodes_to_score, "percentageOfNodesToScore")?.unwrap_or(0);
        if file.profiles.is_empty() {
            let mut all = Self { ignored, ..Self::default() };
            all.profiles[0].percentage = percentage;
            return Ok(all);
        }
        let mut names = HashSet::new();
        let mut profiles = Vec::new();
        for (index, one) in file.profiles.into_iter().enumerate() {
            let at = format!("profiles[{index}]");
            let chosen = profile(one, percentage, &at)?;
            if !names.insert(chosen.name.clone()) {
                return Err(format!("{at}.schedulerName: {:?} has two profiles", chosen.name));
            }
            profiles.push(chosen);
        }
        Ok(Self { profiles, ignored })
    }

    /// The fields of the file that make no difference here.
    pub fn ignored(&self) -> &[&'static str] {
        &self.ignored
    }

    /// The first profile's name.
    pub fn name(&self) -> &str {
        &self.profiles[0].name
    }

    /// The profiles with their plugins.
    pub fn profiles(&self, listers: &Listers) -> Profiles {
        // What one profile has assumed of volumes counts for all.
        let volumes: Arc<dyn Plugin> = Arc::new(VolumeBinding::new(listers.clone()));
        let make = |chosen: &Chosen| Profile {
            name: chosen.name.clone(),
            percentage: chosen.percentage,
            plugins: chosen.plugins(listers, &volumes),
        };
        Profiles::new(self.profiles.iter().map(make).collect())
    }
}

impl Chosen {
    fn plugins(&self, listers: &Listers, volumes: &Arc<dyn Plugin>) -> Plugins {
        let made = self.plugins.iter().filter_map(|(name, points, weight)| {
            let plugin = self.args.plugin(name, listers, volumes)?;
            let weight = weight.unwrap_or(plugin.weight());
            Some(Box::new(Selected { plugin, points: *points, weight }) as Box<dyn Plugin>)
        });
        made.collect::<Vec<_>>().into()
    }
}

impl Args {
    fn plugin(&self, name: &str, listers: &Listers, volumes: &Arc<dyn Plugin>) -> Option<Arc<dyn Plugin>> {
        let balanced = self.balanced.clone();
        Some(match name {
            "SchedulingGates" => Arc::new(SchedulingGates),
            "NodeUnschedulable" => Arc::new(NodeUnschedulable),
            "NodeName" => Arc::new(NodeName),
            "TaintToleration" => Arc::new(TaintToleration),
            "NodeAffinity" => Arc::new(self.added.clone().map_or_else(NodeAffinity::default, NodeAffinity::with_added)),
            "NodePorts" => Arc::new(NodePorts),
            "NodeResourcesFit" => Arc::new(NodeResourcesFit::with(self.fit.clone())),
            "VolumeRestrictions" => Arc::new(VolumeRestrictions(listers.clone())),
            "VolumeBinding" => volumes.clone(),
            "VolumeZone" => Arc::new(VolumeZone(listers.clone())),
            "PodTopologySpread" => Arc::new(PodTopologySpread::new(self.spread.clone(), listers.clone())),
            "InterPodAffinity" => Arc::new(InterPodAffinity::new(self.affinity)),
            "NodeResourcesBalancedAllocation" => Arc::new(
                balanced.map_or_else(NodeResourcesBalancedAllocation::default, NodeResourcesBalancedAllocation::new),
            ),
            "ImageLocality" => Arc::new(ImageLocality),
            "DefaultPreemption" => Arc::new(DefaultPreemption::new(self.preemption, listers.clone())),
            "DefaultBinder" => Arc::new(DefaultBinder),
            _ => return None,
        })
    }
}

fn decode<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, String> {
    let place = if at.is_empty() { String::new() } else { format!("{at}: ") };
    serde_json::from_value(value.clone()).map_err(|error| format!("{place}{error}"))
}

fn percentage(value: Option<i64>, at: &str) -> Result<Option<usize>, String> {
    let wrong = || format!("{at}: {} is not between 0 and 100", value.unwrap_or_default());
    value.map(|n| usize::try_from(n).ok().filter(|n| *n <= 100).ok_or_else(wrong)).transpose()
}

fn profile(file: FileProfile, percent: usize, at: &str) -> Result<Chosen, String> {
    let name = file.scheduler_name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    if name.is_empty() {
        return Err(format!("{at}.schedulerName: it is empty"));
    }
    let own = percentage(file.percentage_of_nodes_to_score, &format!("{at}.percentageOfNodesToScore"))?;
    let plugins = selection(file.plugins, &format!("{at}.plugins"))?;
    if !plugins.iter().any(|(name, points, _)| name == "DefaultBinder" && points.has("bind")) {
        return Err(format!("{at}.plugins: no plugin binds pods; enable DefaultBinder"));
    }
    let mut args = Args::default();
    let mut told = HashSet::new();
    for (index, one) in file.plugin_config.iter().enumerate() {
        let at = format!("{at}.pluginConfig[{index}]");
        if !told.insert(one.name.as_str()) {
            return Err(format!("{at}.name: {:?} is there twice", one.name));
        }
        configure(&mut args, one, &at)?;
    }
    Ok(Chosen { name, percentage: own.unwrap_or(percent), plugins, args })
}

/// The plugins of a profile with their extension points and weights.
fn selection(mut sets: BTreeMap<String, Set>, at: &str) -> Result<Vec<(String, Points, Option<i64>)>, String> {
    let known: Vec<&str> = every_plugin().collect();
    for (point, set) in &sets {
        if point != "multiPoint" && point != "queueSort" && !POINTS.contains(&point.as_str()) {
            let all = POINTS.join(", ");
            return Err(format!("{at}: there is no extension point {point:?}; there are multiPoint, queueSort, {all}"));
        }
        for named in &set.enabled {
            if !known.contains(&named.name.as_str()) && named.name != ABSENT[0] {
                let all = known.join(", ");
                return Err(format!("{at}.{point}.enabled: there is no plugin {:?}; there are {all}", named.name));
            }
            if named.weight.is_some_and(|weight| !(0..=1_000_000).contains(&weight)) {
                return Err(format!("{at}.{point}.enabled: the weight of {} is not between 0 and 1000000", named.name));
            }
        }
        for named in &set.disabled {
            let is_known = named.name == "*" || known.contains(&&*named.name) || ABSENT.contains(&&*named.name);
            if !is_known {
                return Err(format!("{at}.{point}.disabled: there is no plugin {:?}", named.name));
            }
        }
    }
    let multi = sets.remove("multiPoint").unwrap_or_default();
    let off = |set: &Set, name: &str| set.disabled.iter().any(|one| one.name == "*" || one.name == name);
    let mut chosen: Vec<(String, Points, Option<i64>)> =
        known.iter().filter(|name| !off(&multi, name)).map(|name| ((*name).to_owned(), Points::ALL, None)).collect();
    for named in multi.enabled.into_iter().filter(|one| one.name != ABSENT[0]) {
        let weight = named.weight.filter(|weight| *weight > 0);
        match chosen.iter_mut().find(|(name, ..)| *name == named.name) {
            Some((_, _, own)) => *own = weight.or(*own),
            None => chosen.push((named.name, Points::ALL, weight)),
        }
    }
    sets.remove("queueSort");
    for (point, set) in sets {
        for (name, points, _) in &mut chosen {
            if off(&set, name) {
                points.remove(&point);
            }
        }
        for named in set.enabled.into_iter().filter(|one| one.name != ABSENT[0]) {
            let weight = named.weight.filter(|weight| *weight > 0);
            match chosen.iter_mut().find(|(name, ..)| *name == named.name) {
                Some((_, points, own)) => {
                    points.add(&point);
                    *own = weight.or(*own);
                }
                None => {
                    let mut points = Points::default();
                    points.add(&point);
                    chosen.push((named.name, points, weight));
                }
            }
        }
    }
    chosen.retain(|(_, points, _)| !points.is_empty());
    Ok(chosen)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resource {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scoring {
    r#type: Option<String>,
    #[serde(default)]
    resources: Vec<Resource>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<Scoring>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<k8s_openapi::api::core::v1::NodeAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

/// Takes the args of one plugin.
fn configure(args: &mut Args, config: &PluginConfig, at: &str) -> Result<(), String> {
    let mut value = config.args.clone();
    if let Some(fields) = value.as_object_mut() {
        let kind = fields.remove("kind");
        fields.remove("apiVersion");
        let wanted = format!("{}Args", config.name);
        if kind.is_some_and(|kind| kind != wanted.as_str()) {
            return Err(format!("{at}.args.kind: {wanted} is needed"));
        }
    }
    let at = &format!("{at}.args");
    match config.name.as_str() {
        "NodeAffinity" => {
            let NodeAffinityArgs { added_affinity } = decode(&value, at)?;
            let required =
                added_affinity.as_ref().and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
            if required.is_some_and(|required| required.node_selector_terms.is_empty()) {
                return Err(format!("{at}.addedAffinity: nodeSelectorTerms are empty, which no node matches"));
            }
            args.added = added_affinity.map(|own| Affinity { node_affinity: Some(own), ..Affinity::default() });
        }
        "NodeResourcesFit" => args.fit = fit(decode(&value, at)?, at)?,
        "NodeResourcesBalancedAllocation" => {
            let BalancedArgs { resources } = decode(&value, at)?;
            args.balanced = Some(weighted(resources, at)?).filter(|all| !all.is_empty());
        }
        "InterPodAffinity" => {
            let given: AffinityArgs = decode(&value, at)?;
            let own = &mut args.affinity;
            own.hard_pod_affinity_weight = given.hard_pod_affinity_weight.unwrap_or(own.hard_pod_affinity_weight);
            own.ignore_preferred_terms_of_existing_pods =
                given.ignore_preferred_terms_of_existing_pods.unwrap_or_default();
            if !(0..=100).contains(&own.hard_pod_affinity_weight) {
                return Err(format!("{at}.hardPodAffinityWeight: it is not between 0 and 100"));
            }
        }
        "PodTopologySpread" => args.spread = spread(decode(&value, at)?, at)?,
        "DefaultPreemption" => {
            let given: PreemptionArgs = decode(&value, at)?;
            let own = &mut args.preemption;
            let share = percentage(given.min_candidate_nodes_percentage, &format!("{at}.minCandidateNodesPercentage"))?;
            own.min_candidate_nodes_percentage = share.unwrap_or(own.min_candidate_nodes_percentage);
            if let Some(number) = given.min_candidate_nodes_absolute {
                let wrong = |_| format!("{at}.minCandidateNodesAbsolute: {number} is less than 0");
                own.min_candidate_nodes_absolute = usize::try_from(number).map_err(wrong)?;
            }
            if own.min_candidate_nodes_percentage == 0 && own.min_candidate_nodes_absolute == 0 {
                return Err(format!("{at}: both bounds are 0, so that no node would be looked at"));
            }
        }
        name => {
            return Err(format!(
                "{at}: sampan's scheduler takes no args for {name:?}; it takes those of NodeAffinity, \
                 NodeResourcesFit, NodeResourcesBalancedAllocation, InterPodAffinity, PodTopologySpread and DefaultPreemption"
            ));
        }
    }
    Ok(())
}

fn weighted(resources: Vec<Resource>, at: &str) -> Result<Vec<Weighted>, String> {
    let one = |Resource { name, weight }: Resource| match weight.unwrap_or(1) {
        weight @ 1..=100 => Ok(Weighted { name, weight }),
        weight => Err(format!("{at}: the weight {weight} of {name} is not between 1 and 100")),
    };
    resources.into_iter().map(one).collect()
}

fn fit(given: FitArgs, at: &str) -> Result<NodeResourcesFitArgs, String> {
    let mut args = NodeResourcesFitArgs {
        ignored_resources: given.ignored_resources.into_iter().collect(),
        ignored_resource_groups: given.ignored_resource_groups.into_iter().collect(),
        ..NodeResourcesFitArgs::default()
    };
    let Some(scoring) = given.scoring_strategy else { return Ok(args) };
    let at = format!("{at}.scoringStrategy");
    args.strategy = match scoring.r#type.as_deref().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => shape(scoring.requested_to_capacity_ratio.unwrap_or_default(), &at)?,
        other => {
            return Err(format!(
                "{at}.type: there is no {other:?}; there are LeastAllocated, MostAllocated and RequestedToCapacityRatio"
            ));
        }
    };
    let resources = weighted(scoring.resources, &format!("{at}.resources"))?;
    if !resources.is_empty() {
        args.resources = resources;
    }
    Ok(args)
}

fn shape(ratio: Ratio, at: &str) -> Result<Strategy, String> {
    let at = format!("{at}.requestedToCapacityRatio.shape");
    if ratio.shape.is_empty() {
        return Err(format!("{at}: at least one point is needed"));
    }
    let mut last = -1;
    for Point { utilization, score } in &ratio.shape {
        if !(0..=100).contains(utilization) || *utilization <= last {
            return Err(format!("{at}: utilizations rise from 0 to 100, and {utilization} does not"));
        }
        if !(0..=MAX_SHAPE_SCORE).contains(score) {
            return Err(format!("{at}: the score {score} is not between 0 and {MAX_SHAPE_SCORE}"));
        }
        last = *utilization;
    }
    let scale = crate::plugin::MAX_SCORE / MAX_SHAPE_SCORE;
    let points = ratio.shape.iter().map(|point| (point.utilization, point.score * scale));
    Ok(Strategy::RequestedToCapacityRatio(points.collect()))
}

fn spread(given: SpreadArgs, at: &str) -> Result<Defaulting, String> {
    match given.defaulting_type.as_deref().unwrap_or("System") {
        "System" if !given.default_constraints.is_empty() => {
            Err(format!("{at}.defaultConstraints: with defaultingType System there are none; List takes them"))
        }
        "System" => Ok(Defaulting::System),
        "List" => {
            for constraint in &given.default_constraints {
                if constraint.label_selector.is_some() {
                    return Err(format!("{at}.defaultConstraints: a default constraint has no labelSelector"));
                }
                if constraint.max_skew < 1 || constraint.topology_key.is_empty() {
                    return Err(format!("{at}.defaultConstraints: maxSkew of at least 1 and a topologyKey are needed"));
                }
                if !["DoNotSchedule", "ScheduleAnyway"].contains(&constraint.when_unsatisfiable.as_str()) {
                    return Err(format!(
                        "{at}.defaultConstraints: whenUnsatisfiable is DoNotSchedule or ScheduleAnyway"
                    ));
                }
            }
            Ok(Defaulting::List(given.default_constraints))
        }
        other => Err(format!("{at}.defaultingType: there is no {other:?}; there are System and List")),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
