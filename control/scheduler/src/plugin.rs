//! The one trait of scheduling plugins, with upstream's extension points.
//!
//! # How to add a plugin
//! A file in `plugins/` with a type that implements [`Plugin`] under upstream's name, and a line in the list of `plugins/mod.rs`, whose order
//! is upstream's. Every method has a default that does nothing: write those that the rule needs. The seam has two halves:
//! * *Up to reserve* the methods are synchronous, cheap and pure: they see the pod, a [`Snapshot`] of the cluster and what the plugin wrote
//!   into the [`CycleState`]. They run outside every lock, one pod after another.
//! * *After the pod was assumed* they get a [`Handle`], with which they may call the API and wait; each pod goes on by itself, and the next
//!   decision does not wait for it. Whatever fails there, [`Plugin::unreserve`] takes back what [`Plugin::reserve`] did.
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
//!             Some(Most(most)) if node.pods.len() >= *most => Status::Unschedulable(vec!["node(s) had their share".into()]),
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

/// The best score of a node.
pub const MAX_SCORE: i64 = 100;

/// What [`Plugin::pre_filter`] says about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// Filter looks at all nodes.
    AllNodes,
    /// Filter looks at no other nodes than these; others are refused for good.
    Nodes(BTreeSet<String>),
    /// This plugin's filter has nothing to say about the pod, and is not called.
    Skip,
    /// No node takes the pod; one could if pods went away.
    Unschedulable(Reason),
    /// No node takes the pod, whatever pods go away.
    UnschedulableAndUnresolvable(Reason),
}

/// What [`Plugin::post_filter`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostFilter {
    /// Nothing to say.
    Skip,
    /// The pod will fit on this node (`status.nominatedNodeName`) when [`Plugin::preempt`] has made room there.
    Nominated(String),
    /// It cannot be made to fit, why.
    Unschedulable(Reason),
}

/// What [`Plugin::pre_score`] says about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreScore {
    /// The nodes are scored.
    Score,
    /// To this plugin all nodes are alike; its score is not asked.
    Skip,
}

/// What [`Plugin::permit`] says about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may be bound.
    Allow,
    /// Not before the plugin allows it by [`crate::WaitingPods::allow`], nor if that takes longer.
    Wait(Duration),
    /// It is not bound.
    Reject(Reason),
}

/// What an asynchronous extension point does. It is dropped unfinished when the scheduler stops, bind apart.
pub type Task<'a> = BoxFuture<'a, Result<(), Failure>>;

/// A change in the cluster that may make a refused pod fit.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A node is new.
    NodeAdded(&'a Node),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: &'a Node,
        /// After.
        new: &'a Node,
    },
    /// A pod left a node: deleted, finished, or smaller than before.
    PodRemoved(&'a PodInfo),
    /// The refused pod itself changed.
    PodUpdated,
    /// Nothing is known to have changed, but the pod has waited long.
    Timeout,
}

/// One rule of scheduling; see the module.
///
/// Life cycle of a pod: [`Plugin::pre_enqueue`] holds it back or lets it into the queue. In its scheduling cycle [`Plugin::pre_filter`] runs
/// once, [`Plugin::filter`] per node until one plugin refuses it. If no node is left [`Plugin::post_filter`] runs, and the pod waits until
/// [`Plugin::wakes_on`] of a plugin that refused it says that an event may help. If several are left [`Plugin::pre_score`] runs once,
/// [`Plugin::score`] per node and [`Plugin::normalize_score`] once. The pod is assumed on the best node; [`Plugin::reserve`] and
/// [`Plugin::permit`] run. In its binding cycle the pod waits for those who want it to, then [`Plugin::pre_bind`], [`Plugin::bind`] and
/// [`Plugin::post_bind`] run.
///
/// In each extension point the plugins run in the order of the list, in unreserve in the reverse order.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The share of this plugin's score in the sum; 0 for one that does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// The fields that are honoured with this plugin, and are not without it, as `kubectl explain` names them
    /// (`pod.spec.topologySpreadConstraints`): users are not warned of them.
    fn honours(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the pod may enter the queue at all.
    fn pre_enqueue(&self, pod: &PodInfo) -> bool {
        let _ = pod;
        true
    }

    /// Looks at all nodes once before filter does at each: refuses the pod, narrows the nodes, or works out what filter needs.
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> PreFilter {
        let _ = (state, pod, snapshot);
        PreFilter::AllNodes
    }

    /// Whether the pod may run on the node.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let _ = (state, pod, node);
        Status::Success
    }

    /// No node took the pod. Finds one where it will fit, and writes into `state` what [`Plugin::preempt`] has to do for that. The first
    /// plugin that nominates a node ends the search.
    fn post_filter(&self, state: &mut CycleState, pod: &PodInfo, statuses: &NodeToStatus<'_>) -> PostFilter {
        let _ = (state, pod, statuses);
        PostFilter::Skip
    }

    /// Makes room on the node that this plugin nominated: deletes pods there. `None`: there is nothing to do.
    fn preempt<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// Looks once at the nodes that fit (`nodes`) and at all (`snapshot`), before score does at each that fits. Not called with weight 0.
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> PreScore {
        let _ = (state, pod, nodes, snapshot);
        PreScore::Score
    }

    /// How good the node is, in any scale when [`Plugin::normalize_score`] brings it to 0..=[`MAX_SCORE`].
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let _ = (state, pod, node);
        0
    }

    /// Brings the scores of `nodes`, in their order, to 0..=[`MAX_SCORE`].
    fn normalize_score(&self, state: &CycleState, pod: &PodInfo, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let _ = (state, pod, nodes, scores);
    }

    /// The pod was assumed on `node`: takes in memory what else the pod needs there.
    ///
    /// # Errors
    /// The pod does not get the node; all plugins unreserve.
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &str) -> Result<(), Failure> {
        let _ = (state, pod, node);
        Ok(())
    }

    /// Takes back what [`Plugin::reserve`] and what followed did. Called for all plugins whenever a pod that was assumed does not get its
    /// node; it must be idempotent, and do nothing where reserve was not called.
    fn unreserve(&self, handle: &Handle, cycle: &Cycle) {
        let _ = (handle, cycle);
    }

    /// Lets the pod be bound, refuses it, or makes it wait. Quick: the next decision waits for it.
    fn permit(&self, handle: &Handle, cycle: &Cycle) -> Permit {
        let _ = (handle, cycle);
        Permit::Allow
    }

    /// Does what must be done before the pod is bound, for example provides a volume. `None`: there is nothing to do (`Skip` upstream).
    fn pre_bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// Binds the pod. `None`: another plugin does. The first that binds is the only one.
    fn bind<'a>(&'a self, handle: &'a Handle, cycle: &'a Cycle) -> Option<Task<'a>> {
        let _ = (handle, cycle);
        None
    }

    /// The pod was bound.
    fn post_bind(&self, handle: &Handle, cycle: &Cycle) {
        let _ = (handle, cycle);
    }

    /// Whether `event` may make `pod`, which this plugin refused, fit.
    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        let _ = pod;
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::PodUpdated)
    }
}

/// A plugin that panics stops no other: `None` is a panic.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Scales so that the highest becomes [`MAX_SCORE`]; `reverse` makes low good.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { *score * MAX_SCORE / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// The plugins of a scheduler, in upstream's order: the first that refuses a node names the reason.
pub type Plugins = Arc<[Box<dyn Plugin>]>;
