//! Pods on their way back after a restart of the process: which of them starts when, and what the API is told meanwhile.
//!
//! They go ahead of everything that can wait. A few are started at a time, since thousands at once would each wait for all others in every step
//! of their start; and a pod that runs again lets those pass that do not yet, before its status is written: the API shows it as ready all the
//! time.

use client::meta::controller_of;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many pods are started again at a time. So many that run again are also a sign that the others follow.
pub(crate) const RETURNING_PODS: usize = 64;
/// How long pods that run again wait for the others before the API is told.
const MAX_RETURN_DELAY: Duration = Duration::from_secs(10);

/// Pods whose status in the API was sent by an earlier process.
#[derive(Default)]
pub(crate) struct FirstReports {
    uids: HashSet<String>,
    /// Those that are still on their way back: they neither run again nor wait for something else than their turn.
    returning: HashSet<String>,
    /// How many are not any more.
    returned: usize,
    /// When the last one returned.
    last: Option<Instant>,
    /// Until when those that have returned wait for the others.
    deadline: Option<Instant>,
    signs: Signs,
}

/// What others wait for after a restart of the process.
#[derive(Clone, Default)]
pub(crate) struct Signs {
    /// Cancelled when the first pods have returned, or all are reported.
    pub(crate) first: CancellationToken,
    /// Cancelled when no pod is on its way back.
    pub(crate) all: CancellationToken,
    /// Cancelled when the API has a status of each pod from this process.
    pub(crate) reported: CancellationToken,
}

impl Signs {
    /// Gives all of them.
    pub(crate) fn give(&self) {
        [&self.first, &self.all, &self.reported].into_iter().for_each(CancellationToken::cancel);
    }

    /// Gives all of them when it is dropped.
    pub(crate) fn guard(&self) -> [DropGuard; 3] {
        [&self.first, &self.all, &self.reported].map(|sign| sign.clone().drop_guard())
    }
}

impl FirstReports {
    /// Expects that these pods return.
    pub(crate) fn new(uids: HashSet<String>, signs: Signs) -> Self {
        if uids.is_empty() {
            signs.give();
        }
        let (returning, deadline) = (uids.clone(), Some(Instant::now() + MAX_RETURN_DELAY));
        Self { uids, returning, returned: 0, last: None, deadline, signs }
    }

    /// The number of pods that are still on their way back.
    pub(crate) fn returning(&self) -> usize {
        self.returning.len()
    }

    /// Whether a pod is still on its way back.
    pub(crate) fn returns(&self, uid: &str) -> bool {
        self.returning.contains(uid)
    }

    /// Whether the API has only what an earlier process said of a pod.
    pub(crate) fn expects(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    /// When the last pod returned.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// If pods are on their way back that the others wait for: until when at most, and what is cancelled when they have returned.
    pub(crate) fn others(&self) -> Option<(Instant, CancellationToken)> {
        let deadline = self.deadline.filter(|deadline| !self.returning.is_empty() && Instant::now() < *deadline)?;
        Some((deadline, self.signs.all.clone()))
    }

    /// Records that the API has a status of a pod from this process, or will get none.
    pub(crate) fn mark_reported(&mut self, uid: &str, one_returned: &Notify) {
        self.mark_returned(uid, one_returned);
        if self.uids.remove(uid) && self.uids.is_empty() {
            self.signs.give();
        }
    }

    /// Records that a pod is not on its way back any more.
    pub(crate) fn mark_returned(&mut self, uid: &str, one_returned: &Notify) {
        if !self.returning.remove(uid) {
            return;
        }
        self.last = Some(Instant::now());
        self.returned += 1;
        one_returned.notify_one();
        if self.returned >= RETURNING_PODS {
            self.signs.first.cancel();
        }
        if self.returning.is_empty() {
            self.signs.all.cancel();
        }
    }
}

/// The turn in which each of these pods starts again: the first one of each owner before the second of any, so that each Service soon has an
/// endpoint that answers. New ones come last.
pub(crate) fn turns(pods: &[Arc<Pod>], is_new: impl Fn(&Pod) -> bool) -> Vec<usize> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut turns = Vec::with_capacity(pods.len());
    for pod in pods {
        turns.push(match controller_of(&pod.metadata) {
            _ if is_new(pod) => usize::MAX,
            Some(owner) => {
                let before = seen.entry(&owner.uid).or_default();
                *before += 1;
                *before - 1
            }
            None => 0,
        });
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod;
    use serde_json::json;

    #[test]
    fn the_first_pod_of_each_owner_starts_before_the_second_of_any() {
        let pod = |name: &str, owner: Option<&str>| {
            let owner = owner.map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}));
            let pod = json!({"metadata": {"name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let pods = [
            pod("a", Some("one")),
            pod("b", Some("one")),
            pod("c", Some("one")),
            pod("d", Some("two")),
            pod("e", None),
            pod("f", Some("two")),
            pod("g", None),
            pod("new", Some("three")),
        ];
        assert_eq!(turns(&pods, |pod| pod::name(pod) == "new"), [0, 1, 2, 0, 0, 1, 0, usize::MAX]);
    }
}
