//! The ownership graph of objects of all kinds. Pure.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>.

use client::{PartialObjectMetadata, discovery::Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// The finalizer of foreground deletion: the object waits for its blocking dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of orphaning deletion.
pub(crate) const ORPHAN: &str = "orphan";

/// Whether the object waits for the deletion of its blocking dependents.
pub(crate) fn waits_for_dependents(meta: &PartialObjectMetadata) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|f| f == FOREGROUND)
}

/// Whether the dependents of the object are to be orphaned.
pub(crate) fn orphans_dependents(meta: &PartialObjectMetadata) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|f| f == ORPHAN)
}

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its kind.
    pub resource: Arc<Resource>,
    /// Its metadata, which the informer of its kind keeps too.
    pub meta: Arc<PartialObjectMetadata>,
}

impl Node {
    /// The coordinates that a reference to the object must have.
    pub(crate) fn coordinates(&self) -> Coordinates {
        Coordinates {
            api_version: self.resource.api_version(),
            kind: self.resource.kind.clone(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }

    /// Whether an object in `namespace` can have this one as its owner.
    fn is_reachable_from(&self, namespace: &str) -> bool {
        !self.resource.namespaced || self.meta.namespace == namespace
    }

    /// Whether the owner reference of an object in `namespace` means this object: more than the uid must agree.
    pub(crate) fn is(&self, owner: &OwnerReference, namespace: &str) -> bool {
        let (meta, kind) = (&self.meta, &self.resource);
        meta.uid == owner.uid
            && meta.name == owner.name
            && kind.kind == owner.kind
            && kind.api_version() == owner.api_version
            && self.is_reachable_from(namespace)
    }

    /// Whether it has `blockOwnerDeletion` for the owner with this uid.
    fn blocks(&self, uid: &str) -> bool {
        self.meta.owner_references.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
    }
}

/// What must agree between an owner and a reference to it, besides the uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Coordinates {
    /// `group/version`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The consequences of a change of an object.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Tasks to enqueue.
    pub tasks: Vec<Task>,
    /// Objects with an owner reference into another namespace.
    pub misplaced: Vec<(Node, OwnerReference)>,
}

/// One task of the collector, for the object with a uid. Upstream's `attemptToDelete` and `attemptToOrphan` queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// Delete the object if it has no owner any more, or complete its foreground deletion.
    Delete(String),
    /// Orphan the dependents of the object.
    Orphan(String),
}

/// All objects by uid, with edges from owners to dependents.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    /// Coordinates at which no object with the uid exists. Uids are never reused, so this stays true.
    absent: HashMap<String, HashSet<Coordinates>>,
}

impl Graph {
    /// An object by uid.
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d))
    }

    /// The uids of a kind.
    pub(crate) fn of(&self, resource: &Resource) -> Vec<String> {
        self.nodes.iter().filter(|(_, n)| *n.resource == *resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// Adds or updates an object; returns the consequences.
    pub(crate) fn set(&mut self, resource: &Arc<Resource>, meta: impl Into<Arc<PartialObjectMetadata>>) -> Change {
        let meta = meta.into();
        let uid = meta.uid.clone();
        let old = self.nodes.get(&uid).map(|n| n.meta.clone());
        let mut change = Change::default();
        if let Some(old) = &old {
            for owner in &old.owner_references {
                self.unlink(&owner.uid, &uid);
            }
            self.freed(old, &meta, &mut change.tasks);
        }
        for owner in &meta.owner_references {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let node = Node { resource: resource.clone(), meta };
        if old.is_none() {
            self.first_seen(&node, &mut change);
        }
        if old.as_ref().is_none_or(|o| o.owner_references != node.meta.owner_references) {
            self.new_owners(&node, &mut change);
        }
        if waits_for_dependents(&node.meta) && !old.as_ref().is_some_and(|o| waits_for_dependents(o)) {
            change.tasks.push(Task::Delete(uid.clone()));
            change.tasks.extend(self.dependents(&uid).map(|d| Task::Delete(d.meta.uid.clone())));
        }
        // a dependent that starts to wait itself no longer needs to be deleted by its owner
        if orphans_dependents(&node.meta) && !old.as_ref().is_some_and(|o| orphans_dependents(o)) {
            change.tasks.push(Task::Orphan(uid.clone()));
        }
        self.nodes.insert(uid, node);
        change
    }

    /// A new object: dependents whose reference has its uid but other coordinates do not have this owner.
    fn first_seen(&self, node: &Node, change: &mut Change) {
        for dependent in self.dependents(&node.meta.uid) {
            let namespace = &dependent.meta.namespace;
            let mut named = dependent.meta.owner_references.iter().filter(|o| o.uid == node.meta.uid);
            let Some(wrong) = named.find(|o| !node.is(o, namespace)) else { continue };
            if !node.is_reachable_from(namespace) {
                change.misplaced.push((dependent.clone(), wrong.clone()));
            }
            change.tasks.push(Task::Delete(dependent.meta.uid.clone()));
        }
    }

    /// An object with new owner references: it is enqueued if an owner is unknown, has other coordinates, or waits for its dependents.
    fn new_owners(&self, node: &Node, change: &mut Change) {
        let (mut doubted, namespace) = (false, &node.meta.namespace);
        for owner in &node.meta.owner_references {
            match self.nodes.get(&owner.uid) {
                Some(known) if known.is(owner, namespace) => doubted |= waits_for_dependents(&known.meta),
                Some(known) => {
                    doubted = true;
                    if !known.is_reachable_from(namespace) {
                        change.misplaced.push((node.clone(), owner.clone()));
                    }
                }
                None => doubted = true,
            }
        }
        if doubted {
            change.tasks.push(Task::Delete(node.meta.uid.clone()));
        }
    }

    /// Removes a deleted object; returns tasks to enqueue.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<Task> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut tasks: Vec<Task> = self.dependents(uid).map(|d| Task::Delete(d.meta.uid.clone())).collect();
        self.set_absent(uid, node.coordinates());
        for owner in &node.meta.owner_references {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|n| waits_for_dependents(&n.meta)) {
                tasks.push(Task::Delete(owner.uid.clone()));
            }
        }
        tasks
    }

    /// Removes the objects of a kind that is no longer served. They may still be stored, so nothing follows for their dependents.
    pub(crate) fn forget(&mut self, resource: &Resource) {
        for uid in self.of(resource) {
            let Some(node) = self.nodes.remove(&uid) else { continue };
            node.meta.owner_references.iter().for_each(|owner| self.unlink(&owner.uid, &uid));
        }
    }

    /// Records that no object with this uid exists at these coordinates, for as long as some object references the uid.
    pub(crate) fn set_absent(&mut self, uid: &str, at: Coordinates) {
        if !self.nodes.contains_key(uid) && self.dependents.contains_key(uid) {
            self.absent.entry(uid.to_owned()).or_default().insert(at);
        }
    }

    /// Whether the owner is known to be absent, for an object in `namespace`.
    pub(crate) fn is_absent(&self, owner: &OwnerReference, namespace: &str) -> bool {
        let Some(places) = self.absent.get(&owner.uid) else { return false };
        places.iter().any(|at| {
            at.api_version == owner.api_version
                && at.kind == owner.kind
                && at.name == owner.name
                && (at.namespace.is_empty() || at.namespace == namespace)
        })
    }

    /// Whether the object waits for itself, through any number of others.
    fn is_in_circle(&self, uid: &str) -> bool {
        let (mut open, mut seen) = (vec![uid], HashSet::new());
        while let Some(at) = open.pop() {
            for next in self.dependents(at).filter(|d| d.blocks(at) && waits_for_dependents(&d.meta)) {
                if next.meta.uid == uid {
                    return true;
                }
                if seen.insert(&next.meta.uid) {
                    open.push(&next.meta.uid);
                }
            }
        }
        false
    }

    /// Enqueues the owners that `new` no longer blocks.
    fn freed(&self, old: &PartialObjectMetadata, new: &PartialObjectMetadata, tasks: &mut Vec<Task>) {
        let blocks = |m: &PartialObjectMetadata, uid: &str| {
            m.owner_references.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        for owner in old.owner_references.iter().filter(|o| blocks(old, &o.uid) && !blocks(new, &o.uid)) {
            if self.nodes.get(&owner.uid).is_some_and(|n| waits_for_dependents(&n.meta)) {
                tasks.push(Task::Delete(owner.uid.clone()));
            }
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
                self.absent.remove(owner);
            }
        }
    }
}

/// The state of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// It exists.
    Present,
    /// It exists and waits for its dependents.
    Waiting,
    /// It does not exist.
    Dangling,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing.
    Keep,
    /// Remove the references to these owners.
    RemoveOwners(Vec<String>),
    /// Delete it.
    Delete {
        /// Whether its dependents are deleted first.
        foreground: bool,
    },
    /// No dependent blocks it any more: remove the foreground finalizer.
    RemoveFinalizer,
    /// It waits for these blocking dependents, which are enqueued.
    Await(Vec<String>),
    /// It waits for itself: stop blocking its owners.
    Unblock,
}

/// Decides about the live object `meta`, given the state of its owners.
pub(crate) fn decide(graph: &Graph, meta: &PartialObjectMetadata, owners: &[(String, OwnerState)]) -> Decision {
    let uid = &meta.uid;
    if waits_for_dependents(meta) {
        // an object that cannot have this owner does not block it: a cluster-scoped object with a namespaced owner would block it for ever
        let reachable = |d: &&Node| graph.get(uid).is_none_or(|n| n.is_reachable_from(&d.meta.namespace));
        let blocking: Vec<&Node> = graph.dependents(uid).filter(|d| d.blocks(uid)).filter(reachable).collect();
        if blocking.is_empty() {
            return Decision::RemoveFinalizer;
        }
        let blocks = meta.owner_references.iter().any(|o| o.block_owner_deletion == Some(true));
        if blocks && graph.is_in_circle(uid) {
            return Decision::Unblock;
        }
        let untouched = blocking.iter().filter(|d| d.meta.deletion_timestamp.is_none());
        return Decision::Await(untouched.map(|d| d.meta.uid.clone()).collect());
    }
    if meta.deletion_timestamp.is_some() || owners.is_empty() {
        return Decision::Keep;
    }
    let with = |s: OwnerState| owners.iter().filter(move |(_, o)| *o == s);
    if with(OwnerState::Present).next().is_some() {
        let gone: Vec<String> =
            owners.iter().filter(|(_, s)| *s != OwnerState::Present).map(|(u, _)| u.clone()).collect();
        return if gone.is_empty() { Decision::Keep } else { Decision::RemoveOwners(gone) };
    }
    let waiting = with(OwnerState::Waiting).next().is_some();
    Decision::Delete {
        foreground: waiting && graph.dependents(uid).next().is_some()
            || meta.finalizers.iter().any(|f| f == FOREGROUND),
    }
}

#[cfg(test)]
mod tests;
