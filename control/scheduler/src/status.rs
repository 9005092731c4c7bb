//! The results of plugins, and why nodes rejected a pod. Pure, except for the errors of calls.

use crate::{node::NodeInfo, snapshot::Snapshot};
use std::borrow::Cow;

/// Why a node (or the whole cluster) rejects a pod, with upstream's text.
pub type Reason = Cow<'static, str>;

/// One or several of them. A constant allocates nothing, so that a filter can reject thousands of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// One.
    One(Reason),
    /// None, or more than one.
    Several(Vec<Reason>),
}

impl Reasons {
    /// All of them.
    pub fn all(&self) -> &[Reason] {
        match self {
            Self::One(reason) => std::slice::from_ref(reason),
            Self::Several(reasons) => reasons,
        }
    }

    /// Adds one.
    pub fn push(&mut self, reason: Reason) {
        *self = match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::Several(none) if none.is_empty() => Self::One(reason),
            Self::Several(mut reasons) => {
                reasons.push(reason);
                Self::Several(reasons)
            }
            Self::One(first) => Self::Several(vec![first, reason]),
        };
    }
}

impl Default for Reasons {
    /// None.
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl From<&'static str> for Reasons {
    fn from(reason: &'static str) -> Self {
        Self::One(reason.into())
    }
}

impl From<String> for Reasons {
    fn from(reason: String) -> Self {
        Self::One(reason.into())
    }
}

impl From<Vec<Reason>> for Reasons {
    fn from(reasons: Vec<Reason>) -> Self {
        match <[Reason; 1]>::try_from(reasons) {
            Ok([one]) => Self::One(one),
            Err(reasons) => Self::Several(reasons),
        }
    }
}

impl From<Reason> for Reasons {
    fn from(reason: Reason) -> Self {
        Self::One(reason)
    }
}

/// The result of a filter for one pod on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The pod fits.
    Success,
    /// The pod does not fit; it may if pods are removed.
    Unschedulable(Reasons),
    /// The pod does not fit, even if pods are removed.
    UnschedulableAndUnresolvable(Reasons),
}

impl Status {
    /// The reasons; empty for success.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Success => &[],
            Self::Unschedulable(reasons) | Self::UnschedulableAndUnresolvable(reasons) => reasons.all(),
        }
    }
}

/// Why an assumed pod is not bound: the result of reserve, permit, preBind or bind.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The plugin rejects the pod, which waits for an event that may help ([`crate::Plugin::wakes_on`]).
    #[error("{0}")]
    Unschedulable(Reason),
    /// An error. The pod is tried again after its back-off.
    #[error("{0}")]
    Error(String),
    /// A failed call, handled as [`Failure::Error`]. A 404 or 409 may be about any object that a plugin asked for: only the plugin that
    /// binds knows whether it is about the pod, and then returns one of the next two.
    #[error("{0}")]
    Api(#[from] client::Error),
    /// Another client has bound or changed the pod: it is tried again after its back-off, unless it is bound. No event is recorded.
    #[error("the pod was bound by another, or changed meanwhile")]
    Taken,
    /// The pod is gone, or the scheduler stops. No event is recorded.
    #[error("canceled")]
    Canceled,
}

impl Failure {
    /// Whether the pod no longer exists.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Canceled)
    }
}

/// Why nodes rejected a pod in preFilter and filter. `NodeToStatus` upstream.
pub struct NodeToStatus<'a> {
    snapshot: &'a Snapshot,
    refused: Vec<(&'a NodeInfo, Status)>,
    /// The status of nodes that were not filtered.
    absent: Status,
}

impl<'a> NodeToStatus<'a> {
    /// For the nodes of a snapshot, without any rejection yet.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, refused: Vec::new(), absent: Status::UnschedulableAndUnresolvable(Reasons::default()) }
    }

    /// The snapshot with all nodes.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// The nodes that a filter rejected.
    pub fn refused(&self) -> impl Iterator<Item = (&'a NodeInfo, &Status)> {
        self.refused.iter().map(|(node, status)| (*node, status))
    }

    /// The status of a node.
    pub fn get(&self, name: &str) -> &Status {
        self.refused.iter().find(|(node, _)| node.name() == name).map_or(&self.absent, |(_, status)| status)
    }

    /// The nodes that are only [`Status::Unschedulable`]: the pod may fit there if pods are removed.
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

    /// The counts of reasons as upstream prints them, sorted as text.
    pub(crate) fn histogram(&self) -> String {
        // a few different reasons of thousands of nodes: a list is faster than a map
        let mut counts: Vec<(&str, usize)> = Vec::new();
        let mut count = |reason, more: usize| match counts.iter_mut().find(|(known, _)| is_same(known, reason)) {
            Some((_, count)) => *count += more,
            None => counts.push((reason, more)),
        };
        self.refused.iter().flat_map(|(_, status)| status.reasons()).for_each(|reason| count(reason, 1));
        let absent = self.snapshot.count() - self.refused.len();
        self.absent.reasons().iter().filter(|_| absent > 0).for_each(|reason| count(reason, absent));
        join(counts.into_iter().map(|(reason, count)| (count, reason)))
    }
}

/// Whether texts are equal; those of plugins are mostly the same constant.
fn is_same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// `2 Insufficient cpu, 1 Too many pods`, sorted as text.
pub(crate) fn join<'a>(counts: impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut parts: Vec<String> = counts.map(|(count, reason)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}
