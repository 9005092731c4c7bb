//! The one trait of scheduling plugins, and what they see.

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::api::core::v1::Node;

use crate::{node::NodeInfo, pod::PodInfo};

/// The best score of a node.
pub const MAX_SCORE: i64 = 100;

/// Why a node (or the whole cluster) refuses a pod, in upstream's words.
pub type Reason = Cow<'static, str>;

/// What a plugin says about one pod on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may run there.
    Fit,
    /// Not now: it could if pods went away.
    Unschedulable(Vec<Reason>),
    /// Not whatever pods go away.
    Unresolvable(Vec<Reason>),
}

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

/// One rule of scheduling. All methods are synchronous, cheap and free of side effects: they run for each pod on each node, under the
/// scheduler's lock.
///
/// Life cycle of a pod: [`Plugin::pre_enqueue`] holds it back or lets it into the queue; then in one cycle [`Plugin::pre_filter`] once,
/// [`Plugin::filter`] per node until one plugin refuses it, [`Plugin::score`] per fitting node and [`Plugin::normalize`] once. A refused
/// pod waits until [`Plugin::wakes_on`] of a plugin that refused it says that an event may help.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The share of this plugin's score in the sum.
    fn weight(&self) -> i64 {
        1
    }

    /// Whether the pod may enter the queue at all.
    fn pre_enqueue(&self, pod: &PodInfo) -> bool {
        let _ = pod;
        true
    }

    /// Refuses the pod on all nodes at once, with the reason.
    fn pre_filter(&self, pod: &PodInfo) -> Option<Reason> {
        let _ = pod;
        None
    }

    /// Whether the pod may run on the node.
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Verdict {
        let _ = (pod, node);
        Verdict::Fit
    }

    /// Whether [`Plugin::score`] has anything to say about this pod.
    fn scores(&self, pod: &PodInfo) -> bool {
        let _ = pod;
        false
    }

    /// How good the node is, in any scale when [`Plugin::normalize`] brings it to 0..=100.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let _ = (pod, node);
        0
    }

    /// Brings the scores of all fitting nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, scores: &mut [i64]) {
        let _ = scores;
    }

    /// Whether `event` may make `pod`, which this plugin refused, fit.
    fn wakes_on(&self, event: &Event<'_>, pod: &PodInfo) -> bool {
        let _ = pod;
        matches!(event, Event::NodeAdded(_) | Event::NodeUpdated { .. } | Event::PodUpdated)
    }
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
