//! Profiles: under which names pods are scheduled, and with which plugins at which extension points. They share the queue and the cache, so that
//! pods of one see those of the others.

use crate::{
    cycle_state::CycleState,
    handle::{Cycle, Handle},
    node::NodeInfo,
    plugin::{Event, Filters, Permit, Plugin, Plugins, PostFilter, PreFilter, PreScore, Task},
    pod::PodInfo,
    snapshot::Snapshot,
    status::{Failure, NodeToStatus, Status},
};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// The name of the scheduler of pods that name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// How pods of one scheduler name are scheduled.
pub struct Profile {
    /// `spec.schedulerName` of its pods.
    pub name: String,
    /// Its plugins.
    pub plugins: Plugins,
    /// `percentageOfNodesToScore`, 0 to 100; 0: the larger the cluster, the fewer percent.
    pub percentage: usize,
}

/// All profiles of a scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Profiles(Arc<[Profile]>);

impl Profiles {
    /// With these profiles, each of another name.
    pub fn new(profiles: Vec<Profile>) -> Self {
        Self(profiles.into())
    }

    /// All of them.
    pub fn all(&self) -> &[Profile] {
        &self.0
    }

    /// The index of a pod's profile; `None`: another scheduler is responsible for the pod.
    pub fn index(&self, pod: &Pod) -> Option<usize> {
        let name = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        let name = name.unwrap_or(DEFAULT_NAME);
        self.0.iter().position(|profile| profile.name == name)
    }

    /// The plugins for a pod; the first profile's if another scheduler is responsible for it.
    pub fn plugins(&self, pod: &Pod) -> &Plugins {
        &self.0[self.index(pod).unwrap_or(0)].plugins
    }
}

impl From<Plugins> for Profiles {
    /// One profile with the default name.
    fn from(plugins: Plugins) -> Self {
        Self::new(vec![Profile { name: DEFAULT_NAME.to_owned(), plugins, percentage: 0 }])
    }
}

/// The extension points of a plugin, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points(u16);

/// The names of the extension points in a configuration, without `queueSort` and `multiPoint`.
pub(crate) const POINTS: [&str; 11] = [
    "preEnqueue",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];

impl Points {
    /// Every extension point.
    pub const ALL: Self = Self((1 << POINTS.len()) - 1);

    fn bit(name: &str) -> u16 {
        POINTS.iter().position(|point| *point == name).map_or(0, |index| 1 << index)
    }

    /// Whether the point is in the set.
    pub fn has(self, name: &str) -> bool {
        self.0 & Self::bit(name) != 0
    }

    /// Adds a point.
    pub fn add(&mut self, name: &str) {
        self.0 |= Self::bit(name);
    }

    /// Removes a point.
    pub fn remove(&mut self, name: &str) {
        self.0 &= !Self::bit(name);
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A plugin at some of its extension points, with another weight.
pub(crate) struct Selected {
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) points: Points,
    pub(crate) weight: i64,
}

impl Plugin for Selected {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn weight(&self) -> i64 {
        if self.points.has("score") { self.weight } else { 0 }
    }

    fn honours(&self) -> &'static [&'static str] {
        self.plugin.honours()
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> bool {
        !self.points.has("preEnqueue") || self.plugin.pre_enqueue(pod)
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        match (self.points.has("preFilter"), self.points.has("filter")) {
            (true, _) => self.plugin.pre_filter(state, pod, snapshot),
            (false, true) => PreFilter::AllNodes,
            (false, false) => PreFilter::Skip,
        }
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if self.points.has("filter") { self.plugin.filter(state, pod, node) } else { Status::Success }
    }

    fn is_local(&self) -> bool {
        self.plugin.is_local()
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        self.plugin.add_pod(state, pod, other, node);
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        self.plugin.remove_pod(state, pod, other, node);
    }

    fn post_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        statuses: &NodeToStatus<'_>,
        filters: &Filters<'_>,
    ) -> PostFilter {
        match self.points.has("postFilter") {
            true => self.plugin.post_filter(state, pod, statuses, filters),
            false => PostFilter::Skip,
        }
    }

    fn preempt<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        self.plugin.preempt(handle, cycle)
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        match self.points.has("preScore") {
            true => self.plugin.pre_score(state, pod, nodes, snapshot),
            false => PreScore::Score,
        }
    }

    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        self.plugin.score(state, pod, node)
    }

    fn normalize_score(&self, state: &CycleState, pod: &PodInfo, nodes: &[&NodeInfo], scores: &mut [i64]) {
        self.plugin.normalize_score(state, pod, nodes, scores);
    }

    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &str) -> Result<(), Failure> {
        if self.points.has("reserve") { self.plugin.reserve(state, pod, node) } else { Ok(()) }
    }

    fn unreserve(&self, handle: &Handle, cycle: &Cycle) {
        self.plugin.unreserve(handle, cycle);
    }

    fn permit(&self, handle: &Handle, cycle: &Cycle) -> Permit {
        if self.points.has("permit") { self.plugin.permit(handle, cycle) } else { Permit::Allow }
    }

    fn pre_bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        if self.points.has("preBind") { self.plugin.pre_bind(handle, cycle) } else { None }
    }

    fn bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        if self.points.has("bind") { self.plugin.bind(handle, cycle) } else { None }
    }

    fn post_bind(&self, handle: &Handle, cycle: &Cycle) {
        if self.points.has("postBind") {
            self.plugin.post_bind(handle, cycle);
        }
    }

    fn listens(&self, event: &Event<'_>) -> bool {
        self.plugin.listens(event)
    }

    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        self.plugin.wakes_on(event, pod)
    }
}
