//! Changes that the loop has not handled yet. Informer handlers only add to it.

use crate::{listers::Listers, pod::PodInfo, status::Failure};
use client::{Delta, Informer, Kind};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use parking_lot::Mutex;
use std::{collections::HashMap, mem, sync::Arc};
use tokio::sync::Notify;

/// The inbox of the loop, filled by handlers and binding cycles: the only lock that they share with it, held for a few instructions.
///
/// Bounded: it holds the newest state of each object once, and one outcome per binding cycle. The loop empties it before each decision, also
/// while it waits for a slot.
#[derive(Default)]
pub(crate) struct Inbox {
    updates: Mutex<Updates>,
    /// Notified when something is added.
    pub(crate) changed: Notify,
}

/// The changes since the inbox was last emptied.
#[derive(Default)]
pub(crate) struct Updates {
    pub(crate) namespaces: Changes<Namespace>,
    pub(crate) nodes: Changes<Node>,
    pub(crate) pods: Changes<Pod>,
    /// Whether a claim, a volume or a class changed.
    pub(crate) volumes: bool,
    pub(crate) outcomes: Vec<Outcome>,
}

/// The end of a binding cycle.
pub(crate) enum Outcome {
    /// The pod with this uid is bound.
    Bound(String),
    /// The pod is not bound.
    Failed(Arc<PodInfo>, Rejection),
    /// Preemption for the pod with this uid has ended: all its victims are being deleted, or it failed.
    Preempted {
        /// The pod.
        uid: String,
        /// Whether it failed.
        failed: bool,
    },
}

/// Why an assumed pod is not bound.
pub(crate) struct Rejection {
    /// The plugin that failed or rejected it.
    pub(crate) plugin: &'static str,
    pub(crate) failure: Failure,
}

/// An object's newest state.
pub(crate) struct Change<K> {
    pub(crate) object: Arc<K>,
    /// The object is deleted; this is its last state.
    pub(crate) gone: bool,
}

impl<K> From<&Delta<K>> for Change<K> {
    fn from(delta: &Delta<K>) -> Self {
        Self { object: delta.object().clone(), gone: matches!(delta, Delta::Deleted(_)) }
    }
}

/// The newest state of each changed object, in the order of their first changes.
pub(crate) struct Changes<K> {
    list: Vec<Change<K>>,
    /// Index of an object in `list`, by uid.
    at: HashMap<String, usize>,
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self { list: Vec::new(), at: HashMap::new() }
    }
}

impl<K: Kind> Changes<K> {
    fn push(&mut self, change: Change<K>) {
        let uid = change.object.metadata().uid.clone().unwrap_or_default();
        if let Some(index) = self.at.get(&uid) {
            self.list[*index] = change;
            return;
        }
        self.at.insert(uid, self.list.len());
        self.list.push(change);
    }
}

impl<K> IntoIterator for Changes<K> {
    type Item = Change<K>;
    type IntoIter = std::vec::IntoIter<Change<K>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl Inbox {
    /// Takes everything.
    pub(crate) fn take(&self) -> Updates {
        mem::take(&mut *self.updates.lock())
    }

    /// Adds the outcome of a binding cycle.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.updates.lock().outcomes.push(outcome);
        self.changed.notify_one();
    }

    /// Subscribes to the informers, for as long as the inbox is held elsewhere.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        namespaces: &Informer<Namespace>,
        nodes: &Informer<Node>,
        pods: &Informer<Pod>,
    ) {
        self.follow(namespaces, |updates| &mut updates.namespaces);
        self.follow(nodes, |updates| &mut updates.nodes);
        self.follow(pods, |updates| &mut updates.pods);
    }

    /// Notes changes of claims, volumes and classes, for as long as the inbox is held elsewhere.
    pub(crate) fn subscribe_volumes(self: &Arc<Self>, listers: &Listers) {
        let this = Arc::downgrade(self);
        listers.on_volumes(move || {
            if let Some(this) = this.upgrade() {
                this.updates.lock().volumes = true;
                this.changed.notify_one();
            }
        });
    }

    fn follow<K: Kind>(self: &Arc<Self>, informer: &Informer<K>, changes: fn(&mut Updates) -> &mut Changes<K>) {
        let this = Arc::downgrade(self);
        informer.subscribe(move |delta| {
            if let Some(this) = this.upgrade() {
                changes(&mut this.updates.lock()).push(delta.into());
                this.changed.notify_one();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::WatchEvent;
    use serde_json::json;

    #[test]
    fn the_newest_state_of_each_object_waits_once_in_the_order_of_arrival() {
        let (inbox, pods) = (Arc::new(Inbox::default()), Informer::<Pod>::new());
        inbox.subscribe(&Informer::new(), &Informer::new(), &pods);
        let pod = |name: &str, uid: &str, version: u32| -> Pod {
            let meta = json!({"name": name, "namespace": "d", "uid": uid, "resourceVersion": version.to_string()});
            serde_json::from_value(json!({"metadata": meta})).expect("a pod")
        };
        pods.apply(WatchEvent::Added(pod("a", "1", 1)));
        pods.apply(WatchEvent::Added(pod("b", "2", 2)));
        for version in 3..1000 {
            pods.apply(WatchEvent::Modified(pod("a", "1", version)));
        }
        pods.apply(WatchEvent::Deleted(pod("a", "1", 1000)));
        pods.apply(WatchEvent::Added(pod("a", "3", 1001)));
        let updates: Vec<_> = inbox.take().pods.into_iter().collect();
        let seen: Vec<_> = updates.iter().map(|c| (c.object.metadata.uid.as_deref(), c.gone)).collect();
        assert_eq!(seen, [(Some("1"), true), (Some("2"), false), (Some("3"), false)]);
        assert!(inbox.take().pods.into_iter().next().is_none(), "taken once");
    }
}
