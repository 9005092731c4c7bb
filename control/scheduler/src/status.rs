//! What plugins answer, and why nodes refused a pod. Pure, but for the errors of calls.

use crate::{node::NodeInfo, snapshot::Snapshot};
use std::{borrow::Cow, collections::BTreeMap};

/// Why a node (or the whole cluster) refuses a pod, in upstream's words.
pub type Reason = Cow<'static, str>;

/// What a plugin says about one pod on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It may run there.
    Success,
    /// Not now: it could if pods went away.
    Unschedulable(Vec<Reason>),
    /// Not whatever pods go away.
    UnschedulableAndUnresolvable(Vec<Reason>),
}

impl Status {
    /// Why not; empty for success.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Success => &[],
            Self::Unschedulable(reasons) | Self::UnschedulableAndUnresolvable(reasons) => reasons,
        }
    }
}

/// Why a pod that was given a node does not get it: from reserve, permit, preBind, bind.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The plugin refuses the pod. It waits for an event that may help ([`crate::Plugin::wakes_on`]).
    #[error("{0}")]
    Unschedulable(Reason),
    /// Something went wrong. The pod is tried again after its back-off.
    #[error("{0}")]
    Error(String),
    /// A call failed; as [`Failure::Error`]. What is not found, or in conflict, may be anything that a plugin asked for: only the plugin
    /// that binds knows whether it is the pod, and then answers with one of the next two.
    #[error("{0}")]
    Api(#[from] client::Error),
    /// Somebody else bound the pod, or it changed: it is tried again after its back-off, unless it turns out to be bound. Nobody is told.
    #[error("the pod was bound by another, or changed meanwhile")]
    Taken,
    /// The pod is gone, or the scheduler stops: nobody is told.
    #[error("canceled")]
    Canceled,
}

impl Failure {
    /// Whether the pod does not exist any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Canceled)
    }
}

/// Why nodes refused a pod in preFilter and filter. `NodeToStatus` upstream.
pub struct NodeToStatus<'a> {
    snapshot: &'a Snapshot,
    refused: Vec<(&'a NodeInfo, Status)>,
    /// Of the nodes that no filter looked at.
    absent: Status,
}

impl<'a> NodeToStatus<'a> {
    /// Of the nodes of a snapshot, none of which refused yet.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, refused: Vec::new(), absent: Status::UnschedulableAndUnresolvable(Vec::new()) }
    }

    /// The nodes it is about, and all others.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// The nodes that a filter refused.
    pub fn refused(&self) -> impl Iterator<Item = (&'a NodeInfo, &Status)> {
        self.refused.iter().map(|(node, status)| (*node, status))
    }

    /// The nodes that are only [`Status::Unschedulable`]: there it could help if pods went away.
    pub fn resolvable(&self) -> Vec<&'a NodeInfo> {
        let resolvable = |status: &Status| matches!(status, Status::Unschedulable(_));
        let looked_at = self.refused.iter().filter(|(_, status)| resolvable(status)).map(|(node, _)| *node);
        if !resolvable(&self.absent) {
            return looked_at.collect();
        }
        let seen = |node: &NodeInfo| self.refused.iter().any(|(other, _)| std::ptr::eq(*other, node));
        looked_at.chain(self.snapshot.iter().filter(|node| !seen(node))).collect()
    }

    pub(crate) fn refuse(&mut self, node: &'a NodeInfo, status: Status) {
        self.refused.push((node, status));
    }

    pub(crate) fn set_absent(&mut self, status: Status) {
        self.absent = status;
    }

    /// How many nodes say what, as upstream prints it: counts and reasons sorted as text.
    pub(crate) fn histogram(&self) -> String {
        let mut counts: BTreeMap<&Reason, usize> = BTreeMap::new();
        for reason in self.refused.iter().flat_map(|(_, status)| status.reasons()) {
            *counts.entry(reason).or_default() += 1;
        }
        let absent = self.snapshot.count() - self.refused.len();
        for reason in self.absent.reasons().iter().filter(|_| absent > 0) {
            *counts.entry(reason).or_default() += absent;
        }
        join(counts.into_iter().map(|(reason, count)| (count, &**reason)))
    }
}

/// `2 Insufficient cpu, 1 Too many pods`, sorted as text.
pub(crate) fn join<'a>(counts: impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut parts: Vec<String> = counts.map(|(count, reason)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}
