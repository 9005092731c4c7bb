//! The one trait of scheduling plugins, with upstream's extension points.
//!
//! # How to add a plugin
//! A file in `plugins/` with a type that implements [`Plugin`] under upstream's name, and a line in the list of `plugins/mod.rs`, whose order
//! is upstream's. Every method has a default that does nothing: write those that the rule needs. The trait has two halves:
//! * *Up to reserve* the methods are synchronous, cheap and pure: they see the pod, a [`Snapshot`] of the cluster and what the plugin wrote
//!   into the [`CycleState`]. They run outside every lock, one pod after another.
//!   A sum over all pods is kept from cycle to cycle ([`crate::tally`]), not computed in each.
//! * *After the pod is assumed* they get a [`Handle`], with which they may call the API and wait; pods proceed concurrently, and the next
//!   decision does not wait for them. After a failure there, [`Plugin::unreserve`] undoes what [`Plugin::reserve`] did.
//!
//! ```
//! use scheduler::{CycleState, Event, Plugin, Snapshot, Status, node::NodeInfo, plugin::PreFilter, pod::PodInfo};
//!
//! /// Keeps nodes from taking more than their share of all pods, and one.
//! struct FairShare;
//!
//! /// What is worked out once per cycle.
//! struct Most(usize);
//!
//! impl Plugin for FairShare {
//!     fn name(&self) -> &'static str {
//!         "FairShare"
//!     }
//!
//!     fn pre_filter(&self, state: &mut CycleState, _: &PodInfo, nodes: &Snapshot) -> PreFilter {
//!         let pods: usize = nodes.iter().map(|node| node.pods.len()).sum();
//!         state.write(Most(pods / nodes.count().max(1) + 1));
//!         PreFilter::AllNodes
//!     }
//!
//!     fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
//!         match state.read::<Most>() {
//!             Some(Most(most)) if node.pods.len() >= *most => Status::Unschedulable("node(s) had their share".into()),
//!             _ => Status::Success,
//!         }
//!     }
//!
//!     fn wakes_on(&self, event: &Event<'_>, _: &PodInfo) -> bool {
//!         matches!(event, Event::NodeAdded(_) | Event::PodRemoved(_))
//!     }
//! }
//! ```
//!
//! The tests in `framework_tests` hold a small plugin for each extension point. See also
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>.

use crate::{
    cycle_state::CycleState,
    handle::{Cycle, Handle},
    node::NodeInfo,
    pod::PodInfo,
    snapshot::Snapshot,
    status::{Failure, NodeToStatus, Reason, Status},
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// The highest score of a node.
pub const MAX_SCORE: i64 = 100;

/// The result of [`Plugin::pre_filter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// All nodes are filtered.
    AllNodes,
    /// Only these nodes are filtered; the others are unresolvable.
    Nodes(BTreeSet<String>),
    /// The filter of this plugin is not called for the pod.
    Skip,
    /// No node fits; one may if pods are removed.
    Unschedulable(Reason),
    /// No node fits, even if pods are removed.
    UnschedulableAndUnresolvable(Reason),
}

/// The result of [`Plugin::post_filter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostFilter {
    /// The plugin has no opinion.
    Skip,
    /// The pod fits on this node (`status.nominatedNodeName`) after [`Plugin::preempt`].
    Nominated(String),
    /// Preemption does not help, for this reason.
    Unschedulable(Reason),
    /// As [`PostFilter::Unschedulable`], also on the node that the pod was nominated to, if there is one: it no longer is.
    Cleared(Reason),
}

/// The result of [`Plugin::pre_score`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreScore {
    /// The plugin scores the nodes.
    Score,
    /// All nodes are equal to this plugin: it does not score them.
    Skip,
}

/// The result of [`Plugin::permit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The pod may be bound.
    Allow,
    /// The pod waits until [`crate::WaitingPods::allow`]; after this time it is rejected.
    Wait(Duration),
    /// The pod is not bound.
    Reject(Reason),
}

/// The future of an asynchronous extension point. All but bind are dropped unfinished when the scheduler stops.
pub type Task<'a> = BoxFuture<'a, Result<(), Failure>>;

/// A change in the cluster that may make a rejected pod fit.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A node was added.
    NodeAdded(&'a Node),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: &'a Node,
        /// After.
        new: &'a Node,
    },
    /// A node was removed.
    NodeRemoved(&'a Node),
    /// A pod was bound to a node.
    PodAdded(&'a PodInfo),
    /// The labels of a bound pod changed.
    PodChanged {
        /// Before.
        old: &'a PodInfo,
        /// After.
        new: &'a PodInfo,
    },
    /// A pod was removed from a node: deleted, finished, with smaller requests than before, or no longer nominated to the node.
    PodRemoved(&'a PodInfo),
    /// A PersistentVolumeClaim, a PersistentVolume or a StorageClass changed.
    VolumesChanged,
    /// The rejected pod itself changed.
    PodUpdated,
    /// The pod has waited long, without a known change.
    Timeout,
}

/// One rule of scheduling; see the module.
///
/// Life cycle of a pod: [`Plugin::pre_enqueue`] admits it to the queue or holds it back. In its scheduling cycle [`Plugin::pre_filter`] runs
/// once, [`Plugin::filter`] per node until a plugin rejects the node. If no node is left, [`Plugin::post_filter`] runs, and the pod waits until
/// [`Plugin::wakes_on`] of a plugin that rejected it says that an event may help. If several are left, [`Plugin::pre_score`] runs once,
/// [`Plugin::score`] per node and [`Plugin::normalize_score`] once. The pod is assumed on the best node; [`Plugin::reserve`] and
/// [`Plugin::permit`] run. In its binding cycle the pod waits for permit, then [`Plugin::pre_bind`], [`Plugin::bind`] and
/// [`Plugin::post_bind`] run.
///
/// At each extension point the plugins run in the order of the list, in unreserve in the reverse order.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The weight of this plugin's score; 0 for a plugin that does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// The fields that are honoured only with this plugin, as `kubectl explain` names them (`pod.spec.topologySpreadConstraints`): users get no
    /// warning about them.
    fn honours(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the pod may enter the queue.
    fn pre_enqueue(&self, pod: &PodInfo) -> bool {
        let _ = pod;
        true
    }

    /// Runs once before filter: rejects the pod, narrows the nodes, or computes state for filter.
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        let _ = (state, pod, snapshot);
        PreFilter::AllNodes
    }

    /// Whether the pod may run on the node.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let _ = (state, pod, node);
        Status::Success
    }

    /// Whether the filter depends on nothing but the node with its pods and, of the pod, on requests, host ports, node name, node selector,
    /// node affinity and tolerations. What a dry run of preemption found then holds for the next such pod, until the node changes.
    fn is_local(&self) -> bool {
        false
    }

    /// Changes the state for [`Plugin::filter`] as if `other` were on `node` as well. `PreFilterExtensions` upstream, as the next one.
    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        let _ = (state, pod, other, node);
    }

    /// Changes the state for [`Plugin::filter`] as if `other` were not on `node`.
    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo) {
        let _ = (state, pod, other, node);
    }

    /// Runs when no node fits. Nominates a node where the pod can fit, and writes into `state` what [`Plugin::preempt`] has to do. The
    /// first plugin that nominates a node ends the search. `filters` say what would fit if pods were gone.
    fn post_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        statuses: &NodeToStatus<'_>,
        filters: &Filters<'_>,
    ) -> PostFilter {
        let _ = (state, pod, statuses, filters);
        PostFilter::Skip
    }

    /// Deletes pods on the node that this plugin nominated. `None`: there is nothing to do.
    fn preempt<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// Runs once before score, with the nodes that fit (`nodes`) and all (`snapshot`). Not called with weight 0.
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        let _ = (state, pod, nodes, snapshot);
        PreScore::Score
    }

    /// The score of the node, in 0..=[`MAX_SCORE`], or in any range that [`Plugin::normalize_score`] maps to it.
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let _ = (state, pod, node);
        0
    }

    /// Maps the scores of `nodes`, in their order, to 0..=[`MAX_SCORE`].
    fn normalize_score(&self, state: &CycleState, pod: &PodInfo, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let _ = (state, pod, nodes, scores);
    }

    /// Reserves in memory what else the pod needs on the node on which it is assumed.
    ///
    /// # Errors
    /// The pod is rejected; all plugins unreserve.
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &str) -> Result<(), Failure> {
        let _ = (state, pod, node);
        Ok(())
    }

    /// Undoes [`Plugin::reserve`] and the extension points after it. Called for all plugins whenever an assumed pod is not bound; it must be
    /// idempotent, and do nothing where reserve was not called.
    fn unreserve(&self, handle: &Handle, cycle: &Cycle) {
        let _ = (handle, cycle);
    }

    /// Allows the pod, rejects it, or makes it wait. It must be quick: the next decision waits for it.
    fn permit(&self, handle: &Handle, cycle: &Cycle) -> Permit {
        let _ = (handle, cycle);
        Permit::Allow
    }

    /// Prepares the binding, for example provisions a volume. `None`: there is nothing to do (`Skip` upstream).
    fn pre_bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// Binds the pod. `None`: another plugin binds it. Only the first plugin that binds is used.
    fn bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// Runs after the pod is bound.
    fn post_bind(&self, handle: &Handle, cycle: &Cycle) {
        let _ = (handle, cycle);
    }

    /// Whether [`Plugin::wakes_on`] may say yes to an event of this kind, for any pod: pods wait in thousands, and most events concern few
    /// plugins.
    fn listens(&self, event: &Event<'_>) -> bool {
        let _ = event;
        true
    }

    /// Whether `event` may make `pod` fit, which this plugin rejected.
    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        let _ = pod;
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::PodUpdated)
    }
}

/// The filters of a cycle: those of the plugins that did not skip it.
pub struct Filters<'a> {
    plugins: Vec<&'a dyn Plugin>,
    snapshot: &'a Snapshot,
}

impl<'a> Filters<'a> {
    /// The filters of these plugins.
    pub fn new(plugins: Vec<&'a dyn Plugin>, snapshot: &'a Snapshot) -> Self {
        Self { plugins, snapshot }
    }

    /// Why the pod may not run on the node, and which plugin says so. Pods of at least its priority that are nominated to the node count as
    /// running there; the pod must also fit without them, because they may end up on another node.
    pub fn refusal(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Option<(&'static str, Status)> {
        let nominated = self.snapshot.nominated(node.name());
        let nominated = || nominated.iter().filter(|p| p.priority >= pod.priority && p.uid() != pod.uid());
        if nominated().next().is_some() {
            let (mut with, mut full) = (state.clone(), node.clone());
            nominated().for_each(|other| self.add(&mut with, pod, other.clone(), &mut full));
            if let Some(refusal) = self.run(&with, pod, &full) {
                return Some(refusal);
            }
        }
        self.run(state, pod, node)
    }

    /// Whether all filters are local ([`Plugin::is_local`]).
    pub fn are_local(&self) -> bool {
        self.plugins.iter().all(|plugin| plugin.is_local())
    }

    /// Whether pods are nominated to a node, which count there for some pods.
    pub fn has_nominated(&self, node: &NodeInfo) -> bool {
        !self.snapshot.nominated(node.name()).is_empty()
    }

    fn run(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Option<(&'static str, Status)> {
        self.plugins.iter().find_map(|plugin| match plugin.filter(state, pod, node) {
            Status::Success => None,
            status => Some((plugin.name(), status)),
        })
    }

    /// Adds a pod to a copy of a node, and to the state of the plugins.
    pub fn add(&self, state: &mut CycleState, pod: &PodInfo, other: Arc<PodInfo>, node: &mut NodeInfo) {
        node.add(other.clone());
        self.plugins.iter().for_each(|plugin| plugin.add_pod(state, pod, &other, node));
    }

    /// Removes a pod from a copy of a node, and from the state of the plugins.
    pub fn remove(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &mut NodeInfo) {
        node.remove(other.uid());
        self.plugins.iter().for_each(|plugin| plugin.remove_pod(state, pod, other, node));
    }
}

/// Runs code of a plugin; `None` after a panic.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Scales scores so that the highest becomes [`MAX_SCORE`]; `reverse` makes the lowest the best.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { *score * MAX_SCORE / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// The plugins of a scheduler, in upstream's order: the first that rejects a node gives the reason.
pub type Plugins = Arc<[Box<dyn Plugin>]>;
